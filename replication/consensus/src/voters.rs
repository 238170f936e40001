//! Who votes: one each in A, B and W where a data site has one node, otherwise two in A, two in B and
//! one in W. A pure decision over what is known of the nodes; the control plane carries it out.
//!
//! The voters after a change are always three or five. What a change must never do is said by the
//! shape it aims for:
//!
//! | nodes to be had in A, B | data voters in A, B |
//! |---|---|
//! | two or more, two or more | 2, 2 |
//! | one or more, one or more | 1, 1 |
//! | two or more, none, out of five or of one | 2, 0 |
//! | otherwise | as they are |

use std::collections::BTreeSet;

use lockstep_types::{Nanos, NodeId, seconds};

/// A voter that has not been seen for this long is gone, in nanoseconds.
pub const GONE_AFTER: Nanos = seconds(60);
/// A node must have been there without a break for this long before it is made a voter, in nanoseconds.
pub const STEADY_AFTER: Nanos = seconds(10);

/// Where a voter sits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Seat {
    /// The first data site.
    A,
    /// The second data site.
    B,
    /// The witness: a log and no data.
    W,
}

/// A voter of the present configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Voter {
    /// Its raft id, bound to its log's incarnation (R20).
    pub raft_id: u64,
    /// Its node.
    pub node: NodeId,
    /// Where it sits.
    pub seat: Seat,
    /// When it was last heard of. Silence counts only while the observer itself ran (R22).
    pub last_seen: Nanos,
}

/// A node that could vote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Candidate {
    /// The node. One that is a voter's already is left out of account.
    pub node: NodeId,
    /// Where it sits.
    pub seat: Seat,
    /// When it was last heard of.
    pub last_seen: Nanos,
    /// Since when it has been there without a break.
    pub steady_since: Nanos,
}

/// One joint change. Each node of `add` gets a new raft id (R20), learns until it has caught up, and
/// then becomes a voter in the same step in which those of `remove` leave.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Change {
    /// Raft ids that leave, never to be used again.
    pub remove: BTreeSet<u64>,
    /// Nodes that get a voter.
    pub add: BTreeSet<NodeId>,
}

/// What should change now, if anything. `leader` is kept when there is a choice.
pub fn plan(
    now: Nanos,
    voters: &[Voter],
    candidates: &[Candidate],
    leader: Option<u64>,
) -> Option<Change> {
    let census = Census::new(now, voters, candidates, leader);
    let (a, b) = census.shape(voters);
    let keep_all = |seat| {
        voters
            .iter()
            .filter(|voter| voter.seat == seat)
            .map(|voter| Choice::Keep(*voter))
            .collect()
    };
    let pick = |seat, count: Option<usize>| match count {
        Some(count) => census.pick(seat, count),
        None => keep_all(seat),
    };
    let mut chosen = pick(Seat::A, a);
    chosen.extend(pick(Seat::B, b));
    // W never leaves by itself: it may be replaced, and is kept, gone or not, if it cannot be.
    let witness = census.pick(Seat::W, 1);
    chosen.extend(if witness.is_empty() {
        keep_all(Seat::W)
    } else {
        witness
    });

    let change = change(voters, &chosen);
    let sound = matches!(chosen.len(), 3 | 5) && has_witness(&chosen);
    (sound && change != Change::default()).then_some(change)
}

/// Whether a data site has a voter: without one no replica there is certified.
pub fn site_has_voter(voters: &[Voter], seat: Seat) -> bool {
    voters.iter().any(|voter| voter.seat == seat)
}

#[derive(Clone, Copy)]
enum Choice {
    Keep(Voter),
    Add(NodeId, Seat),
}

/// Who is there, in the order in which they are preferred.
struct Census<'a> {
    present: Vec<&'a Voter>,
    candidates: Vec<&'a Candidate>,
}

impl<'a> Census<'a> {
    fn new(
        now: Nanos,
        voters: &'a [Voter],
        candidates: &'a [Candidate],
        leader: Option<u64>,
    ) -> Self {
        let there = |last_seen: Nanos| now.saturating_sub(last_seen) < GONE_AFTER;
        let mut present: Vec<&Voter> = voters
            .iter()
            .filter(|voter| there(voter.last_seen))
            .collect();
        present.sort_by_key(|voter| (Some(voter.raft_id) != leader, voter.raft_id));
        let usable = |candidate: &&Candidate| {
            // A node whose voter is gone is gone itself, or has lost its log: its voter is replaced,
            // by a new one on the same node if that is all there is.
            let votes = present.iter().any(|voter| voter.node == candidate.node);
            let steady = now.saturating_sub(candidate.steady_since) >= STEADY_AFTER;
            !votes && steady && now.saturating_sub(candidate.last_seen) < STEADY_AFTER
        };
        let mut candidates: Vec<&Candidate> = candidates.iter().filter(usable).collect();
        candidates.sort_by_key(|candidate| candidate.node);
        Self {
            present,
            candidates,
        }
    }

