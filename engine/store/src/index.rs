//! What the journal holds, by replica, sequence and extent. Until the tail passes a record it
//! supersedes whatever the data area says (S2); among records the highest (sequence, epoch) wins a
//! block, whichever order they lie in (S3).

use bytes::Bytes;
use lockstep_types::{
    BlockRange, Checksums, Epoch, ExtentIndex, Nanos, RecordKind, Sequence, Stamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// A record in the journal, in order of arrival.
pub type EntryId = u64;

/// Where a record's payload lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// Not journaled yet; only in memory.
    Memory,
    /// At this byte offset of the device, inside the ring.
    Ring(u64),
    /// A whole physical extent (a direct write).
    Extent(u32),
}

/// One live record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The replica's slot.
    pub slot: u32,
    /// Its stamp; of a copy, the stamp at which it was read.
    pub stamp: Stamp,
    /// Its kind.
    pub kind: RecordKind,
    /// Its blocks.
    pub range: BlockRange,
    /// CRC32C of its blocks.
    pub checksums: Checksums,
    /// Whether it is a resync or repair copy.
    pub copy: bool,
    /// The order of a copy among all copies of the pool, from 1; 0 for records.
    pub order: u64,
    /// Where its payload lies.
    pub place: Place,
    /// The payload, until it is durable and a while longer.
    pub payload: Option<Bytes>,
    /// The batch it lies in, once it does.
    pub batch: Option<u64>,
    /// Whether that batch is durable.
    pub durable: bool,
    /// Extents among whose records it still has a place.
    pub attached: u32,
    /// It is being copied forward.
    pub forward: Forward,
    /// Its payload in the ring does not match its checksums: it stays, and holds the tail, for a repair to
    /// win the blocks that are bad. It is not tried again before this time.
    pub bad_until: Nanos,
    /// How often it was tried in vain.
    pub bad_tries: u32,
    /// Another took its sequence, but is not durable yet: until then this one, though it does not count
    /// any more, stays in the journal (R11).
    pub hidden: bool,
    /// The hidden records whose place it takes.
    pub supersedes: Vec<EntryId>,
}

/// How far a copy at the head is (S5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Forward {
    /// None is wanted.
    #[default]
    No,
    /// It waits for its payload or its batch.
    Waiting,
    /// It is in this batch, in flight, and will lie there. Until that is durable the original counts.
    InFlight { batch: u64, place: Place },
}

/// What is left of a record that does not count any more, but whose place is not free yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ghost {
    /// The batch that names it, if any does.
    pub batch: Option<u64>,
    /// The physical extent of a direct write.
    pub extent: Option<u32>,
}

impl Entry {
    /// A record that has just arrived.
    pub fn new(slot: u32, stamp: Stamp, kind: RecordKind, range: BlockRange) -> Self {
        Self {
            slot,
            stamp,
            kind,
            range,
            checksums: Checksums::none(),
            copy: false,
            order: 0,
            place: Place::Memory,
            payload: None,
            batch: None,
            durable: false,
            attached: 0,
            forward: Forward::No,
            bad_until: 0,
            bad_tries: 0,
            hidden: false,
            supersedes: Vec::new(),
        }
    }

    /// Whether its payload lies in the ring alone.
    pub fn is_only_on_disk(&self) -> bool {
        self.payload.is_none() && matches!(self.place, Place::Ring(_))
    }

    /// About how many bytes of the ring it needs.
    pub fn weight(&self) -> u64 {
        let payload = if self.needs_extent() {
            self.range.bytes()
        } else {
            0
        };
        payload as u64 + 128
    }

    fn rank(&self, id: EntryId) -> Rank {
        (self.stamp.sequence, self.stamp.epoch, self.order, id)
    }

    /// Whether it needs an extent when it is destaged, unless there is one already.
    fn needs_extent(&self) -> bool {
        self.kind == RecordKind::Write && !matches!(self.place, Place::Extent(_))
    }

