//! What a leader does about the electorate: nodes that answer learn, a new log's id is bound to its node
//! and the old one let go (R20), and voters change as [`plan`] says. Pure: whoever leads hands in what it
//! knows and the time, and carries out the one step that comes of it.
//!
//! A forced rebuild begins a new generation of the log; which logs of others are of this one, and which
//! are left behind, is decided here too.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_types::{Nanos, NodeId};
use raft_proto::eraftpb::ConfState;

use crate::io::{Progress, Reconfiguration};
use crate::voters::{Candidate, GONE_AFTER, Seat, Voter, plan};

/// A learner may lag by so many entries when it is made a voter.
pub const CAUGHT_UP: u64 = 64;

/// A generation of the control plane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation {
    /// Rises with each forced rebuild.
    pub number: u32,
    /// When it was made by force; tells two rebuilds of one number apart.
    pub rebuilt: u64,
}

/// What was heard of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Heard {
    /// The log it follows; 0 if none.
    pub raft_id: u64,
    /// When it was heard last.
    pub last: Nanos,
    /// Since when without a break.
    pub since: Nanos,
    /// The generation of its state; none before it has one.
    pub generation: Option<Generation>,
}

/// A node of the control state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seated {
    /// Where it would vote; none in a third site.
    pub seat: Option<Seat>,
    /// Its voter is replaced as if it were gone, so that the node can be removed.
    pub cordoned: bool,
}

/// All that the leader knows. Times are the leader's, of one clock; [`GONE_AFTER`] must fit below them.
#[derive(Clone, Debug)]
pub struct Electorate<'a> {
    /// Now.
    pub now: Nanos,
    /// Since when this node leads, and has itself run without a break: silence counts from here (R22).
    pub leading_since: Nanos,
    /// The leader: its node and its raft id.
    pub leader: (NodeId, u64),
    /// The generation of its state.
    pub generation: Generation,
    /// The nodes of the control state.
    pub nodes: BTreeMap<NodeId, Seated>,
    /// Raft ids and their nodes, as the control state has them.
    pub bound: &'a BTreeMap<u64, NodeId>,
    /// Ids never to be used again.
    pub barred: &'a BTreeSet<u64>,
    /// What was heard of each node, the leader's own among them.
    pub heard: BTreeMap<NodeId, Heard>,
    /// The configuration in force.
    pub conf: &'a ConfState,
    /// How far each replica is.
    pub progress: &'a [Progress],
    /// Highest index in the leader's log.
    pub last: u64,
}

/// The one thing to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Commit that this id is this node's.
    Bind {
        /// The id.
        raft_id: u64,
        /// The node.
        node: NodeId,
    },
    /// Commit that this id is over.
    Release {
        /// The id.
        raft_id: u64,
    },
    /// Change the configuration.
    Reconfigure(Reconfiguration),
}

