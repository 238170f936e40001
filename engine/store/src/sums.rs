//! Stored checksums: the pages on disk, a bounded cache of them, and what changed since the last
//! checkpoint. All values are as stored, seeded with lineage and address.

use crate::format::ChecksumPage;
use crate::geometry::EXTENTS_PER_CHECKSUM_PAGE;
use lockstep_types::EXTENT_BLOCKS;
use std::collections::BTreeMap;

/// Checksums of one extent.
pub type Sums = [u32; EXTENT_BLOCKS as usize];

/// What changed in one extent since its page was last written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Changed {
    mask: u64,
    sums: Sums,
    version: u64,
}

/// All stored checksums.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Checksummed {
    changed: BTreeMap<u32, Changed>,
    cache: BTreeMap<u32, (u64, ChecksumPage)>,
    /// The cached pages, the one used longest ago first.
    by_use: BTreeMap<u64, u32>,
    capacity: usize,
    clock: u64,
    version: u64,
}

/// The page of an extent.
pub fn page_of(extent: u32) -> u32 {
    extent / EXTENTS_PER_CHECKSUM_PAGE
}

impl Checksummed {
    /// With a cache of so many pages, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            changed: BTreeMap::new(),
            cache: BTreeMap::new(),
            by_use: BTreeMap::new(),
            capacity: capacity.max(1),
            clock: 0,
            version: 0,
        }
    }

    /// A block's checksum changed.
    pub fn set(&mut self, extent: u32, block: u8, stored: u32) {
        self.version += 1;
        let version = self.version;
        let fresh = Changed {
            mask: 0,
            sums: [0; EXTENT_BLOCKS as usize],
            version,
        };
        let changed = self.changed.entry(extent).or_insert(fresh);
        changed.mask |= 1 << block;
        changed.sums[usize::from(block)] = stored;
        changed.version = version;
    }

    /// The checksums of these blocks of an extent, or none if their page must be read first.
    pub fn get(&mut self, extent: u32, bits: u64) -> Option<Sums> {
        let page = page_of(extent);
        let changed = self.changed.get(&extent);
        let missing = bits & !changed.map_or(0, |c| c.mask);
        let mut sums = if missing == 0 {
            [0; EXTENT_BLOCKS as usize]
        } else {
            self.clock += 1;
            let (used, cached) = self.cache.get_mut(&page)?;
            self.by_use.remove(used);
            *used = self.clock;
            self.by_use.insert(self.clock, page);
            cached.sums[(extent % EXTENTS_PER_CHECKSUM_PAGE) as usize]
        };
        if let Some(changed) = changed {
            overlay(&mut sums, changed);
        }
        Some(sums)
    }

    /// A page was read, or made.
    pub fn insert(&mut self, page: ChecksumPage) {
        self.clock += 1;
        self.by_use.insert(self.clock, page.page);
        if let Some((used, _)) = self.cache.insert(page.page, (self.clock, page)) {
            self.by_use.remove(&used);
        }
        if self.cache.len() > self.capacity {
            let (_, oldest) = self.by_use.pop_first().expect("one a cached page");
            self.cache.remove(&oldest);
        }
    }

    /// Pages with changes, to be written by a checkpoint.
    pub fn dirty_pages(&self) -> Vec<u32> {
        let mut pages: Vec<u32> = self.changed.keys().map(|extent| page_of(*extent)).collect();
        pages.dedup();
        pages
    }

    /// The page with all changes laid over it, if its base is here; and the version up to which they
    /// go.
    pub fn compose(&mut self, page: u32, never_written: bool) -> Option<(ChecksumPage, u64)> {
        let mut composed = match self.cache.get(&page) {
            Some((_, cached)) => cached.clone(),
            None if never_written => ChecksumPage::empty(page),
            None => return None,
        };
        let first = page * EXTENTS_PER_CHECKSUM_PAGE;
        for (extent, changed) in self.changed.range(first..first + EXTENTS_PER_CHECKSUM_PAGE) {
            overlay(&mut composed.sums[(extent - first) as usize], changed);
        }
        Some((composed, self.version))
    }

    /// A page as of a version is on disk, and the checkpoint that wrote it is complete.
    pub fn written(&mut self, page: ChecksumPage, version: u64) {
        let first = page.page * EXTENTS_PER_CHECKSUM_PAGE;
        for extent in first..first + EXTENTS_PER_CHECKSUM_PAGE {
            if self
                .changed
                .get(&extent)
                .is_some_and(|c| c.version <= version)
            {
                self.changed.remove(&extent);
            }
        }
        self.insert(page);
    }
}

fn overlay(sums: &mut Sums, changed: &Changed) {
    for (block, sum) in sums.iter_mut().enumerate() {
        if changed.mask & (1 << block) != 0 {
            *sum = changed.sums[block];
        }
    }
}
