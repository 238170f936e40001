//! `lockstep keeper`: what a daemon starts to hold the descriptors of its block devices.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

/// `lockstep keeper`.
#[derive(Args)]
#[command(after_help = "Example:\n  lockstep keeper /var/lib/lockstep/keeper.sock")]
pub struct KeeperArgs {
    /// Where it listens: keeper.sock in the daemon's data directory
    socket: PathBuf,
}

/// Keeps until it is told to stop.
pub fn run(args: &KeeperArgs) -> anyhow::Result<()> {
    lockstep_keeper::serve(&args.socket)
        .with_context(|| format!("cannot keep at {}", args.socket.display()))
}
