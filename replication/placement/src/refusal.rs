//! Why copies cannot be placed.

use crate::topology::Fitness;
use lockstep_types::{FaultDomain, NodeId};

/// Why no choice was made; [`crate::explain`] says it in words.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// No data node has joined.
    NoSites,
    /// The grammar names a site that has no data node.
    UnknownSite {
        /// The name.
        site: String,
        /// The sites there are.
        known: Vec<String>,
    },
    /// None, or more than [`crate::MAX_COPIES`].
    TooManyCopies {
        /// How many the grammar comes to.
        copies: u64,
    },
    /// Several copies in one site, and no two may share one.
    Contradiction {
        /// The site, or `*`.
        site: String,
        /// Copies wanted there.
        copies: u32,
    },
    /// Too few fault domains with room.
    TooFew(Box<Shortage>),
    /// A copy must be on this node and cannot.
    Local {
        /// The node, or its id if it is not known.
        node: String,
        /// Why not.
        why: String,
    },
    /// Nothing is missing: no copy is to be added.
    Satisfied,
    /// A copy that exists is on a node that is not in the topology.
    UnknownNode {
        /// The node.
        node: NodeId,
    },
}

/// Where copies were sought.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Area {
    /// In any site.
    Anywhere,
    /// In this one.
    Site(String),
}

/// Too few fault domains with room in an area.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Shortage {
    /// Where was sought.
    pub area: Area,
    /// The level no two copies may share.
    pub level: FaultDomain,
    /// New copies needed there.
    pub needed: u32,
    /// How many could be placed.
    pub found: u32,
    /// Extents a copy needs.
    pub extents: u64,
    /// Data nodes of the area in all.
    pub nodes: u32,
    /// Nodes that are cordoned or down, by name.
    pub unfit: Vec<(String, Fitness)>,
    /// Nodes without room, by name, with the extents free on their best pool.
    pub full: Vec<(String, u64)>,
    /// Nodes whose pools hold as many copies as they can, by name.
    pub crowded: Vec<String>,
    /// Nodes with room that share the level with a copy.
    pub shared: Vec<String>,
}
