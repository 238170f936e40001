//! `lockstep down`: stops what `up` started.

use anyhow::Context;
use clap::Args;

use crate::connect::{ConnectArgs, block_on};
use crate::local::{Layout, close_devices, let_go, stop_all};
use crate::output::Output;

/// `lockstep down`.
#[derive(Args)]
#[command(after_help = "Example:\n  lockstep down --dir ./cluster")]
pub struct DownArgs {}

/// Stops every daemon of the cluster. Its data stays.
pub fn run(DownArgs {}: DownArgs, connect: &ConnectArgs, output: &Output) -> anyhow::Result<()> {
    let root = std::path::absolute(connect.directory())?;
    let layout = Layout::read(&root)?
        .with_context(|| format!("{} holds no cluster of 'lockstep up'", root.display()))?;
    block_on(close_devices(&layout))?;
    let stopped = stop_all(&layout, layout.nodes.iter());
    for volume in let_go(&layout)? {
        eprintln!(
            "warning: the block device of volume '{volume}' was in use; what uses it gets I/O errors"
        );
    }
    output.one(
        &serde_json::json!({ "stopped": stopped }),
        &format!(
            "{stopped} nodes stopped; their data stays in {}.",
            root.display()
        ),
    )
}
