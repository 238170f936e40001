//! Attempts made here that are not settled: proposals and reads.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_types::Nanos;

use crate::config::{ATTEMPT_TIMEOUT, READ_AGAIN};

/// Who made an attempt: a voter, in one life of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Author {
    pub(crate) raft_id: u64,
    /// A number no other life of the voter has.
    pub(crate) boot: u64,
}

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Tickets {
    author: Author,
    proposals: BTreeMap<u64, Proposal>,
    reads: BTreeMap<u64, Read>,
}

#[derive(Clone, Debug)]
struct Proposal {
    until: Nanos,
    /// The term it was made in.
    term: u64,
}

#[derive(Clone, Debug)]
struct Read {
    until: Nanos,
    ask_again: Nanos,
    /// What the leader answered; the state machine may still have to get there.
    index: Option<u64>,
}

impl Tickets {
    pub(crate) fn new(author: Author) -> Self {
        Self {
            author,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
        }
    }

    /// Begins to wait for a proposal.
    pub(crate) fn propose(&mut self, now: Nanos, ticket: u64, term: u64) {
        let before = self.proposals.insert(
            ticket,
            Proposal {
                until: now + ATTEMPT_TIMEOUT,
                term,
            },
        );
        assert!(before.is_none(), "ticket {ticket} is used twice");
    }

    /// Begins to wait for a read.
    pub(crate) fn read(&mut self, now: Nanos, ticket: u64) {
        let read = Read {
            until: now + ATTEMPT_TIMEOUT,
            ask_again: now + READ_AGAIN,
            index: None,
        };
        let before = self.reads.insert(ticket, read);
        assert!(before.is_none(), "ticket {ticket} is used twice");
    }

    /// A proposal that came to nothing at once.
    pub(crate) fn withdraw(&mut self, ticket: u64) {
        self.proposals.remove(&ticket);
    }

    /// The mark by which an entry or a read is known again, 24 bytes: raft id, boot, ticket.
    pub(crate) fn mark(&self, ticket: u64) -> Bytes {
        let mut mark = BytesMut::with_capacity(24);
        mark.put_u64_le(self.author.raft_id);
        mark.put_u64_le(self.author.boot);
        mark.put_u64_le(ticket);
        mark.freeze()
    }

    /// The ticket of a committed entry, if it is still waited for here.
    pub(crate) fn settle_proposal(&mut self, mark: &[u8]) -> Option<u64> {
        let ticket = self.own(mark)?;
        self.proposals.remove(&ticket).map(|_| ticket)
    }

    /// Proposals made before `term`, an entry of which has been applied. Whatever a leader of their
    /// own time took in has been applied before it; what is left got lost with that leader, or is
    /// still on its way to one.
    pub(crate) fn overtaken(&mut self, term: u64) -> Vec<u64> {
        let overtaken = self
            .proposals
            .iter()
            .filter(|(_, proposal)| proposal.term < term);
        let overtaken: Vec<u64> = overtaken.map(|(ticket, _)| *ticket).collect();
        for ticket in &overtaken {
            self.proposals.remove(ticket);
        }
        overtaken
    }

    /// The leader's answer to a read.
    pub(crate) fn answer_read(&mut self, mark: &[u8], index: u64) {
        if let Some(read) = self
            .own(mark)
            .and_then(|ticket| self.reads.get_mut(&ticket))
        {
            // The first answer was given after the read began, and is the lowest.
            read.index.get_or_insert(index);
        }
    }

    /// Reads whose index has been applied.
    pub(crate) fn ready_reads(&mut self, applied: u64) -> Vec<(u64, u64)> {
        let ready = |(ticket, read): (&u64, &Read)| {
            read.index.filter(|i| *i <= applied).map(|i| (*ticket, i))
        };
        let ready: Vec<(u64, u64)> = self.reads.iter().filter_map(ready).collect();
        for (ticket, _) in &ready {
            self.reads.remove(ticket);
        }
        ready
    }

    /// Reads to be asked for again: a leader without a committed entry of its term answers none.
    pub(crate) fn unanswered_reads(&mut self, now: Nanos) -> Vec<u64> {
        let mut due = Vec::new();
        for (ticket, read) in &mut self.reads {
            if read.index.is_none() && now >= read.ask_again {
                read.ask_again = now + READ_AGAIN;
                due.push(*ticket);
            }
        }
        due
    }

    /// Attempts that have been waited for long enough.
    pub(crate) fn expire(&mut self, now: Nanos) -> Vec<u64> {
        let proposals = self
            .proposals
            .iter()
            .filter(|(_, proposal)| now >= proposal.until)
            .map(|(ticket, _)| *ticket);
        let reads = self
            .reads
            .iter()
            .filter(|(_, read)| now >= read.until)
            .map(|(ticket, _)| *ticket);
        let expired: Vec<u64> = proposals.chain(reads).collect();
        for ticket in &expired {
            self.proposals.remove(ticket);
            self.reads.remove(ticket);
        }
        expired
    }

    pub(crate) fn has_proposals(&self) -> bool {
        !self.proposals.is_empty()
    }

    fn own(&self, mark: &[u8]) -> Option<u64> {
        let mark: &[u8; 24] = mark.try_into().ok()?;
        let field =
            |at: usize| u64::from_le_bytes(mark[at..at + 8].try_into().expect("eight bytes"));
        ((field(0), field(8)) == (self.author.raft_id, self.author.boot)).then(|| field(16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(boot: u64) -> Tickets {
        Tickets::new(Author { raft_id: 1, boot })
    }

    #[test]
    fn an_entry_of_an_earlier_life_settles_nothing() {
        let (old, mut new) = (tickets(1), tickets(2));
        new.propose(0, 7, 1);
        assert_eq!(new.settle_proposal(&old.mark(7)), None);
        assert_eq!(new.settle_proposal(b"short"), None);
        assert_eq!(new.settle_proposal(&new.mark(7)), Some(7));
        assert_eq!(new.settle_proposal(&new.mark(7)), None, "once only");
    }

    #[test]
    fn a_later_leader_overtakes_what_was_proposed_before() {
        let mut tickets = tickets(1);
        tickets.propose(0, 1, 3);
        tickets.propose(0, 2, 4);
        assert_eq!(tickets.overtaken(3), [0; 0]);
        assert_eq!(tickets.overtaken(4), [1]);
        assert_eq!(tickets.settle_proposal(&tickets.mark(2)), Some(2));
    }

    #[test]
    fn a_read_waits_for_the_state_machine() {
        let mut tickets = tickets(1);
        tickets.read(0, 3);
        assert_eq!(tickets.unanswered_reads(READ_AGAIN), [3]);
        assert_eq!(
            tickets.unanswered_reads(READ_AGAIN),
            [0; 0],
            "not twice at once"
        );
        tickets.answer_read(&tickets.mark(3), 10);
        assert_eq!(tickets.ready_reads(9), []);
        assert_eq!(tickets.ready_reads(10), [(3, 10)]);
    }

    #[test]
    fn everything_is_waited_for_for_a_bounded_time() {
        let mut tickets = tickets(1);
        tickets.propose(0, 1, 1);
        tickets.read(5, 2);
        assert_eq!(tickets.expire(ATTEMPT_TIMEOUT), [1]);
        assert_eq!(tickets.expire(ATTEMPT_TIMEOUT + 5), [2]);
        assert!(!tickets.has_proposals());
    }
}
