//! Identifiers. u128 ids are minted in shells from the system's generator and never reused (R18);
//! epoch, incarnation and sequence are counters with an order.

use std::fmt;
use std::str::FromStr;

/// Text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id: 32 hexadecimal digits are needed")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// No object has this id.
            pub const NONE: Self = Self(0);

            /// Wraps a raw value.
            pub const fn from_u128(raw: u128) -> Self {
                Self(raw)
            }

            /// The raw value.
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// Whether this is [`Self::NONE`].
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Eight digits tell objects of one run apart and keep traces readable.
                write!(f, concat!(stringify!($name), "({:08x})"), self.0 & 0xffff_ffff)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bad = || ParseIdError { text: text.chars().take(64).collect() };
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| bad())
            }
        }
    };
}

id!(
    /// A cluster.
    ClusterId
);
id!(
    /// A node: one daemon, data node or witness.
    NodeId
);
id!(
    /// A pool device: one store.
    DeviceId
);
id!(
    /// A volume. Never reused (R18).
    VolumeId
);
id!(
    /// One copy of a volume on one device. Never reused.
    ReplicaId
);
id!(
    /// A chain of layers; seeds the checksums of its data.
    LineageId
);
id!(
    /// One publication of a volume to a node (R12).
    AttachmentId
);
id!(
    /// A snapshot.
    SnapshotId
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The one after this; 2^64 are never used up.
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}

counter!(
    /// A sequence number of a volume's records: dense, from 1, never reset by an epoch.
    Sequence,
    "s"
);
counter!(
    /// One life of a replica's data (R4): minted anew on format, swap, restore or detected loss.
    Incarnation,
    "i"
);
counter!(
    /// One resync of one replica; copies of another number are refused (R16).
    ResyncNumber,
    "r"
);

/// Who may write, compared as (cluster generation, counter): the generation, raised only by a
/// forced rebuild of the control plane, stands in the upper 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first epoch.
    pub const ZERO: Self = Self(0);
    const COUNTER_BITS: u32 = 40;

    /// An epoch of a cluster generation (below 2^24) and a counter (below 2^40).
    pub const fn new(generation: u32, counter: u64) -> Self {
        assert!(generation < 1 << 24 && counter < 1 << Self::COUNTER_BITS);
        Self(((generation as u64) << Self::COUNTER_BITS) | counter)
    }

    /// The cluster generation.
    pub const fn generation(self) -> u32 {
        (self.0 >> Self::COUNTER_BITS) as u32
    }

    /// The counter inside the generation.
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }

    /// The next epoch of the same generation.
    pub const fn next(self) -> Self {
        Self::new(self.generation(), self.counter() + 1)
    }

    /// The first epoch after this one in a newer generation.
    pub const fn in_generation(self, generation: u32) -> Self {
        assert!(generation >= self.generation());
        Self::new(generation, self.counter() + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation() {
            0 => write!(f, "{}", self.counter()),
            generation => write!(f, "{generation}.{}", self.counter()),
        }
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{self}")
    }
}

/// The version of a write: the epoch it was made or rolled forward in, and its sequence. Restamping
/// changes the epoch only (R11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// The epoch.
    pub epoch: Epoch,
    /// The sequence.
    pub sequence: Sequence,
}

impl Stamp {
    /// Before every write.
    pub const ZERO: Self = Self {
        epoch: Epoch::ZERO,
        sequence: Sequence::ZERO,
    };

    /// A stamp of its parts.
    pub const fn new(epoch: Epoch, sequence: Sequence) -> Self {
        Self { epoch, sequence }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.sequence)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_compare_by_generation_first() {
        assert!(Epoch::new(1, 1) > Epoch::new(0, 900));
        assert_eq!(Epoch::new(0, 7).in_generation(2), Epoch::new(2, 8));
        assert_eq!(Epoch::new(3, 4).to_string(), "3.4");
    }

    #[test]
    fn ids_parse_what_they_print() {
        let id = VolumeId::from_u128(0xfeed_beef);
        assert_eq!(id.to_string().parse::<VolumeId>(), Ok(id));
        for bad in [
            "",
            "xyz",
            "+0000000000000000000000000000000",
            &"0".repeat(33),
        ] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
    }
}
