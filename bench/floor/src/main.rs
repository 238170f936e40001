//! `lockstep-floor`: the least a replicated durable write can cost on this machine, as the
//! yardstick for Lockstep's figures.
//!
//! - `replicate`: a client, a primary and two replicas, each a process of its own, joined by TCP
//!   over loopback. A write is 4 KiB; each of the three stores it with one `pwrite` to a file
//!   opened O_DIRECT|O_DSYNC; the client has its answer when 3 of 3 did. Depth N is N such lanes
//!   side by side, a thread in every process each.
//! - `raw`: what the disk gives without anything around it: one file, or three at once, through
//!   io_uring with registered buffers and RWF_DSYNC.
//!
//! Files are fully allocated and written once before anything is measured. Compare only figures
//! of one session, with the same placement: absolute ones move by tens of percent.

mod files;
mod node;
mod raw;
mod replicate;
mod tls;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "lockstep-floor",
    version,
    about = "Floors for replicated durable writes"
)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Client, primary and two replicas over TCP; durable on 3 of 3.
    Replicate(replicate::Options),
    /// One file, or three at once, without replication.
    Raw(raw::Options),
    /// A primary or replica; started by `replicate`.
    #[command(hide = true)]
    Node(node::Options),
}

/// What both measurements share.
#[derive(clap::Args, Clone)]
struct Common {
    /// Requests in flight (raw: per file).
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Seconds measured, after one of warming up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the files go; a directory on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// MiB of each file.
    #[arg(long, default_value_t = 256)]
    size: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().mode {
        Mode::Replicate(options) => replicate::run(&options),
        Mode::Raw(options) => raw::run(&options),
        Mode::Node(options) => node::run(&options),
    }
}
