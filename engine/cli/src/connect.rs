//! Which daemon a command asks: through the socket in a data directory, or over mutual TLS.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use lockstep_api::error::stable_code;
use lockstep_api::{Client, ConnectError, Target, connect};
use lockstep_net::tls::connector;
use lockstep_net::verify::{dialled_name, refusal_of_io};
use lockstep_net::{Certificates, Role};
use lockstep_node::directory::Directory;

/// Whom to ask.
#[derive(Args, Clone)]
pub struct ConnectArgs {
    /// A node's data directory: its daemon is asked through the socket there
    #[arg(
        long,
        env = "LOCKSTEP_DIR",
        default_value = "/var/lib/lockstep",
        global = true,
        value_name = "DIR"
    )]
    dir: PathBuf,
    /// A daemon's control address, asked over mutual TLS with --certs
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "certs")]
    server: Option<String>,
    /// A directory with ca.pem, node.pem and node.key to show to --server
    #[arg(long, global = true, value_name = "DIR")]
    certs: Option<PathBuf>,
}

impl ConnectArgs {
    /// The data directory.
    pub fn directory(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Connects.
    ///
    /// # Errors
    /// No daemon answers there.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let target = match (&self.server, &self.certs) {
            (Some(address), Some(certs)) => {
                let certificates = Certificates::open(certs)?;
                Target::Tls {
                    address: address.clone(),
                    connector: connector(&certificates, &[lockstep_api::client::ALPN])?,
                    name: dialled_name(Role::DataNode, None),
                }
            }
            _ => Target::Unix(socket(&self.dir)?),
        };
        connect(target).await.map_err(refused)
    }
}

/// Of a certificate that was refused, by either side, the reason in our words: the TLS library's say
/// less.
fn refused(error: ConnectError) -> anyhow::Error {
    match &error {
        ConnectError::Tls { address, source } => match refusal_of_io(source) {
            Some(why) => anyhow::anyhow!("no daemon of this cluster answers at {address}: {why}"),
            None => error.into(),
        },
        ConnectError::Unix { .. } | ConnectError::Protocol { .. } => error.into(),
    }
}

/// The socket of a data directory; of a local cluster's directory, the first node's that answers.
fn socket(dir: &std::path::Path) -> anyhow::Result<PathBuf> {
    if let Some(layout) = crate::local::Layout::read(dir)? {
        let sockets = layout
            .nodes
            .iter()
            .map(|node| layout.directory(node).admin_socket());
        let answers = |socket: &PathBuf| std::os::unix::net::UnixStream::connect(socket).is_ok();
        return sockets.into_iter().find(answers).with_context(|| {
            format!(
                "no node of the cluster in {} runs; 'lockstep up --dir …' starts it",
                dir.display()
            )
        });
    }
    Ok(Directory::new(dir).admin_socket())
}

/// Runs a command's future.
///
/// # Errors
/// Its own.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}

/// A daemon's refusal in its own words; of a connection that broke, the reason below it.
pub fn words(status: tonic::Status) -> anyhow::Error {
    if stable_code(&status).is_some() {
        return anyhow::anyhow!("{}", status.message());
    }
    let mut text = format!("{} ({})", status.message(), status.code());
    let mut cause = std::error::Error::source(&status);
    while let Some(inner) = cause {
        // Under TLS 1.3 a refused certificate is heard of only with the first answer.
        if let Some(refused) = inner.downcast_ref().and_then(refusal_of_io) {
            return refused.into();
        }
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    anyhow::anyhow!(text)
}
