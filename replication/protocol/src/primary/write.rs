//! The life of a write: admitted (overlap order, window, room), sequenced, fanned out, acknowledged by
//! all of required, completed.

use super::{Phase, Primary, PrimaryOut};
use crate::durability::is_durable;
use crate::mutate::Mutation;
use lockstep_types::{
    BlockRange, Checksums, ExtentIndex, MAX_DISCARD_BLOCKS, Nanos, Record, RecordKind, ReplicaId,
    Request, RequestError, RequestOp, Response, Sequence, Stamp,
};
use lockstep_wire::RequestBody;
use std::collections::{BTreeSet, VecDeque};

/// What occupies a range in the overlap order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Occupant {
    /// A sequenced, unanswered write.
    Write(Sequence),
    /// A resync or repair copy (R16).
    Copy(u64),
}

/// Writes of one epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Writes {
    window: u64,
    last: Sequence,
    completed: Sequence,
    bytes: u64,
    in_flight: VecDeque<InFlight>,
    waiting: VecDeque<Waiting>,
    /// Extents charged against the reservations in this epoch and still there (R7).
    charged: BTreeSet<ExtentIndex>,
    /// Extents discarded in this epoch: replicas may have freed them at different times.
    discarded: BTreeSet<ExtentIndex>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct InFlight {
    record: Record,
    charged: bool,
    /// None for records of our own, such as a resize.
    tag: Option<u64>,
    sent: Nanos,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Waiting {
    tag: Option<u64>,
    kind: RecordKind,
    range: BlockRange,
    checksums: Checksums,
    payload: bytes::Bytes,
}

/// Whether a write may be sequenced now.
enum Charge {
    Paid(bool),
    Wait,
    Full,
}

impl Writes {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            last: Sequence::ZERO,
            completed: Sequence::ZERO,
            bytes: 0,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            charged: BTreeSet::new(),
            discarded: BTreeSet::new(),
        }
    }

    /// The epoch opens: sequences go on above its base.
    pub(super) fn open(&mut self, base: Sequence) {
        assert!(
            self.in_flight.is_empty(),
            "nothing is in flight before the epoch opens"
        );
        self.last = base;
        self.completed = base;
    }

    pub(super) fn sequenced(&self) -> Sequence {
        self.last
    }

    pub(super) fn completed(&self) -> Sequence {
        self.completed
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    /// The oldest unanswered write and when it was sent.
    pub(super) fn oldest(&self) -> Option<(Sequence, Nanos)> {
        self.in_flight
            .front()
            .map(|w| (w.record.stamp.sequence, w.sent))
    }

    /// R22: a pause of our own is nobody's silence.
    pub(super) fn forgive(&mut self, gap: Nanos) {
        for write in &mut self.in_flight {
            write.sent += gap;
        }
    }

    pub(super) fn take_unanswered(&mut self) -> Vec<(u64, Request)> {
        let sent = self.in_flight.drain(..).filter_map(|w| {
            Some((
                w.tag?,
                request_of(
                    w.record.kind,
                    w.record.range,
                    w.record.checksums,
                    w.record.payload,
                ),
            ))
        });
        let mut all: Vec<_> = sent.collect();
        let waiting = self
            .waiting
            .drain(..)
            .filter_map(|w| Some((w.tag?, request_of(w.kind, w.range, w.checksums, w.payload))));
        all.extend(waiting);
        self.bytes = 0;
        all
    }

    fn sent_at(&self, sequence: Sequence) -> Option<Nanos> {
        let first = self.in_flight.front()?.record.stamp.sequence;
        let index = sequence.0.checked_sub(first.0)?;
        self.in_flight.get(index as usize).map(|w| w.sent)
    }
}

