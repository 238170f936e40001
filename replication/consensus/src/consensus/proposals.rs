//! Commands, configuration changes and reads, as they are asked for.

use bytes::Bytes;
use lockstep_types::Nanos;
use raft::StateRole;
use raft_proto::eraftpb::{ConfChangeType, ConfChangeV2};
use raft_proto::new_conf_change_single;

use super::Consensus;
use crate::config::MAX_COMMAND;
use crate::io::{Output, Reconfiguration, Refusal};

impl Consensus {
    pub(super) fn on_propose(
        &mut self,
        now: Nanos,
        ticket: u64,
        data: Bytes,
        out: &mut Vec<Output>,
    ) {
        if data.is_empty() || data.len() > MAX_COMMAND {
            return self.refuse(ticket, Refusal::Malformed, out);
        }
        if self.raw.raft.leader_id == raft::INVALID_ID {
            return self.refuse(ticket, Refusal::NoLeader, out);
        }
        if self.stalled && self.is_leader() {
            return self.refuse(ticket, Refusal::StorageFull, out);
        }
        self.tickets.propose(now, ticket, self.raw.raft.term);
        // A follower's goes to the leader; should it get lost on the way, the ticket expires.
        if self
            .raw
            .propose(self.tickets.mark(ticket).to_vec(), data.into())
            .is_err()
        {
            self.tickets.withdraw(ticket);
            self.refuse(ticket, Refusal::Busy, out);
        }
    }

    pub(super) fn on_reconfigure(
        &mut self,
        now: Nanos,
        ticket: u64,
        change: Reconfiguration,
        out: &mut Vec<Output>,
    ) {
        if !self.is_leader() {
            return self.refuse(ticket, Refusal::NotLeader, out);
        }
        // raft would silently make an empty entry of it.
        let joint = !self.conf.voters_outgoing.is_empty();
        if joint || self.raw.raft.has_pending_conf() || !self.makes_sense(&change) {
            return self.refuse(ticket, Refusal::ReconfigurationPending, out);
        }
        self.tickets.propose(now, ticket, self.raw.raft.term);
        let mark = self.tickets.mark(ticket).to_vec();
        if self
            .raw
            .propose_conf_change(mark, conf_change(&change))
            .is_err()
        {
            self.tickets.withdraw(ticket);
            self.refuse(ticket, Refusal::Busy, out);
        }
    }

    pub(super) fn on_read(&mut self, now: Nanos, ticket: u64) {
        self.tickets.read(now, ticket);
        self.raw.read_index(self.tickets.mark(ticket).to_vec());
    }

    /// A change that names each replica once, and leaves a voter.
    fn makes_sense(&self, change: &Reconfiguration) -> bool {
        let once = change.voters.is_disjoint(&change.learners)
            && change.voters.is_disjoint(&change.remove)
            && change.learners.is_disjoint(&change.remove);
        let stays = |id: &u64| !change.remove.contains(id) && !change.learners.contains(id);
        let some = !change.voters.is_empty() || self.conf.voters.iter().any(stays);
        once && some && *change != Reconfiguration::default()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }
}

fn conf_change(change: &Reconfiguration) -> ConfChangeV2 {
    let parts = [
        (&change.voters, ConfChangeType::AddNode),
        (&change.learners, ConfChangeType::AddLearnerNode),
        (&change.remove, ConfChangeType::RemoveNode),
    ];
    let singles = parts
        .into_iter()
        .flat_map(|(ids, kind)| ids.iter().map(move |id| new_conf_change_single(*id, kind)));
    ConfChangeV2 {
        changes: singles.collect(),
        ..ConfChangeV2::default()
    }
}
