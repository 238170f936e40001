//! The judge of a load on one volume.

use crate::action::{Action, Operation};
use crate::history::{Conflict, History, Kind, Moment};
use crate::stamp::Content;
use crate::violation::{Expected, Violation, Why};
use lockstep_types::{BLOCK, BlockRange, VolumeId};
use std::collections::BTreeMap;

/// What has been done so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Counts {
    /// Writes, discards and zeroes acknowledged.
    pub acknowledged: u64,
    /// Blocks of those.
    pub acknowledged_blocks: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Reads verified.
    pub reads: u64,
    /// Blocks of those.
    pub verified_blocks: u64,
    /// Violations found.
    pub violations: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct InFlight {
    action: Action,
    begun: Moment,
}

/// Judges every read of one volume that began as zeroes and that nobody else writes. Tell it that
/// an operation begins before it is sent and that it ended after its answer came: moments are the
/// order of these calls. Memory: about 60 bytes a block written, plus 40 for each write that is in
/// flight, overlaps one, or failed and was neither seen nor fenced.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Oracle {
    volume: VolumeId,
    blocks: u64,
    clock: Moment,
    last_operation: u64,
    histories: BTreeMap<u64, History>,
    in_flight: BTreeMap<u64, InFlight>,
    counts: Counts,
}

