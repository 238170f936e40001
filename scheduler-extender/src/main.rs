//! `lockstep-scheduler-extender`: puts pods near the copies of their volumes.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use kube::Client;
use lockstep_csi::process::{self, told_to_end};
use lockstep_csi::targets::targets;
use lockstep_net::Certificates;
use lockstep_scheduler_extender::issue::Issue;
use lockstep_scheduler_extender::routes::{self, Answers};
use lockstep_scheduler_extender::server::serve;
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::tls::{Clients, Tls};
use lockstep_scheduler_extender::{kubernetes, measure, poll, start, touch};
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
    /// A Secret that is there, and empty at first: a CA is kept in it, and --tls is filled with certificates of it, made
    /// anew every day
    #[arg(long, value_name = "NAMESPACE/NAME")]
    issue: Option<String>,
    /// With --issue: end when the certificates are there
    #[arg(long, requires = "issue")]
    issue_only: bool,
    /// With --issue: the name under which the API server asks
    #[arg(long, value_name = "HOST", requires = "issue")]
    service: Option<String>,
    /// With --issue: the MutatingWebhookConfiguration that is told of the CA
    #[arg(long, value_name = "NAME", requires = "issue")]
    webhook_configuration: Option<String>,
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
    process::run(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = start::client(arguments.kubeconfig.as_deref()).await?;
    let issue = issue(&arguments, &client)?;
    if let Some(issue) = &issue {
        issue.once().await?;
        if arguments.issue_only {
            return Ok(());
        }
    }
    let tls = Arc::new(Tls::open(&arguments.tls)?);
    let metrics = measure::install()?;
    let token = arguments.metrics_token.as_deref().map(token).transpose()?;
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
        () = keeping(issue) => {}
        () = start::following(shown) => {}
        () = told_to_end() => {}
    }
    Ok(())
}

fn issue(arguments: &Arguments, client: &Client) -> anyhow::Result<Option<Issue>> {
    let Some(secret) = &arguments.issue else {
        return Ok(None);
    };
    let (namespace, name) = secret
        .split_once('/')
        .with_context(|| format!("--issue {secret}: give NAMESPACE/NAME of a Secret"))?;
    Ok(Some(Issue {
        client: client.clone(),
        secret: (namespace.into(), name.into()),
        service: arguments.service.clone(),
        webhook: arguments.webhook_configuration.clone(),
        directory: arguments.tls.clone(),
    }))
}

async fn keeping(issue: Option<Issue>) {
    match issue {
        Some(issue) => issue.keep().await,
        None => std::future::pending().await,
    }
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
