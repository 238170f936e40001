//! Reads: from one replica that is required and committed, under the lease (R13), and never showing
//! what may still flip back (R14).

use super::write::Occupant;
use super::{Phase, Primary, PrimaryOut};
use crate::mutate::Mutation;
use lockstep_types::{
    BlockRange, Nanos, ReplicaId, Request, RequestError, RequestOp, Response, Sequence,
};
use lockstep_wire::{ReadPieces, ReplicaError, RequestBody};
use std::collections::{BTreeMap, BTreeSet};

/// Reads of one epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Reads {
    all: BTreeMap<u64, Read>,
    /// Those that wait for writes or for the lease, not for a replica.
    parked: BTreeSet<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Read {
    tag: u64,
    range: BlockRange,
    state: State,
    /// Replicas that gave corrupt data or failed.
    bad: Vec<ReplicaId>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    /// Until this sequence has completed: it overlapped when the read came.
    Before(Sequence),
    /// Asked of a replica.
    Asked(ReplicaId),
    /// The bytes are here; until this sequence, which overlapped when they came, has completed.
    After(Sequence, ReplicaId, ReadPieces),
}

impl Reads {
    pub(super) fn is_idle(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn take_unanswered(&mut self) -> Vec<(u64, Request)> {
        self.parked.clear();
        let all = std::mem::take(&mut self.all);
        all.into_values()
            .map(|r| {
                (
                    r.tag,
                    Request {
                        range: r.range,
                        op: RequestOp::Read,
                    },
                )
            })
            .collect()
    }
}

impl Primary {
    /// The replica of this node, if what it holds of `range` may be told to a client now. That is a
    /// read: only a required and committed one may tell, under the lease (R13), and not while a write
    /// is in flight there, whose end is not known (R14).
    pub fn presence_source(&self, now: Nanos, range: BlockRange) -> Option<ReplicaId> {
        let settled = self.overlapping_write(range) <= self.writes.completed();
        if self.phase != Phase::Open || !self.lease_valid(now) || !settled {
            return None;
        }
        let source = self.certified_source(&[])?;
        let local = self
            .members
            .get(&source)
            .is_some_and(|m| self.is_local(m.node));
        local.then_some(source)
    }

    pub(super) fn start_read(
        &mut self,
        now: Nanos,
        tag: u64,
        range: BlockRange,
        out: &mut Vec<PrimaryOut>,
    ) {
        let id = self.id();
        let state = State::Before(self.overlapping_write(range));
        self.reads.all.insert(
            id,
            Read {
                tag,
                range,
                state,
                bad: Vec::new(),
            },
        );
        self.reads.parked.insert(id);
        self.advance_read(now, id, out);
    }

    /// The last write in flight that shares a block.
    fn overlapping_write(&self, range: BlockRange) -> Sequence {
        let writes = self.overlap.overlapping(range).filter_map(|o| match o {
            Occupant::Write(sequence) => Some(sequence),
            Occupant::Copy(_) => None,
        });
        writes.max().unwrap_or_default()
    }

    pub(super) fn pump_reads(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        for id in self.reads.parked.iter().copied().collect::<Vec<_>>() {
            self.advance_read(now, id, out);
        }
    }

    fn advance_read(&mut self, now: Nanos, id: u64, out: &mut Vec<PrimaryOut>) {
        let completed = self.writes.completed();
        let ignore = self.broken.is(Mutation::R14ReadDoesNotWait);
        let Some(read) = self.reads.all.get(&id) else {
            return;
        };
        match &read.state {
            State::Before(until) if completed >= *until || ignore => self.ask(id, out),
            State::After(until, source, _) if completed >= *until || ignore => {
                let source = *source;
                let lease = self.lease_valid(now) || self.broken.is(Mutation::R13NoLeaseOnRead);
                // Bytes count only from a replica that is required and committed when they are given.
                let certified =
                    self.required.contains(&source) && self.view.in_sync.contains_key(&source);
                if self.phase != Phase::Open || !lease {
                    return;
                }
                if !certified {
                    return self.reread(id, out);
                }
                self.reads.parked.remove(&id);
                let read = self.reads.all.remove(&id).expect("looked at above");
                if let State::After(_, _, data) = read.state {
                    out.push(PrimaryOut::Complete {
                        tag: read.tag,
                        result: Ok(Response::Data(data.pieces)),
                    });
                }
            }
            _ => {}
        }
    }

