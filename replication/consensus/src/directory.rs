//! Who is behind which raft id.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_types::NodeId;
use raft_proto::eraftpb::ConfState;

use crate::io::Member;

/// Raft ids and their nodes: what the control state says, and, until it says something, what was
/// learnt from messages. A new learner has no control state, and must answer its leader all the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Directory {
    members: BTreeMap<u64, Member>,
    learnt: BTreeMap<u64, NodeId>,
}

/// How many ids are learnt at most.
const MAX_LEARNT: usize = 16;

impl Directory {
    pub(crate) fn set(&mut self, members: Vec<Member>) {
        self.members = members
            .into_iter()
            .map(|member| (member.raft_id, member))
            .collect();
    }

    /// Notes who spoke for a raft id; says whether that may be (R20).
    pub(crate) fn admit(&mut self, raft_id: u64, node: NodeId) -> bool {
        if let Some(member) = self.members.get(&raft_id) {
            return member.node == node;
        }
        if self.learnt.len() >= MAX_LEARNT && !self.learnt.contains_key(&raft_id) {
            self.learnt.pop_first();
        }
        self.learnt.insert(raft_id, node);
        true
    }

    pub(crate) fn node(&self, raft_id: u64) -> Option<NodeId> {
        self.members
            .get(&raft_id)
            .map(|member| member.node)
            .or_else(|| self.learnt.get(&raft_id).copied())
    }

    /// Whether the control state says that this is a data site's voter.
    pub(crate) fn is_data(&self, raft_id: u64) -> bool {
        self.members
            .get(&raft_id)
            .is_some_and(|member| !member.witness)
    }

    /// Nodes of the voters, incoming and outgoing.
    pub(crate) fn voter_nodes(&self, conf: &ConfState) -> BTreeSet<NodeId> {
        conf.voters
            .iter()
            .chain(&conf.voters_outgoing)
            .filter_map(|id| self.node(*id))
            .collect()
    }

    /// The voter of a node.
    pub(crate) fn voter_of(&self, node: NodeId, conf: &ConfState) -> Option<u64> {
        conf.voters
            .iter()
            .copied()
            .find(|id| self.node(*id) == Some(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raft_id_is_one_nodes_alone_once_the_control_state_says_so() {
        let (one, two) = (NodeId::from_u128(1), NodeId::from_u128(2));
        let mut directory = Directory::default();
        assert!(
            directory.admit(7, one),
            "a new learner must answer a leader it has never heard of"
        );
        assert_eq!(directory.node(7), Some(one));
        directory.set(vec![Member {
            raft_id: 7,
            node: two,
            witness: false,
        }]);
        assert_eq!(directory.node(7), Some(two));
        assert!(directory.admit(7, two));
        assert!(!directory.admit(7, one), "R20");
    }

    #[test]
    fn what_is_learnt_is_bounded() {
        let mut directory = Directory::default();
        for id in 1..=100 {
            assert!(directory.admit(id, NodeId::from_u128(id.into())));
        }
        assert_eq!(directory.learnt.len(), MAX_LEARNT);
        assert_eq!(directory.node(100), Some(NodeId::from_u128(100)));
    }
}