    /// What it leaves behind.
    pub fn into_ghosts(self) -> Vec<Ghost> {
        let extent = match self.place {
            Place::Extent(extent) => Some(extent),
            _ => None,
        };
        let mut ghosts = Vec::new();
        if let Forward::InFlight { batch, .. } = self.forward {
            ghosts.push(Ghost {
                batch: Some(batch),
                extent: None,
            });
        }
        ghosts.push(Ghost {
            batch: self.batch,
            extent,
        });
        ghosts
    }
}

/// The order in which records win blocks: by stamp, and at one stamp the later copy.
type Rank = (Sequence, Epoch, u64, EntryId);

/// All live records of a pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Index {
    /// Apart, so that taking one out moves no others.
    entries: BTreeMap<EntryId, Box<Entry>>,
    by_sequence: BTreeMap<(u32, Sequence), EntryId>,
    by_extent: BTreeMap<(u32, ExtentIndex), Held>,
    by_slot: BTreeSet<(u32, EntryId)>,
    next: EntryId,
    /// About how many bytes of the ring those need that lie in it.
    in_ring: u64,
    /// Extents with records and without a place: each will need one when it is destaged (S6).
    unmapped: u32,
}

/// What one record holds of an extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    rank: Rank,
    /// The blocks of the extent that it touches.
    bits: u64,
}

impl Claim {
    /// The record.
    pub fn entry(&self) -> EntryId {
        self.rank.3
    }

    /// Its sequence; of a copy, that at which it was read.
    pub fn sequence(&self) -> Sequence {
        self.rank.0
    }

    /// Whether it is a resync or repair copy.
    pub fn is_copy(&self) -> bool {
        self.rank.2 > 0
    }
}

/// Records of one extent, the oldest rank first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Held {
    claims: Vec<Claim>,
    /// How many of them need an extent.
    needs: u32,
    mapped: bool,
}

impl Held {
    /// Whether an extent must be kept free for it.
    fn is_owed(&self) -> bool {
        self.needs > 0 && !self.mapped
    }
}

/// A piece of an extent and the record that wins it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Winner {
    /// The record.
    pub entry: EntryId,
    /// Its sequence.
    pub sequence: Sequence,
    /// The blocks of the extent that it wins.
    pub bits: u64,
}

impl Index {
    /// Adds a record; gives its id. `destaged` says of an extent that the record is in its place there
    /// already, as only recovery meets it; `mapped`, that the extent has a place.
    pub fn insert(
        &mut self,
        mut entry: Entry,
        destaged: impl Fn(ExtentIndex) -> bool,
        mapped: impl Fn(ExtentIndex) -> bool,
    ) -> EntryId {
        let id = self.next;
        self.next += 1;
        let rank = entry.rank(id);
        entry.attached = 0;
        if changes_blocks(entry.kind) {
            for index in entry.range.extents().filter(|index| !destaged(*index)) {
                let fresh = || Held {
                    mapped: mapped(index),
                    ..Held::default()
                };
                let held = self
                    .by_extent
                    .entry((entry.slot, index))
                    .or_insert_with(fresh);
                let owed = held.is_owed();
                let at = held.claims.partition_point(|c| c.rank < rank);
                let bits = entry.range.bits_in(index);
                held.claims.insert(at, Claim { rank, bits });
                held.needs += u32::from(entry.needs_extent());
                self.unmapped += u32::from(held.is_owed() && !owed);
                entry.attached += 1;
            }
        }
        if !entry.copy {
            let key = (entry.slot, entry.stamp.sequence);
            let before = self.by_sequence.insert(key, id);
            assert!(
                before.is_none(),
                "a sequence is superseded before it is held again (R11)"
            );
        }
        self.by_slot.insert((entry.slot, id));
        if entry.batch.is_some() {
            self.in_ring += entry.weight();
        }
        self.entries.insert(id, Box::new(entry));
        id
    }

    /// A record is in its place in one extent; gives the record once that holds for all of them.
    pub fn detach(&mut self, id: EntryId, index: ExtentIndex) -> Option<Entry> {
        let entry = self.entries.get(&id)?;
        let rank = entry.rank(id);
        let (slot, needs) = (entry.slot, entry.needs_extent());
        if self.take_rank((slot, index), rank, needs) {
            self.entries.get_mut(&id).expect("looked at above").attached -= 1;
        }
        let last = self.entries[&id].attached == 0;
        if last { self.remove(id) } else { None }
    }

