//! The replica's side. Every entrance to a replica's data, for the primary on the same node too,
//! leads through here (R3).
//!
//! | file | job |
//! |---|---|
//! | `mod` | what is refused, records, beacons |
//! | `seal` | promises, tails, rolled records, the opening of an epoch (R9–R11) |
//! | `join` | being resynced (R15, R16) |
//! | `answers` | what the store answers |
//! | `store` | what is asked of the store |

mod answers;
mod join;
mod seal;
mod store;

pub use store::ReplicaStore;

use crate::mutate::{Broken, Mutation};
use crate::{Grant, Timings};
use lockstep_types::{
    BlockRange, Epoch, Gap, Nanos, NodeId, Record, RecordKind, ReplicaMeta, Sequence, Stamp,
};
use lockstep_wire::{
    BeaconAnswer, BeaconVolume, Header, ReplicaError, ReplicaReply, ReplicaRequest, ReplyBody,
    RequestBody,
};
use std::collections::{BTreeMap, BTreeSet};

/// The id of a read that nobody asked for: what scrub finds is told as its result.
pub(crate) const UNASKED: u64 = 0;

/// Answers of a secondary, each to the node that asked.
pub type Replies = Vec<(NodeId, ReplicaReply)>;

/// One replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Secondary {
    meta: ReplicaMeta,
    /// The last record accepted, in order.
    last: Stamp,
    /// Everything up to here is durable without a gap.
    durable: Stamp,
    /// Durable, but beyond a record that is not yet.
    ahead: BTreeSet<Sequence>,
    /// Whom acks go to: the primary of the promised epoch.
    primary: Option<(NodeId, Header)>,
    grant: Grant,
    pending: BTreeMap<u64, Pending>,
    seal: Option<PendingSeal>,
    /// What the answer to the SEAL of the promised epoch said is missing here; nothing before that answer,
    /// and after a start: what recovery finds then nobody knows.
    told_gap: Gap,
    failed: bool,
    /// Writes that its device acknowledged and lost, as primaries found (R17); since the start.
    lost_writes: u64,
    timings: Timings,
    broken: Broken,
}

/// Who asked, and under which id it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asked {
    to: NodeId,
    header: Header,
    id: u64,
}

/// What waits for the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Pending {
    /// The promise of this epoch.
    Sealed(Epoch),
    Opened {
        to: NodeId,
        header: Header,
        base: Sequence,
    },
    CutStored {
        asked: Asked,
        void: u64,
    },
    /// Nobody is told.
    Untold,
    Certified(Asked),
    Read(Asked),
    Record(Asked),
    Copy(Asked),
    Sums(Asked),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct PendingSeal {
    to: NodeId,
    header: Header,
    promised: bool,
}

impl Secondary {
    /// A replica as recovery found it, or a new one. `last` is the last stamp durable without a gap.
    pub fn new(
        meta: ReplicaMeta,
        last: Stamp,
        grant: Grant,
        timings: Timings,
        broken: Broken,
    ) -> Self {
        let last = last.max(meta.floor);
        Self {
            meta,
            last,
            durable: last,
            ahead: BTreeSet::new(),
            primary: None,
            grant,
            pending: BTreeMap::new(),
            seal: None,
            told_gap: Gap::None,
            failed: false,
            lost_writes: 0,
            timings,
            broken,
        }
    }

    /// What it durably knows, as of the last change asked for.
    pub fn meta(&self) -> &ReplicaMeta {
        &self.meta
    }

    /// Everything up to here is durable without a gap.
    pub fn durable(&self) -> Stamp {
        self.durable
    }

    /// The device failed: never acknowledge again (safety.md, Disks). The primary is told at once.
    pub fn fail(&mut self, out: &mut Replies) {
        if !std::mem::replace(&mut self.failed, true)
            && let Some((to, header)) = self.primary
        {
            self.reply(to, header, ReplyBody::Failed, out);
        }
    }

    /// A forced promotion overwrote this replica: it is kept, and answers nothing from here on.
    pub fn seal_off(&mut self, store: &mut impl ReplicaStore) {
        if !std::mem::replace(&mut self.meta.sealed_off, true) {
            let tag = store.put_meta(&self.meta);
            self.pending.insert(tag, Pending::Untold);
        }
    }

    /// Whether its device failed.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Extents of which its device lost an acknowledged write, found since the start (R17).
    pub fn lost_writes(&self) -> u64 {
        self.lost_writes
    }

