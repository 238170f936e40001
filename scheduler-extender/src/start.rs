//! How the programs of this crate ask the API server, and as whom they ask daemons.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use lockstep_csi::targets::follow_node;
use lockstep_net::Certificates;

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