impl Primary {
    /// A client's request on an open volume.
    pub(super) fn handle_request(
        &mut self,
        now: Nanos,
        tag: u64,
        request: Request,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        if !self.is_valid(&request) {
            return out.push(PrimaryOut::Complete {
                tag,
                result: Err(RequestError::Invalid),
            });
        }
        let (kind, checksums, payload) = match request.op {
            RequestOp::Read => return self.start_read(now, tag, request.range, out),
            RequestOp::Write { checksums, payload } => (RecordKind::Write, checksums, payload),
            RequestOp::Discard => (RecordKind::Discard, Checksums::none(), Default::default()),
            RequestOp::WriteZeroes => (
                RecordKind::WriteZeroes,
                Checksums::none(),
                Default::default(),
            ),
        };
        self.writes.waiting.push_back(Waiting {
            tag: Some(tag),
            kind,
            range: request.range,
            checksums,
            payload,
        });
        self.admit(now, present, out);
    }

    fn is_valid(&self, request: &Request) -> bool {
        let range = request.range;
        let inside = range.count > 0 && range.end() <= self.applied_blocks.min(self.view.blocks);
        let shaped = match &request.op {
            RequestOp::Read => range.in_one_extent(),
            RequestOp::Write { checksums, payload } => {
                range.in_one_extent()
                    && payload.len() == range.bytes()
                    && checksums.len() == range.count as usize
            }
            RequestOp::Discard | RequestOp::WriteZeroes => {
                u64::from(range.count) <= MAX_DISCARD_BLOCKS
            }
        };
        inside && shaped
    }

    /// What waits is looked at again: something completed, or room was granted.
    pub(super) fn pump(
        &mut self,
        now: Nanos,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        while !self.stopping && self.serves() {
            let Some((tag, request)) = self.held.pop_front() else {
                break;
            };
            self.handle_request(now, tag, request, present, out);
        }
        self.admit(now, present, out);
        self.complete_ready(now, out);
        self.pump_reads(now, out);
    }

    /// Sequences every waiting write that may go: it overlaps nothing in flight and nothing that waits
    /// before it (R6), the window has room for it, and every required replica has (R7).
    fn admit(
        &mut self,
        now: Nanos,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        let mut blocked: Vec<BlockRange> = Vec::new();
        let mut index = 0;
        while let Some(write) = self.writes.waiting.get(index) {
            let (range, length) = (write.range, write.payload.len() as u64);
            if self.writes.bytes + length > self.writes.window && !self.writes.in_flight.is_empty()
            {
                return;
            }
            let free = self.overlap.is_free(range) && !blocked.iter().any(|b| b.overlaps(range));
            if !free && !self.broken.is(Mutation::R6OverlapIgnored) {
                blocked.push(range);
                index += 1;
                continue;
            }
            let kind = write.kind;
            match self.charge(kind, range, present, out) {
                Charge::Wait => {
                    blocked.push(range);
                    index += 1;
                }
                Charge::Full => {
                    let write = self.writes.waiting.remove(index).expect("looked at above");
                    if let Some(tag) = write.tag {
                        out.push(PrimaryOut::Complete {
                            tag,
                            result: Err(RequestError::NoSpace),
                        });
                    }
                }
                Charge::Paid(charged) => {
                    let write = self.writes.waiting.remove(index).expect("looked at above");
                    self.sequence(now, write, charged, out);
                }
            }
        }
        for member in self.members.values_mut() {
            member.full = false; // those who waited for it were told; the next one asks again
        }
    }

