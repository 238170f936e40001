//! What the owner may look at without asking the disk.

use crate::api::TailRecord;
use crate::format::Superblock;
use crate::store::{Phase, Store};
use lockstep_types::{ExtentIndex, RecordKind, ReplicaId, ReplicaMeta, Sequence};

impl Store {
    /// Sequenced records above a sequence, oldest first.
    pub fn tail(&self, replica: ReplicaId, above: Sequence) -> Vec<TailRecord> {
        let Ok(slot) = self.slot_of(replica) else {
            return Vec::new();
        };
        let records = self.index.above(slot, above).filter(|(_, e)| e.durable);
        records
            .map(|(_, e)| TailRecord {
                stamp: e.stamp,
                kind: e.kind,
                range: e.range,
                checksums: e.checksums.clone(),
            })
            .collect()
    }

    /// Extents with anything newer than a sequence, from an index on, at most `limit`; appended records
    /// count whether durable or not. Of discards that freed an extent only recent ones are known, and
    /// none from before the last start: presence must be compared, too (S10).
    pub fn extents_newer(
        &self,
        replica: ReplicaId,
        than: Sequence,
        from: ExtentIndex,
        limit: usize,
    ) -> Vec<(ExtentIndex, Sequence)> {
        let Ok(slot) = self.slot_of(replica) else {
            return Vec::new();
        };
        self.extents_where(slot, from, limit, |_, newest| newest > than)
    }

    /// Extents with any block present, from an index on, at most `limit`.
    pub fn extents_present(
        &self,
        replica: ReplicaId,
        from: ExtentIndex,
        limit: usize,
    ) -> Vec<(ExtentIndex, Sequence)> {
        let Ok(slot) = self.slot_of(replica) else {
            return Vec::new();
        };
        self.extents_where(slot, from, limit, |index, _| {
            self.presence(slot, index) != 0
        })
    }

    /// The newest sequence that touched an extent, discards included; zero if none is known.
    pub fn extent_newest(&self, replica: ReplicaId, index: ExtentIndex) -> Sequence {
        let Ok(number) = self.slot_of(replica) else {
            return Sequence::ZERO;
        };
        let slot = &self.slots[&number];
        let mapped = self
            .extents
            .find(slot.owner(), index)
            .map(|e| self.extents.get(e).newest);
        let held = self.index.newest(number, index);
        mapped
            .unwrap_or_default()
            .max(held.unwrap_or_default())
            .max(slot.hole(index))
    }

    /// Whether the extent has a place here, or will have one.
    pub fn is_present(&self, replica: ReplicaId, index: ExtentIndex) -> bool {
        self.slot_of(replica)
            .is_ok_and(|slot| self.presence(slot, index) != 0)
    }

    /// The blocks of an extent that hold data, lowest first: records, durable or not, and place
    /// together.
    pub fn present_blocks(&self, replica: ReplicaId, index: ExtentIndex) -> u64 {
        self.slot_of(replica)
            .map_or(0, |slot| self.presence(slot, index))
    }

    /// A replica's state.
    pub fn meta(&self, replica: ReplicaId) -> Option<&ReplicaMeta> {
        self.slot_of(replica).ok().map(|n| &self.slots[&n].meta)
    }

    /// The replicas here.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let here = |number: &&u32| !self.slots[*number].deleting;
        let live = self.by_replica.iter();
        live.filter(move |(_, n)| here(n))
            .map(|(replica, _)| *replica)
    }

    /// Laps of the ring that were written.
    pub fn laps(&self) -> u64 {
        self.journal.lap(self.journal.head)
    }

    /// How full the ring is, in 1/65536.
    pub fn fill(&self) -> u32 {
        self.journal.fill()
    }

    /// What the pool is, once its superblock was read.
    pub fn superblock(&self) -> Option<&Superblock> {
        self.superblock.as_ref()
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Bytes a second that scrubbing may read; zero stops it.
    pub fn set_scrub_rate(&mut self, bytes_a_second: u64) {
        self.scrub.set_rate(bytes_a_second, self.now);
    }

    /// Bits of an extent that are present, records and place together.
    pub(crate) fn presence(&self, slot: u32, index: ExtentIndex) -> u64 {
        let (winners, left) = self.index.winners(slot, index, u64::MAX);
        let written = winners
            .iter()
            .filter(|w| {
                self.index
                    .get(w.entry)
                    .is_some_and(|e| e.kind == RecordKind::Write)
            })
            .fold(0, |bits, w| bits | w.bits);
        let owner = self.slots[&slot].owner();
        let valid = self
            .extents
            .find(owner, index)
            .map_or(0, |e| self.extents.get(e).valid);
        written | (valid & left)
    }

    fn extents_where(
        &self,
        slot: u32,
        from: ExtentIndex,
        limit: usize,
        keep: impl Fn(ExtentIndex, Sequence) -> bool,
    ) -> Vec<(ExtentIndex, Sequence)> {
        let slot = &self.slots[&slot];
        let held = self.index.extents(slot.number, from);
        let mapped = self.extents.of_owner(slot.owner(), from);
        let mapped = mapped.map(|(i, e)| (i, self.extents.get(e).newest));
        let holes = slot.holes.range(from..).map(|(i, s)| (*i, *s));
        let (mut held, mut mapped, mut holes) =
            (held.peekable(), mapped.peekable(), holes.peekable());
        let mut found = Vec::new();
        while found.len() < limit {
            let heads = [held.peek(), mapped.peek(), holes.peek()];
            let Some(index) = heads.into_iter().flatten().map(|(i, _)| *i).min() else {
                break;
            };
            let mine = |head: &(ExtentIndex, Sequence)| head.0 == index;
            let newest = [
                held.next_if(mine),
                mapped.next_if(mine),
                holes.next_if(mine),
            ];
            let newest = newest.into_iter().flatten().map(|(_, s)| s).max();
            let newest = newest.expect("one of them has the lowest index");
            if keep(index, newest) {
                found.push((index, newest));
            }
        }
        found
    }
}
