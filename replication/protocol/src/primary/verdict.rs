//! Who is right when copies of an extent differ, each valid by its own checksums (R17).

use crate::mutate::{Broken, Mutation};
use lockstep_types::{ReplicaId, Sequence};
use lockstep_wire::ExtentContent;
use std::collections::BTreeMap;

/// An extent as one member has it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Held {
    pub(super) content: ExtentContent,
    /// What last touched it there. Within the certified set sequences alone order stamps: restamping
    /// changes the epoch only (R11).
    pub(super) newest: Sequence,
}

/// What a confirmed difference means.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    /// Who has the newest content; none when nobody can be said to.
    pub(super) winner: Option<ReplicaId>,
    /// Whose content is an older one: their devices lost a write.
    pub(super) losers: Vec<ReplicaId>,
    /// Of whom the stamps do not say who is right.
    pub(super) undecided: Option<(ReplicaId, ReplicaId)>,
}

/// R17: the newer stamp wins; of equal ones none does.
///
/// A copy is laid down under the sequence at which it was read (R16): one made from a copy that had lost a
/// write looks newest of all. So a content is no newer than the lowest stamp that anybody has it under, and
/// nobody loses to it who has a higher one. Who knows nothing of an extent has no stamp there: a discard
/// that freed it is known only until the next start (S10), and what it lacks may be newer than what the
/// others have.
pub(super) fn judge(found: &BTreeMap<ReplicaId, Held>, broken: Broken) -> Verdict {
    let mut verdict = Verdict::default();
    let stamps = || found.values().map(|held| held.newest);
    let best = match broken.is(Mutation::R17OlderWins) {
        true => stamps().min(),
        false => stamps().max(),
    };
    let winner = found.iter().find(|(_, held)| Some(held.newest) == best);
    let Some((winner, won)) = winner else {
        return verdict;
    };
    let known = |held: &&Held| held.newest > Sequence::ZERO;
    let same = found.values().filter(|held| held.content == won.content);
    let age = same.filter(known).map(|held| held.newest).min();
    let age = age.unwrap_or(won.newest);
    let others = || found.iter().filter(|(_, held)| held.content != won.content);
    let contested = others().find(|(_, held)| held.newest >= age);
    if let Some((other, _)) = contested
        && !broken.is(Mutation::R17EqualRepaired)
        && !broken.is(Mutation::R17OlderWins)
    {
        verdict.undecided = Some((*winner, *other));
        return verdict;
    }
    verdict.winner = Some(*winner);
    for (id, held) in others() {
        match known(&held) {
            true => verdict.losers.push(*id),
            false => verdict.undecided = Some((*winner, *id)),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId::from_u128(1);
    const B: ReplicaId = ReplicaId::from_u128(2);
    const C: ReplicaId = ReplicaId::from_u128(3);

    /// Members with a content, told apart by a number, and their newest sequence.
    fn verdict(held: &[(ReplicaId, u32, u64)]) -> Verdict {
        let held = held.iter().map(|(id, content, newest)| {
            let content = ExtentContent {
                present: 1,
                checksums: vec![*content],
            };
            let newest = Sequence(*newest);
            (*id, Held { content, newest })
        });
        judge(&held.collect(), Broken::default())
    }

    #[test]
    fn the_newer_stamp_wins() {
        let found = verdict(&[(A, 7, 10), (B, 7, 12), (C, 8, 9)]);
        assert_eq!((found.winner, found.losers), (Some(B), vec![C]));
        assert_eq!(found.undecided, None, "a has the same content");
        let found = verdict(&[(A, 7, 10), (B, 8, 12), (C, 9, 9)]);
        assert_eq!((found.winner, found.losers), (Some(B), vec![A, C]));
    }

    #[test]
    fn a_copy_of_one_that_lost_a_write_does_not_win() {
        let found = verdict(&[(A, 8, 9), (B, 7, 10), (C, 8, 100)]);
        assert_eq!((found.winner, found.losers), (None, vec![]));
        assert_eq!(found.undecided, Some((C, B)), "c was resynced from a");
    }

    #[test]
    fn of_equal_stamps_none_wins() {
        let found = verdict(&[(A, 7, 10), (B, 8, 10), (C, 8, 9)]);
        assert_eq!((found.winner, found.losers), (None, vec![]));
        assert_eq!(found.undecided, Some((A, B)));
    }

    #[test]
    fn who_knows_no_stamp_is_not_judged() {
        let found = verdict(&[(A, 7, 10), (B, 8, 0), (C, 8, 9)]);
        assert_eq!((found.winner, found.losers), (Some(A), vec![C]));
        assert_eq!(found.undecided, Some((A, B)));
    }
}