    /// R7: one extent is charged to every required replica for an extent that may be new there.
    fn charge(
        &mut self,
        kind: RecordKind,
        range: BlockRange,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) -> Charge {
        if kind != RecordKind::Write || self.broken.is(Mutation::R7NoReservation) {
            return Charge::Paid(false);
        }
        let index = range.extent();
        let known = self.writes.charged.contains(&index);
        if known || present(index) && !self.writes.discarded.contains(&index) {
            return Charge::Paid(false);
        }
        let payers: Vec<ReplicaId> = self.recipients().collect();
        let mut verdict = Charge::Paid(true);
        for replica in &payers {
            let id = self.next_id + 1;
            let required = self.required.contains(replica);
            let step = self.timings.reserve_step;
            let member = self
                .members
                .get_mut(replica)
                .expect("recipients are members");
            if member.credit > 0 {
                continue;
            }
            if member.full && required {
                return Charge::Full;
            }
            verdict = Charge::Wait;
            if member.reserving.is_none() && self.link_up(self.members[replica].node) {
                self.next_id = id;
                self.members.get_mut(replica).expect("as above").reserving = Some(id);
                self.send(*replica, RequestBody::Reserve { id, extents: step }, out);
            }
        }
        if let Charge::Paid(_) = verdict {
            for replica in &payers {
                self.members.get_mut(replica).expect("as above").credit -= 1;
            }
            self.writes.charged.insert(index);
        }
        verdict
    }

    pub(super) fn on_reserved(&mut self, replica: ReplicaId, id: u64, extents: u32) {
        let joiner = self.join.as_ref().is_some_and(|j| j.replica == replica)
            && !self.required.contains(&replica);
        let Some(member) = self.members.get_mut(&replica) else {
            return;
        };
        if member.reserving != Some(id) {
            return;
        }
        member.reserving = None;
        member.credit += extents;
        member.full = extents == 0;
        if extents == 0 && joiner {
            self.abort_join_soon(); // a full pool may not hold up the certified ones
        }
    }

    /// Gives the write its sequence and sends it to every required replica, the local one included,
    /// and to a joiner that shadows (R5).
    fn sequence(&mut self, now: Nanos, write: Waiting, charged: bool, out: &mut Vec<PrimaryOut>) {
        let stamp = Stamp::new(self.epoch, self.writes.last.next());
        let Waiting {
            tag,
            kind,
            range,
            checksums,
            payload,
        } = write;
        let record = Record {
            stamp,
            kind,
            range,
            checksums,
            payload,
        };
        record.assert_valid();
        self.writes.last = stamp.sequence;
        self.writes.bytes += record.payload.len() as u64;
        if let Some(range) = record.touches() {
            match self.broken.is(Mutation::R6OverlapIgnored) {
                true => self
                    .overlap
                    .occupy_anyway(range, Occupant::Write(stamp.sequence)),
                false => self.overlap.occupy(range, Occupant::Write(stamp.sequence)),
            }
            if kind != RecordKind::Write {
                for index in range.extents() {
                    self.writes.charged.remove(&index);
                    self.writes.discarded.insert(index);
                }
            }
        }
        let floor = self.floor();
        for replica in self.recipients().collect::<Vec<_>>() {
            self.send(
                replica,
                RequestBody::Append {
                    record: record.clone(),
                    floor,
                    roll: false,
                    charged,
                },
                out,
            );
        }
        self.writes.in_flight.push_back(InFlight {
            record,
            charged,
            tag,
            sent: now,
        });
    }

    /// R8: raft commits a size before its record; whoever opens sequences what is missing.
    pub(super) fn sequence_resize(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let blocks = self.view.blocks;
        let under_way = self
            .writes
            .in_flight
            .iter()
            .any(|w| w.record.kind == RecordKind::Resize);
        let grown = blocks > self.applied_blocks && !self.broken.is(Mutation::R8ResizeNotSequenced);
        if !self.serves() || !grown || under_way {
            return;
        }
        let write = Waiting {
            tag: None,
            kind: RecordKind::Resize,
            range: BlockRange::new(blocks, 1),
            checksums: Checksums::none(),
            payload: Default::default(),
        };
        self.sequence(now, write, false, out);
    }

    /// Everyone a record is sent to.
    fn recipients(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let shadow = self
            .join
            .as_ref()
            .filter(|j| j.shadowing)
            .map(|j| j.replica);
        self.members
            .keys()
            .copied()
            .filter(move |id| self.required.contains(id) || shadow == Some(*id))
    }

