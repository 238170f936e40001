//! What clients did to each block, and whether some order explains it (V5).
//!
//! Every write carries a value that no other has, so linearizability of a register can be decided
//! from zones (Gibbons and Korach): the operations of one value, its write and its reads, form a
//! cluster; `first_end` is when the first of them ended, `last_start` when the last began. Where
//! `first_end < last_start` the value was certainly there all that time (a forward zone). A history is
//! linearizable if no two forward zones overlap, no other cluster lies wholly inside a forward zone,
//! and no read ended before its write began.
//!
//! Times are the world's step counter, so that no two are equal. A write that failed, or whose node
//! died, is unknown: it has no end, and may take effect once at any later time, or never.

use std::collections::{BTreeMap, BTreeSet};

/// A step of the world.
pub type Step = u64;
/// What a block holds: 0 is zeroes, everything else names one write.
pub type Value = u64;

const NEVER: Step = Step::MAX;

/// One block.
#[derive(Clone, Debug, Default)]
pub struct BlockHistory {
    clusters: BTreeMap<Value, Cluster>,
    /// Writes of zeroes, the initial state included: (start, end).
    zeroes: Vec<(Step, Step)>,
    /// Values whose writes ended before this are over; they are dropped from `clusters`.
    settled: Step,
    /// When each read under way began.
    reading: BTreeSet<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Cluster {
    write_start: Step,
    write_end: Step,
    first_end: Step,
    last_start: Step,
}

/// A read that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was read.
    pub value: Value,
    /// In words.
    pub why: String,
}

impl BlockHistory {
    /// A write begins.
    pub fn write_starts(&mut self, now: Step, value: Value) {
        if value == 0 {
            self.zeroes.push((now, NEVER));
            return;
        }
        let cluster = Cluster {
            write_start: now,
            write_end: NEVER,
            first_end: NEVER,
            last_start: now,
        };
        let old = self.clusters.insert(value, cluster);
        assert!(old.is_none(), "values are written once");
    }

    /// A write that began at `start` was acknowledged.
    ///
    /// # Errors
    /// If no order explains it.
    pub fn write_ends(&mut self, start: Step, now: Step, value: Value) -> Result<(), Violation> {
        if value == 0 {
            let entry = self
                .zeroes
                .iter_mut()
                .find(|(began, _)| *began == start)
                .expect("it began");
            entry.1 = now;
            return Ok(());
        }
        let Some(cluster) = self.clusters.get_mut(&value) else {
            return Ok(()); // read and overwritten since
        };
        cluster.write_end = now;
        cluster.first_end = cluster.first_end.min(now);
        self.check(value)
    }

    /// A read begins.
    pub fn read_starts(&mut self, now: Step) {
        self.reading.insert(now);
    }

    /// A read that began at `start` failed, or its node died.
    pub fn read_fails(&mut self, start: Step) {
        self.reading.remove(&start);
    }

    /// A read that began at `start` gave this value.
    ///
    /// # Errors
    /// If no order explains it.
    pub fn read_ends(&mut self, start: Step, now: Step, value: Value) -> Result<(), Violation> {
        self.reading.remove(&start);
        if value == 0 {
            return self.read_zero(start);
        }
        let Some(cluster) = self.clusters.get_mut(&value) else {
            let why = if self.settled > 0 {
                "it was overwritten long before"
            } else {
                "nobody wrote it"
            };
            return Err(Violation {
                value,
                why: why.into(),
            });
        };
        cluster.first_end = cluster.first_end.min(now);
        cluster.last_start = cluster.last_start.max(start);
        self.check(value)?;
        self.settle(now);
        Ok(())
    }

    /// Values that the block may hold when nobody writes to it any more.
    pub fn possible(&self) -> Vec<Value> {
        let newest = self
            .clusters
            .values()
            .filter(|c| c.first_end != NEVER)
            .map(|c| c.last_start.max(c.write_start))
            .max();
        let over = |c: &Cluster| {
            newest.is_some_and(|at| c.write_end < at && c.last_start < at && c.first_end < at)
        };
        self.clusters
            .iter()
            .filter(|(_, c)| !over(c))
            .map(|(value, _)| *value)
            .collect()
    }

