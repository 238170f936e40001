//! Which copy a forced promotion takes, against a small model of what copies go through: epochs opened on
//! a part of the set, tails that differ, resyncs, members that stay behind.

use lockstep_control::candidates::{Held, may_rejoin, rank};
use lockstep_types::{Epoch, EpochStart, Gap, Incarnation, ReplicaId, Sequence, Stamp};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A copy: the write at each sequence, and the epochs it opened.
#[derive(Clone, Debug, Default)]
struct Copy {
    writes: Vec<u64>,
    history: Vec<EpochStart>,
}

/// One epoch: who of the in-sync set is there, how many writes each of them gets, how many are
/// acknowledged, and who is resynced at its end.
#[derive(Clone, Debug)]
struct Round {
    there: u8,
    got: [usize; 4],
    acknowledged: usize,
    resynced: u8,
}

struct Model {
    copies: Vec<Copy>,
    in_sync: BTreeSet<usize>,
    acknowledged: Vec<u64>,
    next: u64,
}

impl Model {
    fn run(rounds: &[Round]) -> Self {
        let mut model = Self {
            copies: vec![Copy::default(); 4],
            in_sync: (0..4).collect(),
            acknowledged: Vec::new(),
            next: 1,
        };
        for (epoch, round) in rounds.iter().enumerate() {
            model.round(epoch as u64 + 1, round);
        }
        model
    }

    fn round(&mut self, epoch: u64, round: &Round) {
        let there = |at: &usize| round.there >> at & 1 == 1;
        let set: BTreeSet<usize> = self.in_sync.iter().copied().filter(there).collect();
        let Some(longest) = set.iter().max_by_key(|at| self.copies[**at].writes.len()) else {
            return;
        };
        // R11: everyone gets the union of the tails, and the epoch begins above it.
        let union = self.copies[*longest].writes.clone();
        let base = Sequence(union.len() as u64);
        for at in &set {
            self.copies[*at].writes.clone_from(&union);
            let epoch = Epoch(epoch);
            self.copies[*at].history.push(EpochStart { epoch, base });
        }
        let most = set.iter().map(|at| round.got[*at]).max().unwrap_or(0);
        let least = set.iter().map(|at| round.got[*at]).min().unwrap_or(0);
        let new: Vec<u64> = (0..most as u64).map(|n| self.next + n).collect();
        self.next += most as u64;
        for at in &set {
            let got = &new[..round.got[*at]];
            self.copies[*at].writes.extend_from_slice(got);
        }
        // R2: only what all have is acknowledged.
        let acknowledged = union.len() + least.min(round.acknowledged);
        let whole = &self.copies[*longest].writes;
        self.acknowledged = whole[..acknowledged.min(whole.len())].to_vec();
        self.in_sync = set.clone();
        // A resync copies a member that has everything the primary has sequenced.
        let full = set.iter().find(|at| round.got[**at] == most).copied();
        for at in 0..4 {
            if let Some(full) = full.filter(|_| round.resynced >> at & 1 == 1 && !set.contains(&at))
            {
                self.copies[at] = self.copies[full].clone();
                self.in_sync.insert(at);
            }
        }
    }

    fn held(&self, at: usize) -> Held {
        let copy = &self.copies[at];
        let epoch = copy.history.last().map_or(Epoch::ZERO, |start| start.epoch);
        Held {
            replica: ReplicaId::from_u128(at as u128 + 1),
            incarnation: Incarnation(1),
            last: Stamp::new(epoch, Sequence(copy.writes.len() as u64)),
            history: copy.history.clone(),
            gap: Gap::None,
            cut: None,
            failed: false,
        }
    }
}

fn index(held: &Held) -> usize {
    held.replica.as_u128() as usize - 1
}

fn round() -> impl Strategy<Value = Round> {
    let got = prop::array::uniform4(0..6usize);
    (1..16u8, got, 0..6usize, 0..16u8).prop_map(|(there, got, acknowledged, resynced)| Round {
        there,
        got,
        acknowledged,
        resynced,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_newest_has_every_acknowledged_write_that_any_certified_copy_in_reach_has(
        rounds in prop::collection::vec(round(), 1..12),
        reached in 1..16u8,
    ) {
        let model = Model::run(&rounds);
        let held: Vec<Held> = (0..4).filter(|at| reached >> at & 1 == 1).map(|at| model.held(at)).collect();
        let ranked = rank(held.clone());
        let chosen = &ranked[0];
        prop_assert!(chosen.newest && chosen.behind == 0 && chosen.ahead == 0);
        let writes = &model.copies[index(&chosen.held)].writes;
        if held.iter().any(|copy| model.in_sync.contains(&index(copy))) {
            prop_assert!(writes.starts_with(&model.acknowledged), "{writes:?}, acknowledged {:?}", model.acknowledged);
        }
    }

    #[test]
    fn whoever_may_rejoin_holds_nothing_that_the_chosen_one_lacks(
        rounds in prop::collection::vec(round(), 1..12),
        choice in 0..4usize,
    ) {
        let model = Model::run(&rounds);
        let held: Vec<Held> = (0..4).map(|at| model.held(at)).collect();
        let chosen = &model.copies[choice].writes;
        for replica in may_rejoin(&held[choice], &held) {
            let writes = &model.copies[replica.as_u128() as usize - 1].writes;
            prop_assert!(chosen.starts_with(writes), "{writes:?} is not the beginning of {chosen:?}");
        }
        // And by how much the others are behind or ahead is what they lack, or have otherwise.
        for one in rank(held.clone()) {
            let first = &model.copies[index(&rank(held.clone())[0].held)].writes;
            let writes = &model.copies[index(&one.held)].writes;
            let same = first.iter().zip(writes).take_while(|(a, b)| a == b).count();
            prop_assert!(one.behind >= (first.len() - same) as u64);
            prop_assert!(one.ahead >= (writes.len() - same) as u64);
        }
    }
}