    /// How many data voters each site should have; `None` leaves a site as it is.
    fn shape(&self, voters: &[Voter]) -> (Option<usize>, Option<usize>) {
        match (self.available(Seat::A), self.available(Seat::B)) {
            (2.., 2..) => (Some(2), Some(2)),
            (1.., 1..) => (Some(1), Some(1)),
            // All voters of a data site leave together. Three never shrinks: only five does. A sole
            // voter, after a forced rebuild, grows with the site that is left.
            (2.., 0) if matches!(voters.len(), 1 | 5) => (Some(2), Some(0)),
            (0, 2..) if matches!(voters.len(), 1 | 5) => (Some(0), Some(2)),
            (a, b) => (refill(voters, Seat::A, a), refill(voters, Seat::B, b)),
        }
    }

    fn available(&self, seat: Seat) -> usize {
        self.present
            .iter()
            .filter(|voter| voter.seat == seat)
            .count()
            + self
                .candidates
                .iter()
                .filter(|candidate| candidate.seat == seat)
                .count()
    }

    /// `count` of a seat: present voters first, then candidates.
    fn pick(&self, seat: Seat, count: usize) -> Vec<Choice> {
        let present = self
            .present
            .iter()
            .filter(|voter| voter.seat == seat)
            .map(|voter| Choice::Keep(**voter));
        let candidates = self
            .candidates
            .iter()
            .filter(|candidate| candidate.seat == seat);
        present
            .chain(candidates.map(|candidate| Choice::Add(candidate.node, seat)))
            .take(count)
            .collect()
    }
}

/// A site keeps its number of voters, the gone ones replaced, or it stays as it is.
fn refill(voters: &[Voter], seat: Seat, available: usize) -> Option<usize> {
    let present = voters.iter().filter(|voter| voter.seat == seat).count();
    (available >= present).then_some(present)
}

fn has_witness(chosen: &[Choice]) -> bool {
    chosen.iter().any(|choice| match choice {
        Choice::Keep(voter) => voter.seat == Seat::W,
        Choice::Add(_, seat) => *seat == Seat::W,
    })
}

