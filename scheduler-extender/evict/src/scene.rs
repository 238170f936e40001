//! What Kubernetes and Lockstep say of one silent node, read at one time.

/// A silent node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scene {
    /// Its name in Lockstep.
    pub node: String,
    /// The node of Kubernetes that it is; none if there is none.
    pub machine: Option<Machine>,
    /// Volumes attached to it in Lockstep.
    pub attachments: Vec<Attachment>,
    /// VolumeAttachments of ours to it.
    pub published: Vec<Published>,
    /// Pods that are bound to it and have not ended.
    pub pods: Vec<Pod>,
}

/// A node of Kubernetes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// It has our taint.
    pub tainted: bool,
    /// Somebody has cordoned it.
    pub unschedulable: bool,
    /// Handles of ours that its status calls in use.
    pub in_use: Vec<String>,
    /// Changes whenever its kubelet is heard; none if it was never heard.
    pub kubelet: Option<String>,
    /// Its kubelet has said, or somebody has ordered, that the pod of our daemon there ends or is not up: such a
    /// daemon comes back.
    pub daemon_restarts: bool,
}

/// A publication as Lockstep has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Attachment {
    /// The volume: what a PersistentVolume calls its handle.
    pub volume: String,
    /// The publication.
    pub id: String,
}

/// A VolumeAttachment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Its name.
    pub name: String,
    /// The volume's handle.
    pub volume: String,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id: one of the same name may follow it.
    pub uid: String,
    /// Who would make another.
    pub owner: Owner,
    /// It has the annotation that lets a pod be deleted which nobody would make again.
    pub opted_in: bool,
    /// What it uses.
    pub uses: Vec<Use>,
}

/// Who makes a pod again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A controller, anywhere.
    Controller,
    /// A DaemonSet: on this node, and nowhere else.
    DaemonSet,
    /// This node's own files: the API server has its mirror only.
    Mirror,
    /// Nobody.
    Nobody,
}

/// A volume that a pod uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Use {
    /// One of ours, by its handle.
    Ours(String),
    /// Another driver's that is for one node at a time, or one of which that is not known.
    Exclusive,
    /// Another driver's that many nodes may use.
    Shared,
}
