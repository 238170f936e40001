//! A simulated device that keeps exactly what S1 promises, and no more: a durable write covers only
//! itself, a flush what was answered before it was issued, and a power cut keeps, drops or tears
//! everything else, what is in flight included.

use super::rng::Rng;
use bytes::{Bytes, BytesMut};
use lockstep_store::{DiskOp, DiskResult, DiskToken, Geometry};
use lockstep_types::BLOCK;
use std::collections::BTreeMap;

/// What tears at a power cut tears at these.
const SECTOR: usize = 512;

/// A device of whole pages.
#[derive(Clone)]
pub struct Disk {
    stable: Vec<Bytes>,
    /// Versions that no flush has covered, oldest first.
    cached: BTreeMap<u64, Vec<Cached>>,
    in_flight: Vec<InFlight>,
    answered: u64,
    next: u64,
    /// Reads and writes of these pages fail with this error.
    pub broken: Option<(std::ops::Range<u64>, i32)>,
    /// Operations answered.
    pub served: u64,
    /// A guest's and the store's writes, in pages.
    pub written: u64,
}

#[derive(Clone)]
struct Cached {
    write: u64,
    answered: u64,
    page: Bytes,
}

#[derive(Clone)]
struct InFlight {
    id: u64,
    /// What had been answered when it was issued.
    answered: u64,
    op: DiskOp,
}

#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Dropped,
    Torn,
}

/// How a power cut treats what is not stable, in per cent; the rest is torn.
#[derive(Clone, Copy)]
pub struct Cut {
    pub kept: u64,
    pub dropped: u64,
}

impl Disk {
    pub fn new(bytes: u64) -> Self {
        let pages = (bytes / BLOCK as u64) as usize;
        Self {
            stable: vec![Bytes::from_static(&[0; BLOCK]); pages],
            cached: BTreeMap::new(),
            in_flight: Vec::new(),
            answered: 0,
            next: 0,
            broken: None,
            served: 0,
            written: 0,
        }
    }

    /// Writes past the cache, as a formatter or a fault does.
    pub fn poke(&mut self, offset: u64, data: &[u8]) {
        assert!(offset.is_multiple_of(BLOCK as u64) && data.len().is_multiple_of(BLOCK));
        for (at, page) in data.chunks_exact(BLOCK).enumerate() {
            let page_number = offset / BLOCK as u64 + at as u64;
            self.cached.remove(&page_number);
            self.stable[page_number as usize] = Bytes::copy_from_slice(page);
        }
    }