    /// Takes a record away; whatever it hid shows again.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        self.hide(id);
        let entry = self.entries.remove(&id)?;
        self.by_slot.remove(&(entry.slot, id));
        if entry.batch.is_some() {
            self.in_ring -= entry.weight();
        }
        Some(*entry)
    }

    /// A record does not count any more, but stays in the journal for a while.
    pub fn hide(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut entry.hidden, true) {
            return;
        }
        let attached = std::mem::take(&mut entry.attached) > 0;
        let (slot, range, sequence) = (entry.slot, entry.range, entry.stamp.sequence);
        let (rank, needs, copy) = (entry.rank(id), entry.needs_extent(), entry.copy);
        if changes_blocks(entry.kind) && attached {
            for index in range.extents() {
                self.take_rank((slot, index), rank, needs);
            }
        }
        if !copy {
            self.by_sequence.remove(&(slot, sequence));
        }
    }

    /// Takes a record out of one extent's; whether it was there.
    fn take_rank(&mut self, key: (u32, ExtentIndex), rank: Rank, needs: bool) -> bool {
        let Some(held) = self.by_extent.get_mut(&key) else {
            return false;
        };
        let Ok(at) = held.claims.binary_search_by_key(&rank, |c| c.rank) else {
            return false;
        };
        let owed = held.is_owed();
        held.claims.remove(at);
        held.needs -= u32::from(needs);
        self.unmapped -= u32::from(owed && !held.is_owed());
        if held.claims.is_empty() {
            self.by_extent.remove(&key);
        }
        true
    }

    /// A record.
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id).map(Box::as_ref)
    }

    /// A record lies in a batch, for the first time.
    pub fn journaled(&mut self, id: EntryId, batch: u64) {
        let entry = self.entries.get_mut(&id).expect("the caller looked");
        let before = entry.batch.replace(batch);
        assert!(before.is_none(), "it lay in a batch already");
        self.in_ring += entry.weight();
    }

    /// A record, to change its place; never its stamp or range, nor its first batch.
    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(&id).map(Box::as_mut)
    }

    /// The sequenced record of a sequence.
    pub fn at(&self, slot: u32, sequence: Sequence) -> Option<EntryId> {
        self.by_sequence.get(&(slot, sequence)).copied()
    }

    /// Sequenced records above a sequence, in order.
    pub fn above(&self, slot: u32, sequence: Sequence) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.by_sequence
            .range((slot, sequence.next())..=(slot, Sequence(u64::MAX)))
            .map(|(_, id)| (*id, self.entries[id].as_ref()))
    }

    /// All records of a replica, in order of arrival.
    pub fn of_slot(&self, slot: u32) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.by_slot
            .range((slot, 0)..=(slot, EntryId::MAX))
            .map(|(_, id)| (*id, self.entries[id].as_ref()))
    }

    /// All records of the pool, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.entries.iter().map(|(id, e)| (*id, e.as_ref()))
    }

    /// Who wins which blocks of an extent; the blocks nobody wins are left over.
    pub fn winners(&self, slot: u32, index: ExtentIndex, wanted: u64) -> (Vec<Winner>, u64) {
        let claims = self.claims(slot, index, Sequence(u64::MAX));
        winners_among(claims.iter().rev(), wanted)
    }

    /// Whether a record still has a place among those of an extent.
    pub fn holds(&self, id: EntryId, index: ExtentIndex) -> bool {
        let Some(entry) = self.entries.get(&id) else {
            return false;
        };
        let rank = entry.rank(id);
        let held = self.by_extent.get(&(entry.slot, index));
        held.is_some_and(|h| h.claims.binary_search_by_key(&rank, |c| c.rank).is_ok())
    }

    /// Records that touch an extent, up to a sequence, the oldest first.
    pub fn claims(&self, slot: u32, index: ExtentIndex, up_to: Sequence) -> &[Claim] {
        let held = self.by_extent.get(&(slot, index));
        let claims = held.map_or(&[][..], |h| h.claims.as_slice());
        &claims[..claims.partition_point(|c| c.sequence() <= up_to)]
    }

    /// The newest sequence that touched an extent.
    pub fn newest(&self, slot: u32, index: ExtentIndex) -> Option<Sequence> {
        self.by_extent
            .get(&(slot, index))
            .and_then(|h| h.claims.last())
            .map(Claim::sequence)
    }

    /// Extents of a replica with records, from an index on.
    pub fn extents(
        &self,
        slot: u32,
        from: ExtentIndex,
    ) -> impl Iterator<Item = (ExtentIndex, Sequence)> {
        self.by_extent
            .range((slot, from)..=(slot, ExtentIndex::MAX))
            .map(|((_, index), held)| {
                let newest = held.claims.last().map(Claim::sequence);
                (*index, newest.unwrap_or_default())
            })
    }

    /// An extent with records got its place, or lost it.
    pub fn set_mapped(&mut self, slot: u32, index: ExtentIndex, mapped: bool) {
        if let Some(held) = self.by_extent.get_mut(&(slot, index)) {
            let owed = held.is_owed();
            held.mapped = mapped;
            self.unmapped -= u32::from(owed && !held.is_owed());
            self.unmapped += u32::from(held.is_owed() && !owed);
        }
    }

    /// Counts the extents owed afresh: for audits.
    pub fn count_unmapped(&self) -> u32 {
        self.by_extent.values().filter(|h| h.is_owed()).count() as u32
    }

    /// Extents with records and without a place.
    pub fn unmapped(&self) -> u32 {
        self.unmapped
    }

    /// About how many bytes of the ring the records need that lie in it.
    pub fn in_ring(&self) -> u64 {
        self.in_ring
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Who of some records, the newest first (S3), wins which of the wanted blocks; those nobody wins are left.
pub fn winners_among<'a>(
    newest_first: impl Iterator<Item = &'a Claim>,
    wanted: u64,
) -> (Vec<Winner>, u64) {
    let mut left = wanted;
    let mut winners = Vec::new();
    for claim in newest_first {
        if left == 0 {
            break;
        }
        let bits = claim.bits & left;
        if bits != 0 {
            winners.push(Winner {
                entry: claim.entry(),
                sequence: claim.sequence(),
                bits,
            });
            left &= !bits;
        }
    }
    (winners, left)
}

