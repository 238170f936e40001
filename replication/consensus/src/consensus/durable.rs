//! What must be durable before what is said.
//!
//! raft hands out its wishes in numbered portions. Messages of a follower or candidate speak for what
//! is in their portion and before, and leave only when that is durable; a leader's appends leave at
//! once, and its own copy counts when it is durable. One batch is being written at a time; what
//! gathers meanwhile goes into the next one together.

use lockstep_types::Nanos;
use raft::{Ready, StateRole};
use raft_proto::ConfChangeI as _;
use raft_proto::eraftpb::{
    ConfChange, ConfChangeV2, Entry, EntryType, Message, Snapshot, SnapshotMetadata,
};

use super::Consensus;
use crate::config::{COMPACT_BYTES, COMPACT_ENTRIES, MARK_AFTER};
use crate::io::{Output, Refusal};
use crate::log::{Position, Unwritten};

/// The batch that is being written, and the one that gathers.
#[derive(Default)]
pub(super) struct Durable {
    next_token: u64,
    writing: Option<Written>,
    gathering: Option<Gathering>,
    /// A portion with the leader's snapshot. raft gets no further until it is durable, so that it
    /// never sees a log that begins behind what has been applied.
    installing: Option<Installing>,
}

#[derive(Default)]
struct Gathering {
    unwritten: Unwritten,
    after: After,
}

struct Written {
    token: u64,
    after: After,
}

/// What happens once a batch is durable.
#[derive(Default)]
struct After {
    /// The newest of raft's portions in it; 0 if there is none.
    number: u64,
    messages: Vec<Message>,
    /// Whether the leader's snapshot is in it.
    installs: bool,
    /// Whether it holds nothing but a mark.
    only_mark: bool,
}

struct Installing {
    ready: Ready,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Durable {
    /// Has an empty batch written, if nothing else is about to be.
    pub(super) fn mark(&mut self) {
        if self.writing.is_none() {
            self.gathering().unwritten.mark = true;
        }
    }

    /// Takes in a snapshot of the own state machine.
    pub(super) fn compact(&mut self, snapshot: Snapshot) {
        self.gathering().unwritten.compacted = Some(snapshot);
    }

    /// Whether raft must not be given anything that changes its log.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Whether everything raft has handed out is durable.
    pub(super) fn is_quiet(&self) -> bool {
        self.writing.is_none() && self.gathering.is_none()
    }

    /// Whether the batch with this token is the one being written.
    pub(super) fn is_writing(&self, token: u64) -> bool {
        self.writing
            .as_ref()
            .is_some_and(|writing| writing.token == token)
    }

    fn gathering(&mut self) -> &mut Gathering {
        self.gathering.get_or_insert_with(Gathering::default)
    }
}

impl Consensus {
    /// Takes from raft whatever it has ready, and starts the next batch, until nothing moves.
    pub(super) fn settle(&mut self, now: Nanos, out: &mut Vec<Output>) {
        loop {
            if !self.durable.is_installing() && self.raw.has_ready() {
                self.take_ready(now, out);
            } else if self.durable.writing.is_none() && self.durable.gathering.is_some() {
                self.start_batch(now, out);
            } else {
                break;
            }
        }
        for (ticket, index) in self.tickets.ready_reads(self.applied.index) {
            out.push(Output::ReadReady { ticket, index });
        }
        self.ask_for_snapshot(out);
        self.note_role(out);
    }

    pub(super) fn on_persisted(&mut self, now: Nanos, token: u64, out: &mut Vec<Output>) {
        let writing = self
            .durable
            .writing
            .take()
            .expect("the shell answers what it was asked");
        assert_eq!(writing.token, token, "the shell answers what it was asked");
        self.stalled = false;
        if !writing.after.only_mark {
            self.mark_at = Some(now + MARK_AFTER);
        }
        self.finish_batch(now, writing.after, out);
    }

    fn take_ready(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let mut ready = self.raw.ready();
        let leading_messages = ready.take_messages();
        let persisted_messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        for state in ready.take_read_states() {
            self.tickets.answer_read(&state.request_ctx, state.index);
        }
        let gathering = self.durable.gathering();
        gathering.after.number = ready.number();
        gathering.after.messages.extend(persisted_messages);
        if let Some(hard_state) = ready.hs() {
            gathering.unwritten.hard_state_due |= ready.must_sync();
            self.raw.mut_store().set_hard_state(hard_state.clone());
        }
        if ready.snapshot().is_empty() {
            gathering.unwritten.entries.extend(entries.iter().cloned());
            self.raw.mut_store().append(&entries);
            self.raw.advance_append_async(ready);
        } else {
            assert!(
                committed.is_empty(),
                "nothing behind a snapshot is applied before it is durable"
            );
            gathering.after.installs = true;
            let snapshot = ready.snapshot().clone();
            // It replaces whatever gathered before it.
            gathering.unwritten = Unwritten {
                installed: Some(snapshot.clone()),
                entries: entries.clone(),
                ..Unwritten::default()
            };
            self.durable.installing = Some(Installing {
                ready,
                snapshot,
                entries,
            });
        }
        self.send_all(now, leading_messages, out);
        self.apply(committed, out);
    }

