//! A node that was removed from its cluster leaves the local cluster too: `up` starts it no more.

use std::path::{Path, PathBuf};

use super::devices;
use super::layout::Layout;
use super::process::stop_all;

/// Stops the daemon of a removed node and strikes the node from the layout in `root`; where its
/// directory lies, which stays. None if there is no local cluster there, or it has no such node.
///
/// # Errors
/// The layout cannot be read or kept.
pub fn leave(root: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let root = std::path::absolute(root)?;
    let Some(mut layout) = Layout::read(&root)? else {
        return Ok(None);
    };
    let Some(at) = layout.nodes.iter().position(|node| node.name == name) else {
        return Ok(None);
    };
    stop_all(&layout, std::iter::once(&layout.nodes[at]));
    let node = layout.nodes.remove(at);
    devices::let_go_of(&layout, &node)?;
    layout.write()?;
    Ok(Some(layout.directory(&node).root().to_owned()))
}