    /// A request of a primary.
    pub fn on_request(
        &mut self,
        now: Nanos,
        from: NodeId,
        request: ReplicaRequest,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let header = request.header;
        if let Some(body) = self.refuse(&header, &request.body) {
            return self.reply(from, header, body, out);
        }
        let asked = |id| Asked {
            to: from,
            header,
            id,
        };
        match request.body {
            RequestBody::Probe { id } => self.on_probe(asked(id), out),
            RequestBody::Seal => self.on_seal(now, from, header, store, out),
            RequestBody::Append {
                record,
                floor,
                roll,
                charged,
            } => {
                self.on_append(from, header, record, floor, roll, charged, store, out);
            }
            RequestBody::Open { base, blocks } => {
                self.on_open(from, header, base, blocks, store, out);
            }
            RequestBody::Release => self.grant.released(),
            RequestBody::Reserve { id, extents } => {
                let extents = store.reserve(extents);
                self.reply(from, header, ReplyBody::Reserved { id, extents }, out);
            }
            RequestBody::Read { id, range } => {
                let tag = store.read(range);
                self.pending.insert(tag, Pending::Read(asked(id)));
            }
            RequestBody::FetchRecord { id, stamp } => {
                let tag = store.read_record(stamp);
                self.pending.insert(tag, Pending::Record(asked(id)));
            }
            RequestBody::ExtentSums { id, index } => {
                let tag = store.extent_sums(index);
                self.pending.insert(tag, Pending::Sums(asked(id)));
            }
            RequestBody::LostWrite { .. } => self.lost_writes += 1,
            body => self.on_join_request(from, header, body, store, out),
        }
    }

    fn on_probe(&self, asked: Asked, out: &mut Replies) {
        let body = ReplyBody::Probed {
            id: asked.id,
            promised: self.meta.promised,
            gap: self.meta.gap,
            joining: self.meta.cut.is_some(),
        };
        self.reply(asked.to, asked.header, body, out);
    }

    /// A beacon names this replica.
    pub fn on_beacon(
        &mut self,
        now: Nanos,
        from: NodeId,
        me: NodeId,
        beacon: &BeaconVolume,
        store: &mut impl ReplicaStore,
    ) -> BeaconAnswer {
        let header = Header {
            incarnation: self.meta.incarnation,
            ..beacon.header
        };
        let granted = self.refuse(&beacon.header, &RequestBody::Release).is_none() && !self.failed;
        if granted {
            if from != me {
                self.grant.granted(now); // R13
            }
            self.heal_torn_tail(beacon.header.epoch, store);
            self.raise_floor(beacon.floor, store);
        }
        BeaconAnswer {
            header,
            granted,
            promised: self.meta.promised,
            last: self.durable,
        }
    }

    /// Blocks on disk do not match their checksums, found by no read of the primary's: it is told as if
    /// by one, and repairs them from another replica. Without a primary the next scrub finds them again.
    pub fn on_corrupt(&mut self, range: BlockRange, out: &mut Replies) {
        if let Some((to, header)) = self.primary
            && header.epoch == self.meta.promised
            && !self.failed
        {
            let result = Err(ReplicaError::Corrupt(range));
            let id = UNASKED;
            self.reply(to, header, ReplyBody::ReadDone { id, result }, out);
        }
    }

    /// Records became durable (S1). One ack tells of all of them: it is cumulative.
    pub fn on_durable(
        &mut self,
        now: Nanos,
        stamps: impl IntoIterator<Item = Stamp>,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        let mut moved = false;
        for stamp in stamps {
            if stamp.sequence <= self.durable.sequence {
                continue;
            }
            self.ahead.insert(stamp.sequence);
            let mut next = self.durable.sequence.next();
            while self.ahead.remove(&next) {
                self.durable = Stamp::new(stamp.epoch, next);
                next = next.next();
                moved = true;
            }
        }
        if moved {
            self.acknowledge(out);
        }
        self.finish_seal(now, store, out);
    }

    /// What refuses a request before it is looked at: a failed device, lost records (R24), another life
    /// (R4), an epoch below the promise, or one above it that has not been sealed here (R3).
    fn refuse(&self, header: &Header, body: &RequestBody) -> Option<ReplyBody> {
        if self.failed || self.may_lack_what_it_acknowledged(body) {
            return Some(ReplyBody::Failed);
        }
        if header.incarnation != self.meta.incarnation
            && !self.broken.is(Mutation::R4IncarnationNotChecked)
        {
            return Some(ReplyBody::NoSuchLife {
                incarnation: Some(self.meta.incarnation),
            });
        }
        if self.broken.is(Mutation::R3EpochNotChecked) {
            return None;
        }
        let refused = match body {
            RequestBody::Probe { .. } => false,
            RequestBody::Seal
            | RequestBody::JoinState { .. }
            | RequestBody::JoinCut { .. }
            | RequestBody::ExtentsNewer { .. }
            | RequestBody::ExtentsPresent { .. } => header.epoch < self.meta.promised,
            _ => header.epoch != self.meta.promised,
        };
        (refused || self.meta.sealed_off).then_some(ReplyBody::Refused {
            promised: self.meta.promised,
        })
    }

