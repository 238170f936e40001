//! Copying an extent's content from a certified replica to another one, through the overlap order, so
//! that nothing newer is ever overwritten (R16). Resync and repair share it.

use super::write::Occupant;
use super::{Primary, PrimaryOut};
use crate::mutate::Mutation;
use lockstep_types::{BlockRange, Nanos, RecordKind, ReplicaId, ResyncNumber, Sequence, Stamp};
use lockstep_wire::{ExtentContent, ReadPieces, ReplicaError, RequestBody};
use std::collections::BTreeSet;

/// One range on its way to one replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Copy {
    pub(super) target: ReplicaId,
    pub(super) range: BlockRange,
    /// None repairs a member.
    pub(super) resync: Option<ResyncNumber>,
    /// Whether both sides are compared afterwards.
    verify: bool,
    step: Step,
    /// Its place in the overlap order, since when.
    held: Option<Nanos>,
    /// The last write sequenced when it gave its place up while it was read: what overlaps it came later.
    held_until: Sequence,
    bytes: u64,
    tries: u32,
    /// Who is no source.
    bad: Vec<ReplicaId>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Step {
    /// Until the range is free.
    Waiting,
    Reading {
        source: ReplicaId,
        id: u64,
    },
    Writing {
        left: BTreeSet<u64>,
    },
    /// Until the range is free again, to compare.
    WaitingToCompare,
    /// Until the target has everything up to here.
    Settling {
        at: Sequence,
    },
    Comparing {
        source: (u64, Option<ExtentContent>),
        target: (u64, Option<ExtentContent>),
        source_id: ReplicaId,
    },
    Done,
    Failed,
}

/// How a copy ended.
pub(super) enum CopyEnd {
    /// Done, and so many bytes were sent.
    Done(u64),
    /// The target cannot take it, or no source has it.
    Failed,
}

impl Copy {
    pub(super) fn new(target: ReplicaId, range: BlockRange, resync: Option<ResyncNumber>) -> Self {
        let verify = resync.is_some();
        Self {
            target,
            range,
            resync,
            verify,
            step: Step::Waiting,
            held: None,
            held_until: Sequence::ZERO,
            bytes: 0,
            tries: 0,
            bad: Vec::new(),
        }
    }

    /// A repair of a member for which none of `except` is a source.
    pub(super) fn repair_without(
        target: ReplicaId,
        range: BlockRange,
        except: Vec<ReplicaId>,
    ) -> Self {
        Self {
            bad: except,
            ..Self::new(target, range, None)
        }
    }
}

impl Primary {
    /// Starts a copy; `poll_copy` says when it ended.
    pub(super) fn start_copy(&mut self, copy: Copy) -> u64 {
        let key = self.id();
        self.copies.insert(key, copy);
        key
    }

    /// Drives a copy on; gives its end once.
    pub(super) fn poll_copy(
        &mut self,
        now: Nanos,
        key: u64,
        out: &mut Vec<PrimaryOut>,
    ) -> Option<CopyEnd> {
        self.drive_copy(now, key, out);
        let end = match &self.copies.get(&key)?.step {
            Step::Done => CopyEnd::Done(self.copies[&key].bytes),
            Step::Failed => CopyEnd::Failed,
            _ => return None,
        };
        self.drop_copy(key);
        Some(end)
    }

    pub(super) fn drop_copy(&mut self, key: u64) {
        self.release_copy(key);
        self.copies.remove(&key);
    }

    pub(super) fn drive_copy(&mut self, now: Nanos, key: u64, out: &mut Vec<PrimaryOut>) {
        let Some(copy) = self.copies.get(&key) else {
            return;
        };
        // R16: a copy gives its place up after 100 ms; the replica refuses what became stale.
        if copy
            .held
            .is_some_and(|since| now >= since + self.timings.copy_hold)
        {
            let sequenced = self.writes.sequenced();
            self.release_copy(key);
            self.copies.get_mut(&key).expect("as above").held_until = sequenced;
        }
        let waits = |c: &Copy| matches!(c.step, Step::Waiting | Step::WaitingToCompare);
        let free = self.copies.get(&key).is_some_and(waits) && self.hold_for_copy(now, key);
        let Some(copy) = self.copies.get(&key) else {
            return;
        };
        match &copy.step {
            Step::Waiting if free => self.read_for_copy(key, out),
            Step::WaitingToCompare if free => {
                let at = self.writes.sequenced();
                self.set_step(key, Step::Settling { at });
                self.drive_copy(now, key, out);
            }
            Step::Settling { at } => {
                let there = self
                    .members
                    .get(&copy.target)
                    .is_some_and(|m| m.acked >= *at);
                if there {
                    self.ask_sums(key, out);
                }
            }
            Step::Writing { left } if left.is_empty() => {
                let skip = !copy.verify || self.is_unverified();
                let next = match (skip, copy.held.is_some()) {
                    (true, _) => Step::Done,
                    (false, true) => Step::Settling {
                        at: self.writes.sequenced(),
                    },
                    (false, false) => Step::WaitingToCompare,
                };
                self.set_step(key, next);
                self.drive_copy(now, key, out);
            }
            _ => {}
        }
    }

