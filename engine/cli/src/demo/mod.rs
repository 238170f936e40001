//! `lockstep demo`: two sites and a witness on this machine, a verifying load, a dying site, and
//! every acknowledged block read back.

mod files;
pub mod place;
mod story;

use std::time::Instant;

use anyhow::bail;
use clap::Args;
use lockstep_node::units::Size;
use serde::Serialize;

use crate::connect::block_on;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// `lockstep demo`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockstep demo
  lockstep demo --seconds 20 --volume-size 1GiB
  lockstep demo --json | tail -1

Exits non-zero if one acknowledged block is wrong. Leaves nothing behind unless --keep is given.")]
pub struct DemoArgs {
    /// Seconds of load between two events
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Size of the three-copy volume
    #[arg(long, default_value = "256MiB")]
    volume_size: Size,
    /// Size of each node's pool
    #[arg(long, default_value = "1GiB")]
    pool_size: Size,
    /// Seed of the load; drawn when not given
    #[arg(long)]
    seed: Option<u64>,
    /// The last line is one JSON object; what happens goes to standard error
    #[arg(long)]
    json: bool,
    /// Keep the cluster's directory, with its logs
    #[arg(long)]
    keep: bool,
    /// Where the cluster's directory is made; a disk, not memory
    #[arg(long = "in", value_name = "DIR")]
    within: Option<std::path::PathBuf>,
}

/// What the demo found out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Blocks read and compared.
    pub verified: u64,
    /// Acknowledged blocks that were wrong.
    pub lost: u64,
    /// Longest time without an answer while the volume was open.
    pub longest_stall_ms: u64,
    /// From the death of the primary's site to the first acknowledged write elsewhere.
    pub reopen_ms: u64,
    /// Bytes of the blocks changed while a site was away.
    pub changed_bytes: u64,
    /// Bytes copied to it when it was back.
    pub resynced_bytes: u64,
    /// Operations whose end is unknown.
    pub unknown: u64,
    /// Whether a file on ext4 was whole in the other site; none without root.
    pub file_whole: Option<bool>,
    /// The seed of the load.
    pub seed: u64,
}

/// Says what happens, with the time since the start.
pub struct Teller {
    began: Instant,
    to_stderr: bool,
}

impl Teller {
    /// One line.
    pub fn tell(&self, text: &str) {
        let line = format!("[{:6.1} s] {text}", self.began.elapsed().as_secs_f64());
        if self.to_stderr {
            eprintln!("{line}");
        } else {
            let _ = crate::output::print(&line);
        }
    }
}

/// Runs it.
pub fn run(args: DemoArgs, output: &Output) -> anyhow::Result<()> {
    let json = args.json || output.is_json();
    let teller = Teller {
        began: Instant::now(),
        to_stderr: json,
    };
    let summary = block_on(async {
        let mut interrupts = Interrupts::listen()?;
        // A story that is dropped in the middle puts away what it has made.
        tokio::select! {
            summary = story::run(&args, &teller) => summary,
            name = interrupts.next() => bail!("stopped by {name} before the end; nothing is left behind"),
        }
    })?;
    if json {
        crate::output::print(&serde_json::to_string(&summary)?)?;
    } else {
        crate::output::print(&text(&summary))?;
    }
    anyhow::ensure!(
        summary.lost == 0,
        "{} acknowledged blocks are wrong (seed {})",
        summary.lost,
        summary.seed
    );
    anyhow::ensure!(
        summary.file_whole != Some(false),
        "the file on ext4 has other bytes than were synced"
    );
    Ok(())
}

fn text(summary: &Summary) -> String {
    let file = match summary.file_whole {
        Some(true) => "\n  file on ext4          whole in the other site",
        Some(false) => "\n  file on ext4          WRONG",
        None => "",
    };
    format!(
        "\n  acknowledged writes   {}\n  blocks verified       {}\n  lost or wrong         {}\n  longest stall         {} ms\n  reopened after        {} ms\n  changed while away    {}\n  resynced              {}{file}",
        summary.acknowledged,
        summary.verified,
        summary.lost,
        summary.longest_stall_ms,
        summary.reopen_ms,
        Size(summary.changed_bytes),
        Size(summary.resynced_bytes),
    )
}
