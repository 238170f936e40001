//! The nodes of Kubernetes, each with the node of Lockstep that runs on it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::storage::{Place, Storage};

/// A node of Kubernetes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Its name in Kubernetes.
    pub name: String,
    /// The name under which it has joined Lockstep, as its label says; empty if it has no label. Then it is
    /// taken to be called there as here.
    pub member: String,
    /// Whether its kubelet is heard from.
    pub ready: bool,
}

/// What verdicts are made over. Never changes; a new one takes its place.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    storage: Arc<Storage>,
    machines: FxHashMap<String, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    member: Option<u32>,
    ready: bool,
}

impl Cluster {
    /// Joins both. Of nodes of the same name, one counts.
    pub fn new<'a>(storage: Arc<Storage>, machines: impl IntoIterator<Item = &'a Machine>) -> Self {
        let known = |machine: &Machine| {
            let called = match machine.member.as_str() {
                "" => machine.name.as_str(),
                label => label,
            };
            Known {
                member: storage.member(called),
                ready: machine.ready,
            }
        };
        let machines = machines
            .into_iter()
            .map(|it| (it.name.clone(), known(it)))
            .collect();
        Self { storage, machines }
    }

    /// What Lockstep said.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Names of the nodes of Kubernetes that are known, in order.
    pub fn machines(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.machines.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The node of Lockstep on a node of Kubernetes, and where it is. A node that Kubernetes has not told of
    /// yet is looked for under its name.
    pub(crate) fn member(&self, node: &str) -> Option<(u32, &Place)> {
        let member = match self.machines.get(node) {
            Some(known) => known.member,
            None => self.storage.member(node),
        };
        member.map(|member| (member, self.storage.place(member)))
    }

    /// Whether a pod there may be running: kubelet or Lockstep's daemon is heard from.
    pub(crate) fn is_live(&self, node: &str) -> bool {
        self.machines.get(node).is_some_and(|known| known.ready)
            || self.member(node).is_some_and(|(_, place)| place.serves)
    }
}