    fn reread(&mut self, id: u64, out: &mut Vec<PrimaryOut>) {
        if let Some(read) = self.reads.all.get_mut(&id) {
            read.state = State::Before(Sequence::ZERO);
            self.reads.parked.insert(id);
            self.ask(id, out);
        }
    }

    fn ask(&mut self, id: u64, out: &mut Vec<PrimaryOut>) {
        let Some(read) = self.reads.all.get(&id) else {
            return;
        };
        let (range, bad) = (read.range, read.bad.clone());
        match self.certified_source(&bad) {
            Some(source) => {
                if let Some(read) = self.reads.all.get_mut(&id) {
                    read.state = State::Asked(source);
                }
                self.reads.parked.remove(&id);
                self.send(source, RequestBody::Read { id, range }, out);
            }
            // Every certified copy was asked and is bad; some that only cannot be reached may be good.
            None if self.all_bad(&bad) => {
                self.reads.parked.remove(&id);
                let read = self.reads.all.remove(&id).expect("looked at above");
                out.push(PrimaryOut::Complete {
                    tag: read.tag,
                    result: Err(RequestError::Corrupt),
                });
            }
            None => {}
        }
    }

    fn all_bad(&self, bad: &[ReplicaId]) -> bool {
        self.view.in_sync.keys().all(|id| bad.contains(id))
    }

    /// A replica to read from: required, committed, reachable; the local one first.
    pub(super) fn certified_source(&self, except: &[ReplicaId]) -> Option<ReplicaId> {
        let mut candidates: Vec<(bool, ReplicaId)> = self
            .members
            .iter()
            .filter(|(id, m)| {
                self.required.contains(id)
                    && self.view.in_sync.contains_key(id)
                    && m.condemned.is_none()
                    && !except.contains(id)
                    && self.link_up(m.node)
            })
            .map(|(id, m)| (!self.is_local(m.node), *id))
            .collect();
        candidates.sort_unstable();
        candidates.first().map(|(_, id)| *id)
    }

    pub(super) fn on_read_done(
        &mut self,
        now: Nanos,
        from: ReplicaId,
        id: u64,
        result: Result<ReadPieces, ReplicaError>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Some(read) = self.reads.all.get(&id) else {
            return;
        };
        if read.state != State::Asked(from) {
            return;
        }
        let range = read.range;
        match result {
            Ok(data) => {
                // R14: what was sequenced over it meanwhile must be acknowledged first.
                let until = match self.broken.is(Mutation::R14NotTakenAgain) {
                    true => Sequence::ZERO,
                    false => self.overlapping_write(range),
                };
                let read = self.reads.all.get_mut(&id).expect("looked at above");
                read.state = State::After(until, from, data);
                self.reads.parked.insert(id);
                self.advance_read(now, id, out);
            }
            Err(error) => {
                if let Some(read) = self.reads.all.get_mut(&id) {
                    read.bad.push(from);
                }
                match error {
                    ReplicaError::Corrupt(bad) => self.queue_repair(from, bad),
                    _ => self.condemn(now, from, "it cannot read its device", out),
                }
                self.reread(id, out);
            }
        }
    }

    /// Reads that were asked of a replica which is gone are asked of another.
    pub(super) fn reread_from_others(
        &mut self,
        _now: Nanos,
        gone: ReplicaId,
        out: &mut Vec<PrimaryOut>,
    ) {
        let lost: Vec<u64> = self
            .reads
            .all
            .iter()
            .filter(|(_, r)| r.state == State::Asked(gone))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.reread(id, out);
        }
    }
}
