//! The one file of the mount.

use crate::protocol::{Attributes, ROOT};
use lockstep_types::BLOCK;

/// The node of the volume's file.
pub(crate) const FILE: u64 = 2;

/// What the mount shows: one file, named and sized like the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// The file's name: not empty, at most 255 bytes, no `/` and no NUL, neither `.` nor `..`.
    pub name: String,
    /// Bytes; a multiple of 4096.
    pub size: u64,
    /// Refuses writes.
    pub read_only: bool,
}

impl Volume {
    /// Panics on what no file can be.
    pub(crate) fn check(&self) {
        let odd = |byte: u8| byte == b'/' || byte == 0;
        let reserved = matches!(self.name.as_str(), "" | "." | "..");
        assert!(
            !reserved && !self.name.bytes().any(odd),
            "'{}' is no file's name",
            self.name
        );
        assert!(
            self.name.len() <= 255,
            "a file's name has at most 255 bytes"
        );
        assert!(
            self.size.is_multiple_of(BLOCK as u64),
            "a volume is whole blocks"
        );
    }

    /// The attributes of a node; there are two.
    pub(crate) fn attributes(&self, node: u64) -> Option<Attributes> {
        let file_mode = if self.read_only { 0o400 } else { 0o600 };
        let (size, mode, links) = match node {
            ROOT => (0, libc::S_IFDIR | 0o500, 2),
            FILE => (self.size, libc::S_IFREG | file_mode, 1),
            _ => return None,
        };
        Some(Attributes {
            node,
            size,
            mode,
            links,
            block_size: BLOCK as u32,
        })
    }
}
