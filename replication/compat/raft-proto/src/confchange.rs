//! Configuration changes in their two forms, and when two configurations are one.

use std::borrow::Cow;

use crate::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

/// One part of a change.
pub fn new_conf_change_single(node_id: u64, ty: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle {
        node_id,
        change_type: ty as i32,
    }
}

/// Either form of a configuration change.
pub trait ConfChangeI {
    /// The newer form.
    fn into_v2(self) -> ConfChangeV2;
    /// The newer form, borrowed if it is one already.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;
    /// The older form, if it is one.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![new_conf_change_single(self.node_id, self.get_change_type())],
            context: self.context,
        }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// `None` if the change needs no joint configuration, else whether the leader leaves it by itself.
    pub fn enter_joint(&self) -> Option<bool> {
        match self.get_transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether this is the empty change that leaves a joint configuration.
    pub fn leave_joint(&self) -> bool {
        self.get_transition() == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

impl<V, L> From<(V, L)> for ConfState
where
    V: IntoIterator<Item = u64>,
    L: IntoIterator<Item = u64>,
{
    fn from((voters, learners): (V, L)) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Whether two states describe the same configuration, whatever the order of their lists.
pub fn conf_state_eq(a: &ConfState, b: &ConfState) -> bool {
    same_members(&a.voters, &b.voters)
        && same_members(&a.learners, &b.learners)
        && same_members(&a.voters_outgoing, &b.voters_outgoing)
        && same_members(&a.learners_next, &b.learners_next)
        && a.auto_leave == b.auto_leave
}

fn same_members(a: &[u64], b: &[u64]) -> bool {
    a.iter().all(|id| b.contains(id)) && b.iter().all(|id| a.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_joint_when_it_has_parts_or_says_so() {
        let one = ConfChange {
            node_id: 4,
            ..Default::default()
        }
        .into_v2();
        assert_eq!(one.enter_joint(), None);
        let mut two = one.clone();
        two.changes
            .push(new_conf_change_single(5, ConfChangeType::RemoveNode));
        assert_eq!(two.enter_joint(), Some(true));
        two.set_transition(ConfChangeTransition::Explicit);
        assert_eq!(two.enter_joint(), Some(false));
        assert!(ConfChangeV2::default().leave_joint() && !one.leave_joint());
    }

    #[test]
    fn configurations_compare_without_order() {
        let a = ConfState::from((vec![1, 2, 3], vec![4]));
        assert!(conf_state_eq(
            &a,
            &ConfState::from((vec![3, 1, 2], vec![4]))
        ));
        assert!(!conf_state_eq(&a, &ConfState::from((vec![1, 2], vec![4]))));
        assert!(!conf_state_eq(
            &a,
            &ConfState::from((vec![1, 2, 3, 5], vec![4]))
        ));
    }
}