    /// A link came back: what it has not acknowledged is sent again, in order.
    pub(super) fn resend_writes(&mut self, replica: ReplicaId, out: &mut Vec<PrimaryOut>) {
        if !self.required.contains(&replica) {
            return;
        }
        let acked = self
            .members
            .get(&replica)
            .map_or(Sequence::ZERO, |m| m.acked);
        let floor = self.floor();
        for write in self
            .writes
            .in_flight
            .iter()
            .filter(|w| w.record.stamp.sequence > acked)
        {
            let body = RequestBody::Append {
                record: write.record.clone(),
                floor,
                roll: false,
                charged: write.charged,
            };
            self.send(replica, body, out);
        }
    }

    pub(super) fn on_ack(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        last: Stamp,
        out: &mut Vec<PrimaryOut>,
    ) {
        if last.epoch != self.epoch {
            return;
        }
        let Some(member) = self.members.get_mut(&replica) else {
            return;
        };
        if last.sequence > member.acked {
            member.acked = last.sequence;
            if let Some(sent) = self.writes.sent_at(last.sequence) {
                self.slow.observe(replica, now.saturating_sub(sent));
            }
        }
        if let Phase::Rolling(_) = self.phase {
            return;
        }
        self.complete_ready(now, out);
    }

    /// Answers every write that is durable on all of required, in sequence order (R2), while the lease
    /// holds (R13).
    pub(super) fn complete_ready(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        if self.phase != Phase::Open {
            return;
        }
        if self.broken.is(Mutation::R19AckNeedsControl) && self.proposal.is_some() {
            return;
        }
        let durable = self.durable();
        while let Some(write) = self.writes.in_flight.front() {
            let lease = self.lease_valid(now) || self.broken.is(Mutation::R13NoLeaseOnWrite);
            if write.record.stamp.sequence > durable || !lease {
                return;
            }
            let write = self.writes.in_flight.pop_front().expect("looked at above");
            self.writes.bytes -= write.record.payload.len() as u64;
            self.writes.completed = write.record.stamp.sequence;
            if let Some(range) = write.record.touches() {
                self.overlap.free(range);
            }
            if write.record.kind == RecordKind::Resize {
                self.applied_blocks = write.record.range.start;
                // A size committed meanwhile waited for this one (world seed 2622244).
                self.sequence_resize(now, out);
            }
            if let Some(tag) = write.tag {
                self.pace.observe(now.saturating_sub(write.sent));
                out.push(PrimaryOut::Complete {
                    tag,
                    result: Ok(Response::Done),
                });
            }
        }
    }

    /// Durable on all of required.
    pub(super) fn durable(&self) -> Sequence {
        let acked = |id: ReplicaId| self.members.get(&id).map_or(Sequence::ZERO, |m| m.acked);
        if self.broken.is(Mutation::R2AckWithoutOne) && self.required.len() > 1 {
            return self
                .required
                .iter()
                .map(|id| acked(*id))
                .max()
                .unwrap_or_default();
        }
        is_durable(&self.required, acked)
    }

    /// The floor: everything at or below it is durable on all of required. None is emitted before the
    /// epoch opens (R11).
    pub(super) fn floor(&self) -> Stamp {
        if self.serves() {
            Stamp::new(self.epoch, self.durable())
        } else {
            Stamp::ZERO
        }
    }
}

fn request_of(
    kind: RecordKind,
    range: BlockRange,
    checksums: Checksums,
    payload: bytes::Bytes,
) -> Request {
    let op = match kind {
        RecordKind::Write => RequestOp::Write { checksums, payload },
        RecordKind::Discard => RequestOp::Discard,
        RecordKind::WriteZeroes => RequestOp::WriteZeroes,
        RecordKind::Resize | RecordKind::Nothing => {
            unreachable!("the client never asked for {kind:?}")
        }
    };
    Request { range, op }
}