    /// What a read gives now.
    pub fn peek(&self, offset: u64, length: usize) -> Bytes {
        let first = offset / BLOCK as u64;
        let mut bytes = BytesMut::with_capacity(length);
        for page in first..first + (length / BLOCK) as u64 {
            bytes.extend_from_slice(&self.current(page));
        }
        bytes.freeze()
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn in_flight(&self) -> impl Iterator<Item = &DiskOp> {
        self.in_flight.iter().map(|f| &f.op)
    }

    pub fn submit(&mut self, op: DiskOp, geometry: &Geometry) {
        if let Some((first, count)) = written_pages(&op) {
            let overlaps = |other: &&InFlight| {
                written_pages(&other.op).is_some_and(|(a, n)| first < a + n && a < first + count)
            };
            if let Some(other) = self.in_flight.iter().find(overlaps) {
                let other = written_pages(&other.op).expect("it overlaps");
                let area = area_of(geometry, first);
                panic!(
                    "two writes to one place in flight: {first} +{count} in {area} and {other:?}"
                );
            }
            assert!(
                first + count <= self.stable.len() as u64,
                "a write beyond the device"
            );
        }
        let id = self.next;
        self.next += 1;
        self.in_flight.push(InFlight {
            id,
            answered: self.answered,
            op,
        });
    }

    /// Answers one operation, any of them.
    pub fn answer_any(&mut self, rng: &mut Rng) -> Option<(DiskToken, DiskResult)> {
        if self.in_flight.is_empty() {
            return None;
        }
        let at = rng.below(self.in_flight.len() as u64) as usize;
        Some(self.answer(at, rng))
    }

    /// Answers the first operation that is wanted.
    pub fn answer_where(
        &mut self,
        rng: &mut Rng,
        wanted: impl Fn(&DiskOp) -> bool,
    ) -> Option<(DiskToken, DiskResult)> {
        let at = self.in_flight.iter().position(|f| wanted(&f.op))?;
        Some(self.answer(at, rng))
    }

    fn answer(&mut self, at: usize, rng: &mut Rng) -> (DiskToken, DiskResult) {
        self.served += 1;
        let InFlight { id, answered, op } = self.in_flight.remove(at);
        match op {
            DiskOp::Read {
                token,
                offset,
                length,
            } => {
                if let Some(errno) = self.fails(offset, u64::from(length)) {
                    return (token, DiskResult::Failed(errno));
                }
                (
                    token,
                    DiskResult::Read(self.read_racing(offset, length as usize, rng)),
                )
            }
            DiskOp::Write {
                token,
                offset,
                parts,
                durable,
            } => {
                let data = gather(&parts);
                if let Some(errno) = self.fails(offset, data.len() as u64) {
                    return (token, DiskResult::Failed(errno));
                }
                self.written += (data.len() / BLOCK) as u64;
                self.answered += 1;
                for (page, content) in pages(offset, &data) {
                    if durable {
                        self.cached.remove(&page);
                        self.stable[page as usize] = content;
                    } else {
                        let version = Cached {
                            write: id,
                            answered: self.answered,
                            page: content,
                        };
                        self.cached.entry(page).or_default().push(version);
                    }
                }
                (token, DiskResult::Done)
            }
            DiskOp::Flush { token } => {
                let stable = &mut self.stable;
                self.cached.retain(|page, versions| {
                    if let Some(last) = versions.iter().rposition(|v| v.answered <= answered) {
                        stable[*page as usize] = versions[last].page.clone();
                        versions.drain(..=last);
                    }
                    !versions.is_empty()
                });
                (token, DiskResult::Done)
            }
        }
    }

    /// The power goes: what no flush covered, and what was in flight, is kept, dropped or torn.
    pub fn power_cut(&mut self, rng: &mut Rng, cut: Cut) {
        let mut fates: BTreeMap<u64, Fate> = BTreeMap::new();
        let mut fate_of = |write: u64, rng: &mut Rng| {
            *fates.entry(write).or_insert_with(|| match rng.below(100) {
                n if n < cut.kept => Fate::Kept,
                n if n < cut.kept + cut.dropped => Fate::Dropped,
                _ => Fate::Torn,
            })
        };
        for (page, versions) in std::mem::take(&mut self.cached) {
            for version in versions {
                let fate = fate_of(version.write, rng);
                settle(&mut self.stable[page as usize], &version.page, fate, rng);
            }
        }
        for InFlight { id, op, .. } in std::mem::take(&mut self.in_flight) {
            if let DiskOp::Write { offset, parts, .. } = op {
                let fate = fate_of(id, rng);
                for (page, content) in pages(offset, &gather(&parts)) {
                    settle(&mut self.stable[page as usize], &content, fate, rng);
                }
            }
        }
    }

    /// A read may see a write that is in flight to the same place, or a part of it.
    fn read_racing(&self, offset: u64, length: usize, rng: &mut Rng) -> Bytes {
        let mut bytes = BytesMut::from(self.peek(offset, length));
        let first = offset / BLOCK as u64;
        for other in &self.in_flight {
            let DiskOp::Write { offset, parts, .. } = &other.op else {
                continue;
            };
            for (page, content) in pages(*offset, &gather(parts)) {
                if page >= first && page < first + (length / BLOCK) as u64 && rng.below(2) == 0 {
                    let at = (page - first) as usize * BLOCK;
                    bytes[at..at + BLOCK].copy_from_slice(&content);
                }
            }
        }
        bytes.freeze()
    }

    fn fails(&self, offset: u64, length: u64) -> Option<i32> {
        let (range, errno) = self.broken.as_ref()?;
        (offset < range.end && range.start < offset + length).then_some(*errno)
    }

    fn current(&self, page: u64) -> Bytes {
        match self.cached.get(&page).and_then(|v| v.last()) {
            Some(version) => version.page.clone(),
            None => self.stable[page as usize].clone(),
        }
    }
}

fn settle(stable: &mut Bytes, new: &Bytes, fate: Fate, rng: &mut Rng) {
    match fate {
        Fate::Dropped => {}
        Fate::Kept => *stable = new.clone(),
        Fate::Torn => {
            let mut page = stable.to_vec();
            for sector in (0..BLOCK).step_by(SECTOR) {
                if rng.below(2) == 0 {
                    page[sector..sector + SECTOR].copy_from_slice(&new[sector..sector + SECTOR]);
                }
            }
            *stable = page.into();
        }
    }
}

fn gather(parts: &[Bytes]) -> Bytes {
    let mut bytes = BytesMut::new();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    assert!(!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK));
    bytes.freeze()
}

fn pages(offset: u64, data: &Bytes) -> impl Iterator<Item = (u64, Bytes)> + '_ {
    assert!(offset.is_multiple_of(BLOCK as u64));
    let first = offset / BLOCK as u64;
    (0..data.len() / BLOCK).map(move |i| (first + i as u64, data.slice(i * BLOCK..(i + 1) * BLOCK)))
}

fn written_pages(op: &DiskOp) -> Option<(u64, u64)> {
    match op {
        DiskOp::Write { offset, parts, .. } => {
            let length: usize = parts.iter().map(Bytes::len).sum();
            Some((offset / BLOCK as u64, (length / BLOCK) as u64))
        }
        _ => None,
    }
}

fn area_of(geometry: &Geometry, page: u64) -> String {
    let names = [
        "anchors",
        "table",
        "directory",
        "deltas",
        "map",
        "sums",
        "ring",
        "data",
    ];
    let at = page * BLOCK as u64;
    let mut areas = names.iter().zip(geometry.areas());
    let found = areas.find(|(_, a)| a.offset <= at && at < a.end());
    found.map_or("nowhere".into(), |(name, area)| {
        format!("{name} +{}", at - area.offset)
    })
}