    /// The layers of R16 make up for each other, so that a switch which breaks one breaks the one below
    /// it too: holes left out show what the comparison is for, copies out of order what refusal is for.
    fn leaves_holes_out(&self) -> bool {
        self.broken.is(Mutation::S10HolesNotCopied) || self.broken.is(Mutation::R16NoDigest)
    }

    fn is_unordered(&self) -> bool {
        self.broken.is(Mutation::R16CopyOutsideOrder)
            || self.broken.is(Mutation::R16StaleCopyAccepted)
    }

    fn is_unverified(&self) -> bool {
        self.broken.is(Mutation::R16NoDigest) || self.is_unordered()
    }

    fn set_step(&mut self, key: u64, step: Step) {
        if let Some(copy) = self.copies.get_mut(&key) {
            copy.step = step;
        }
    }

    /// Takes the copy's place in the overlap order, if it is free.
    fn hold_for_copy(&mut self, now: Nanos, key: u64) -> bool {
        let unordered = self.is_unordered();
        let Some(copy) = self.copies.get_mut(&key) else {
            return false;
        };
        if copy.held.is_some() {
            return true;
        }
        if unordered {
            self.overlap.occupy_anyway(copy.range, Occupant::Copy(key));
            copy.held = Some(now);
            return true;
        }
        if !self.overlap.is_free(copy.range) {
            return false;
        }
        self.overlap.occupy(copy.range, Occupant::Copy(key));
        copy.held = Some(now);
        true
    }

    fn release_copy(&mut self, key: u64) {
        if let Some(copy) = self.copies.get_mut(&key)
            && copy.held.take().is_some()
        {
            let range = copy.range;
            self.overlap.free(range);
        }
    }

    fn read_for_copy(&mut self, key: u64, out: &mut Vec<PrimaryOut>) {
        let copy = &self.copies[&key];
        let mut except = copy.bad.clone();
        except.push(copy.target);
        let range = copy.range;
        let Some(source) = self.certified_source(&except) else {
            self.set_step(key, Step::Failed);
            return;
        };
        let id = self.id();
        self.set_step(key, Step::Reading { source, id });
        self.send(source, RequestBody::Read { id, range }, out);
    }

    pub(super) fn on_copy_read(
        &mut self,
        now: Nanos,
        id: u64,
        result: Result<ReadPieces, ReplicaError>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let found = self.copies.iter().find_map(|(key, c)| match c.step {
            Step::Reading { source, id: asked } if asked == id => Some((*key, source)),
            _ => None,
        });
        let Some((key, source)) = found else { return };
        let data = match result {
            Ok(data) => data,
            Err(error) => {
                if let ReplicaError::Corrupt(bad) = error {
                    self.queue_repair(source, bad);
                }
                let copy = self.copies.get_mut(&key).expect("found above");
                copy.bad.push(source);
                copy.step = Step::Waiting;
                return self.drive_copy(now, key, out);
            }
        };
        // Nothing overlapping was in flight when the read was sent. Whatever was sequenced over a place given
        // up was sent to the target before this copy, and makes it refuse it.
        let copy = &self.copies[&key];
        let read_at = match copy.held {
            Some(_) => self.writes.sequenced(),
            None => copy.held_until,
        };
        self.send_copies(key, Stamp::new(self.epoch, read_at), data, out);
    }

