//! A simulated device: it carries out the store's disk operations with latency and concurrency,
//! keeps exactly what S1 promises, and misbehaves as its fault plan says.

mod media;

pub use media::{CutStyle, Media, SECTOR, Unfinished};

use crate::coverage::Coverage;
use crate::rng::Rng;
use bytes::Bytes;
use lockstep_store::{DiskOp, DiskResult, DiskToken};
use lockstep_types::{BLOCK, Nanos};
use std::collections::BTreeMap;
use std::ops::Range;

/// The error number of a failed device or sector.
pub const EIO: i32 = 5;

/// How a device behaves. Rates are parts in a million.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Time of an operation beside its transfer.
    pub latency: Nanos,
    /// Time to transfer a page.
    pub page_time: Nanos,
    /// Time of a flush.
    pub flush: Nanos,
    /// Operations carried out at once.
    pub lanes: usize,
    /// A read meets a sector that has become unreadable.
    pub read_error: u32,
    /// A read meets a bit that has decayed.
    pub rot: u32,
    /// A write goes to another page.
    pub misdirected: u32,
    /// A write is answered and never done.
    pub lost: u32,
    /// Where those four may strike (the atlas); bytes.
    pub corruptible: Range<u64>,
    /// Flushes and durable writes are answered and do nothing: the cache writes back in order, so many
    /// writes behind. Over budget only.
    pub lying: Option<u64>,
    /// How a power cut treats the volatile.
    pub cut: CutStyle,
    /// From this moment on everything fails.
    pub dies_at: Option<Nanos>,
}

impl Profile {
    /// A healthy device.
    pub fn healthy() -> Self {
        Self {
            latency: 60_000,
            page_time: 2_000,
            flush: 300_000,
            lanes: 8,
            read_error: 0,
            rot: 0,
            misdirected: 0,
            lost: 0,
            corruptible: 0..0,
            lying: None,
            cut: CutStyle {
                kept: 33,
                dropped: 33,
                garbage: 5,
            },
            dies_at: None,
        }
    }

    /// Sets the rates of read errors, rot, misdirected and lost writes.
    pub fn corrupt(&mut self, rates: [u32; 4]) {
        [self.read_error, self.rot, self.misdirected, self.lost] = rates;
    }

    /// A device of a seed, faultless: speed and the manner of its power cuts.
    pub fn draw(rng: &mut Rng) -> Self {
        let cut = match rng.below(6) {
            0 => CutStyle {
                kept: 100,
                dropped: 0,
                garbage: 0,
            },
            1 => CutStyle {
                kept: 0,
                dropped: 100,
                garbage: 0,
            },
            _ => CutStyle {
                kept: rng.below(60) as u32,
                dropped: rng.below(41) as u32,
                garbage: rng.below(30) as u32,
            },
        };
        Self {
            latency: rng.between(10_000, 400_000),
            page_time: rng.between(200, 8_000),
            flush: rng.between(50_000, 5_000_000),
            lanes: rng.between(1, 16) as usize,
            cut,
            ..Self::healthy()
        }
    }
}

/// A device.
#[derive(Clone, Debug)]
pub struct Disk {
    /// How it behaves.
    pub profile: Profile,
    /// How many times slower than its profile it is now.
    pub slow: u64,
    media: Media,
    rng: Rng,
    lanes: Vec<Nanos>,
    in_flight: BTreeMap<u64, InFlight>,
    submitted: u64,
}

#[derive(Clone, Debug)]
struct InFlight {
    op: DiskOp,
    /// The process that asked is gone; the write may still land (R23).
    orphaned: bool,
    /// From here on reads may see it.
    visible_at: Nanos,
    seen: bool,
    /// For a flush: what it covers.
    covers: u64,
}

/// A submitted operation: the world calls [`Disk::complete`] at that time.
#[derive(Clone, Copy, Debug)]
pub struct Submitted {
    /// Its number on this device.
    pub id: u64,
    /// When it ends.
    pub done_at: Nanos,
}

impl Disk {
    /// A blank device.
    pub fn new(bytes: u64, profile: Profile, rng: Rng) -> Self {
        let lanes = vec![0; profile.lanes];
        let media = Media::new(bytes);
        Self {
            profile,
            slow: 1,
            media,
            rng,
            lanes,
            in_flight: BTreeMap::new(),
            submitted: 0,
        }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.media.bytes()
    }

    /// What stands on it, for a look from outside.
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// The same, to damage it by hand.
    pub fn media_mut(&mut self) -> &mut Media {
        &mut self.media
    }