    fn start_batch(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let Gathering {
            unwritten,
            mut after,
        } = self.durable.gathering.take().expect("the caller looked");
        if unwritten.is_empty() {
            return self.finish_batch(now, after, out);
        }
        after.only_mark = unwritten
            == Unwritten {
                mark: true,
                ..Unwritten::default()
            };
        let hard_state = self.raw.store().hard_state().clone();
        let ops = self.writer.encode(&hard_state, unwritten);
        self.durable.next_token += 1;
        let token = self.durable.next_token;
        self.durable.writing = Some(Written { token, after });
        self.mark_at = None;
        out.push(Output::Persist { token, ops });
    }

    fn finish_batch(&mut self, now: Nanos, after: After, out: &mut Vec<Output>) {
        if after.installs {
            self.install(after.number, out);
        } else if after.number > 0 {
            self.raw.on_persist_ready(after.number);
        }
        self.send_all(now, after.messages, out);
    }

    /// The leader's snapshot is durable: it becomes the log and the state machine.
    fn install(&mut self, number: u64, out: &mut Vec<Output>) {
        let Installing {
            ready,
            snapshot,
            entries,
        } = self
            .durable
            .installing
            .take()
            .expect("the batch carries a snapshot");
        let metadata = snapshot.get_metadata().clone();
        let data = snapshot.data.clone();
        let store = self.raw.mut_store();
        store.install(snapshot);
        store.append(&entries);
        self.raw.advance_append_async(ready);
        self.raw.on_persist_ready(number);
        self.applied = Position {
            index: metadata.index,
            term: metadata.term,
        };
        self.conf = metadata.get_conf_state().clone();
        self.asked = None;
        out.push(Output::ApplySnapshot {
            index: metadata.index,
            data,
        });
        self.raw.advance_apply_to(metadata.index);
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut Vec<Output>) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        for entry in entries {
            if entry.term > self.applied.term {
                for ticket in self.tickets.overtaken(entry.term) {
                    self.refuse(ticket, Refusal::OutcomeUnknown, out);
                }
            }
            self.applied = Position {
                index: entry.index,
                term: entry.term,
            };
            let ticket = self.tickets.settle_proposal(&entry.context);
            if entry.get_entry_type() != EntryType::EntryNormal {
                self.reconfigure(&entry, ticket, out);
            } else if !entry.data.is_empty() {
                out.push(Output::Apply {
                    index: entry.index,
                    term: entry.term,
                    data: entry.data,
                    ticket,
                });
            }
        }
        self.raw.advance_apply_to(last);
        if self.raw.raft.state == StateRole::Leader && !self.is_voter() {
            // raft-rs leaves a removed leader in office.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn reconfigure(&mut self, entry: &Entry, ticket: Option<u64>, out: &mut Vec<Output>) {
        use prost::Message as _;
        let change = match entry.get_entry_type() {
            EntryType::EntryConfChange => {
                ConfChange::decode(entry.data.clone()).map(|change| change.into_v2())
            }
            _ => ConfChangeV2::decode(entry.data.clone()),
        };
        let conf = change
            .ok()
            .and_then(|change| self.raw.apply_conf_change(&change).ok());
        // A change that raft refuses now is refused by every replica alike, and changes nothing.
        if let Some(conf) = conf {
            self.conf = conf;
        }
        out.push(Output::Reconfigured {
            index: entry.index,
            conf: self.conf.clone(),
            ticket,
        });
    }

    /// Asks for a snapshot when the log has grown, or a follower needs a newer one.
    fn ask_for_snapshot(&mut self, out: &mut Vec<Output>) {
        if self.asked.is_some() || self.durable.is_installing() {
            return;
        }
        let (entries, bytes) = self.raw.store().since_snapshot(self.applied.index);
        let wanted = self.raw.store().take_wanted();
        if entries >= COMPACT_ENTRIES || (entries > 0 && (bytes >= COMPACT_BYTES || wanted)) {
            self.asked = Some((self.applied, self.conf.clone()));
            out.push(Output::TakeSnapshot {
                index: self.applied.index,
            });
        }
    }

    pub(super) fn on_snapshot(&mut self, index: u64, data: bytes::Bytes) {
        // One that the leader's snapshot has overtaken is of no use.
        let Some((position, conf)) = self.asked.take_if(|(position, _)| position.index == index)
        else {
            return;
        };
        let metadata = SnapshotMetadata {
            conf_state: Some(conf),
            index,
            term: position.term,
        };
        let snapshot = Snapshot {
            data,
            metadata: Some(metadata),
        };
        self.raw.mut_store().compact(snapshot.clone());
        self.durable.compact(snapshot);
    }
}