impl Electorate<'_> {
    /// What to do now, if anything: ids first, for nobody learns under an id that is not bound; then who
    /// learns, and then who votes.
    pub fn decide(&self) -> Option<Step> {
        let change = || self.learners().or_else(|| self.voters());
        self.binding().or_else(|| change().map(Step::Reconfigure))
    }

    /// A binding of a raft id to its node that is missing, or one that is over.
    fn binding(&self) -> Option<Step> {
        let current = self
            .heard
            .iter()
            .filter(|(_, heard)| self.follows_this(heard))
            .map(|(node, heard)| (*node, heard.raft_id))
            .chain([self.leader]);
        for (node, raft_id) in current {
            let known = self.nodes.contains_key(&node) && raft_id != 0;
            let free = !self.bound.contains_key(&raft_id) && !self.barred.contains(&raft_id);
            if known && free {
                return Some(Step::Bind { raft_id, node });
            }
        }
        // An id that is bound and in no configuration, while its node follows another log, is over.
        let members = members(self.conf);
        let over = self.bound.iter().find(|(raft_id, node)| {
            self.is_replaced(**raft_id, **node) && !members.contains(raft_id)
        });
        over.map(|(raft_id, _)| Step::Release { raft_id: *raft_id })
    }

    /// The log of another generation is never let in: an older one is barred, and a newer one bars ours.
    /// Two rebuilds of one generation differ, too, and one must be rebuilt again.
    fn follows_this(&self, heard: &Heard) -> bool {
        heard.generation.is_none_or(|of| of == self.generation)
    }

    /// The node follows another log than this id's.
    fn is_replaced(&self, raft_id: u64, node: NodeId) -> bool {
        let heard = self.heard.get(&node);
        heard.is_some_and(|heard| heard.raft_id != raft_id)
    }

    /// Nodes that are to learn, and learners that are to go: replaced logs, removed nodes.
    fn learners(&self) -> Option<Reconfiguration> {
        let present = members(self.conf);
        let mut change = Reconfiguration::default();
        for (node, heard) in &self.heard {
            let bound = self.bound.get(&heard.raft_id) == Some(node);
            if bound && !present.contains(&heard.raft_id) {
                change.learners.insert(heard.raft_id);
            }
        }
        for learner in &self.conf.learners {
            let stays = self.bound.get(learner).is_some_and(|node| {
                self.nodes.contains_key(node) && !self.is_replaced(*learner, *node)
            });
            if !stays {
                change.remove.insert(*learner);
            }
        }
        (change != Reconfiguration::default()).then_some(change)
    }

    /// The joint change that the rules of the voters ask for, if the new ones have caught up.
    fn voters(&self) -> Option<Reconfiguration> {
        if !self.conf.voters_outgoing.is_empty() {
            return None;
        }
        let voters = self.conf.voters.iter().map(|raft_id| self.voter(*raft_id));
        // One whose node is not known yet cannot be judged.
        let voters: Vec<Voter> = voters.collect::<Option<_>>()?;
        let candidates = self.nodes.iter();
        let candidates: Vec<Candidate> = candidates
            .filter_map(|(node, seated)| self.candidate(*node, seated))
            .collect();
        let planned = plan(self.now, &voters, &candidates, Some(self.leader.1))?;
        let mut change = Reconfiguration::default();
        for node in &planned.add {
            let raft_id = self.heard.get(node)?.raft_id;
            if !self.has_caught_up(raft_id) {
                return None;
            }
            change.voters.insert(raft_id);
        }
        // Their logs are intact as far as anybody knows: they go on learning.
        change.learners.extend(&planned.remove);
        Some(change)
    }

    fn voter(&self, raft_id: u64) -> Option<Voter> {
        let node = *self.bound.get(&raft_id)?;
        let seated = self.nodes.get(&node)?;
        let gone = self.now.saturating_sub(GONE_AFTER);
        let last_seen = match self.heard.get(&node) {
            _ if seated.cordoned => gone,
            _ if raft_id == self.leader.1 => self.now,
            Some(heard) if heard.raft_id == raft_id => heard.last.max(self.leading_since),
            // Its node follows another log: this voter is gone for good.
            Some(_) => gone,
            None => self.leading_since,
        };
        Some(Voter {
            raft_id,
            node,
            seat: seated.seat?,
            last_seen,
        })
    }

    fn candidate(&self, node: NodeId, seated: &Seated) -> Option<Candidate> {
        let heard = self.heard.get(&node)?;
        (!seated.cordoned && self.bound.get(&heard.raft_id) == Some(&node)).then_some(Candidate {
            node,
            seat: seated.seat?,
            last_seen: heard.last,
            steady_since: heard.since,
        })
    }

    /// One that has nothing yet has not, however short the log.
    fn has_caught_up(&self, raft_id: u64) -> bool {
        let near = |matched: u64| matched > 0 && matched + CAUGHT_UP >= self.last;
        let mut all = self.progress.iter();
        all.any(|p| p.raft_id == raft_id && p.active && near(p.matched))
    }
}

