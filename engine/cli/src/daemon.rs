//! `lockstep daemon`.

use std::os::unix::process::CommandExt;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lockstep_node::config::KeeperFrom;
use lockstep_node::daemon::End;
use lockstep_node::{daemon, logging};

use crate::connect::{ConnectArgs, block_on};

/// `lockstep daemon`.
#[derive(Args)]
#[command(after_help = "\
Example:
  lockstep daemon --dir /var/lib/lockstep

The directory is made by 'lockstep cluster init' or 'lockstep node join'. The log goes to standard
error; LOCKSTEP_LOG overrides log.filter of node.toml. SIGTERM stops it in order.")]
pub struct DaemonArgs {
    /// Who starts the process that keeps block devices while the daemon is away; overrides devices.keeper of
    /// node.toml
    #[arg(long, value_enum)]
    keeper: Option<KeeperArg>,
}

/// Where the keeper comes from.
#[derive(Clone, Copy, ValueEnum)]
enum KeeperArg {
    /// The daemon starts one if none listens
    Daemon,
    /// Somebody else: no device is made before it listens
    External,
}

/// Runs the node until it is told to stop.
pub fn run(args: &DaemonArgs, connect: &ConnectArgs) -> anyhow::Result<()> {
    let mut prepared = daemon::prepare(&connect.directory())?;
    match args.keeper {
        None => {}
        Some(KeeperArg::Daemon) => prepared.config.devices.keeper = KeeperFrom::Daemon,
        Some(KeeperArg::External) => prepared.config.devices.keeper = KeeperFrom::External,
    }
    logging::install(&prepared.config.log)?;
    match block_on(daemon::run(prepared))? {
        End::Stopped => Ok(()),
        End::StartAgain => start_again(),
    }
}

/// Becomes this binary anew, in the same process: nothing of what ran is left but the files.
fn start_again() -> anyhow::Result<()> {
    let binary = std::env::current_exe().context("this binary's own path is unknown")?;
    let error = std::process::Command::new(binary)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).context("the daemon cannot be started again")
}
