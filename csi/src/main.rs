//! `lockstep-csi`: the CSI driver.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use lockstep_csi::controller::ControllerService;
use lockstep_csi::daemon::Daemon;
use lockstep_csi::enrol::Enrolment;
use lockstep_csi::host::paths::Root;
use lockstep_csi::identity::IdentityService;
use lockstep_csi::kubernetes::Api;
use lockstep_csi::node::NodeService;
use lockstep_csi::process::{self, told_to_end};
use lockstep_csi::proto::controller_server::ControllerServer;
use lockstep_csi::proto::identity_server::IdentityServer;
use lockstep_csi::proto::node_server::NodeServer;
use lockstep_csi::register::register;
use lockstep_csi::server::Socket;
use lockstep_csi::targets::{follow_node, targets};
use lockstep_net::Certificates;

/// What this process serves.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Serve {
    /// The Controller service, beside the sidecars.
    Controller,
    /// The Node service, beside a node's daemon.
    Node,
    /// Both, by one socket.
    All,
}

/// Serves volumes of a Lockstep cluster to Kubernetes (CSI 1.13).
#[derive(Parser)]
#[command(
    name = "lockstep-csi",
    version,
    after_help = "Examples:\n  lockstep-csi --serve node --node a1 --endpoint unix:///csi/csi.sock --daemon /var/lib/lockstep \\\n      --kubelet-root /var/lib/kubelet --registration /registration/csi.lockstep.dev@reg.sock\n  lockstep-csi --serve controller --endpoint unix:///csi/csi.sock --certs /certs --daemon a1.storage:7400 --daemon b1.storage:7400"
)]
struct Arguments {
    /// What to serve
    #[arg(long, value_enum, default_value = "all")]
    serve: Serve,
    /// The socket for kubelet and the sidecars
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    endpoint: String,
    /// A daemon to ask: its data directory (through the socket there), or HOST:PORT with --certs; several are
    /// asked in turn when one is gone
    #[arg(
        long = "daemon",
        default_value = "/var/lib/lockstep",
        value_name = "DIR|HOST:PORT"
    )]
    daemons: Vec<String>,
    /// A directory with ca.pem, node.pem and node.key to show to daemons at HOST:PORT
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// A Secret in which pods that wait to join the cluster find their tokens: this process keeps it, as the
    /// service account of its pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    enrol: Option<String>,
    /// This node's name in the cluster; needed to serve a node
    #[arg(long, env = "LOCKSTEP_NODE")]
    node: Option<String>,
    /// Kubelet's folder; no path outside it is touched
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    kubelet_root: PathBuf,
    /// Kubelet's registration socket, to be made, with an '@' in its name; without it somebody else registers
    /// the driver
    #[arg(long, value_name = "SOCKET")]
    registration: Option<String>,
    /// The driver's socket as kubelet sees it, if that is another path than --endpoint's
    #[arg(long, value_name = "SOCKET", requires = "registration")]
    kubelet_endpoint: Option<String>,
    /// Volumes that this node uses at most, which the scheduler keeps to
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    max_volumes: i64,
}

fn main() -> anyhow::Result<()> {
    process::run(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shown = arguments.certs.as_deref().map(Certificates::open);
    let shown = shown.transpose()?;
    let daemon = Daemon::new(targets(&arguments.daemons, shown.as_ref())?);
    if let Some(certificates) = shown {
        tokio::spawn(follow_node(certificates));
    }
    let controller = arguments.serve != Serve::Node;
    let mut router = tonic::transport::Server::builder().add_service(IdentityServer::new(
        IdentityService::new(daemon.clone(), controller),
    ));
    if controller {
        router = router.add_service(ControllerServer::new(ControllerService::new(
            daemon.clone(),
        )));
    }
    if arguments.serve != Serve::Controller {
        let name = arguments.node.as_deref().filter(|name| !name.is_empty());
        let name = name.context("--node is missing: the name under which this node has joined")?;
        let root = Root::open(&arguments.kubelet_root)?;
        let service = NodeService::new(daemon.clone(), name, arguments.max_volumes, root);
        router = router.add_service(NodeServer::new(service));
    }
    if let Some(secret) = &arguments.enrol {
        let enrolment = Enrolment::new(Api::of_this_pod()?, daemon.clone(), secret)?;
        tokio::spawn(enrolment.look_after());
    }
    let socket = Socket::listen(&arguments.endpoint)?;
    tracing::info!(endpoint = %arguments.endpoint, version = env!("CARGO_PKG_VERSION"), "serving CSI");
    let served = socket.serve(router, told_to_end());
    match &arguments.registration {
        None => served.await,
        Some(path) => {
            let endpoint = arguments
                .kubelet_endpoint
                .as_ref()
                .unwrap_or(&arguments.endpoint);
            tokio::select! {
                ended = served => ended,
                failed = register(path, endpoint) => failed,
            }
        }
    }
}
