//! What the store must have kept, and what it may give.

use super::{Plan, Reading, StoreWorld};
use crate::disk::Disk;
use crate::rng::Rng;
use lockstep_store::format::{BatchBuilder, Descriptor, HeaderHash, PoolKey, RecordFlags};
use lockstep_store::{
    DiskResult, FormatOptions, Geometry, NewPool, OpenOptions, ReadData, RecoveredReplica,
    Recovery, StoreError, Tag,
};
use lockstep_types::{
    BLOCK, BlockRange, ClusterId, DeviceId, Gap, Incarnation, NodeId, RecordKind, Sequence,
};

impl StoreWorld {
    /// Every record that was reported durable is there, unless the store says that it lost some.
    pub(super) fn check_recovery(&mut self, recovery: &Recovery) -> Result<(), String> {
        let corrupting = self.plan.corruption != [0; 4];
        if recovery.corrupt && !corrupting {
            return Err("the journal is called corrupt on a device that never lied".into());
        }
        for i in 0..self.replicas.len() {
            let id = self.replicas[i].id;
            let mut all = recovery.replicas.iter();
            let goes_on = match all.find(|found| found.meta.replica == id) {
                Some(found) => self.check_found(i, found, recovery.corrupt)?,
                None => self.check_missing(i)?,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Whether the run goes on without a replica.
    fn check_missing(&mut self, i: usize) -> Result<bool, String> {
        let owned = &mut self.replicas[i];
        let lost = owned.created;
        owned.voiding = None;
        if lost && self.plan.corruption == [0; 4] {
            return Err(format!("replica {i} is gone"));
        }
        if lost {
            self.ends_with("store: replica lost");
        }
        Ok(!lost)
    }

    /// Whether the run goes on with what was found of a replica, in a journal that may be called corrupt.
    fn check_found(
        &mut self,
        i: usize,
        found: &RecoveredReplica,
        corrupt: bool,
    ) -> Result<bool, String> {
        let corrupting = self.plan.corruption != [0; 4];
        let owned = &mut self.replicas[i];
        owned.created = true;
        let last = found.last.sequence;
        let void = owned.voiding.take().map(|(_, cut)| cut);
        let least = match void {
            Some(cut) => owned.model.durable.min(cut),
            None => owned.model.durable,
        };
        let says_so = found.meta.gap == Gap::Corrupt || corrupt;
        if last < least && !says_so && corrupting && last >= owned.marked.sequence {
            // Beyond the mark the device cannot tell; whoever was acknowledged more can (R4).
            self.ends_with("store: last batch lost beyond the mark");
            return Ok(false);
        }
        if last < least && !(corrupting && says_so) {
            return Err(format!(
                "replica {i}: recovered up to {last}, but {least} had been reported durable"
            ));
        }
        if found.meta.floor.sequence > owned.floor.sequence {
            return Err(format!(
                "replica {i}: floor {} was never told to it",
                found.meta.floor
            ));
        }
        if last > owned.model.last() {
            return Err(format!("replica {i}: {last} was never written"));
        }
        if found.meta.gap == Gap::Torn {
            self.coverage.hit("store: replica torn");
        }
        if says_so {
            // It must stop, and does: the owner would resync it. Here it ends.
            self.ends_with("store: replica gapped");
            return Ok(false);
        }
        owned.model.cut(last);
        owned.model.settle(last);
        if owned.floor.sequence > last {
            return Err(format!(
                "replica {i}: its floor {} is above its last {last}",
                owned.floor
            ));
        }
        // The epoch of the floor does not come back by itself: the owner restates it.
        let floor = owned.floor.sequence;
        let keep = Sequence(floor.0.saturating_sub(4000));
        owned.model.fold(keep);
        Ok(true)
    }

    /// The replica has lost something and its owner sees it, or would: here the run ends.
    pub(super) fn ends_with(&mut self, what: &'static str) {
        self.coverage.hit(what);
        self.failed_device = true;
        self.left = 0;
    }

    pub(super) fn was_read(&mut self, tag: Tag, result: Result<ReadData, StoreError>) {
        let Some(reading) = self.reading.remove(&tag) else {
            return;
        };
        let corrupting = self.plan.corruption != [0; 4];
        let data = match result {
            Ok(data) => data,
            Err(StoreError::Corrupt(_)) if corrupting => {
                return self.coverage.hit("store: corrupt read refused");
            }
            Err(StoreError::Device(_)) if corrupting => return,
            Err(error) => return self.fail("V5", format!("read of a healthy device: {error}")),
        };
        let mut block = reading.range.start;
        let mut failures = Vec::new();
        for (count, bytes) in &data.pieces {
            for i in 0..*count as usize {
                let found = bytes
                    .as_ref()
                    .map(|bytes| &bytes[i * BLOCK..(i + 1) * BLOCK]);
                let sum = data.checksums.as_slice()[(block - reading.range.start) as usize];
                let expected = self.expected(&reading, block);
                let zeroes = [0; BLOCK];
                let content = found.unwrap_or(&zeroes);
                if !expected.iter().any(|bytes| bytes == content) {
                    let names: Vec<u64> = expected
                        .iter()
                        .map(|b| u64::from_le_bytes(b[..8].try_into().expect("8")))
                        .collect();
                    let names_itself = u64::from_le_bytes(content[..8].try_into().expect("8"));
                    failures.push(format!(
                        "block {block} gives {names_itself:#x}, one of {names:x?} was due"
                    ));
                } else if lockstep_types::checksum_blocks(content).as_slice() != [sum] {
                    failures.push(format!(
                        "block {block}: the checksum told is not its content's"
                    ));
                }
                block += 1;
            }
        }
        if block != reading.range.end() {
            failures.push(format!(
                "{} blocks were asked for, not {}",
                reading.range.count,
                block - reading.range.start
            ));
        }
        if self.replicas[reading.replica].model.records.len() > 1 {
            self.coverage.hit("store: overwrite read back");
        }
        if let Some(first) = failures.first() {
            let why = format!("replica {}, read #{tag}: {first}", reading.replica);
            self.fail("V5", why);
        }
    }

    fn expected(&self, reading: &Reading, block: u64) -> Vec<Vec<u8>> {
        let owned = &self.replicas[reading.replica];
        let mut values = owned.model.values(block, reading.from);
        values.extend(reading.voided.get(&block).into_iter().flatten());
        values
            .into_iter()
            .map(|value| self.values.bytes(value, owned.number, block))
            .collect()
    }

    /// Everything above a cut becomes void. Reads on their way looked their blocks up before that, after it,
    /// or some before and some after: each block has a value that it had or has, and nothing else.
    pub(super) fn void_under_reads(&mut self, i: usize, cut: Sequence) {
        for reading in self.reading.values_mut().filter(|r| r.replica == i) {
            self.coverage.hit("store: void under a read");
            for block in reading.range.start..reading.range.end() {
                let had = self.replicas[i].model.values(block, reading.from);
                reading.voided.entry(block).or_default().extend(had);
            }
            reading.from = reading.from.min(cut);
        }
    }
}

/// Lays a pool out on a blank device.
pub(super) fn format(
    disk: &mut Disk,
    plan: &Plan,
    window_bytes: u32,
    rng: &mut Rng,
) -> OpenOptions {
    let pool = NewPool {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(2),
        device: DeviceId::from_u128(3),
        key: rng.id().to_le_bytes(),
        incarnation: Incarnation(1),
    };
    let options = layout(plan, window_bytes);
    let (_zeroes, writes) =
        lockstep_store::pool_writes(&pool, &options).expect("the plan's device can be laid out");
    for (offset, bytes) in writes {
        disk.media_mut()
            .write_stable(offset / BLOCK as u64, &[bytes]);
    }
    let mut options = OpenOptions::new(plan.device_bytes);
    // Small, so that reads come from the disk.
    options.cached_pages = 4;
    options.recent_bytes = 256 << 10;
    options
}

fn layout(plan: &Plan, window_bytes: u32) -> FormatOptions {
    FormatOptions {
        device_bytes: plan.device_bytes,
        ring_bytes: plan.ring_bytes,
        delta_bytes: 8 * BLOCK as u64,
        max_replicas: plan.most_replicas,
        window_bytes,
    }
}

/// Where deltas, map and checksum pages and their directory lie.
pub(super) fn metadata(plan: &Plan, window_bytes: u32) -> std::ops::Range<u64> {
    let geometry =
        Geometry::compute(&layout(plan, window_bytes)).expect("the plan's device can be laid out");
    geometry.directory.offset..geometry.checksums.end()
}

/// The first block of a batch that no pool wrote: all is right but the key.
pub(super) fn foreign_header(number: u64) -> bytes::Bytes {
    let zero = lockstep_types::Stamp::ZERO;
    let mut builder = BatchBuilder::new();
    builder.push(Descriptor {
        slot: 0,
        kind: RecordKind::Nothing,
        flags: RecordFlags::FLOOR_ONLY,
        range: BlockRange::new(0, 1),
        stamp: zero,
        floor: zero,
        extent: 0,
        argument: 0,
        checksums: lockstep_types::Checksums::none(),
    });
    let batch = builder.finish(number, 0, 0, 0, HeaderHash::default());
    batch.encode(&PoolKey([0x5a; 16])).0.slice(..BLOCK)
}

/// In words.
pub(super) fn result_words(result: &DiskResult) -> String {
    match result {
        DiskResult::Read(bytes) => format!("read {}", bytes.len()),
        other => format!("{other:?}"),
    }
}
