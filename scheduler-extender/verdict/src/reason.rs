//! Why a node goes: a handful of fixed sentences, because a scheduler counts equal ones and shows the sums
//! ("3 no healthy Lockstep daemon on the node").

/// Why a pod cannot run on a node. The gravest first: of several, a node is told the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// No data node of Lockstep answers there.
    NoDaemon,
    /// Lockstep gives the node nothing new, and the volume is not attached there already.
    Cordoned,
    /// A bound claim names a volume that Lockstep does not know, or not yet.
    UnknownVolume,
    /// A ReadWriteOnce volume is used by a pod that runs on another node.
    InUse,
    /// Fewer certified copies can be reached from there than the volume needs to serve.
    OutOfReach,
    /// `locality: require`, and no copy is there.
    NoCopyHere,
    /// An unbound claim's class cannot be understood.
    BadClass,
    /// No choice of nodes gives an unbound claim the copies that its class asks for.
    NoPlace,
    /// `locality: require`, and an unbound claim's local copy does not fit there.
    NoPlaceHere,
}

impl Reason {
    /// All of them, the gravest first.
    pub const ALL: [Self; 9] = [
        Self::NoDaemon,
        Self::Cordoned,
        Self::UnknownVolume,
        Self::InUse,
        Self::OutOfReach,
        Self::NoCopyHere,
        Self::BadClass,
        Self::NoPlace,
        Self::NoPlaceHere,
    ];

    /// The sentence that a scheduler shows. It never holds a name or a number.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoDaemon => "no healthy Lockstep daemon on the node",
            Self::Cordoned => "node is cordoned in Lockstep",
            Self::UnknownVolume => "a bound volume is not known to Lockstep",
            Self::InUse => "a ReadWriteOnce volume is in use on another node",
            Self::OutOfReach => "too few certified copies of a volume can be reached from the node",
            Self::NoCopyHere => "no copy of a volume on the node, which its locality requires",
            Self::BadClass => "a StorageClass has parameters that are not valid",
            Self::NoPlace => "no room for the copies that a StorageClass asks for",
            Self::NoPlaceHere => "no room on the node for the copy that locality requires there",
        }
    }

    /// A word for programs and metrics; it never changes.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoDaemon => "no-daemon",
            Self::Cordoned => "cordoned",
            Self::UnknownVolume => "unknown-volume",
            Self::InUse => "in-use",
            Self::OutOfReach => "out-of-reach",
            Self::NoCopyHere => "no-copy-here",
            Self::BadClass => "bad-class",
            Self::NoPlace => "no-place",
            Self::NoPlaceHere => "no-place-here",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_at_most_twelve_and_each_says_something_else() {
        assert!(Reason::ALL.len() <= 12);
        assert!(Reason::ALL.is_sorted());
        let texts: BTreeSet<_> = Reason::ALL.map(Reason::text).into();
        let codes: BTreeSet<_> = Reason::ALL.map(Reason::code).into();
        assert_eq!(
            (texts.len(), codes.len()),
            (Reason::ALL.len(), Reason::ALL.len())
        );
        let digits = |text: &&str| text.contains(|c: char| c.is_ascii_digit());
        assert!(!texts.iter().any(digits));
    }
}
