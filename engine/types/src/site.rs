//! Where things stand: sites, fault domains, roles.

/// Levels at which things fail together, widest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultDomain {
    /// A data centre.
    Site,
    /// A power or cooling zone inside a site.
    Zone,
    /// A rack.
    Rack,
    /// One machine.
    Node,
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeRole {
    /// Holds pools and may vote.
    Data,
    /// Votes and stores the raft log, no data.
    Witness,
}

/// How hard pods are kept on a node with a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Locality {
    /// Scored.
    #[default]
    Prefer,
    /// Filtered.
    Require,
    /// Ignored.
    None,
}
