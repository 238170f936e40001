//! Which copy a forced promotion takes: the copies that can be reached, compared by what they say of
//! themselves. Nothing recorded about who is in sync plays a part.

use lockstep_types::{Cut, EpochStart, Gap, Incarnation, ReplicaId, Sequence, Stamp, last_common};
use std::collections::BTreeSet;

/// A copy, as its own node describes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// The copy.
    pub replica: ReplicaId,
    /// The life of its data.
    pub incarnation: Incarnation,
    /// Everything up to here is durable without a gap.
    pub last: Stamp,
    /// Where the epochs it has opened start, oldest first.
    pub history: Vec<EpochStart>,
    /// What recovery lost of it.
    pub gap: Gap,
    /// It was being resynced: what it holds beyond the cut is a mixture of old and new.
    pub cut: Option<Cut>,
    /// Its device failed: it cannot be opened at all.
    pub failed: bool,
}

/// A copy among the others.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ranked {
    /// It.
    pub held: Held,
    /// The one to take: whole, and none that is whole is newer.
    pub newest: bool,
    /// Sequences that the newest has and this one lacks, or has otherwise.
    pub behind: u64,
    /// Sequences that it has and the newest lacks, or has otherwise.
    pub ahead: u64,
}

impl Held {
    /// Whether it is an image of the volume at one point: neither mid-resync nor damaged.
    pub fn is_whole(&self) -> bool {
        !self.failed && self.cut.is_none() && self.gap != Gap::Corrupt
    }

    /// Up to where what it holds is in order.
    fn reach(&self) -> Stamp {
        self.cut.map_or(self.last, |cut| cut.stamp)
    }
}

/// Orders the copies, the one to take first: whole ones before others, then by their last stamp.
/// Every acknowledged write is on every copy that was in sync, so the highest stamp that a whole copy
/// holds is that of the latest one.
pub fn rank(held: Vec<Held>) -> Vec<Ranked> {
    let mut held = held;
    held.sort_by_key(|copy| std::cmp::Reverse((copy.is_whole(), copy.reach(), copy.replica)));
    let Some(first) = held.first().filter(|copy| !copy.failed).cloned() else {
        let ranked = |held| Ranked {
            held,
            newest: false,
            behind: 0,
            ahead: 0,
        };
        return held.into_iter().map(ranked).collect();
    };
    let ranked = |held: Held| {
        let common = common(&first, &held);
        let lacks = |of: &Held| of.reach().sequence.0.saturating_sub(common.0);
        Ranked {
            newest: held.is_whole() && held.reach() == first.reach(),
            behind: lacks(&first),
            ahead: lacks(&held),
            held,
        }
    };
    held.into_iter().map(ranked).collect()
}

/// Those that hold nothing that `chosen` lacks: they may come back to the volume once it is opened
/// with it. All others are sealed off.
pub fn may_rejoin(chosen: &Held, all: &[Held]) -> BTreeSet<ReplicaId> {
    let no_newer = |copy: &&Held| copy.reach().sequence <= common(chosen, copy);
    let others = all.iter().filter(|copy| copy.replica != chosen.replica);
    others.filter(no_newer).map(|copy| copy.replica).collect()
}

/// Up to which sequence two copies are the same.
fn common(a: &Held, b: &Held) -> Sequence {
    let (a_last, b_last) = (a.reach().sequence, b.reach().sequence);
    if a.history.is_empty() && b.history.is_empty() {
        return a_last.min(b_last);
    }
    let common = last_common(&a.history, a_last, &b.history, b_last);
    common.map_or(Sequence::ZERO, |stamp| stamp.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::{Epoch, ResyncNumber};

    fn copy(replica: u128, history: &[(u64, u64)], last: (u64, u64)) -> Held {
        let start = |(epoch, base): &(u64, u64)| EpochStart {
            epoch: Epoch(*epoch),
            base: Sequence(*base),
        };
        Held {
            replica: ReplicaId::from_u128(replica),
            incarnation: Incarnation(1),
            last: Stamp::new(Epoch(last.0), Sequence(last.1)),
            history: history.iter().map(start).collect(),
            gap: Gap::None,
            cut: None,
            failed: false,
        }
    }

    fn order(ranked: &[Ranked]) -> Vec<(u128, bool, u64, u64)> {
        let shown = |one: &Ranked| {
            let id = one.held.replica.as_u128();
            (id, one.newest, one.behind, one.ahead)
        };
        ranked.iter().map(shown).collect()
    }

    #[test]
    fn the_highest_stamp_is_the_newest_and_the_rest_is_behind_by_so_many_sequences() {
        let ranked = rank(vec![
            copy(1, &[(1, 0), (2, 50)], (2, 90)),
            copy(2, &[(1, 0), (2, 50), (3, 95)], (3, 120)),
            copy(3, &[(1, 0)], (1, 60)),
        ]);
        // 3 had gone on to 60 in epoch 1 when the others had ended it at 50.
        assert_eq!(
            order(&ranked),
            [(2, true, 0, 0), (1, false, 30, 0), (3, false, 70, 10)]
        );
    }

    #[test]
    fn a_later_epoch_is_newer_than_a_longer_one() {
        let ranked = rank(vec![
            copy(1, &[(1, 0)], (1, 500)),
            copy(2, &[(1, 0), (2, 100)], (2, 110)),
        ]);
        assert_eq!(order(&ranked), [(2, true, 0, 0), (1, false, 10, 400)]);
    }

    #[test]
    fn one_that_is_no_image_of_any_moment_comes_after_those_that_are() {
        let mut mixed = copy(1, &[(1, 0), (2, 50)], (2, 300));
        mixed.cut = Some(Cut {
            stamp: Stamp::new(Epoch(1), Sequence(50)),
            resync: ResyncNumber(1),
            shadow_from: Sequence(200),
        });
        let mut damaged = copy(2, &[(1, 0), (2, 50)], (2, 290));
        damaged.gap = Gap::Corrupt;
        let mut dead = copy(3, &[(1, 0), (2, 50)], (2, 300));
        dead.failed = true;
        let whole = copy(4, &[(1, 0)], (1, 40));
        let ranked = rank(vec![mixed, damaged.clone(), dead, whole]);
        let ids: Vec<u128> = ranked
            .iter()
            .map(|one| one.held.replica.as_u128())
            .collect();
        assert_eq!(ids[0], 4);
        assert!(
            ranked
                .iter()
                .all(|one| one.newest == (one.held.replica.as_u128() == 4))
        );
        // Without a whole one nothing is the newest: a person has to name one.
        assert!(rank(vec![damaged]).iter().all(|one| !one.newest));
    }

    #[test]
    fn equal_copies_are_both_the_newest() {
        let history = [(1, 0)];
        let ranked = rank(vec![copy(1, &history, (1, 9)), copy(2, &history, (1, 9))]);
        assert!(ranked.iter().all(|one| one.newest && one.behind == 0));
    }

    #[test]
    fn only_what_holds_nothing_more_may_rejoin() {
        let chosen = copy(1, &[(1, 0), (2, 50)], (2, 90));
        let all = [
            chosen.clone(),
            copy(2, &[(1, 0)], (1, 50)),
            copy(3, &[(1, 0)], (1, 51)),
            copy(4, &[(1, 0), (2, 50)], (2, 91)),
            copy(5, &[], (0, 0)),
        ];
        let ids: Vec<u128> = may_rejoin(&chosen, &all)
            .into_iter()
            .map(ReplicaId::as_u128)
            .collect();
        assert_eq!(ids, [2, 5]);
    }
}
