//! Why bytes of the disk were refused.

use std::fmt;

/// The structures of the disk, as people name them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Structure {
    /// Ids, geometry, feature flags, key.
    Superblock,
    /// Where the journal and the delta log start.
    Anchor,
    /// The durable state of one replica.
    Replica,
    /// A journal batch's header.
    Batch,
    /// A page of the metadata delta log.
    Delta,
    /// Owners of physical extents.
    Map,
    /// Checksums of physical extents.
    Checksum,
    /// Generations of map and checksum pages.
    Directory,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::Anchor => "anchor",
            Self::Replica => "replica table entry",
            Self::Batch => "journal batch header",
            Self::Delta => "delta log page",
            Self::Map => "map page",
            Self::Checksum => "checksum page",
            Self::Directory => "directory page",
        })
    }
}

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Why {
    /// More or fewer bytes than the structure has.
    #[error("it is {found} bytes long and should be {expected}")]
    Length {
        /// What the structure has.
        expected: usize,
        /// What was given, or what the structure claims.
        found: usize,
    },
    /// Something else, or nothing yet, lies there.
    #[error("its magic number is {0:#010x}: something else, or nothing yet, lies there")]
    Magic(u32),
    /// Made by a newer Lockstep.
    #[error("its version {0} is unknown to this Lockstep; run a newer one")]
    Version(u16),
    /// Feature flags that this Lockstep does not know (the unknown bits).
    #[error(
        "it uses features {0:#x} that this Lockstep does not know and may not ignore; run a newer one"
    )]
    Incompatible(u64),
    /// CRC32C or authentication failed.
    #[error("its checksum does not match: it was torn or has rotted")]
    Checksum,
    /// A keyed hash failed: torn, rotten, or an imitation written by a guest (S8).
    #[error("it is not authentic: torn, rotten, or an imitation")]
    Authenticity,
    /// Left over from an earlier format of the device.
    #[error("it belongs to another pool, or to an earlier format of this device")]
    Pool,
    /// It says that it belongs elsewhere: a write went astray.
    #[error("it says it is number {found} and should be {expected}: a write went astray")]
    Number {
        /// What should lie there.
        expected: u64,
        /// What it says it is.
        found: u64,
    },
    /// Another generation than the one recorded: a lost write.
    #[error("it is of generation {found} and should be of {expected}: a write was lost")]
    Generation {
        /// The generation recorded elsewhere.
        expected: u64,
        /// What lies there.
        found: u64,
    },
    /// It is sound, and yet not what was written last.
    #[error("{0}: a write was lost, or has rotted")]
    Lost(&'static str),
    /// Checksummed well, and yet this field is not allowed: whoever wrote it was wrong.
    #[error("its field '{0}' is not allowed")]
    Field(&'static str),
}

impl Why {
    /// Sound, and written by a newer Lockstep than this one.
    pub(crate) const fn is_of_a_newer_one(self) -> bool {
        matches!(self, Self::Version(_) | Self::Incompatible(_))
    }
}

/// Bytes that are not the structure asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("the {structure} is refused: {why}")]
pub struct FormatError {
    /// Which structure was looked for.
    pub structure: Structure,
    /// What is wrong.
    pub why: Why,
}

impl FormatError {
    pub(crate) const fn new(structure: Structure, why: Why) -> Self {
        Self { structure, why }
    }

    pub(crate) const fn field(structure: Structure, field: &'static str) -> Self {
        Self {
            structure,
            why: Why::Field(field),
        }
    }
}
