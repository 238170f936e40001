//! Which way a message goes: straight, or through one voter that sees both ends.
//!
//! Every node tells its neighbours whom it has links to. A link counts only when it has proved both
//! directions; that is the network's business. One relay is enough: with two sites and a witness,
//! whoever cannot be reached through one other node cannot be reached.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_types::{Nanos, NodeId, millis, seconds};

/// How often a node tells its neighbours whom it sees, in nanoseconds.
pub const GOSSIP_EVERY: Nanos = millis(500);
/// After this long without word from it, a neighbour counts as seeing nobody, in nanoseconds.
pub const GOSSIP_FRESH: Nanos = seconds(2);

/// Which way to a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Route {
    /// There is a link.
    Direct,
    /// Through this neighbour, which has a link to it.
    Via(NodeId),
    /// There is none.
    None,
}

/// Who has links to whom, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reach {
    me: NodeId,
    links: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, Heard>,
}

/// What a neighbour last said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Heard {
    at: Nanos,
    links: BTreeSet<NodeId>,
}

impl Reach {
    /// A node that sees nobody yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            links: BTreeSet::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Notes that a link came up or went down; says whether that is news.
    pub fn set_link(&mut self, node: NodeId, up: bool) -> bool {
        if up {
            return node != self.me && self.links.insert(node);
        }
        self.heard.remove(&node);
        self.links.remove(&node)
    }

    /// Notes whom a neighbour says it sees.
    pub fn hear(&mut self, now: Nanos, neighbour: NodeId, links: BTreeSet<NodeId>) {
        if self.links.contains(&neighbour) {
            self.heard.insert(neighbour, Heard { at: now, links });
        }
    }

    /// Whom this node has links to.
    pub fn links(&self) -> &BTreeSet<NodeId> {
        &self.links
    }

    /// Which way to `to`. `may_relay` says whom to trust with it: the voters.
    pub fn route(&self, now: Nanos, to: NodeId, may_relay: impl Fn(NodeId) -> bool) -> Route {
        if self.links.contains(&to) {
            return Route::Direct;
        }
        let sees = |neighbour: &&NodeId| may_relay(**neighbour) && self.sees(now, **neighbour, to);
        self.links
            .iter()
            .find(sees)
            .map_or(Route::None, |neighbour| Route::Via(*neighbour))
    }

    /// Whether `from` reaches `to`, straight or through one of `relays`, as far as this node knows.
    pub fn reaches(&self, now: Nanos, from: NodeId, to: NodeId, relays: &BTreeSet<NodeId>) -> bool {
        from == to
            || self.sees(now, from, to)
            || relays
                .iter()
                .any(|relay| self.sees(now, from, *relay) && self.sees(now, *relay, to))
    }

    /// Whether `from` has a link to `to`: its own word if it is fresh, else nothing.
    fn sees(&self, now: Nanos, from: NodeId, to: NodeId) -> bool {
        if from == self.me {
            return self.links.contains(&to);
        }
        self.heard.get(&from).is_some_and(|heard| {
            now.saturating_sub(heard.at) <= GOSSIP_FRESH && heard.links.contains(&to)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId::from_u128(n)
    }

    fn set(nodes: &[u128]) -> BTreeSet<NodeId> {
        nodes.iter().map(|n| node(*n)).collect()
    }

    /// Node 1 sees 2 and 3; 3 sees 4.
    fn reach() -> Reach {
        let mut reach = Reach::new(node(1));
        assert!(reach.set_link(node(2), true) && reach.set_link(node(3), true));
        reach.hear(0, node(2), set(&[1, 3]));
        reach.hear(0, node(3), set(&[1, 2, 4]));
        reach
    }

    #[test]
    fn straight_when_there_is_a_link_else_through_a_voter_that_sees_both() {
        let reach = reach();
        assert_eq!(reach.route(0, node(3), |_| true), Route::Direct);
        assert_eq!(reach.route(0, node(4), |_| true), Route::Via(node(3)));
        assert_eq!(
            reach.route(0, node(4), |relay| relay != node(3)),
            Route::None
        );
        assert_eq!(reach.route(0, node(5), |_| true), Route::None);
    }

    #[test]
    fn old_word_and_a_lost_neighbour_count_for_nothing() {
        let mut reach = reach();
        assert_eq!(
            reach.route(GOSSIP_FRESH + 1, node(4), |_| true),
            Route::None
        );
        assert!(reach.set_link(node(3), false));
        assert!(!reach.set_link(node(3), false), "no news the second time");
        assert_eq!(reach.route(0, node(4), |_| true), Route::None);
    }

    #[test]
    fn reaching_goes_through_at_most_one_relay() {
        let reach = reach();
        assert!(reach.reaches(0, node(2), node(3), &set(&[])));
        assert!(reach.reaches(0, node(2), node(4), &set(&[3])));
        assert!(!reach.reaches(0, node(2), node(4), &set(&[1])));
        assert!(reach.reaches(0, node(1), node(4), &set(&[3])));
    }

    #[test]
    fn a_node_has_no_link_to_itself() {
        assert!(!Reach::new(node(1)).set_link(node(1), true));
    }
}
