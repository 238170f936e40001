//! What lies on the disk, byte by byte. Pure: structures to bytes and back, no decision.
//!
//! Everything is little-endian and carries magic, version, length and a checksum (batch headers: a
//! keyed hash). `encode` decodes its own bytes again before it lets them go to disk, `decode`
//! verifies all of them after reading; what is unknown is refused with words.
//!
//! **Slots.** Where a structure has two slots, generation `g` lies in slot `g & 1`, so a torn write
//! never touches the last good one. A slot may be written again only after the newer generation is
//! durable and recorded.

mod anchor;
mod batch;
mod checksum_page;
mod delta;
mod descriptor;
mod directory;
mod error;
mod map_page;
mod page;
mod replica;
mod seed;
mod superblock;

pub use anchor::Anchor;
pub use batch::{
    Batch, BatchBuilder, BatchShape, HeaderHash, MAX_HEADER_BLOCKS, ParsedBatch, UnknownBatch,
    header_blocks_for, max_records_for,
};
pub use checksum_page::ChecksumPage;
pub use delta::{DELTAS_PER_PAGE, Delta, DeltaPage};
pub use descriptor::{Descriptor, RecordFlags};
pub use directory::DirectoryPage;
pub use error::{FormatError, Structure, Why};
pub use map_page::{MapEntry, MapPage};
pub use page::{PageBytes, PoolKey, newest};
pub use replica::{EntryState, Held, Layer, MAX_LAYERS, MAX_VOIDS, ReplicaEntry, VoidMark};
pub use seed::{seed, seeded};
pub use superblock::{Features, Superblock};
