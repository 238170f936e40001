//! What one replica must hold, kept in the plainest way: its records, newest last.

use crate::invariants::v05_linearizable::Value;
use bytes::Bytes;
use lockstep_types::{BLOCK, BlockRange, Epoch, Record, RecordKind, Sequence, Stamp};
use std::collections::{BTreeMap, BTreeSet};

/// A record as the owner made it.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its stamp; rolled forward under new epochs.
    pub stamp: Stamp,
    /// What it does.
    pub kind: RecordKind,
    /// Where.
    pub range: BlockRange,
    /// What it writes; 0 for zeroes.
    pub value: Value,
}

impl Made {
    /// Bytes of its payload.
    pub fn bytes(&self) -> u64 {
        match self.kind {
            RecordKind::Write => self.range.bytes() as u64,
            _ => 0,
        }
    }
}

/// A replica.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// By sequence; dense above the floor.
    pub records: BTreeMap<Sequence, Made>,
    /// Every record up to here was reported durable.
    pub durable: Sequence,
    /// Those reported durable out of order.
    pub ahead: BTreeSet<Sequence>,
    /// Rolled forward under the new epoch, and not yet durable under it.
    pub rolling: BTreeSet<Sequence>,
    /// The epoch under which each was last reported durable.
    pub epochs: BTreeMap<Sequence, Epoch>,
    /// Content below the oldest record kept.
    base: BTreeMap<u64, Value>,
}

impl Model {
    /// The last sequence made.
    pub fn last(&self) -> Sequence {
        self.records
            .keys()
            .next_back()
            .copied()
            .unwrap_or(self.durable)
    }

    /// A record was appended.
    pub fn append(&mut self, made: Made) {
        self.records.insert(made.stamp.sequence, made);
    }

    /// The store says that a record is durable.
    ///
    /// # Errors
    /// If no such record was asked for.
    pub fn report(&mut self, stamp: Stamp) -> Result<(), String> {
        let made = self
            .records
            .get(&stamp.sequence)
            .ok_or(format!("durable: {stamp}, which nobody appended"))?;
        if made.stamp != stamp {
            return Ok(()); // of the epoch before it was rolled
        }
        self.epochs.insert(stamp.sequence, stamp.epoch);
        self.rolling.remove(&stamp.sequence);
        self.ahead.insert(stamp.sequence);
        while self.ahead.remove(&self.durable.next()) {
            self.durable = self.durable.next();
        }
        Ok(())
    }

    /// Everything above a sequence never was.
    pub fn cut(&mut self, last: Sequence) {
        self.records.retain(|sequence, _| *sequence <= last);
        self.epochs.retain(|sequence, _| *sequence <= last);
        self.durable = self.durable.min(last);
        self.ahead.clear();
        self.rolling.clear();
    }

    /// The last durable record, under the epoch that it was last durable under.
    pub fn durable(&self) -> Stamp {
        let epoch = self.epochs.get(&self.durable).copied();
        Stamp::new(epoch.unwrap_or_default(), self.durable)
    }

    /// The last record that recovery found is of no older epoch than it was durable under (R11, S3).
    ///
    /// # Errors
    /// If it is: a record that was rolled forward went back.
    pub fn check_epoch(&self, last: Stamp) -> Result<(), String> {
        match self.epochs.get(&last.sequence) {
            Some(epoch) if last.epoch < *epoch => Err(format!(
                "recovered {last}, which had been durable under epoch {epoch}"
            )),
            _ => Ok(()),
        }
    }

    /// After recovery everything that is there is durable.
    pub fn settle(&mut self, last: Sequence) {
        self.durable = last;
        self.ahead.clear();
    }

    /// Folds records at or below a sequence into the base, to stay small.
    pub fn fold(&mut self, upto: Sequence) {
        let keep = self.records.split_off(&upto.next());
        for made in std::mem::replace(&mut self.records, keep).into_values() {
            if matches!(
                made.kind,
                RecordKind::Write | RecordKind::Discard | RecordKind::WriteZeroes
            ) {
                for block in made.range.start..made.range.end() {
                    self.base.insert(block, made.value);
                }
            }
        }
    }

    /// The values that a block has had from sequence `from` on, the one at `from` included.
    pub fn values(&self, block: u64, from: Sequence) -> Vec<Value> {
        let mut values = vec![self.base.get(&block).copied().unwrap_or(0)];
        for made in self.records.values() {
            let changes = matches!(
                made.kind,
                RecordKind::Write | RecordKind::Discard | RecordKind::WriteZeroes
            );
            if changes && made.range.start <= block && block < made.range.end() {
                if made.stamp.sequence <= from {
                    values.clear();
                }
                values.push(made.value);
            }
        }
        values
    }
}

/// The bytes of values: most are stamps, some were made to look like something else.
#[derive(Clone, Debug, Default)]
pub struct Values {
    forged: BTreeMap<Value, Bytes>,
    made: Value,
}

impl Values {
    /// A new value.
    pub fn next(&mut self) -> Value {
        self.made += 1;
        self.made
    }

    /// A new value that stands for these bytes in every block.
    pub fn forge(&mut self, block: Bytes) -> Value {
        assert_eq!(block.len(), BLOCK);
        let value = self.next();
        self.forged.insert(value, block);
        value
    }

    /// The bytes of a block of a value.
    pub fn bytes(&self, value: Value, replica: u64, block: u64) -> Vec<u8> {
        if let Some(bytes) = self.forged.get(&value) {
            return bytes.to_vec();
        }
        let mut bytes = Vec::with_capacity(BLOCK);
        if value == 0 {
            bytes.resize(BLOCK, 0);
        } else {
            crate::stamp::block_of(value, replica, block, &mut bytes);
        }
        bytes
    }

    /// A record of a value.
    pub fn record(&self, made: &Made, replica: u64) -> Record {
        let payload: Bytes = match made.kind {
            RecordKind::Write => {
                let blocks = made.range.start..made.range.end();
                blocks
                    .flat_map(|block| self.bytes(made.value, replica, block))
                    .collect::<Vec<u8>>()
                    .into()
            }
            _ => Bytes::new(),
        };
        let checksums = lockstep_types::checksum_blocks(&payload);
        Record {
            stamp: made.stamp,
            kind: made.kind,
            range: made.range,
            checksums,
            payload,
        }
    }
}