fn members(conf: &ConfState) -> BTreeSet<u64> {
    [
        &conf.voters,
        &conf.voters_outgoing,
        &conf.learners,
        &conf.learners_next,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

/// Logs of nodes that answer which were left behind by a forced rebuild. One that was bound to its node
/// in this generation only lags.
pub fn left_behind(
    ours: u32,
    bound: &BTreeMap<u64, NodeId>,
    heard: impl IntoIterator<Item = (NodeId, u64, Option<u32>)>,
) -> Vec<u64> {
    let behind = heard.into_iter().filter(|(node, raft_id, generation)| {
        generation.is_some_and(|of| of < ours) && bound.get(raft_id) != Some(node)
    });
    behind.map(|(_, raft_id, _)| raft_id).collect()
}

/// What another node's word about generations means for this node's log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Nothing.
    Good,
    /// Both were rebuilt, each for itself: people decide which of the two stays.
    RebuiltTwice,
    /// A later generation has barred it: it is set aside.
    Barred,
}

/// Judges this node's log by what another says: its generation and the logs that it has barred.
pub fn standing(
    raft_id: u64,
    ours: Option<Generation>,
    theirs: Option<Generation>,
    barred: &[u64],
) -> Standing {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs.number > ours.number && barred.contains(&raft_id) => {
            Standing::Barred
        }
        (Some(ours), Some(theirs))
            if theirs.number == ours.number && theirs.rebuilt != ours.rebuilt =>
        {
            Standing::RebuiltTwice
        }
        _ => Standing::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::voters::STEADY_AFTER;
    use lockstep_types::seconds;

    const NOW: Nanos = seconds(1000);
    const HERE: Generation = Generation {
        number: 1,
        rebuilt: 0,
    };

    fn node(number: u64) -> NodeId {
        NodeId::from_u128(number.into())
    }

    /// What the tests change. Node n follows log n; 1 and 2 are in A, 3 and 4 in B, 5 is the witness.
    struct Known {
        nodes: BTreeMap<NodeId, Seated>,
        bound: BTreeMap<u64, NodeId>,
        barred: BTreeSet<u64>,
        heard: BTreeMap<NodeId, Heard>,
        conf: ConfState,
        progress: Vec<Progress>,
        last: u64,
    }

    fn heard(raft_id: u64) -> Heard {
        Heard {
            raft_id,
            last: NOW,
            since: NOW - 2 * STEADY_AFTER,
            generation: Some(HERE),
        }
    }

    fn known() -> Known {
        let seat = |n: u64| match n {
            1 | 2 => Seat::A,
            3 | 4 => Seat::B,
            _ => Seat::W,
        };
        let seated = |n| Seated {
            seat: Some(seat(n)),
            cordoned: false,
        };
        Known {
            nodes: (1..=5).map(|n| (node(n), seated(n))).collect(),
            bound: (1..=5).map(|n| (n, node(n))).collect(),
            barred: BTreeSet::new(),
            heard: (1..=5).map(|n| (node(n), heard(n))).collect(),
            conf: ConfState {
                voters: vec![1, 2, 3, 4, 5],
                ..ConfState::default()
            },
            progress: (1..=10)
                .map(|raft_id| Progress {
                    raft_id,
                    matched: 100,
                    active: true,
                })
                .collect(),
            last: 100,
        }
    }

    impl Known {
        fn next(&self) -> Option<Step> {
            self.next_of_a_leader_since(NOW - 2 * GONE_AFTER)
        }

        fn next_of_a_leader_since(&self, leading_since: Nanos) -> Option<Step> {
            Electorate {
                now: NOW,
                leading_since,
                leader: (node(1), 1),
                generation: HERE,
                nodes: self.nodes.clone(),
                bound: &self.bound,
                barred: &self.barred,
                heard: self.heard.clone(),
                conf: &self.conf,
                progress: &self.progress,
                last: self.last,
            }
            .decide()
        }

        /// Node 4 was replaced by node 6, which learns.
        fn silence_4_with_6_at_hand(&mut self) {
            self.heard.get_mut(&node(4)).expect("heard").last = NOW - GONE_AFTER;
            self.nodes.insert(node(6), self.nodes[&node(4)]);
            self.bound.insert(6, node(6));
            self.heard.insert(node(6), heard(6));
            self.conf.learners = vec![6];
        }
    }

    fn reconfigure(voters: &[u64], learners: &[u64], remove: &[u64]) -> Option<Step> {
        Some(Step::Reconfigure(Reconfiguration {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            remove: remove.iter().copied().collect(),
        }))
    }

    #[test]
    fn nothing_is_done_while_all_are_there() {
        assert_eq!(known().next(), None);
    }

    #[test]
    fn a_new_log_is_bound_then_learns_then_votes_and_the_old_id_is_let_go() {
        let mut it = known();
        it.heard.insert(node(4), heard(9));
        let bind = Step::Bind {
            raft_id: 9,
            node: node(4),
        };
        assert_eq!(it.next(), Some(bind));
        it.bound.insert(9, node(4));
        assert_eq!(it.next(), reconfigure(&[], &[9], &[]));
        it.conf.learners = vec![9];
        // R20: the old id is gone for good, however short the time.
        assert_eq!(it.next(), reconfigure(&[9], &[4], &[]));
        it.conf.voters = vec![1, 2, 3, 5, 9];
        it.conf.learners = vec![4];
        assert_eq!(it.next(), reconfigure(&[], &[], &[4]));
        it.conf.learners = vec![];
        assert_eq!(it.next(), Some(Step::Release { raft_id: 4 }));
        it.bound.remove(&4);
        it.barred.insert(4);
        assert_eq!(it.next(), None);
    }

    #[test]
    fn a_silent_voter_is_replaced_by_a_learner_that_has_caught_up() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        assert_eq!(it.next(), reconfigure(&[6], &[4], &[]));
        let lagging = it.progress.iter_mut().find(|p| p.raft_id == 6);
        lagging.expect("it learns").matched = 100 - CAUGHT_UP - 1;
        assert_eq!(it.next(), None);
    }

    #[test]
    fn a_learner_with_nothing_does_not_vote_however_short_the_log() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        let empty = it.progress.iter_mut().find(|p| p.raft_id == 6);
        empty.expect("it learns").matched = 0;
        it.last = CAUGHT_UP;
        assert_eq!(it.next(), None);
    }

    #[test]
    fn silence_counts_only_since_this_node_leads() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        assert_eq!(it.next_of_a_leader_since(NOW - GONE_AFTER + 1), None);
        it.heard.remove(&node(4));
        assert_eq!(it.next_of_a_leader_since(NOW - GONE_AFTER + 1), None);
        let replaced = reconfigure(&[6], &[4], &[]);
        assert_eq!(it.next_of_a_leader_since(NOW - GONE_AFTER), replaced);
    }

    #[test]
    fn a_cordoned_nodes_voter_is_replaced_and_does_not_come_back() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        it.heard.insert(node(4), heard(4));
        it.nodes.get_mut(&node(4)).expect("known").cordoned = true;
        assert_eq!(it.next(), reconfigure(&[6], &[4], &[]));
        it.conf.voters = vec![1, 2, 3, 5, 6];
        it.conf.learners = vec![4];
        assert_eq!(it.next(), None);
    }

    #[test]
    fn no_change_begins_inside_another_or_with_a_voter_nobody_knows() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        it.conf.voters_outgoing = vec![1, 2, 3];
        assert_eq!(it.next(), None);
        it.conf.voters_outgoing = vec![];
        it.bound.remove(&3);
        it.barred.insert(3);
        assert_eq!(it.next(), None);
    }

    #[test]
    fn a_removed_nodes_learner_goes() {
        let mut it = known();
        it.silence_4_with_6_at_hand();
        it.nodes.remove(&node(6));
        it.heard.remove(&node(6));
        assert_eq!(it.next(), reconfigure(&[], &[], &[6]));
    }

    #[test]
    fn the_log_of_another_generation_and_a_barred_one_are_never_bound() {
        let rebuilt_too = Generation { rebuilt: 7, ..HERE };
        let newer = Generation { number: 2, ..HERE };
        for generation in [rebuilt_too, newer, Generation::default()] {
            let mut it = known();
            let other = Heard {
                generation: Some(generation),
                ..heard(9)
            };
            it.heard.insert(node(4), other);
            let bound = it.next();
            assert!(!matches!(bound, Some(Step::Bind { .. })), "{bound:?}");
        }
        let mut it = known();
        it.heard.insert(node(4), heard(9));
        it.barred.insert(9);
        assert!(!matches!(it.next(), Some(Step::Bind { .. })));
        // One that has no state yet is new.
        it.barred.clear();
        it.heard.get_mut(&node(4)).expect("heard").generation = None;
        assert!(matches!(it.next(), Some(Step::Bind { raft_id: 9, .. })));
    }

    #[test]
    fn what_an_older_generation_follows_is_left_behind_unless_it_is_bound_here() {
        let bound = BTreeMap::from([(1, node(1)), (2, node(2))]);
        let heard = [
            (node(1), 1, Some(0)),
            (node(2), 22, Some(0)),
            (node(3), 2, Some(0)),
            (node(4), 4, Some(1)),
            (node(5), 5, None),
        ];
        assert_eq!(left_behind(1, &bound, heard), [22, 2]);
    }

    #[test]
    fn only_a_later_generation_bars_a_log() {
        let of = |number, rebuilt| Some(Generation { number, rebuilt });
        let cases = [
            (of(1, 0), of(2, 9), Standing::Barred),
            (of(2, 9), of(2, 9), Standing::Good),
            (of(2, 9), of(2, 8), Standing::RebuiltTwice),
            (of(2, 9), of(1, 0), Standing::Good),
            (None, of(2, 9), Standing::Good),
            (of(1, 0), None, Standing::Good),
        ];
        for (ours, theirs, expected) in cases {
            assert_eq!(
                standing(4, ours, theirs, &[4]),
                expected,
                "{ours:?} {theirs:?}"
            );
        }
        assert_eq!(standing(5, of(1, 0), of(2, 9), &[4]), Standing::Good);
    }
}
