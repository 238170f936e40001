//! What the programs of this crate begin with: whom they ask, what they show, and when they end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use lockstep_api::Target;
use lockstep_net::tls::connector;
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, Role};
use tokio::signal::unix::{SignalKind, signal};

use crate::tls::follow_node;

/// Logs to standard error, chooses the provider of cryptography, and runs a program to its end.
///
/// # Errors
/// The program's, or the runtime's.
pub fn run(program: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
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
        .block_on(program)
}

/// The API server: as a kubeconfig says, or as a pod asks it.
///
/// # Errors
/// The file says nothing, or this is no pod.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
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

/// Has certificates that were shown read again when they change, for as long as it is polled.
pub async fn following(shown: Option<Arc<Certificates>>) {
    match shown {
        Some(certificates) => follow_node(certificates).await,
        None => std::future::pending().await,
    }
}

/// The daemons to ask: a data directory, or HOST:PORT with certificates.
///
/// # Errors
/// One is neither.
pub fn targets(
    daemons: &[String],
    certificates: Option<&Arc<Certificates>>,
) -> anyhow::Result<Vec<Target>> {
    let target = |daemon: &String| -> anyhow::Result<Target> {
        if daemon.starts_with('/') {
            return Ok(Target::Unix(PathBuf::from(daemon).join("admin.sock")));
        }
        if !daemon.contains(':') {
            bail!("--daemon {daemon}: give an absolute directory, or HOST:PORT");
        }
        let certificates = certificates
            .with_context(|| format!("--daemon {daemon} is asked over TLS: --certs is missing"))?;
        Ok(Target::Tls {
            address: daemon.clone(),
            connector: connector(certificates, &[lockstep_api::client::ALPN])?,
            name: dialled_name(Role::DataNode, None),
        })
    };
    daemons.iter().map(target).collect()
}

/// Waits for SIGTERM or SIGINT.
pub async fn told_to_end() {
    let (Ok(mut terminated), Ok(mut interrupted)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("told to end");
}
