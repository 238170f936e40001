//! Connecting to a daemon: over its Unix socket, which the file's mode guards, or over mutual TLS on
//! its control port.

use crate::proto;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// The ALPN name of gRPC, to be offered by the connector.
pub const ALPN: &[u8] = b"h2";

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a daemon's first bytes are waited for before it is taken at its handshake.
const FIRST_BYTES: Duration = Duration::from_secs(1);
/// Bytes of the longest message that is read: a list of many volumes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// A dead peer is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where a daemon listens.
#[derive(Clone)]
pub enum Target {
    /// Its administration socket.
    Unix(PathBuf),
    /// Its control port, by mutual TLS. The connector shows the caller's certificate and checks the
    /// daemon's against `name`.
    Tls {
        /// `HOST:PORT`.
        address: String,
        /// Offers [`ALPN`].
        connector: TlsConnector,
        /// Whom the certificate must name.
        name: ServerName<'static>,
    },
}

/// Why a daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens on the socket.
    #[error(
        "no daemon answers on {path}: {source}; is 'lockstep daemon' running, and may you open its socket?"
    )]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody listens at the address, or it is not whom the certificate should name.
    #[error("no daemon of this cluster answers at {address}: {source}")]
    Tls {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It listens and does not speak gRPC.
    #[error("{target} answers, but not as a Lockstep daemon: {why}")]
    Protocol {
        /// What was asked.
        target: String,
        /// Why.
        why: String,
    },
}

/// The services of one daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// Connects, and fails at once if nobody answers. A connection that breaks later is made anew by
/// the next call.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(target: Target) -> Result<Client, ConnectError> {
    // Tried once by hand first: the channel's own errors do not say what is wrong.
    let first = target
        .open()
        .await
        .map_err(|source| target.refused(source))?;
    let shown = target.to_string();
    let endpoint = Endpoint::from_static("http://lockstep.invalid")
        .connect_timeout(CONNECT)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let dial = Dial {
        target,
        first: Some(first),
    };
    match endpoint.connect_with_connector(dial).await {
        Ok(channel) => Ok(Client { channel }),
        Err(error) => Err(ConnectError::Protocol {
            target: shown,
            why: causes(&error),
        }),
    }
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $module:ident::$client:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> proto::$module::$client<Channel> {
            proto::$module::$client::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
        }
    )*};
}

impl Client {
    services! {
        /// The cluster as a whole.
        cluster: cluster_client::ClusterClient,
        /// Its nodes.
        nodes: nodes_client::NodesClient,
        /// Their pools.
        pools: pools_client::PoolsClient,
        /// Volumes and their copies.
        volumes: volumes_client::VolumesClient,
        /// Devices of attached volumes on this daemon's node.
        devices: devices_client::DevicesClient,
        /// Forced recovery.
        recovery: recovery_client::RecoveryClient,
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tls { address, .. } => f.write_str(address),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({self})")
    }
}

/// A stream of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type AnyStream = Box<dyn Stream>;

impl Target {
    async fn open(&self) -> io::Result<AnyStream> {
        match tokio::time::timeout(CONNECT, self.dial()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer within 5 s",
            )),
        }
    }

    async fn dial(&self) -> io::Result<AnyStream> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tls {
                address,
                connector,
                name,
            } => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                let mut stream = connector.connect(name.clone(), stream).await?;
                // Under TLS 1.3 this side is done before the daemon has looked at its certificate.
                // Whether that is taken shows with the daemon's first bytes, which HTTP/2 sends
                // unasked; they stay for whoever reads next.
                let first = tokio::time::timeout(FIRST_BYTES, stream.fill_buf()).await;
                if let Ok(Err(refused)) = first {
                    return Err(refused);
                }
                Ok(Box::new(stream))
            }
        }
    }

    fn refused(&self, source: io::Error) -> ConnectError {
        match self {
            Self::Unix(path) => ConnectError::Unix {
                path: path.clone(),
                source,
            },
            Self::Tls { address, .. } => ConnectError::Tls {
                address: address.clone(),
                source,
            },
        }
    }
}

/// Gives the channel its streams, the one that was opened by hand first.
struct Dial {
    target: Target,
    first: Option<AnyStream>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<AnyStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (first, target) = (self.first.take(), self.target.clone());
        Box::pin(async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => target.open().await.map(TokioIo::new),
            }
        })
    }
}

/// An error and what caused it, outermost first.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
