//! The map: which physical extent holds which logical one, and what is free. Free space is never
//! stored; whatever no map entry and no journaled record names is free (S4).

use lockstep_types::{ExtentIndex, Sequence};
use std::collections::{BTreeMap, BTreeSet};

/// One physical extent in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mapped {
    /// The layer that owns it; never 0.
    pub owner: u32,
    /// Which extent of the layer.
    pub index: ExtentIndex,
    /// Bit i: block i is present.
    pub valid: u64,
    /// The highest sequence in its place here.
    pub newest: Sequence,
    /// The sequence that made it: no older record is written into it (S3).
    pub birth: Sequence,
}

/// All physical extents of a pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Extents {
    mapped: Vec<Mapped>,
    by_owner: BTreeMap<(u32, ExtentIndex), u32>,
    free: BTreeSet<u32>,
    /// Neither mapped nor free: targets of direct writes and of destaging, and what left the map and
    /// may not be used again yet.
    taken: BTreeSet<u32>,
    /// To be freed, but still read.
    leaving: BTreeSet<u32>,
    readers: BTreeMap<u32, u32>,
    /// Promised to primaries and not used yet (R7).
    reserved: u32,
}

impl Extents {
    /// So many extents, all free.
    pub fn new(count: u32) -> Self {
        Self {
            mapped: vec![Mapped::default(); count as usize],
            by_owner: BTreeMap::new(),
            free: (0..count).collect(),
            taken: BTreeSet::new(),
            leaving: BTreeSet::new(),
            readers: BTreeMap::new(),
            reserved: 0,
        }
    }

    /// How many there are.
    pub fn total(&self) -> u32 {
        self.mapped.len() as u32
    }

    /// Free and not promised.
    pub fn available(&self) -> u32 {
        (self.free.len() as u32).saturating_sub(self.reserved)
    }

    /// Promises up to so many (R7).
    pub fn reserve(&mut self, wanted: u32) -> u32 {
        let granted = wanted.min(self.available());
        self.reserved += granted;
        granted
    }

    /// Takes promises back.
    pub fn unreserve(&mut self, count: u32) {
        assert!(
            count <= self.reserved,
            "only what was promised is taken back"
        );
        self.reserved -= count;
    }

    /// Promised and not used yet.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// The extent that holds a logical one.
    pub fn find(&self, owner: u32, index: ExtentIndex) -> Option<u32> {
        self.by_owner.get(&(owner, index)).copied()
    }

    /// A physical extent's entry; owner 0 if it has none.
    pub fn get(&self, extent: u32) -> &Mapped {
        &self.mapped[extent as usize]
    }

    /// Logical extents of an owner, from an index on.
    pub fn of_owner(
        &self,
        owner: u32,
        from: ExtentIndex,
    ) -> impl Iterator<Item = (ExtentIndex, u32)> {
        self.by_owner
            .range((owner, from)..=(owner, ExtentIndex::MAX))
            .map(|((_, i), e)| (*i, *e))
    }

    /// Takes a free extent; whoever takes it maps or returns it.
    pub fn take(&mut self) -> Option<u32> {
        let extent = self.free.pop_first()?;
        self.taken.insert(extent);
        Some(extent)
    }

    /// Recovery: a journaled direct write names this extent. False if it is mapped or taken.
    pub fn take_this(&mut self, extent: u32) -> bool {
        self.free.remove(&extent) && self.taken.insert(extent)
    }

    /// Whether the extent is taken.
    pub fn is_taken(&self, extent: u32) -> bool {
        self.taken.contains(&extent)
    }

    /// Extents taken, in order.
    pub fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        self.taken.iter().copied()
    }

    /// How many are free, promised or not, and how many are mapped.
    pub fn counts(&self) -> (u32, u32) {
        (
            (self.free.len() + self.leaving.len()) as u32,
            self.by_owner.len() as u32,
        )
    }

    /// Gives a taken extent back; it is free once nobody reads it (S4).
    pub fn give_back(&mut self, extent: u32) {
        if self.taken.remove(&extent) {
            self.release(extent);
        }
    }

    /// Puts an entry into the map; what it replaces for the same logical extent is returned, to be
    /// unmapped.
    pub fn map(&mut self, extent: u32, entry: Mapped) -> Option<u32> {
        assert!(entry.owner != 0, "every extent has an owner");
        self.taken.remove(&extent);
        self.free.remove(&extent);
        let before = self.mapped[extent as usize];
        if before.owner != 0 && (before.owner, before.index) != (entry.owner, entry.index) {
            self.by_owner.remove(&(before.owner, before.index));
        }
        self.mapped[extent as usize] = entry;
        let replaced = self.by_owner.insert((entry.owner, entry.index), extent);
        replaced.filter(|old| *old != extent)
    }

    /// Takes an extent out of the map. It is taken from then on, until it is given back. Whether it was
    /// mapped.
    pub fn unmap(&mut self, extent: u32) -> bool {
        let entry = std::mem::take(&mut self.mapped[extent as usize]);
        if entry.owner == 0 {
            return false;
        }
        if self.by_owner.get(&(entry.owner, entry.index)) == Some(&extent) {
            self.by_owner.remove(&(entry.owner, entry.index));
        }
        self.taken.insert(extent)
    }

    /// A read of the extent begins; it is not reused before the read ends.
    pub fn read_begins(&mut self, extent: u32) {
        *self.readers.entry(extent).or_default() += 1;
    }

    /// A read of the extent ended.
    pub fn read_ended(&mut self, extent: u32) {
        let count = self
            .readers
            .get_mut(&extent)
            .expect("every end has its beginning");
        *count -= 1;
        if *count == 0 {
            self.readers.remove(&extent);
            if self.leaving.remove(&extent) {
                self.free.insert(extent);
            }
        }
    }

    fn release(&mut self, extent: u32) {
        if self.readers.contains_key(&extent) {
            self.leaving.insert(extent);
        } else {
            self.free.insert(extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(owner: u32, index: u32) -> Mapped {
        Mapped {
            owner,
            index,
            valid: 1,
            newest: Sequence(1),
            birth: Sequence(1),
        }
    }

    #[test]
    fn an_extent_that_is_read_is_not_reused() {
        let mut extents = Extents::new(2);
        let a = extents.take().expect("two are free");
        extents.map(a, entry(1, 7));
        extents.read_begins(a);
        extents.unmap(a);
        extents.give_back(a);
        assert_eq!(extents.take(), Some(1));
        assert_eq!(extents.take(), None);
        extents.read_ended(a);
        assert_eq!(extents.take(), Some(a));
    }

    #[test]
    fn promises_are_kept_apart() {
        let mut extents = Extents::new(4);
        assert_eq!(extents.reserve(3), 3);
        assert_eq!(extents.reserve(3), 1);
        assert_eq!(extents.available(), 0);
        extents.unreserve(4);
        assert_eq!(extents.available(), 4);
    }

    #[test]
    fn mapping_again_names_what_is_replaced() {
        let mut extents = Extents::new(3);
        let a = extents.take().expect("free");
        let b = extents.take().expect("free");
        assert_eq!(extents.map(a, entry(1, 7)), None);
        assert_eq!(extents.map(b, entry(1, 7)), Some(a));
        extents.unmap(a);
        assert_eq!(extents.find(1, 7), Some(b));
    }
}
