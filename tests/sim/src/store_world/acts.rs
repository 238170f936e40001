//! What the owner of the store does beside writing and reading: repairs, payloads that imitate the journal,
//! and what it remembers of batches.

use super::{StoreWorld, checks};
use bytes::Bytes;
use lockstep_store::{DiskOp, DiskToken, Store};
use lockstep_types::{BLOCK, RecordKind, Sequence, Stamp};

impl StoreWorld {
    /// A repair: the content that is there already is copied in again.
    pub(super) fn repair(&mut self, i: usize) {
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
    pub(super) fn forged(&mut self) -> u64 {
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
                owned.marked = owned.model.durable;
            }
        }
    }
}
