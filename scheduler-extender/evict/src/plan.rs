//! What is to be done next about a silent node, from what was read of it. In this order, each only when nothing is
//! left of the one before:
//!
//! 1. fence the volumes, so that nothing can write to them from there any more;
//! 2. keep new pods away, and delete by force those that had them;
//! 3. take the volumes out of what the node's status calls in use, so that Kubernetes detaches them at once.
//!
//! A pod is kept, and with it every volume that it uses and every pod that uses one of these, if nobody would make it
//! again elsewhere, or if it has a volume of another driver that is for one node only: that one is not fenced.

use std::collections::{BTreeMap, BTreeSet};

use crate::scene::{Owner, Pod, Scene, Use};

/// Things done at once.
pub const BATCH: usize = 10;

/// One thing to do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// End a publication: the copies refuse whoever has it.
    Fence {
        /// The volume.
        volume: String,
        /// The publication, and no other.
        attachment: String,
    },
    /// Keep new pods away from a node of Kubernetes.
    Taint {
        /// Its name.
        machine: String,
    },
    /// Delete a pod without waiting for its kubelet.
    Delete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// This one, and no other of that name.
        uid: String,
    },
    /// Take volumes out of what a node's status calls in use.
    Forget {
        /// The node of Kubernetes.
        machine: String,
        /// Handles of ours.
        volumes: Vec<String>,
    },
    /// Delete a VolumeAttachment that Kubernetes has not.
    Unpublish {
        /// Its name.
        name: String,
    },
}

/// Why a pod is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kept {
    /// It is a DaemonSet's, or a mirror: it has no other place.
    HasNoOtherPlace,
    /// Nobody would make it again, and it does not say that it may be deleted.
    Bare,
    /// A volume of another driver, for one node at a time, is not fenced.
    ForeignVolume,
    /// It shares a volume with one that is kept.
    Shares,
}

/// What there is to do, at most [`BATCH`] things and a taint; nothing if all is done, or must wait for others.
pub fn plan(scene: &Scene) -> Vec<Action> {
    let Some(machine) = &scene.machine else {
        return Vec::new();
    };
    let kept = kept(scene);
    let held = held(scene, &kept);
    let free = |volume: &String| !held.contains(volume);
    let wanted = wanted(scene);
    let fences: Vec<Action> = scene
        .attachments
        .iter()
        .filter(|it| wanted.contains(&it.volume) && free(&it.volume))
        .map(|it| Action::Fence {
            volume: it.volume.clone(),
            attachment: it.id.clone(),
        })
        .take(BATCH)
        .collect();
    if !fences.is_empty() {
        return fences;
    }
    let leaving: Vec<&Pod> = ours(scene)
        .filter(|it| !kept.contains_key(it.uid.as_str()))
        .collect();
    if !leaving.is_empty() {
        return deletions(&machine.name, machine.tainted, &leaving);
    }
    let published = |volume: &&String| scene.published.iter().any(|it| it.volume == **volume);
    let used: BTreeSet<&String> = ours(scene).flat_map(our_volumes).collect();
    let in_use = machine.in_use.iter();
    let volumes: Vec<String> = in_use
        .filter(published)
        .filter(|it| free(it) && !used.contains(it))
        .take(BATCH)
        .cloned()
        .collect();
    match volumes.is_empty() {
        true => Vec::new(),
        false => vec![Action::Forget {
            machine: machine.name.clone(),
            volumes,
        }],
    }
}

/// VolumeAttachments that Kubernetes could delete by now: fenced, without a pod, and not called in use.
pub fn abandoned(scene: &Scene) -> Vec<String> {
    let Some(machine) = &scene.machine else {
        return Vec::new();
    };
    let used: BTreeSet<&String> = ours(scene).flat_map(our_volumes).collect();
    let attached = |volume: &String| scene.attachments.iter().any(|it| it.volume == *volume);
    let idle = |volume: &String| {
        !used.contains(volume) && !machine.in_use.contains(volume) && !attached(volume)
    };
    let published = scene.published.iter();
    published
        .filter(|it| idle(&it.volume))
        .map(|it| it.name.clone())
        .collect()
}

/// Pods with volumes of ours that are kept, by their unique id, and why.
pub fn kept(scene: &Scene) -> BTreeMap<&str, Kept> {
    let mut kept: BTreeMap<&str, Kept> = BTreeMap::new();
    for pod in ours(scene) {
        if let Some(why) = keeps_itself(pod) {
            kept.insert(&pod.uid, why);
        }
    }
    loop {
        let held = held(scene, &kept);
        let more: Vec<&str> = ours(scene)
            .filter(|it| !kept.contains_key(it.uid.as_str()))
            .filter(|it| our_volumes(it).any(|volume| held.contains(volume)))
            .map(|it| it.uid.as_str())
            .collect();
        if more.is_empty() {
            return kept;
        }
        kept.extend(more.into_iter().map(|uid| (uid, Kept::Shares)));
    }
}

fn keeps_itself(pod: &Pod) -> Option<Kept> {
    match pod.owner {
        Owner::DaemonSet | Owner::Mirror => return Some(Kept::HasNoOtherPlace),
        Owner::Nobody if !pod.opted_in => return Some(Kept::Bare),
        Owner::Nobody | Owner::Controller => {}
    }
    pod.uses
        .contains(&Use::Exclusive)
        .then_some(Kept::ForeignVolume)
}

fn deletions(machine: &str, tainted: bool, pods: &[&Pod]) -> Vec<Action> {
    let taint = (!tainted).then(|| Action::Taint {
        machine: machine.to_owned(),
    });
    let delete = |pod: &&Pod| Action::Delete {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    };
    let deletes = pods.iter().map(delete).take(BATCH);
    taint.into_iter().chain(deletes).collect()
}

/// Pods with volumes of ours.
fn ours(scene: &Scene) -> impl Iterator<Item = &Pod> {
    scene
        .pods
        .iter()
        .filter(|it| our_volumes(it).next().is_some())
}

fn our_volumes(pod: &Pod) -> impl Iterator<Item = &String> {
    pod.uses.iter().filter_map(|it| match it {
        Use::Ours(volume) => Some(volume),
        Use::Exclusive | Use::Shared => None,
    })
}

/// Volumes that Kubernetes knows of there. Others were attached by hand, and are their operator's.
fn wanted(scene: &Scene) -> BTreeSet<&String> {
    let published = scene.published.iter().map(|it| &it.volume);
    published.chain(ours(scene).flat_map(our_volumes)).collect()
}

/// Volumes of pods that are kept.
fn held<'a>(scene: &'a Scene, kept: &BTreeMap<&str, Kept>) -> BTreeSet<&'a String> {
    ours(scene)
        .filter(|it| kept.contains_key(it.uid.as_str()))
        .flat_map(our_volumes)
        .collect()
}