    /// A zero may come from any write of zeroes, or from the beginning; it is wrong only if each of
    /// them was certainly overwritten before the read began.
    fn read_zero(&self, start: Step) -> Result<(), Violation> {
        let overwriter = |end: Step| {
            self.clusters
                .iter()
                .find(|(_, c)| end < c.write_start && c.first_end < start)
        };
        let initial = (0, 0);
        for (_, end) in std::iter::once(&initial).chain(&self.zeroes) {
            let over = *end != NEVER && (overwriter(*end).is_some() || *end < self.settled);
            if !over {
                return Ok(());
            }
        }
        Err(Violation {
            value: 0,
            why: "zeroes, which were overwritten before the read began".into(),
        })
    }

    fn check(&self, value: Value) -> Result<(), Violation> {
        let own = self.clusters[&value];
        for (other_value, other) in &self.clusters {
            if *other_value == value || other.first_end == NEVER && other.write_end == NEVER {
                continue;
            }
            if let Some(how) = conflict(&own, other) {
                let why = format!(
                    "{how} value {other_value:#x} of the write begun at step {}",
                    other.write_start
                );
                return Err(Violation { value, why });
            }
        }
        Ok(())
    }

    /// Forgets values that no later read may give: those whose write ended before another began that
    /// was seen before any read still under way.
    fn settle(&mut self, now: Step) {
        const KEPT: usize = 24;
        if self.clusters.len() <= KEPT {
            return;
        }
        let oldest = self.reading.first().copied().unwrap_or(now);
        let seen = |c: &&Cluster| c.first_end < oldest;
        let Some(latest) = self
            .clusters
            .values()
            .filter(seen)
            .map(|c| c.write_start)
            .max()
        else {
            return;
        };
        self.clusters
            .retain(|_, c| c.write_end == NEVER || c.write_end >= latest || c.last_start >= latest);
        self.settled = self.settled.max(latest);
        let settled = self.settled;
        self.zeroes
            .retain(|(_, end)| *end == NEVER || *end >= settled);
    }
}

/// Why two clusters cannot both be, if so.
fn conflict(a: &Cluster, b: &Cluster) -> Option<&'static str> {
    let forward = |c: &Cluster| c.first_end < c.last_start;
    match (forward(a), forward(b)) {
        (true, true) if a.first_end < b.last_start && b.first_end < a.last_start => {
            Some("flipped back and forth with")
        }
        (true, false) if a.first_end < b.last_start && b.first_end < a.last_start => {
            Some("it stood on both sides of")
        }
        (false, true) if b.first_end < a.last_start && a.first_end < b.last_start => {
            Some("it lies wholly within")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[(Step, Step, Value)]) -> BlockHistory {
        let mut block = BlockHistory::default();
        for (start, end, value) in values {
            block.write_starts(*start, *value);
            if *end != NEVER {
                block
                    .write_ends(*start, *end, *value)
                    .expect("an order exists");
            }
        }
        block
    }

    #[test]
    fn a_stale_read_is_seen() {
        let mut block = written(&[(1, 2, 0xa), (3, 4, 0xb)]);
        assert!(block.clone().read_ends(5, 6, 0xb).is_ok());
        assert!(block.read_ends(5, 6, 0xa).is_err());
    }

    #[test]
    fn a_lost_write_is_seen_as_zero() {
        let mut block = written(&[(1, 2, 0xa)]);
        assert!(block.read_ends(3, 4, 0).is_err());
        let mut unknown = written(&[(1, NEVER, 0xa)]);
        assert!(unknown.read_ends(3, 4, 0).is_ok());
    }

    #[test]
    fn an_unknown_write_may_appear_late_but_not_flip_back() {
        let mut block = written(&[(1, NEVER, 0xa), (3, 4, 0xb)]);
        assert!(block.read_ends(5, 6, 0xb).is_ok());
        assert!(
            block.read_ends(7, 8, 0xa).is_ok(),
            "it may take effect after the failure"
        );
        assert!(
            block.read_ends(9, 10, 0xb).is_err(),
            "what a client has read must not flip back"
        );
    }

    #[test]
    fn concurrent_writes_may_end_either_way_once() {
        let mut block = written(&[(1, 10, 0xa), (2, 9, 0xb)]);
        assert!(block.read_ends(11, 12, 0xa).is_ok());
        assert!(block.read_ends(13, 14, 0xb).is_err());
    }

    #[test]
    fn a_discard_explains_zeroes() {
        let mut block = written(&[(1, 2, 0xa), (3, 4, 0)]);
        assert!(block.read_ends(5, 6, 0).is_ok());
        block.write_starts(7, 0xb);
        block.write_ends(7, 8, 0xb).expect("fine");
        assert!(block.read_ends(9, 10, 0).is_err());
    }
}