    /// R24: recovery met a bad batch at or below the mark, or the device failed in an earlier life. The
    /// epoch may still be open, or be opening, and its primary take this for the member that it was: it is
    /// none before a SEAL or a resync has filled what is missing.
    fn may_lack_what_it_acknowledged(&self, body: &RequestBody) -> bool {
        let serves = match body {
            RequestBody::Append { .. }
            | RequestBody::Read { .. }
            | RequestBody::ExtentSums { .. }
            | RequestBody::Copy { resync: None, .. } => true,
            RequestBody::Open { .. } => !self.broken.is(Mutation::R24OpenedUntold),
            _ => false,
        };
        let excluded = self.meta.gap.excludes() && self.meta.cut.is_none();
        // Between a SEAL which told of the gap and the opening, whoever asks knows it. One that was answered
        // before a start did not tell what that start found (world seed 2683153).
        let told = self.meta.gap <= self.told_gap || self.broken.is(Mutation::R24OpenedUntold);
        let untold = self.meta.opened == self.meta.promised || !told;
        let believed = [Mutation::R21SuspectServes, Mutation::R24LossServes];
        excluded && untold && serves && !believed.iter().any(|rule| self.broken.is(*rule))
    }

    #[allow(clippy::too_many_arguments)]
    fn on_append(
        &mut self,
        from: NodeId,
        header: Header,
        record: Record,
        floor: Stamp,
        roll: bool,
        charged: bool,
        store: &mut impl ReplicaStore,
        out: &mut Replies,
    ) {
        self.primary = Some((from, header));
        let sequence = record.stamp.sequence;
        assert_eq!(
            record.stamp.epoch, header.epoch,
            "a primary appends under its own epoch only"
        );
        let expected = self.last.sequence.next();
        let known = sequence < expected;
        if known && (!roll || self.last.epoch == header.epoch && sequence <= self.last.sequence) {
            return self.acknowledge(out); // sent again over a new link
        }
        if sequence > expected && !self.broken.is(Mutation::R5GapAccepted) {
            return self.reply(from, header, ReplyBody::OutOfOrder { expected }, out); // R5
        }
        if known {
            // Rolled forward: from here on the tail above it is the old epoch's again, each record of
            // which follows under the new one (R11).
            self.roll_back_to(sequence);
        }
        if self.broken.is(Mutation::R5GapAccepted) && sequence > expected {
            self.durable = Stamp::new(record.stamp.epoch, Sequence(sequence.0 - 1));
        }
        self.last = record.stamp;
        if record.kind == RecordKind::Resize {
            self.meta.blocks = self.meta.blocks.max(record.range.start); // R8: only grows
        }
        self.meta.floor = self.meta.floor.max(self.bounded(floor));
        store.append(record, self.meta.floor, charged);
    }

    /// The primary under which the torn records were sent still lives: what they were is unacknowledged,
    /// and it sends them again; if we had acknowledged more, it removes us (R4, R24).
    fn heal_torn_tail(&mut self, epoch: Epoch, store: &mut impl ReplicaStore) {
        if self.meta.gap == Gap::Torn && self.meta.opened == epoch && self.meta.cut.is_none() {
            self.meta.gap = Gap::None;
            let tag = store.put_meta(&self.meta);
            self.pending.insert(tag, Pending::Untold);
        }
    }

    /// A floor never passes what is durable here: a joiner may lag behind it.
    fn bounded(&self, floor: Stamp) -> Stamp {
        let beyond = floor.sequence > self.durable.sequence;
        if beyond && !self.broken.is(Mutation::R11FloorBeforeOpen) {
            self.durable.max(self.meta.floor)
        } else {
            floor
        }
    }

    fn raise_floor(&mut self, floor: Stamp, store: &mut impl ReplicaStore) {
        let floor = self.bounded(floor);
        if floor > self.meta.floor {
            self.meta.floor = floor;
            store.set_floor(floor);
        }
    }

    /// Acknowledges to the primary of the promised epoch only (R10).
    fn acknowledge(&self, out: &mut Replies) {
        if let Some((to, header)) = self.primary
            && header.epoch == self.meta.promised
            && self.durable.epoch == header.epoch
            && !self.failed
        {
            self.reply(to, header, ReplyBody::Ack { last: self.durable }, out);
        }
    }

    fn reply_current(&self, to: NodeId, header: Header, body: ReplyBody, out: &mut Replies) {
        if header.epoch == self.meta.promised || self.broken.is(Mutation::R3EpochNotChecked) {
            self.reply(to, header, body, out);
        } else {
            self.reply(
                to,
                header,
                ReplyBody::Refused {
                    promised: self.meta.promised,
                },
                out,
            );
        }
    }

    fn reply(&self, to: NodeId, header: Header, body: ReplyBody, out: &mut Replies) {
        let header = Header {
            incarnation: self.meta.incarnation,
            ..header
        }; // R4
        out.push((to, ReplicaReply { header, body }));
    }
}
