//! The daemons that a command line names, and the certificate that is shown to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lockstep_api::Target;
use lockstep_net::tls::connector;
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, Role};

/// How often files of certificates are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Whom each `--daemon` names: a daemon's data directory, or HOST:PORT, which needs certificates.
///
/// # Errors
/// One is neither, or HOST:PORT without certificates.
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

/// Follows the certificate that is shown to daemons, for as long as it is polled.
pub async fn follow_node(certificates: Arc<Certificates>) {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        match certificates.reload_if_changed() {
            Ok(true) => tracing::info!("daemons are asked with a new certificate"),
            Ok(false) => {}
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(
                    error,
                    "a new certificate cannot be used; the old one stays in use"
                );
            }
        }
    }
}