    /// Whether a durable write or a flush is on its way.
    pub fn is_writing_durably(&self) -> bool {
        self.in_flight.values().any(|op| {
            matches!(
                op.op,
                DiskOp::Flush { .. } | DiskOp::Write { durable: true, .. }
            )
        })
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Starts an operation.
    ///
    /// # Panics
    /// If it is misaligned, outside the device, or writes pages that a write in flight writes: no
    /// device promises an order between those.
    pub fn submit(&mut self, now: Nanos, op: DiskOp) -> Submitted {
        self.submitted += 1;
        let pages = self.admit(&op);
        let work = match &op {
            DiskOp::Flush { .. } => self.profile.flush,
            _ => self.profile.latency + pages * self.profile.page_time,
        };
        let took = (self.rng.about(work / 2) + work / 2) * self.slow;
        let lane = self.lanes.iter_mut().min().expect("a device has a lane");
        let done_at = now.max(*lane) + took;
        *lane = done_at;
        let visible_at = done_at - self.rng.below(took / 2 + 1);
        let covers = self.media.answered();
        self.in_flight.insert(
            self.submitted,
            InFlight {
                op,
                orphaned: false,
                visible_at,
                seen: false,
                covers,
            },
        );
        Submitted {
            id: self.submitted,
            done_at,
        }
    }

    /// Ends an operation; nothing is said to a process that is gone, nor of one lost to a power cut.
    pub fn complete(
        &mut self,
        now: Nanos,
        id: u64,
        coverage: &mut Coverage,
    ) -> Option<(DiskToken, DiskResult)> {
        let done = self.in_flight.remove(&id)?;
        if self.profile.dies_at.is_some_and(|at| at <= now) {
            coverage.hit("disk: operation on a dead device");
            let landed = self.rng.per_cent(50);
            if landed && let DiskOp::Write { offset, parts, .. } = &done.op {
                self.media.write_cached(id, offset / BLOCK as u64, parts);
            }
            return (!done.orphaned).then(|| (token(&done.op), DiskResult::Failed(EIO)));
        }
        let result = match &done.op {
            DiskOp::Read { offset, length, .. } => {
                self.finish_read(now, *offset, *length, coverage)
            }
            DiskOp::Write {
                offset,
                parts,
                durable,
                ..
            } => {
                self.finish_write(id, offset / BLOCK as u64, parts, *durable, coverage);
                DiskResult::Done
            }
            DiskOp::Flush { .. } => {
                let behind = self.profile.lying.unwrap_or(0);
                if behind > 0 {
                    coverage.hit("disk: lying flush");
                }
                self.media.flush(done.covers.saturating_sub(behind));
                DiskResult::Done
            }
        };
        if done.orphaned {
            coverage.hit("disk: late write of a killed process");
            return None;
        }
        Some((token(&done.op), result))
    }

    /// The process is killed: nothing more is said to it. Its writes in flight may still land, each
    /// when its time comes, unless `late` is false.
    pub fn kill(&mut self, late: bool) {
        self.in_flight
            .retain(|_, op| late && matches!(op.op, DiskOp::Write { .. }));
        for op in self.in_flight.values_mut() {
            op.orphaned = true;
        }
    }

    /// A successor claims the device (R23): it gets it when everything of its predecessor has landed.
    pub fn claim(&mut self, coverage: &mut Coverage) {
        for id in self.in_flight.keys().copied().collect::<Vec<_>>() {
            assert!(
                self.in_flight[&id].orphaned,
                "a device is claimed by one process at a time"
            );
            self.complete(0, id, coverage);
        }
    }

    /// The power goes.
    pub fn power_cut(&mut self, coverage: &mut Coverage) {
        let in_flight: Vec<Unfinished> = std::mem::take(&mut self.in_flight)
            .into_iter()
            .filter_map(|(write, op)| match op.op {
                DiskOp::Write { offset, parts, .. } if !op.seen => Some(Unfinished {
                    write,
                    first: offset / BLOCK as u64,
                    parts,
                }),
                _ => None,
            })
            .collect();
        if self.profile.lying.is_some() {
            let lost = self.media.power_cut_in_order(&mut self.rng);
            coverage.add("power cut: write lost that was called durable", lost);
            self.lanes.fill(0);
            return;
        }
        let report = self
            .media
            .power_cut(&mut self.rng, self.profile.cut, &in_flight);
        coverage.add("power cut: write kept", report.kept);
        coverage.add("power cut: write dropped", report.dropped);
        coverage.add("power cut: write torn", report.torn);
        coverage.add("power cut: sector of garbage", report.garbage);
        self.lanes.fill(0);
    }

    /// It is as fast as its profile says again: what it was slow with ends soon. Gives what to complete.
    pub fn speed_up(&mut self, now: Nanos) -> Vec<Submitted> {
        if std::mem::replace(&mut self.slow, 1) == 1 {
            return Vec::new();
        }
        let latency = self.profile.latency + self.profile.flush;
        let mut done_at = now;
        let hurried = self.in_flight.keys().map(|id| {
            done_at += latency;
            Submitted { id: *id, done_at }
        });
        let hurried: Vec<Submitted> = hurried.collect();
        self.lanes.fill(done_at);
        hurried
    }

    /// It is reached by another path, as fast as its profile says; what is on its way on the old one
    /// still takes its time.
    pub fn take_another_path(&mut self) {
        self.slow = 1;
        self.lanes.fill(0);
    }

    /// Everything in flight ends, and nothing goes wrong any more: for a look from outside.
    pub fn settle(&mut self) {
        self.profile = Profile {
            lanes: self.profile.lanes,
            ..Profile::healthy()
        };
        self.slow = 1;
        self.lanes.fill(0);
        self.kill(true);
        self.claim(&mut Coverage::default());
    }

    /// Whether it fails for good by now.
    pub fn is_dead(&self, now: Nanos) -> bool {
        self.profile.dies_at.is_some_and(|at| at <= now)
    }

    /// Looks at what is asked, and says how many pages it is about.
    fn admit(&self, op: &DiskOp) -> u64 {
        let (offset, length) = match op {
            DiskOp::Flush { .. } => return 0,
            DiskOp::Read { offset, length, .. } => (*offset, u64::from(*length)),
            DiskOp::Write { offset, parts, .. } => {
                let whole = parts.iter().all(|part| part.len().is_multiple_of(BLOCK));
                assert!(whole, "parts that are not whole pages: {}", describe(op));
                (*offset, length_of(parts))
            }
        };
        let aligned = offset.is_multiple_of(BLOCK as u64)
            && length.is_multiple_of(BLOCK as u64)
            && length > 0;
        assert!(aligned, "misaligned: {}", describe(op));
        assert!(
            offset + length <= self.bytes(),
            "outside the device: {}",
            describe(op)
        );
        if matches!(op, DiskOp::Write { .. }) {
            for other in self.in_flight.values() {
                if let DiskOp::Write {
                    offset: at, parts, ..
                } = &other.op
                {
                    let apart = offset + length <= *at || at + length_of(parts) <= offset;
                    assert!(
                        apart,
                        "two writes of the same pages in flight: {} and {}",
                        describe(op),
                        describe(&other.op)
                    );
                }
            }
        }
        length / BLOCK as u64
    }

    fn finish_read(
        &mut self,
        now: Nanos,
        offset: u64,
        length: u32,
        coverage: &mut Coverage,
    ) -> DiskResult {
        let (first, count) = (offset / BLOCK as u64, u64::from(length) / BLOCK as u64);
        let media = &mut self.media;
        for (write, other) in &mut self.in_flight {
            let DiskOp::Write {
                offset: at, parts, ..
            } = &other.op
            else {
                continue;
            };
            let overlaps = *at < offset + u64::from(length) && offset < at + length_of(parts);
            if overlaps && other.visible_at <= now && !other.seen {
                other.seen = true;
                media.see_early(*write, at / BLOCK as u64, parts);
                coverage.hit("disk: read saw a write in flight");
            }
        }
        let page = first + self.rng.below(count);
        if self.may_corrupt(page) {
            if self.rng.chance(self.profile.read_error) {
                self.media.wear_out(page);
                coverage.hit("fault: unreadable sector");
            }
            if self.rng.chance(self.profile.rot) && self.media.rot(&mut self.rng, page) {
                coverage.hit("fault: rot");
            }
        }
        match self.media.read(first, count) {
            Some(bytes) => DiskResult::Read(bytes),
            None => DiskResult::Failed(EIO),
        }
    }

    fn finish_write(
        &mut self,
        write: u64,
        mut first: u64,
        parts: &[Bytes],
        durable: bool,
        coverage: &mut Coverage,
    ) {
        if self.may_corrupt(first) {
            if self.rng.chance(self.profile.lost) {
                coverage.hit("fault: lost write");
                return;
            }
            if self.rng.chance(self.profile.misdirected) {
                let range = &self.profile.corruptible;
                let pages = (range.end - range.start) / BLOCK as u64;
                let count = length_of(parts) / BLOCK as u64;
                if pages > count {
                    first = range.start / BLOCK as u64 + self.rng.below(pages - count);
                    coverage.hit("fault: misdirected write");
                }
            }
        }
        if durable && self.profile.lying.is_none() {
            self.media.write_stable(first, parts);
        } else {
            self.media.write_cached(write, first, parts);
        }
    }

    fn may_corrupt(&self, page: u64) -> bool {
        self.profile.corruptible.contains(&(page * BLOCK as u64))
    }
}

fn length_of(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The operation in words.
pub fn describe(op: &DiskOp) -> String {
    match op {
        DiskOp::Read {
            token,
            offset,
            length,
        } => format!("read  #{token} {offset:#x}+{length:#x}"),
        DiskOp::Write {
            token,
            offset,
            parts,
            durable,
        } => {
            let length = length_of(parts);
            format!(
                "write #{token} {offset:#x}+{length:#x}{}",
                if *durable { " durable" } else { "" }
            )
        }
        DiskOp::Flush { token } => format!("flush #{token}"),
    }
}

fn token(op: &DiskOp) -> DiskToken {
    match op {
        DiskOp::Read { token, .. } | DiskOp::Write { token, .. } | DiskOp::Flush { token } => {
            *token
        }
    }
}
