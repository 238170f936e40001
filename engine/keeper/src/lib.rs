//! A process that keeps descriptors open while the daemon is away. As long as somebody holds the
//! /dev/fuse descriptor of a block device, the kernel lets its requests wait instead of failing them;
//! the next daemon takes the descriptor back and is given them again (docs/ARCHITECTURE.md).
//!
//! It knows nothing of what it keeps: an entry is a key, a text of the daemon's, and descriptors. It
//! reads none of them, writes nothing to disk, and ends when it is told to. The fewer reasons to
//! change it, the fewer to restart it: a restart of the keeper is what costs I/O errors.
//!
//! One message of a Unix sequential-packet socket is one request or reply; descriptors travel beside
//! it (SCM_RIGHTS). The first line says what it is, the rest is the entry's text:
//!
//! | request | reply |
//! |---|---|
//! | `put KEY`, text, descriptors: all new, or none to keep those that are there | `ok` |
//! | `drop KEY` | `ok`, also if it is not there |
//! | `list` | one `entry KEY` with text and descriptors each, then `ok` |
//! | `stop` | `ok`, and the process ends |
//!
//! What is wrong is answered with `no`, and why.
#![forbid(unsafe_code)]

mod client;
mod message;
mod server;

pub use client::{Entry, Keeper, KeeperError};
pub use message::{MAX_DESCRIPTORS, MAX_KEY, MAX_TEXT, parse};
pub use server::serve;
