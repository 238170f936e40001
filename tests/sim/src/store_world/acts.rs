//! What the owner of the store does: writes and reads, floors, repairs, tails made void, payloads that imitate
//! the journal, and what it remembers of batches.

use super::model::Made;
use super::plan::HEADERS;
use super::{Event, Reading, StoreWorld, checks};
use bytes::Bytes;
use lockstep_store::{AppendContext, DiskOp, DiskToken, Store};
use lockstep_types::{
    BLOCK, BlockRange, EXTENT_BLOCKS, RecordKind, SECOND, Sequence, Stamp, millis,
};
use std::collections::BTreeMap;

impl StoreWorld {
    /// One action, and when the next one comes.
    pub(super) fn act(&mut self) {
        if self.left == 0 {
            return;
        }
        if !self.plan.script.is_empty() {
            return self.follow_script();
        }
        self.left -= 1;
        // Now and then nothing happens for a while, so that idle marks, destaging and checkpoints run.
        let idle = self.rng.per_cent(3);
        let wait = if idle {
            self.rng.between(millis(100), 2 * SECOND)
        } else {
            self.rng.about(self.plan.think)
        };
        self.queue.after(wait, Event::Act);
        if self.rng.below(1000) < self.plan.crashes {
            let kill = self.rng.per_cent(self.plan.kills);
            let wait = self.rng.below(millis(2));
            self.disk.slow = self.plan.stuck;
            return self.queue.after(wait, Event::Crash { kill });
        }
        let i = self.rng.below(self.replicas.len() as u64) as usize;
        let busy = self.store.is_none()
            || self.recovering
            || !self.replicas[i].created
            || self.replicas[i].voiding.is_some()
            || !self.replicas[i].model.rolling.is_empty();
        if busy {
            return;
        }
        self.operations += 1;
        if self.plan.voids > 0 && self.rng.per_cent(self.plan.voids) {
            let (floor, last) = (self.replicas[i].floor, self.replicas[i].model.last());
            let cut = Sequence(
                self.rng
                    .between(floor.sequence.0, last.0.max(floor.sequence.0)),
            );
            return self.void(i, cut);
        }
        match self.rng.below(100) as u32 {
            n if n < self.plan.reads => {
                let range = self.some_range();
                self.read(i, range);
            }
            n if n < self.plan.reads + self.plan.floors => self.raise_floor(i),
            n if n < self.plan.reads + self.plan.floors + 3 => self.repair(i),
            _ => self.write(i),
        }
    }

    fn some_range(&mut self) -> BlockRange {
        let blocks = self.plan.blocks;
        let area = if self.rng.per_cent(50) { 12 } else { blocks };
        let start = self.rng.below(area);
        let most = (EXTENT_BLOCKS - start % EXTENT_BLOCKS).min(1 << self.rng.below(6));
        BlockRange::new(start, self.rng.between(1, most) as u32)
    }

    pub(super) fn read(&mut self, i: usize, range: BlockRange) {
        let (now, tag) = (self.queue.now(), self.tag());
        let id = self.replicas[i].id;
        self.reading.insert(
            tag,
            Reading {
                replica: i,
                range,
                from: self.replicas[i].model.durable,
                voided: BTreeMap::new(),
            },
        );
        self.say(format_args!(
            "replica {i}: read #{tag} {}..{}",
            range.start,
            range.end()
        ));
        self.with(|store, out| store.read(now, tag, id, range, out));
    }

    fn raise_floor(&mut self, i: usize) {
        let owned = &mut self.replicas[i];
        if owned.pinned && self.rng.per_cent(97) {
            return;
        }
        let to = self.rng.between(
            owned.floor.sequence.0,
            owned.model.durable.0.max(owned.floor.sequence.0),
        );
        let floor = Stamp::new(owned.epoch, Sequence(to));
        if floor > owned.floor {
            owned.floor = floor;
            let id = owned.id;
            self.say(format_args!("replica {i}: floor {floor}"));
            self.with(|store, _| store.set_floor(id, floor));
        }
    }

    fn write(&mut self, i: usize) {
        let owned = &self.replicas[i];
        let above: u64 = owned
            .model
            .records
            .range(owned.floor.sequence.next()..)
            .map(|(_, made)| made.bytes() + HEADERS)
            .sum();
        let kind = match self.rng.below(100) as u32 {
            n if n < self.plan.zeroes => *self
                .rng
                .pick(&[RecordKind::Discard, RecordKind::WriteZeroes]),
            _ => RecordKind::Write,
        };
        let mut range = self.some_range();
        range.count = range.count.min(self.plan.largest());
        if kind == RecordKind::Write && self.rng.per_cent(self.plan.whole) {
            range = BlockRange::of_extent(range.extent());
        }
        // The protocol keeps what lies above the floor within its window.
        if !self.plan.has_room(above, range.count) {
            return self.raise_floor(i);
        }
        if kind == RecordKind::Discard && self.rng.per_cent(30) {
            range = BlockRange::new(0, self.plan.blocks as u32);
        }
        let value = match kind {
            RecordKind::Write if self.rng.per_cent(self.plan.forged) => self.forged(),
            RecordKind::Write => self.values.next(),
            _ => 0,
        };
        if self
            .reading
            .values()
            .any(|r| r.replica == i && r.range.overlaps(range))
            && self.rng.per_cent(50)
        {
            return;
        }
        let owned = &self.replicas[i];
        let stamp = Stamp::new(owned.epoch, owned.model.last().next());
        self.append_made(
            i,
            Made {
                stamp,
                kind,
                range,
                value,
            },
            true,
        );
    }

