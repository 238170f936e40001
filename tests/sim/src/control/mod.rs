//! The control plane as a shell drives it: a voter's consensus over a simulated log disk, and the
//! state that committed commands build.

mod folder;
mod voter;

pub use folder::Folder;
pub use voter::{Start, Voter};
