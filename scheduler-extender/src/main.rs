//! `lockstep-scheduler-extender`: puts pods near the copies of their volumes.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use lockstep_csi::process::told_to_end;
use lockstep_csi::targets::{follow_node, targets};
use lockstep_net::Certificates;
use lockstep_scheduler_extender::routes::{self, Answers};
use lockstep_scheduler_extender::server::serve;
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::tls::{Clients, Tls};
use lockstep_scheduler_extender::{kubernetes, measure, poll, touch};
use tokio::net::TcpListener;

/// Tells kube-scheduler on which nodes pods with Lockstep volumes can run, and where they run best.
#[derive(Parser)]
#[command(
    name = "lockstep-scheduler-extender",
    version,
    after_help = "Examples:\n  lockstep-scheduler-extender --tls /etc/lockstep/extender --daemon /var/lib/lockstep --kubeconfig /etc/kubernetes/scheduler.conf\n  lockstep-scheduler-extender --tls /tls --certs /certs --daemon a1.storage:7400 --daemon b1.storage:7400 --webhook-listen 0.0.0.0:7431\n\nThe folder of --tls holds ca.crt, which signs the schedulers' certificates, and tls.crt and tls.key of this process."
)]
struct Arguments {
    /// Where schedulers ask, with certificates; on the host of each of them
    #[arg(long, default_value = "127.0.0.1:7430", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where the API server asks what pods need, without a certificate; without it nobody is served there
    #[arg(long, value_name = "ADDRESS")]
    webhook_listen: Option<SocketAddr>,
    /// A folder with ca.crt, tls.crt and tls.key; read again when they change
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// A file with the token that lets a reader of metrics in at --webhook-listen
    #[arg(long, value_name = "FILE")]
    metrics_token: Option<PathBuf>,
    /// How the API server is asked; without it as a pod is
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A Lockstep daemon to ask: its data directory (through the socket there), or HOST:PORT with --certs; several
    /// are asked in turn when one is gone
    #[arg(
        long = "daemon",
        default_value = "/var/lib/lockstep",
        value_name = "DIR|HOST:PORT"
    )]
    daemons: Vec<String>,
    /// A directory with ca.pem, node.pem and node.key to show to daemons at HOST:PORT
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("two providers of cryptography in one process")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let tls = Arc::new(Tls::open(&arguments.tls)?);
    let metrics = measure::install()?;
    let token = arguments.metrics_token.as_deref().map(token).transpose()?;
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let shown = arguments.certs.as_deref().map(Certificates::open);
    let shown = shown.transpose()?;
    let daemons = targets(&arguments.daemons, shown.as_ref())?;
    let state = State::default();
    let answers = Answers {
        state: state.clone(),
        client: Some(client.clone()),
        metrics,
        token,
    };
    let schedulers = bind(arguments.listen).await?;
    let routes = routes::certified(answers.clone());
    let webhook = match arguments.webhook_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(listen = %arguments.listen, version, "serving schedulers");
    let serving_webhook = async {
        match webhook {
            Some(listener) => {
                let routes = routes::anybody(answers);
                serve(listener, Arc::clone(&tls), Clients::Anybody, routes).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serve(schedulers, Arc::clone(&tls), Clients::Certified, routes) => {}
        () = serving_webhook => {}
        () = kubernetes::hear(client.clone(), state.clone()) => {}
        () = poll::hear(daemons, state.clone()) => {}
        () = touch::tell(client, state) => {}
        () = tls.follow() => {}
        () = following(shown) => {}
        () = told_to_end() => {}
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; does another process there?"))
}

fn token(file: &Path) -> anyhow::Result<Arc<str>> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("--metrics-token {}", file.display()))?;
    match text.trim() {
        "" => bail!("--metrics-token {}: it is empty", file.display()),
        token => Ok(token.into()),
    }
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let read = read.with_context(|| format!("--kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster().context(
            "this is no pod of Kubernetes: --kubeconfig is needed to ask the API server",
        )?,
    };
    Ok(Client::try_from(config)?)
}

async fn following(shown: Option<Arc<Certificates>>) {
    match shown {
        Some(certificates) => follow_node(certificates).await,
        None => std::future::pending().await,
    }
}
