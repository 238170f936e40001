//! What stands on a simulated device: stable pages, and versions in its volatile cache.

use crate::rng::Rng;
use bytes::Bytes;
use lockstep_types::BLOCK;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a device writes as one: what tears at a power cut tears at these.
pub const SECTOR: usize = 512;

/// Parts of writes up to this length are kept as they came, longer ones a page at a time.
const SHARED_AT_MOST: usize = 8 * BLOCK;

/// The surface and the cache of a device, a page of 4 KiB at a time.
#[derive(Clone, Debug)]
pub struct Media {
    stable: Vec<Option<Bytes>>,
    /// Versions that no flush has covered, oldest first.
    cached: BTreeMap<u64, Vec<Cached>>,
    /// Pages that cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    /// Writes answered so far: what a flush covers is told by this count.
    answered: u64,
}

#[derive(Clone, Debug)]
struct Cached {
    /// The count of answers when it was answered; none while it is in flight and seen early.
    answered: Option<u64>,
    write: u64,
    page: Bytes,
}

/// A write that was in flight, or answered without a flush, when the power went.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// Its number: all its pages share one fate.
    pub write: u64,
    /// The first page.
    pub first: u64,
    /// Its bytes, in parts of whole pages.
    pub parts: SmallVec<[Bytes; 4]>,
}

/// How a power cut treats what was not flushed.
#[derive(Clone, Copy, Debug)]
pub struct CutStyle {
    /// Per cent of writes wholly kept.
    pub kept: u32,
    /// Per cent wholly dropped; the rest is torn.
    pub dropped: u32,
    /// Per cent of a torn write's sectors that become garbage.
    pub garbage: u32,
}

