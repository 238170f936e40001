//! What one pod asks for: its volumes of ours, and how near it wants to be to them.

use std::sync::Arc;

use lockstep_placement::Grammar;
use lockstep_types::{FaultDomain, Locality, VolumeId};

/// The annotation by which a pod says how hard it is kept near its volumes' copies.
pub const ANNOTATION: &str = "lockstep.dev/locality";

/// What a pod asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// What its annotation says, if that means anything.
    pub locality: Option<Locality>,
    /// Its volumes of ours, by claim.
    pub volumes: Vec<WantedVolume>,
}

/// A claim of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedVolume {
    /// Its name.
    pub claim: String,
    /// What stands behind it.
    pub source: Source,
    /// Nodes of other pods that use it and are not ending, if it can be used on one node only.
    pub users: Vec<String>,
}

/// What stands behind a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A volume of ours.
    Bound(VolumeId),
    /// It is bound, and to what is not known, or is no volume's id.
    Missing,
    /// Nothing yet: a volume will be made as its class says.
    Unbound {
        /// What the class asks for; none if its parameters are not valid.
        wish: Option<Arc<Wish>>,
        /// The size asked for, in bytes.
        bytes: u64,
    },
    /// The claim itself is not known yet.
    NotYet,
}

/// What a StorageClass asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The class's name: wishes of the same name are the same.
    pub class: String,
    /// How many copies where.
    pub copies: Grammar,
    /// The narrowest level that no two copies share.
    pub fault_domain: FaultDomain,
    /// How hard pods are kept near copies.
    pub locality: Locality,
}

impl Wanted {
    /// Whether a volume's copy must be on the node: if the volume or the pod says so. A pod can ask for more than
    /// its volume does, never for less: what attaches it would refuse.
    pub(crate) fn requires(&self, of_volume: Locality) -> bool {
        of_volume == Locality::Require || self.locality == Some(Locality::Require)
    }

    /// Whether it matters where a volume's copies are.
    pub(crate) fn prefers(&self, of_volume: Locality) -> bool {
        self.locality.unwrap_or(of_volume) != Locality::None
    }
}

/// The annotation's value; none if it is missing or means nothing.
pub fn locality(annotation: &str) -> Option<Locality> {
    match annotation {
        "prefer" => Some(Locality::Prefer),
        "require" => Some(Locality::Require),
        "none" => Some(Locality::None),
        _ => None,
    }
}