    pub(super) fn append_made(&mut self, i: usize, made: Made, fresh: bool) {
        let now = self.queue.now();
        let id = self.replicas[i].id;
        let mut charged = false;
        if fresh && made.kind == RecordKind::Write {
            let Some(store) = self.store.as_mut() else {
                return;
            };
            if !store.is_present(id, made.range.extent()) {
                if self.replicas[i].granted == 0 {
                    self.replicas[i].granted = store.reserve(id, 4);
                }
                if self.replicas[i].granted == 0 {
                    self.coverage.hit("store: full");
                    return;
                }
                self.replicas[i].granted -= 1;
                charged = true;
            }
        }
        let owned = &mut self.replicas[i];
        let record = self.values.record(&made, owned.number);
        owned.model.append(made.clone());
        let floor = owned.floor;
        if self.trace.wants_words() {
            self.say(format_args!(
                "replica {i}: append {} {:?} {}..{} value {:#x}",
                made.stamp,
                made.kind,
                made.range.start,
                made.range.end(),
                made.value
            ));
        }
        self.with(|store, out| {
            store.append(
                id,
                record,
                AppendContext {
                    floor,
                    charged,
                    now,
                },
                out,
            )
        });
    }

    /// Everything above a cut is to be void.
    pub(super) fn void(&mut self, i: usize, cut: Sequence) {
        let (now, tag) = (self.queue.now(), self.tag());
        self.coverage.hit("store: tail voided");
        self.say(format_args!("replica {i}: everything above {cut} is void"));
        self.void_under_reads(i, cut);
        let owned = &mut self.replicas[i];
        owned.voiding = Some((tag, cut));
        let id = owned.id;
        self.with(|store, out| store.void_above(now, id, cut, tag, out));
    }

    /// A repair: the content that is there already is copied in again.
    fn repair(&mut self, i: usize) {
        let range = self.some_range();
        let owned = &self.replicas[i];
        let (last, epoch, number, id) = (owned.model.last(), owned.epoch, owned.number, owned.id);
        if last != owned.model.durable || last == Sequence::ZERO || owned.floor.sequence != last {
            return;
        }
        let values = &self.values;
        let bytes: Vec<u8> = (range.start..range.end())
            .flat_map(|block| {
                let now = owned.model.values(block, last);
                values.bytes(*now.last().expect("a block has a value"), number, block)
            })
            .collect();
        let (now, tag) = (self.queue.now(), self.tag());
        let payload: Bytes = bytes.into();
        let sums = lockstep_types::checksum_blocks(&payload);
        self.say(format_args!(
            "replica {i}: copy #{tag} {}..{}",
            range.start,
            range.end()
        ));
        let read_at = Stamp::new(epoch, last);
        self.with(|store, out| {
            store.copy(
                now,
                tag,
                id,
                read_at,
                RecordKind::Write,
                range,
                sums,
                payload,
                out,
            )
        });
    }

    /// A payload that imitates what stands in the journal (S8): a page of it as it is, or the header of
    /// a batch to come, as a guest makes it that knows the source but not the key.
    fn forged(&mut self) -> u64 {
        if self.plan.forgers && self.rng.per_cent(50) {
            self.coverage.hit("store: payload forges a header");
            let ahead = 1 + self.disk_steps + self.rng.below(1000);
            return self.values.forge(checks::foreign_header(ahead));
        }
        let ring = self
            .store
            .as_ref()
            .and_then(Store::superblock)
            .map(|s| s.geometry.ring);
        let Some(ring) = ring else {
            return self.values.next();
        };
        let page = ring.offset / BLOCK as u64 + self.rng.below(ring.length / BLOCK as u64);
        match self.disk.media().read(page, 1) {
            Some(bytes) => {
                self.coverage.hit("store: payload imitates the journal");
                self.values.forge(bytes)
            }
            None => self.values.next(),
        }
    }

    /// A journal batch goes to the device.
    pub(super) fn note_batch(&mut self, op: &DiskOp) {
        let ring = self
            .store
            .as_ref()
            .and_then(Store::superblock)
            .map(|s| s.geometry.ring);
        if let (
            Some(ring),
            DiskOp::Write {
                token,
                offset,
                durable: true,
                ..
            },
        ) = (ring, op)
            && (ring.offset..ring.offset + ring.length).contains(offset)
        {
            self.batches.insert(*token);
        }
    }

    /// A batch is durable: it says that those before it were flushed (R24).
    pub(super) fn batch_ended(&mut self, token: DiskToken) {
        if self.batches.remove(&token) {
            for owned in &mut self.replicas {
                owned.marked = owned.model.durable();
            }
        }
    }
}
