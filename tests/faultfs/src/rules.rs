//! What goes wrong, where, and how often it did.

use std::ops::Range;
use std::time::Duration;

/// An operation of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// Bytes are read.
    Read,
    /// Bytes are written; with RWF_DSYNC durably.
    Write,
    /// A file is flushed.
    Sync,
}

/// What comes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails with this errno, and nothing is done.
    Error(i32),
    /// It takes so much longer.
    Slow(Duration),
}

/// A fault in one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The path from the root of the mount, or a directory that the file is in.
    pub path: String,
    /// Bytes of the file; a flush is of all of it.
    pub range: Range<u64>,
    /// Which operation.
    pub on: On,
    /// What comes of it.
    pub fault: Fault,
}

impl Rule {
    /// A fault of a whole file, or of all files in a directory.
    pub fn everywhere(path: &str, on: On, fault: Fault) -> Self {
        Self {
            path: path.into(),
            range: 0..u64::MAX,
            on,
            fault,
        }
    }

    pub(crate) fn meets(&self, path: &str, on: On, range: &Range<u64>) -> bool {
        let inside = path == self.path
            || path
                .strip_prefix(&self.path)
                .is_some_and(|rest| rest.starts_with('/'));
        let touches = range.start < self.range.end && self.range.start < range.end;
        self.on == on && inside && (touches || on == On::Sync)
    }
}
