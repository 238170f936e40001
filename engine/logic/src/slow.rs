//! Soft evictions: what no volume sees alone decides whether a member that is far slower than its peers
//! may go (safety.md, "Slow is a kind of dead").

use crate::io::Output;
use crate::node::Node;
use lockstep_types::{Nanos, NodeId, NodeRole, ReplicaId, VolumeId, seconds};
use std::collections::BTreeMap;

/// One soft eviction per fault domain in so long.
const APART: Nanos = seconds(600);
/// A node counts as slow for so long after a volume said so: three windows of observation.
const RECENT: Nanos = seconds(90);
/// From so many data nodes in a site up, over 30 % of them slow at once is the link, not they.
const ENOUGH_NODES: usize = 3;
const LINK_PER_CENT: usize = 30;

/// What volumes of this node say about slow members.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct SlowNodes {
    /// When a volume last found a copy of the node slow.
    seen: BTreeMap<NodeId, Nanos>,
    /// When a copy of the site was last evicted for it.
    evicted: BTreeMap<String, Nanos>,
}

impl SlowNodes {
    /// Whether the copy on a node of this site may go now; `site_nodes` are all data nodes of the site.
    fn consent(&mut self, now: Nanos, node: NodeId, site: &str, site_nodes: &[NodeId]) -> bool {
        self.seen.insert(node, now);
        let recent = |id: &&NodeId| self.seen.get(id).is_some_and(|at| now < at + RECENT);
        let slow = site_nodes.iter().filter(recent).count();
        let all = site_nodes.len();
        if all >= ENOUGH_NODES && slow * 100 > all * LINK_PER_CENT && slow > 1 {
            return false;
        }
        if self.evicted.get(site).is_some_and(|at| now < at + APART) {
            return false;
        }
        self.evicted.insert(site.to_owned(), now);
        true
    }
}

impl Node {
    /// A primary here finds a member far slower than its peers. Refused, it is reported again after the
    /// next window, while it is still true.
    pub(crate) fn on_slow(&mut self, volume: VolumeId, replica: ReplicaId, out: &mut Vec<Output>) {
        let record = self.volumes.get(&volume).map(|v| &v.record);
        let Some(node) = record.and_then(|r| Some(r.replicas.get(&replica)?.node)) else {
            return;
        };
        let Some(site) = self.members.get(&node).map(|n| n.site.clone()) else {
            return;
        };
        let of_site = self.members.values();
        let of_site = of_site.filter(|n| n.site == site && n.role == NodeRole::Data);
        let site_nodes: Vec<NodeId> = of_site.map(|n| n.id).collect();
        if self.slow.consent(self.now, node, &site, &site_nodes) {
            self.with_primary(volume, out, |primary, now, _, pushed| {
                primary.evict_slow(now, replica, pushed);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u128) -> Vec<NodeId> {
        (1..=count).map(NodeId::from_u128).collect()
    }

    #[test]
    fn one_copy_of_a_site_in_ten_minutes() {
        let (site, mut slow) = (nodes(2), SlowNodes::default());
        assert!(slow.consent(0, site[0], "a", &site));
        assert!(!slow.consent(seconds(599), site[1], "a", &site));
        assert!(slow.consent(seconds(599), site[1], "b", &site));
        assert!(slow.consent(seconds(600), site[1], "a", &site));
    }

    #[test]
    fn a_third_of_a_site_at_once_is_the_link() {
        let (site, mut slow) = (nodes(6), SlowNodes::default());
        slow.seen.insert(site[1], 0);
        assert!(
            !slow.consent(seconds(1), site[0], "a", &site),
            "2 of 6 at once"
        );
        assert!(
            slow.consent(seconds(100), site[0], "a", &site),
            "the other is fast again"
        );
    }

    #[test]
    fn one_slow_node_of_three_is_no_link() {
        let (site, mut slow) = (nodes(3), SlowNodes::default());
        assert!(slow.consent(0, site[0], "a", &site));
    }
}
