//! `lockstep-bench`: Lockstep beside the floors of the same machine, in one run; every figure worth
//! keeping is a ratio.
//!
//! - `load`: our own NBD client on a socket, so that no other client's ceiling binds.
//! - `run`: starts a cluster of separate processes, and measures raw files, three files at once, the
//!   minimal replicator (with the same front-end hop, checksums and TLS) and Lockstep with three
//!   copies and with one, and QEMU's quorum where it is installed, interleaved.
//! - `metro`: the sites in network namespaces with distance between them, beside the minimal
//!   replicator in the same ones.
//! - `failover`: what the kill of a secondary, and of a site with one, does to a steady load.
//! - `job`: devices, files and NBD exports that a job file names, of whichever product.
//! - `compare`: two runs beside each other, which differences exceed the noise, and a gate.
//! - `plot`: the curves of a run, as `run` draws them with `--out`.
#![forbid(unsafe_code)]

mod beside;
mod cluster;
mod compare;
mod crowd;
mod database;
mod failover;
mod floor;
mod interrupt;
mod job;
mod load;
mod main_room;
mod metro;
mod peer;
mod picture;
mod plan;
mod plot;
mod results;
mod run;
mod scratch;
mod size;
mod table;
mod timeline;
mod timeline_plot;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "lockstep-bench",
    version,
    about = "Lockstep beside the floors of the same machine",
    after_help = "Examples:\n  lockstep-bench run --dir /srv/bench --quick --out results\n  lockstep-bench failover --dir /srv/bench --out failover\n  lockstep-bench job bench/job.example.toml --check\n  lockstep-bench compare before after --gate 15\n\nbench/run builds what each of them needs, and calls it."
)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Drive an NBD export at a depth.
    Load(load::Options),
    /// Measure everything, and print ratios.
    Run(run::Options),
    /// Measure with distance between the sites (root).
    Metro(metro::Options),
    /// Measure what a failure does to a steady load.
    Failover(failover::Options),
    /// Measure devices, files and NBD exports that a job file names.
    Job(job::Options),
    /// Say which differences between two runs exceed the noise.
    Compare(compare::Options),
    /// Draw the curves of a run as SVG and PNG.
    Plot(plot::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> anyhow::Result<()> {
    interrupt::listen()?;
    match mode {
        Mode::Load(options) => load::run(&options),
        Mode::Run(options) => run::run(&options),
        Mode::Metro(options) => metro::run(&options),
        Mode::Failover(options) => failover::run(&options),
        Mode::Job(options) => job::run(&options),
        Mode::Compare(options) => compare::run(&options),
        Mode::Plot(options) => plot::run(&options),
    }
}