/// Whether a kind has a place among an extent's records.
pub fn changes_blocks(kind: RecordKind) -> bool {
    matches!(
        kind,
        RecordKind::Write | RecordKind::Discard | RecordKind::WriteZeroes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, epoch: u64, start: u64, count: u32) -> Entry {
        let stamp = Stamp::new(Epoch(epoch), Sequence(sequence));
        Entry::new(1, stamp, RecordKind::Write, BlockRange::new(start, count))
    }

    #[test]
    fn what_a_record_hid_shows_again() {
        let mut index = Index::default();
        let old = index.insert(entry(1, 1, 0, 4), |_| false, |_| false);
        let new = index.insert(entry(2, 1, 2, 4), |_| false, |_| false);
        let (winners, left) = index.winners(1, 0, 0xff);
        let won = |entry, bits| Winner {
            entry,
            sequence: Sequence(entry + 1),
            bits,
        };
        assert_eq!(winners, [won(new, 0b11_1100), won(old, 0b11)]);
        assert_eq!(left, 0b1100_0000);
        let first = index.claims(1, 0, Sequence(1));
        assert_eq!(first.iter().map(Claim::entry).collect::<Vec<_>>(), [old]);
        assert_eq!(winners_among(first.iter(), 0xff).0, [won(old, 0b1111)]);
        index.remove(new);
        assert_eq!(index.winners(1, 0, 0xff).0, [won(old, 0b1111)]);
        index.remove(old);
        assert_eq!(index.winners(1, 0, 0xff), (vec![], 0xff));
        assert_eq!(index.len(), 0);
    }
}
