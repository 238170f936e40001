//! What clients asked of a volume that is attached here, and how long each answer took. Counters only ever grow
//! while the volume is attached; who reads them takes differences.

use std::collections::BTreeMap;

use lockstep_frontend::Op;
use lockstep_types::{Nanos, VolumeId};

use super::Exports;
use super::requests::Gather;

/// Upper bounds of the counts of [`Requests::within`], in nanoseconds. An answer that took longer than the last is
/// in none of them.
pub const BOUNDS: [Nanos; 17] = [
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Kinds of request that are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of any size.
    Read,
    /// Also of zeroes.
    Write,
    /// A discard.
    Discard,
    /// Waits only while the volume does.
    Flush,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Discard, Self::Flush];

    /// The kind of a request; none for what asks about no data.
    pub(super) fn of(op: Op) -> Option<Self> {
        match op {
            Op::Read => Some(Self::Read),
            Op::Write | Op::WriteZeroes => Some(Self::Write),
            Op::Trim => Some(Self::Discard),
            Op::Flush => Some(Self::Flush),
            Op::BlockStatus => None,
        }
    }

    /// For people and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Discard => "discard",
            Self::Flush => "flush",
        }
    }
}

/// The answered requests of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Requests {
    /// Answered without an error.
    pub done: u64,
    /// Bytes of those; nothing for a flush.
    pub bytes: u64,
    /// Answered with an error.
    pub failed: u64,
    /// Nanoseconds of those that were done, added up.
    pub took: u64,
    /// How many of those took at most so long, each by the bound of [`BOUNDS`] that it is just within.
    pub within: [u64; BOUNDS.len()],
}

/// One volume's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    kinds: [Requests; Kind::ALL.len()],
}

impl Tally {
    /// The answered requests of this kind.
    pub fn of(&self, kind: Kind) -> &Requests {
        &self.kinds[kind as usize]
    }
}

/// What was asked of a volume attached here.
#[derive(Clone, Debug)]
pub struct VolumeTally {
    /// The volume's name.
    pub name: String,
    /// What has been answered since it was attached.
    pub tally: Tally,
    /// How long the oldest request has waited, in nanoseconds; 0 if none is under way.
    pub waits: Nanos,
}

impl<K: Copy + Ord, G: Gather> Exports<K, G> {
    /// What was asked of each volume attached here.
    pub fn tallies(&mut self, now: Nanos) -> Vec<VolumeTally> {
        let names: Vec<_> = self
            .volumes
            .iter()
            .map(|(id, a)| (*id, a.name.clone()))
            .collect();
        let tally = |(volume, name): (VolumeId, String)| VolumeTally {
            name,
            tally: self.requests.tallies().of(volume),
            waits: self
                .requests
                .oldest(volume)
                .map_or(0, |since| now.saturating_sub(since)),
        };
        names.into_iter().map(tally).collect()
    }
}

/// A request that is to be counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) volume: VolumeId,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) at: Nanos,
}

/// Of all volumes that are attached here.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    volumes: BTreeMap<VolumeId, Tally>,
}

impl Tallies {
    /// Counts for this volume from nothing.
    pub(super) fn begin(&mut self, volume: VolumeId) {
        self.volumes.insert(volume, Tally::default());
    }

    /// Forgets the volume; what is still under way is counted nowhere.
    pub(super) fn end(&mut self, volume: VolumeId) {
        self.volumes.remove(&volume);
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, begun: Begun, ok: bool, now: Nanos) {
        let Some(tally) = self.volumes.get_mut(&begun.volume) else {
            return;
        };
        let requests = &mut tally.kinds[begun.kind as usize];
        if !ok {
            requests.failed += 1;
            return;
        }
        let took = now.saturating_sub(begun.at);
        requests.done += 1;
        requests.bytes += begun.bytes;
        requests.took += took;
        if let Some(within) = requests
            .within
            .get_mut(BOUNDS.partition_point(|b| *b < took))
        {
            *within += 1;
        }
    }

    /// As it stands.
    pub(super) fn of(&self, volume: VolumeId) -> Tally {
        self.volumes.get(&volume).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId::from_u128(1);

    fn write(at: Nanos) -> Begun {
        Begun {
            volume: VOLUME,
            kind: Kind::Write,
            bytes: 4096,
            at,
        }
    }

    #[test]
    fn an_answer_is_counted_by_the_bound_that_it_is_within() {
        let mut tallies = Tallies::default();
        tallies.begin(VOLUME);
        tallies.answered(write(50), true, 50 + BOUNDS[0]);
        tallies.answered(write(50), true, 51 + BOUNDS[0]);
        tallies.answered(write(50), true, 51 + BOUNDS[BOUNDS.len() - 1]);
        tallies.answered(write(50), false, 60);
        let writes = *tallies.of(VOLUME).of(Kind::Write);
        assert_eq!((writes.done, writes.failed, writes.bytes), (3, 1, 3 * 4096));
        assert_eq!((writes.within[0], writes.within[1]), (1, 1));
        assert_eq!(writes.within.iter().sum::<u64>(), 2);
        assert_eq!(*tallies.of(VOLUME).of(Kind::Read), Requests::default());
    }

    #[test]
    fn a_volume_that_was_detached_counts_nothing() {
        let mut tallies = Tallies::default();
        tallies.begin(VOLUME);
        tallies.end(VOLUME);
        tallies.answered(write(0), true, 1);
        assert_eq!(tallies.of(VOLUME), Tally::default());
    }
}