    fn send_copies(
        &mut self,
        key: u64,
        read_at: Stamp,
        data: ReadPieces,
        out: &mut Vec<PrimaryOut>,
    ) {
        let (target, resync, range) = {
            let copy = &self.copies[&key];
            (copy.target, copy.resync, copy.range)
        };
        let mut left = BTreeSet::new();
        let mut at = range.start;
        let mut sums = data.checksums.as_slice();
        let mut bytes = 0;
        for (blocks, payload) in data.pieces {
            let (these, rest) = sums.split_at(blocks as usize);
            sums = rest;
            let piece = BlockRange::new(at, blocks);
            at += u64::from(blocks);
            if payload.is_none() && self.leaves_holes_out() {
                continue;
            }
            let id = self.id();
            left.insert(id);
            let body = match payload {
                Some(payload) => {
                    bytes += payload.len() as u64;
                    let checksums = these.iter().copied().collect();
                    RequestBody::Copy {
                        id,
                        resync,
                        read_at,
                        kind: RecordKind::Write,
                        range: piece,
                        checksums,
                        payload,
                    }
                }
                // S10: what the source lacks is discarded.
                None => RequestBody::Copy {
                    id,
                    resync,
                    read_at,
                    kind: RecordKind::Discard,
                    range: piece,
                    checksums: Default::default(),
                    payload: Default::default(),
                },
            };
            self.send(target, body, out);
        }
        assert_eq!(at, range.end(), "a read gives exactly its range");
        let copy = self.copies.get_mut(&key).expect("the caller holds it");
        copy.bytes += bytes;
        copy.step = Step::Writing { left };
    }

    pub(super) fn on_copy_done(
        &mut self,
        now: Nanos,
        id: u64,
        result: Result<(), ReplicaError>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let found = self
            .copies
            .iter_mut()
            .find_map(|(key, c)| match &mut c.step {
                Step::Writing { left } => left.remove(&id).then_some(*key),
                _ => None,
            });
        let Some(key) = found else { return };
        match result {
            Ok(()) => {}
            Err(ReplicaError::Stale) => self.retry_copy(key),
            Err(_) => self.set_step(key, Step::Failed),
        }
        self.drive_copy(now, key, out);
    }

    fn retry_copy(&mut self, key: u64) {
        self.release_copy(key);
        if let Some(copy) = self.copies.get_mut(&key) {
            copy.tries += 1;
            copy.step = Step::Waiting;
        }
    }

    fn ask_sums(&mut self, key: u64, out: &mut Vec<PrimaryOut>) {
        let (target, index) = (self.copies[&key].target, self.copies[&key].range.extent());
        let Some(source) = self.certified_source(&[target]) else {
            return self.set_step(key, Step::Failed);
        };
        let (a, b) = (self.id(), self.id());
        self.send(source, RequestBody::ExtentSums { id: a, index }, out);
        self.send(target, RequestBody::ExtentSums { id: b, index }, out);
        self.set_step(
            key,
            Step::Comparing {
                source: (a, None),
                target: (b, None),
                source_id: source,
            },
        );
    }

    pub(super) fn on_copy_sums(
        &mut self,
        now: Nanos,
        id: u64,
        result: Result<ExtentContent, ReplicaError>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let found = self
            .copies
            .iter_mut()
            .find_map(|(key, c)| match &mut c.step {
                Step::Comparing { source, target, .. } if source.0 == id || target.0 == id => {
                    Some((*key, c))
                }
                _ => None,
            });
        let Some((key, copy)) = found else { return };
        let Step::Comparing { source, target, .. } = &mut copy.step else {
            return;
        };
        let Ok(content) = result else {
            return self.retry_copy(key);
        };
        let side = if source.0 == id { source } else { target };
        side.1 = Some(content);
        let Step::Comparing {
            source: (_, Some(a)),
            target: (_, Some(b)),
            ..
        } = &copy.step
        else {
            return;
        };
        // Equal is equal, whatever came between the two answers: both sides take writes in one order.
        if a == b {
            copy.step = Step::Done;
            self.release_copy(key);
        } else if copy.held.is_none() {
            copy.step = Step::WaitingToCompare; // writes may have come between the two answers
        } else {
            self.retry_copy(key);
        }
        self.drive_copy(now, key, out);
    }

    /// Copies that depended on a replica which is gone begin again, from another source.
    pub(super) fn restart_copies_of(&mut self, gone: ReplicaId) {
        let keys: Vec<u64> = self
            .copies
            .iter()
            .filter(|(_, c)| c.depends_on(gone))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.retry_copy(key);
        }
    }
}

impl Copy {
    fn depends_on(&self, replica: ReplicaId) -> bool {
        match &self.step {
            Step::Reading { source, .. } => *source == replica,
            Step::Comparing { source_id, .. } => *source_id == replica || self.target == replica,
            Step::Writing { .. } | Step::Settling { .. } => self.target == replica,
            _ => false,
        }
    }
}