impl Media {
    /// A blank device.
    pub fn new(bytes: u64) -> Self {
        assert!(
            bytes.is_multiple_of(BLOCK as u64),
            "devices are whole pages"
        );
        let pages = (bytes / BLOCK as u64) as usize;
        Self {
            stable: vec![None; pages],
            cached: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            answered: 0,
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.stable.len() as u64 * BLOCK as u64
    }

    /// A count that tells a flush what it covers.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// What a read of these pages gives now; `None` where one cannot be read.
    pub fn read(&self, first: u64, count: u64) -> Option<Bytes> {
        if self.unreadable.range(first..first + count).next().is_some() {
            return None;
        }
        if count == 1 {
            return Some(self.page(first));
        }
        let mut bytes = Vec::with_capacity(count as usize * BLOCK);
        for page in first..first + count {
            match self.current(page) {
                Some(content) => bytes.extend_from_slice(content),
                None => bytes.resize(bytes.len() + BLOCK, 0),
            }
        }
        Some(bytes.into())
    }

    /// Pages become visible before their write is answered.
    pub fn see_early(&mut self, write: u64, first: u64, parts: &[Bytes]) {
        for (page, content) in pages(first, parts) {
            self.unreadable.remove(&page);
            self.cached.entry(page).or_default().push(Cached {
                answered: None,
                write,
                page: content,
            });
        }
    }

    /// A write without durability is answered.
    pub fn write_cached(&mut self, write: u64, first: u64, parts: &[Bytes]) {
        self.answered += 1;
        for (page, content) in pages(first, parts) {
            self.unreadable.remove(&page);
            let versions = self.cached.entry(page).or_default();
            versions.retain(|version| version.write != write);
            versions.push(Cached {
                answered: Some(self.answered),
                write,
                page: content,
            });
        }
    }

    /// A durable write is answered: its pages, and no others, are stable (S1).
    pub fn write_stable(&mut self, first: u64, parts: &[Bytes]) {
        self.answered += 1;
        for (page, content) in pages(first, parts) {
            self.unreadable.remove(&page);
            self.cached.remove(&page);
            self.stable[page as usize] = Some(content);
        }
    }

    /// A flush is answered: what had been answered when it was issued is stable (S1).
    pub fn flush(&mut self, answered: u64) {
        let stable = &mut self.stable;
        self.cached.retain(|page, versions| {
            let covered = versions
                .iter()
                .rposition(|v| v.answered.is_some_and(|at| at <= answered));
            if let Some(last) = covered {
                stable[*page as usize] = Some(versions[last].page.clone());
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
    }

    /// The power goes. What no flush covered, and what was in flight, is kept, dropped or torn.
    pub fn power_cut(
        &mut self,
        rng: &mut Rng,
        style: CutStyle,
        in_flight: &[Unfinished],
    ) -> CutReport {
        let mut report = CutReport::default();
        let mut fates = BTreeMap::new();
        for (page, versions) in std::mem::take(&mut self.cached) {
            for version in versions {
                let fate = *fates
                    .entry(version.write)
                    .or_insert_with(|| draw_fate(rng, style));
                self.settle(rng, style, fate, page, &version.page, &mut report);
            }
        }
        for write in in_flight {
            let fate = *fates
                .entry(write.write)
                .or_insert_with(|| draw_fate(rng, style).of_one_in_flight(rng, write));
            for (page, content) in pages(write.first, &write.parts) {
                self.settle(rng, style, fate, page, &content, &mut report);
            }
        }
        for fate in fates.values() {
            match fate {
                Fate::Kept => report.kept += 1,
                Fate::Dropped => report.dropped += 1,
                Fate::Torn | Fate::Broken(_) => report.torn += 1,
            }
        }
        report
    }

    /// The power goes on a device whose cache writes back in order: what was answered up to some write
    /// stands, and nothing after it. Gives how many answered pages are gone.
    pub fn power_cut_in_order(&mut self, rng: &mut Rng) -> u64 {
        let versions = self.cached.values().flatten();
        let oldest = versions.filter_map(|version| version.answered).min();
        if let Some(oldest) = oldest {
            self.flush(rng.between(oldest - 1, self.answered));
        }
        let lost = std::mem::take(&mut self.cached);
        let lost = lost.values().flatten();
        lost.filter(|version| version.answered.is_some()).count() as u64
    }

    /// One bit of a page decays. Says whether the page held anything.
    pub fn rot(&mut self, rng: &mut Rng, page: u64) -> bool {
        let bit = rng.below(BLOCK as u64 * 8) as usize;
        let slot = match self
            .cached
            .get_mut(&page)
            .and_then(|versions| versions.last_mut())
        {
            Some(version) => &mut version.page,
            None => match &mut self.stable[page as usize] {
                Some(content) => content,
                None => return false,
            },
        };
        let mut bytes = slot.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        *slot = bytes.into();
        true
    }

    /// A page becomes unreadable until it is written.
    pub fn wear_out(&mut self, page: u64) {
        self.unreadable.insert(page);
    }

    /// Whether anything was ever written to the page.
    pub fn is_written(&self, page: u64) -> bool {
        self.current(page).is_some()
    }

    fn settle(
        &mut self,
        rng: &mut Rng,
        style: CutStyle,
        fate: Fate,
        page: u64,
        new: &Bytes,
        report: &mut CutReport,
    ) {
        match fate.of_page(page) {
            Fate::Dropped | Fate::Broken(_) => {}
            Fate::Kept => self.stable[page as usize] = Some(new.clone()),
            Fate::Torn => {
                let mut bytes = self.stable[page as usize]
                    .as_ref()
                    .map_or_else(|| vec![0; BLOCK], |old| old.to_vec());
                for sector in (0..BLOCK).step_by(SECTOR) {
                    if rng.per_cent(style.garbage) {
                        bytes[sector..sector + SECTOR].fill_with(|| rng.next_u64() as u8);
                        report.garbage += 1;
                    } else if rng.per_cent(50) {
                        bytes[sector..sector + SECTOR]
                            .copy_from_slice(&new[sector..sector + SECTOR]);
                    }
                }
                self.stable[page as usize] = Some(bytes.into());
            }
        }
    }

    fn current(&self, page: u64) -> Option<&Bytes> {
        match self.cached.get(&page).and_then(|versions| versions.last()) {
            Some(version) => Some(&version.page),
            None => self.stable[page as usize].as_ref(),
        }
    }

    fn page(&self, page: u64) -> Bytes {
        static ZEROES: [u8; BLOCK] = [0; BLOCK];
        self.current(page)
            .cloned()
            .unwrap_or_else(|| Bytes::from_static(&ZEROES))
    }
}

/// What a power cut did, in writes and sectors.
#[derive(Clone, Copy, Debug, Default)]
pub struct CutReport {
    /// Writes that survived whole.
    pub kept: u64,
    /// Writes that vanished.
    pub dropped: u64,
    /// Writes of which some sectors survived.
    pub torn: u64,
    /// Sectors of garbage.
    pub garbage: u64,
}

#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Dropped,
    /// Of every page some sectors.
    Torn,
    /// Whole up to this page, some of its sectors, and nothing behind it.
    Broken(u64),
}

impl Fate {
    /// A device that writes front to back breaks off, as often as not: the headers of a batch stand, and its
    /// last payload is cut through.
    fn of_one_in_flight(self, rng: &mut Rng, write: &Unfinished) -> Self {
        match self {
            Self::Torn if rng.per_cent(50) => {
                let bytes: usize = write.parts.iter().map(Bytes::len).sum();
                Self::Broken(write.first + rng.below((bytes / BLOCK) as u64))
            }
            fate => fate,
        }
    }

    fn of_page(self, page: u64) -> Self {
        match self {
            Self::Broken(at) if page < at => Self::Kept,
            Self::Broken(at) if page == at => Self::Torn,
            fate => fate,
        }
    }
}

fn draw_fate(rng: &mut Rng, style: CutStyle) -> Fate {
    match rng.below(100) as u32 {
        n if n < style.kept => Fate::Kept,
        n if n < style.kept + style.dropped => Fate::Dropped,
        _ => Fate::Torn,
    }
}

fn pages(first: u64, parts: &[Bytes]) -> impl Iterator<Item = (u64, Bytes)> + '_ {
    let pages = parts.iter().flat_map(|part| {
        (0..part.len() / BLOCK).map(move |i| {
            let page = i * BLOCK..(i + 1) * BLOCK;
            // A page keeps the whole part alive that it is shared with.
            match part.len() <= SHARED_AT_MOST {
                true => part.slice(page),
                false => Bytes::copy_from_slice(&part[page]),
            }
        })
    });
    (first..).zip(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_DROPPED: CutStyle = CutStyle {
        kept: 0,
        dropped: 100,
        garbage: 0,
    };

    fn block(byte: u8) -> Bytes {
        vec![byte; BLOCK].into()
    }

    #[test]
    fn a_flush_covers_only_what_was_answered_before() {
        let mut media = Media::new(1 << 16);
        media.write_cached(1, 0, &[block(1)]);
        let issued = media.answered();
        media.write_cached(2, 1, &[block(2)]);
        media.flush(issued);
        media.power_cut(&mut Rng::new(0), ALL_DROPPED, &[]);
        assert_eq!(media.read(0, 1).expect("readable")[0], 1);
        assert_eq!(media.read(1, 1).expect("readable")[0], 0);
    }

    #[test]
    fn a_durable_write_covers_itself_alone() {
        let mut media = Media::new(1 << 16);
        media.write_cached(1, 0, &[block(1)]);
        media.write_stable(1, &[block(2)]);
        media.power_cut(&mut Rng::new(0), ALL_DROPPED, &[]);
        assert_eq!(media.read(0, 2).expect("readable")[0], 0);
        assert_eq!(media.read(0, 2).expect("readable")[BLOCK], 2);
    }

    #[test]
    fn a_torn_write_mixes_sectors() {
        let mut media = Media::new(1 << 16);
        media.write_stable(0, &[block(1)]);
        let write = Unfinished {
            write: 9,
            first: 0,
            parts: SmallVec::from_elem(block(2), 1),
        };
        let report = media.power_cut(
            &mut Rng::new(3),
            CutStyle {
                kept: 0,
                dropped: 0,
                garbage: 0,
            },
            &[write],
        );
        assert_eq!(report.torn, 1);
        let page = media.read(0, 1).expect("readable");
        assert!(page.contains(&1) && page.contains(&2));
    }

    #[test]
    fn a_write_that_breaks_off_keeps_what_is_in_front() {
        let torn = CutStyle {
            kept: 0,
            dropped: 0,
            garbage: 0,
        };
        let breaks_off = |seed: u64| {
            let mut media = Media::new(1 << 18);
            let write = Unfinished {
                write: 9,
                first: 0,
                parts: SmallVec::from_elem(block(2), 48),
            };
            media.power_cut(&mut Rng::new(seed), torn, &[write]);
            let of = |page: u64| media.read(page, 1).expect("readable");
            let whole = (0..48).take_while(|page| of(*page).iter().all(|b| *b == 2));
            let whole = whole.count() as u64;
            whole > 0 && (whole + 1..48).all(|page| of(page).iter().all(|b| *b == 0))
        };
        let broken = (0..100).filter(|seed| breaks_off(*seed)).count();
        assert!((25..=75).contains(&broken), "{broken} of 100");
    }
}
