//! `lockstep-monitor`: has pods of dead nodes run elsewhere soon.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lockstep_csi::daemon::Daemon;
use lockstep_csi::process::{self, told_to_end};
use lockstep_csi::targets::targets;
use lockstep_evict::monitor::Graces;
use lockstep_net::Certificates;
use lockstep_scheduler_extender::{monitor, start};

/// Moves pods with Lockstep volumes off nodes that are dead: fences their volumes, deletes them by force, has the
/// volumes detached at once. Several may run; the one whose daemon leads the control plane acts.
#[derive(Parser)]
#[command(
    name = "lockstep-monitor",
    version,
    after_help = "Examples:\n  lockstep-monitor --daemon /var/lib/lockstep --daemon-pods lockstep\n  lockstep-monitor --certs /certs --daemon a1.storage:7400 --kubeconfig admin.conf --grace 5"
)]
struct Arguments {
    /// The Lockstep daemon to ask: its data directory (through the socket there), or HOST:PORT with --certs
    #[arg(
        long,
        default_value = "/var/lib/lockstep",
        value_name = "DIR|HOST:PORT"
    )]
    daemon: String,
    /// A directory with ca.pem, node.pem and node.key to show to a daemon at HOST:PORT
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// How the API server is asked; without it as a pod is
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the daemons' pods, if they are pods: one that is being replaced is waited for
    #[arg(long, value_name = "NAMESPACE")]
    daemon_pods: Option<String>,
    /// With --daemon-pods: replace these pods one by one when their DaemonSet has a newer revision, each when all copies
    /// are certified again
    #[arg(long, requires = "daemon_pods")]
    roll_out: bool,
    /// For how long a node may be silent, kubelet and all, before its pods are moved
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    grace: u64,
    /// The same for one whose kubelet lives, or whose daemon's pod is being replaced
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    grace_alive: u64,
}

fn main() -> anyhow::Result<()> {
    process::run(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = start::client(arguments.kubeconfig.as_deref()).await?;
    let shown = arguments.certs.as_deref().map(Certificates::open);
    let shown = shown.transpose()?;
    let daemon = Daemon::new(targets(&[arguments.daemon], shown.as_ref())?);
    let nanos = |seconds| Duration::from_secs(seconds).as_nanos() as u64;
    let graces = Graces {
        dead: nanos(arguments.grace),
        alive: nanos(arguments.grace_alive.max(arguments.grace)),
    };
    let world = monitor::World {
        daemon,
        client,
        daemon_pods: arguments.daemon_pods,
        rolls_out: arguments.roll_out,
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "watching over nodes");
    tokio::select! {
        () = monitor::watch(world, graces) => {}
        () = start::following(shown) => {}
        () = told_to_end() => {}
    }
    Ok(())
}