impl Oracle {
    /// For a new volume of so many blocks.
    pub fn new(volume: VolumeId, blocks: u64) -> Self {
        Self {
            volume,
            blocks,
            clock: 0,
            last_operation: 0,
            histories: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// An operation is about to be sent. Panics outside the volume.
    pub fn begin(&mut self, client: u32, action: Action) -> Operation {
        let begun = self.tick();
        self.last_operation += 1;
        let number = self.last_operation;
        if let Some(range) = action.range() {
            assert!(
                range.end() <= self.blocks,
                "{range:?} lies outside the volume"
            );
            let kind = match action {
                Action::Write(_) => Some(Kind::Data),
                Action::Discard(_) | Action::Zeroes(_) => Some(Kind::Zeroes),
                Action::Read(_) | Action::Flush => None,
            };
            if let Some(kind) = kind {
                for block in range.start..range.end() {
                    let history = self.histories.entry(block).or_default();
                    history.begin(number, client, kind, begun);
                }
            }
        }
        self.in_flight.insert(number, InFlight { action, begun });
        Operation {
            number,
            client,
            action,
        }
    }

    /// A write, discard, zeroes or flush was answered: done. Panics for a read, and for an
    /// operation that has ended.
    pub fn acknowledge(&mut self, operation: Operation) {
        let now = self.tick();
        self.end(&operation);
        assert!(
            !matches!(operation.action, Action::Read(_)),
            "a read is verified"
        );
        let Some(range) = operation.action.range() else {
            return;
        };
        let horizon = self.horizon();
        self.counts.acknowledged += 1;
        self.counts.acknowledged_blocks += u64::from(range.count);
        for block in range.start..range.end() {
            let history = self
                .histories
                .get_mut(&block)
                .expect("its beginning was noted");
            history.acknowledge(operation.number, now);
            history.prune(horizon);
        }
    }

    /// An operation failed, timed out, or its connection was lost. A write is unknown from now on.
    pub fn fail(&mut self, operation: Operation) {
        let _ = self.tick();
        self.end(&operation);
        self.counts.failed += 1;
        if let (Some(range), false) = (
            operation.action.range(),
            matches!(operation.action, Action::Read(_)),
        ) {
            for block in range.start..range.end() {
                let history = self
                    .histories
                    .get_mut(&block)
                    .expect("its beginning was noted");
                history.fail(operation.number);
            }
        }
    }

    /// A read was answered with `bytes`, as many as its range has. Panics for anything but a read.
    pub fn verify_read(
        &mut self,
        operation: Operation,
        bytes: &[u8],
    ) -> Result<(), Box<Violation>> {
        let ended = self.tick();
        let begun = self.end(&operation);
        let Action::Read(range) = operation.action else {
            panic!("{:?} is not a read", operation.action);
        };
        assert_eq!(bytes.len(), range.bytes(), "a read is answered in full");
        let horizon = self.horizon();
        let mut first = None;
        for (block, bytes) in (range.start..).zip(bytes.chunks_exact(BLOCK)) {
            let content = Content::of(bytes);
            match self.judge(block, content, begun, ended, horizon) {
                Ok(()) => self.counts.verified_blocks += 1,
                Err(why) => {
                    first = first.or_else(|| Some(self.violation(&operation, block, content, why)));
                }
            }
        }
        self.counts.reads += 1;
        match first {
            None => Ok(()),
            Some(violation) => {
                self.counts.violations += 1;
                Err(Box::new(violation))
            }
        }
    }

    /// Everything that failed until now has happened or never will: call it when the volume has
    /// opened under a new epoch, whose reconciling decided the tail (R11) and whose fence keeps
    /// late requests out (R3, R12). From then on a write of before that appears late is a
    /// violation. Panics while operations are in flight.
    pub fn fence(&mut self) {
        assert!(
            self.in_flight.is_empty(),
            "an operation in flight is not decided"
        );
        let now = self.tick();
        self.histories
            .values_mut()
            .for_each(|history| history.fence(now));
    }

    /// Whether an operation in flight touches the range.
    pub fn is_busy(&self, range: BlockRange) -> bool {
        let ranges = self
            .in_flight
            .values()
            .filter_map(|operation| operation.action.range());
        ranges.into_iter().any(|other| other.overlaps(range))
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The blocks ever written, in runs of at most `most` blocks: what a last read-back reads.
    pub fn written(&self, most: u32) -> Vec<BlockRange> {
        let mut runs: Vec<BlockRange> = Vec::new();
        for (block, history) in &self.histories {
            if history.is_start() {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end() == *block && run.count < most => run.count += 1,
                _ => runs.push(BlockRange::new(*block, 1)),
            }
        }
        runs
    }

    /// What a read of `block` may return now.
    pub fn expected(&self, block: u64) -> Vec<Expected> {
        match self.histories.get(&block) {
            Some(history) => history.possible().map(Expected::of).collect(),
            None => History::default().possible().map(Expected::of).collect(),
        }
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn tick(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }

    fn end(&mut self, operation: &Operation) -> Moment {
        let begun = self.in_flight.remove(&operation.number);
        let begun = begun.expect("an operation ends once, at the oracle where it began");
        assert_eq!(
            begun.action, operation.action,
            "an operation keeps its action"
        );
        begun.begun
    }

    /// The earliest moment at which a read that has not ended can have begun.
    fn horizon(&self) -> Moment {
        // Operations are kept in the order they began.
        let is_read = |operation: &&InFlight| matches!(operation.action, Action::Read(_));
        self.in_flight
            .values()
            .find(is_read)
            .map_or(self.clock + 1, |read| read.begun)
    }

    fn judge(
        &mut self,
        block: u64,
        content: Content,
        begun: Moment,
        ended: Moment,
        horizon: Moment,
    ) -> Result<(), Why> {
        if let (Content::Zeroes, None) = (content, self.histories.get(&block)) {
            return Ok(());
        }
        let stamp = match content {
            Content::Zeroes => None,
            Content::Whole(stamp) => Some(stamp),
            Content::Torn { at, zeroes, .. } => return Err(Why::Torn { at, zeroes }),
            Content::Garbage(_) => return Err(Why::Garbage),
        };
        if let Some(stamp) = stamp {
            if stamp.volume != self.volume {
                return Err(Why::OtherVolume);
            }
            if stamp.block != block {
                return Err(Why::Misdirected);
            }
            if stamp.operation == 0 || stamp.operation > self.last_operation {
                return Err(Why::NeverWritten);
            }
        }
        let history = self.histories.entry(block).or_default();
        let seen = match stamp {
            None => history.saw_zeroes(begun, ended),
            Some(stamp) => history.saw_data(stamp.operation, begun, ended),
        };
        seen.map_err(why)?;
        history.prune(horizon);
        Ok(())
    }

    fn violation(&self, operation: &Operation, block: u64, found: Content, why: Why) -> Violation {
        let expected = self.expected(block);
        let (volume, operation) = (self.volume, operation.clone());
        Violation {
            volume,
            block,
            operation,
            found,
            why,
            expected,
        }
    }
}

fn why(conflict: Conflict) -> Why {
    match conflict {
        Conflict::Gone => Why::Replaced { by: None },
        Conflict::Replaced { by } => Why::Replaced {
            by: Some(Expected::of(&by)),
        },
    }
}