fn change(voters: &[Voter], chosen: &[Choice]) -> Change {
    let mut change = Change {
        remove: voters.iter().map(|voter| voter.raft_id).collect(),
        add: BTreeSet::new(),
    };
    for choice in chosen {
        match choice {
            Choice::Keep(voter) => {
                change.remove.remove(&voter.raft_id);
            }
            Choice::Add(node, _) => {
                change.add.insert(*node);
            }
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = seconds(1000);
    const A: Seat = Seat::A;
    const B: Seat = Seat::B;
    const W: Seat = Seat::W;

    /// Raft id and node share a number; `ago` is how many seconds since it was seen.
    fn voter(id: u64, seat: Seat, ago: u64) -> Voter {
        Voter {
            raft_id: id,
            node: NodeId::from_u128(id.into()),
            seat,
            last_seen: NOW - seconds(ago),
        }
    }

    fn candidate(id: u128, seat: Seat) -> Candidate {
        Candidate {
            node: NodeId::from_u128(id),
            seat,
            last_seen: NOW,
            steady_since: NOW - seconds(30),
        }
    }

    fn plan_now(voters: &[Voter], candidates: &[Candidate]) -> Option<(Vec<u64>, Vec<u128>)> {
        let change = plan(NOW, voters, candidates, Some(1))?;
        Some((
            change.remove.into_iter().collect(),
            change.add.into_iter().map(NodeId::as_u128).collect(),
        ))
    }

    fn five(gone: &[u64]) -> Vec<Voter> {
        [(1, A), (2, A), (3, B), (4, B), (5, W)]
            .map(|(id, seat)| voter(id, seat, if gone.contains(&id) { 60 } else { 1 }))
            .to_vec()
    }

    fn three(gone: &[u64]) -> Vec<Voter> {
        [(1, A), (3, B), (5, W)]
            .map(|(id, seat)| voter(id, seat, if gone.contains(&id) { 60 } else { 1 }))
            .to_vec()
    }

    #[test]
    fn nothing_changes_while_all_are_there() {
        assert_eq!(
            plan_now(&five(&[]), &[candidate(6, A), candidate(7, B)]),
            None
        );
        assert_eq!(plan_now(&three(&[]), &[]), None);
    }

    #[test]
    fn a_voter_gone_60_s_is_replaced_by_another_node_of_its_site() {
        assert_eq!(
            plan_now(&five(&[4]), &[candidate(6, A), candidate(7, B)]),
            Some((vec![4], vec![7]))
        );
        assert_eq!(
            plan_now(&three(&[3]), &[candidate(7, B)]),
            Some((vec![3], vec![7]))
        );
        let almost = [voter(1, A, 1), voter(3, B, 59), voter(5, W, 1)];
        assert_eq!(
            plan_now(&almost, &[candidate(7, B)]),
            None,
            "not before 60 s"
        );
    }

    #[test]
    fn a_voter_without_its_log_is_replaced_by_a_new_one_on_the_same_node() {
        assert_eq!(
            plan_now(&five(&[4]), &[candidate(4, B)]),
            Some((vec![4], vec![4]))
        );
    }

    #[test]
    fn two_gone_voters_are_replaced_in_one_change() {
        let candidates = [candidate(6, A), candidate(7, B)];
        assert_eq!(
            plan_now(&five(&[2, 4]), &candidates),
            Some((vec![2, 4], vec![6, 7]))
        );
    }

    #[test]
    fn one_of_two_gone_without_a_substitute_takes_one_of_the_other_site_along() {
        assert_eq!(
            plan_now(&five(&[4]), &[candidate(6, A)]),
            Some((vec![2, 4], vec![]))
        );
        assert_eq!(plan_now(&five(&[1]), &[]), Some((vec![1, 4], vec![])));
        assert_eq!(
            plan_now(&five(&[1, 4]), &[]),
            Some((vec![1, 4], vec![])),
            "a gone one first"
        );
    }

    #[test]
    fn the_leader_stays_when_there_is_a_choice() {
        let change = plan(NOW, &five(&[4]), &[], Some(2));
        assert_eq!(
            change.map(|change| change.remove),
            Some(BTreeSet::from([1, 4]))
        );
    }

    #[test]
    fn all_voters_of_a_data_site_leave_together() {
        assert_eq!(plan_now(&five(&[3, 4]), &[]), Some((vec![3, 4], vec![])));
        assert_eq!(plan_now(&five(&[1, 2]), &[]), Some((vec![1, 2], vec![])));
        let one_only_just = [
            voter(1, A, 1),
            voter(2, A, 1),
            voter(3, B, 60),
            voter(4, B, 20),
            voter(5, W, 1),
        ];
        assert_eq!(
            plan_now(&one_only_just, &[]),
            Some((vec![2, 3], vec![])),
            "4 still counts as there"
        );
    }

    #[test]
    fn w_never_leaves_by_itself() {
        assert_eq!(plan_now(&five(&[5]), &[]), None);
        assert_eq!(plan_now(&three(&[5]), &[candidate(2, A)]), None);
        assert_eq!(
            plan_now(&five(&[4, 5]), &[]),
            Some((vec![2, 4], vec![])),
            "others may leave beside it"
        );
        assert_eq!(
            plan_now(&three(&[5]), &[candidate(9, W)]),
            Some((vec![5], vec![9])),
            "replaced it may be"
        );
    }

    #[test]
    fn three_never_shrinks() {
        for gone in [&[1][..], &[3], &[5], &[1, 3], &[1, 3, 5]] {
            assert_eq!(plan_now(&three(gone), &[]), None, "{gone:?} gone");
        }
        let one_site = [voter(1, A, 1), voter(2, A, 60), voter(5, W, 1)];
        assert_eq!(plan_now(&one_site, &[]), None);
        assert_eq!(
            plan_now(&one_site, &[candidate(6, A)]),
            Some((vec![2], vec![6])),
            "but it replaces"
        );
    }

    #[test]
    fn it_grows_back_when_nodes_return() {
        let one_site = [voter(1, A, 1), voter(2, A, 1), voter(5, W, 1)];
        assert_eq!(
            plan_now(&one_site, &[candidate(6, B)]),
            Some((vec![2], vec![6])),
            "a voter in B again"
        );
        assert_eq!(
            plan_now(&one_site, &[candidate(6, B), candidate(7, B)]),
            Some((vec![], vec![6, 7]))
        );
        let both = [candidate(6, A), candidate(7, B)];
        assert_eq!(plan_now(&three(&[]), &both), Some((vec![], vec![6, 7])));
        assert_eq!(plan_now(&three(&[]), &both[..1]), None, "never four");
    }

    #[test]
    fn the_first_voter_waits_for_both_other_sites() {
        let first = [voter(1, A, 1)];
        assert_eq!(plan_now(&first, &[candidate(3, B)]), None);
        assert_eq!(
            plan_now(&first, &[candidate(3, B), candidate(5, W)]),
            Some((vec![], vec![3, 5]))
        );
    }

    #[test]
    fn a_sole_voter_grows_with_the_site_that_is_left() {
        let alone = [voter(3, B, 1)];
        assert_eq!(plan_now(&alone, &[candidate(4, B)]), None, "never two");
        assert_eq!(
            plan_now(&alone, &[candidate(4, B), candidate(5, W)]),
            Some((vec![], vec![4, 5]))
        );
        let both = [voter(3, B, 1), voter(4, B, 1), voter(5, W, 1)];
        assert_eq!(
            plan_now(&both, &[candidate(6, A)]),
            Some((vec![4], vec![6])),
            "and gives one up for the other site's first"
        );
    }

    #[test]
    fn a_node_that_flaps_is_no_candidate() {
        let fresh = Candidate {
            steady_since: NOW - seconds(9),
            ..candidate(7, B)
        };
        let silent = Candidate {
            last_seen: NOW - seconds(10),
            ..candidate(7, B)
        };
        assert_eq!(plan_now(&three(&[3]), &[fresh, silent]), None);
    }

    #[test]
    fn a_site_without_a_voter_is_told_apart() {
        assert!(site_has_voter(&three(&[]), B));
        assert!(!site_has_voter(
            &[voter(1, A, 1), voter(2, A, 1), voter(5, W, 1)],
            B
        ));
    }

    /// Every combination of gone voters and candidates, from every shape a plan can reach.
    #[test]
    fn whatever_happens_there_are_three_or_five_with_one_witness() {
        let shapes: [&[(u64, Seat)]; 7] = [
            &[(1, A)],
            &[(3, B)],
            &[(5, W)],
            &[(1, A), (3, B), (5, W)],
            &[(1, A), (2, A), (5, W)],
            &[(3, B), (4, B), (5, W)],
            &[(1, A), (2, A), (3, B), (4, B), (5, W)],
        ];
        let pool = [
            candidate(6, A),
            candidate(7, A),
            candidate(8, B),
            candidate(9, B),
            candidate(10, W),
        ];
        for shape in shapes {
            for gone in 0..1u32 << shape.len() {
                for there in 0..1u32 << pool.len() {
                    let ago = |at: usize| if gone >> at & 1 == 1 { 60 } else { 1 };
                    let voters: Vec<Voter> = shape
                        .iter()
                        .enumerate()
                        .map(|(at, (id, seat))| voter(*id, *seat, ago(at)))
                        .collect();
                    let candidates: Vec<Candidate> = (0..pool.len())
                        .filter(|at| there >> at & 1 == 1)
                        .map(|at| pool[at])
                        .collect();
                    check(&voters, &candidates);
                }
            }
        }
    }

    fn check(voters: &[Voter], candidates: &[Candidate]) {
        let Some(change) = plan(NOW, voters, candidates, None) else {
            return;
        };
        let mut after: Vec<Voter> = voters
            .iter()
            .filter(|v| !change.remove.contains(&v.raft_id))
            .copied()
            .collect();
        for (at, node) in change.add.iter().enumerate() {
            let candidate = candidates
                .iter()
                .find(|candidate| candidate.node == *node)
                .expect("a candidate");
            after.push(Voter {
                raft_id: 100 + at as u64,
                node: *node,
                seat: candidate.seat,
                last_seen: NOW,
            });
        }
        let count = |seat| after.iter().filter(|voter| voter.seat == seat).count();
        let shape = (count(A), count(B), count(W));
        assert!(
            matches!(shape, (1, 1, 1) | (2, 2, 1) | (2, 0, 1) | (0, 2, 1)),
            "{voters:?} {candidates:?} gave {shape:?}"
        );
        assert!(after.len() >= 3.min(voters.len()));
        assert!(voters.len() != 3 || after.len() >= 3, "three never shrinks");
        let settled = plan(NOW, &after, candidates, None);
        assert_eq!(
            settled, None,
            "a plan that is carried out leaves nothing to plan: {voters:?} {candidates:?}"
        );
    }
}
