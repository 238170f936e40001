//! Who is heard by whom, as one daemon tells it. A node is silent if nobody who answers hears it, on the control
//! plane's links or the data plane's, and those who say so are a majority of the voters: then it has no way left
//! to serve a volume, and its leases have run out or are about to.

use std::collections::{BTreeMap, BTreeSet};

/// What a daemon says of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Life {
    /// The node asked.
    pub node: String,
    /// The leader's node; empty if none is known.
    pub leader: String,
    /// Whether the control plane can commit.
    pub quorum: bool,
    /// Nodes of the voters.
    pub voters: Vec<String>,
    /// Those of the old voters, while they are being exchanged.
    pub voters_outgoing: Vec<String>,
    /// All nodes, by name.
    pub members: BTreeMap<String, Member>,
}

/// What it says of one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// Nodes that answer and hear it. One that says whom it hears hears itself.
    pub heard_by: BTreeSet<String>,
    /// A health monitor asks it.
    pub monitored: bool,
    /// An operator keeps new things away from it.
    pub cordoned: bool,
}

impl Life {
    /// Whether a node is known to be silent. In doubt it is not.
    pub fn is_silent(&self, node: &str) -> bool {
        let unheard = self
            .members
            .get(node)
            .is_some_and(|it| it.heard_by.is_empty());
        unheard && self.is_conclusive()
    }

    /// Whether a majority of voters answers and says whom it hears.
    pub fn is_conclusive(&self) -> bool {
        let majority = |voters: &[String]| {
            let tell = voters.iter().filter(|it| self.tells(it)).count();
            tell > voters.len() / 2
        };
        let old = self.voters_outgoing.is_empty() || majority(&self.voters_outgoing);
        self.quorum && majority(&self.voters) && old
    }

    /// Whether the monitor that was told this is the one that acts: of those whose daemon answers the leader's,
    /// and if that has none, the first by name. So the control plane's own election is the only one. Two that
    /// act for a moment, because they have heard different things, do nothing that one would not.
    pub fn acts(&self) -> bool {
        let monitored = |name: &str| {
            let member = self.members.get(name);
            member.is_some_and(|it| it.monitored) && self.tells(name)
        };
        let first = || self.members.keys().find(|it| monitored(it));
        let acting = match monitored(&self.leader) {
            true => Some(&self.leader),
            false => first(),
        };
        acting == Some(&self.node)
    }

    fn tells(&self, node: &str) -> bool {
        let member = self.members.get(node);
        member.is_some_and(|it| it.heard_by.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that answer hear each other and themselves; the others nobody.
    fn life(asked: &str, leader: &str, answer: &[&str], silent: &[&str]) -> Life {
        let by: BTreeSet<String> = answer.iter().map(ToString::to_string).collect();
        let heard = answer.iter().map(|name| (*name, by.clone()));
        let silent = silent.iter().map(|name| (*name, BTreeSet::new()));
        let member = |(name, heard_by): (&str, BTreeSet<String>)| {
            let member = Member {
                heard_by,
                monitored: true,
                cordoned: false,
            };
            (name.to_owned(), member)
        };
        Life {
            node: asked.into(),
            leader: leader.into(),
            quorum: true,
            voters: ["a1", "b1", "w1"].map(String::from).into(),
            voters_outgoing: Vec::new(),
            members: heard.chain(silent).map(member).collect(),
        }
    }

    #[test]
    fn nobody_hears_it_and_a_majority_says_so() {
        let dead = life("b1", "b1", &["b1", "w1"], &["a1"]);
        assert!(dead.is_silent("a1") && !dead.is_silent("b1"));
        assert!(!dead.is_silent("stranger"));
        let mut cut_off = life("b1", "b1", &["b1"], &["a1", "w1"]);
        assert!(!cut_off.is_silent("a1"), "one of three");
        cut_off.voters = vec!["b1".into()];
        assert!(cut_off.is_silent("a1"));
        cut_off.quorum = false;
        assert!(!cut_off.is_silent("a1"));
    }

    #[test]
    fn a_node_that_the_witness_alone_hears_is_not_silent() {
        let mut cut = life("b1", "b1", &["b1", "w1"], &["a1"]);
        let a1 = cut.members.get_mut("a1").expect("a member");
        a1.heard_by.insert("w1".into());
        assert!(!cut.is_silent("a1"));
    }

    #[test]
    fn who_does_not_say_whom_it_hears_proves_nothing() {
        let mut old = life("b1", "b1", &["b1", "w1"], &["a1"]);
        let w1 = old.members.get_mut("w1").expect("a member");
        w1.heard_by = ["b1".to_owned()].into();
        assert!(!old.is_silent("a1"));
    }

    #[test]
    fn while_voters_are_exchanged_both_majorities_are_needed() {
        let mut joint = life("b1", "b1", &["b1", "w1"], &["a1", "a2"]);
        joint.voters_outgoing = ["a1", "a2", "w1"].map(String::from).into();
        assert!(!joint.is_silent("a1"));
        joint.voters_outgoing = ["a1", "b1", "w1"].map(String::from).into();
        assert!(joint.is_silent("a1"));
    }

    #[test]
    fn one_monitor_acts_the_leaders_if_it_has_one() {
        let acting = |leader: &str, without: &[&str]| {
            let all = ["a1", "b1", "w1"];
            let acts = |asked: &&&str| {
                let mut life = life(asked, leader, &all, &["b2"]);
                for name in without {
                    let member = life.members.get_mut(*name).expect("a member");
                    member.monitored = false;
                }
                life.acts()
            };
            all.iter().filter(acts).copied().collect::<Vec<_>>()
        };
        assert_eq!(acting("b1", &[]), ["b1"]);
        assert_eq!(acting("w1", &["w1"]), ["a1"]);
        assert_eq!(acting("", &["a1"]), ["b1"]);
        assert_eq!(acting("a1", &["a1", "b1", "w1"]), [""; 0]);
        // One that was the leader's and is silent now is nobody.
        assert!(life("b1", "a1", &["b1", "w1"], &["a1"]).acts());
    }
}
