//! The control port: one TLS listener, told apart by ALPN. A joiner has no certificate yet and may
//! do nothing but join; every other protocol lets in only the roles it is for. Who is refused is
//! logged with the reason.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockstep_net::tls::{join_server_config, server_config};
use lockstep_net::verify::refusal_of_io;
use lockstep_net::{Certificates, PeerIdentity, RoleSet};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ending;

/// Joining with a token.
pub const ALPN_JOIN: &[u8] = b"lockstep-join/1";
/// The control plane's links between nodes.
pub const ALPN_RAFT: &[u8] = b"lockstep-raft/1";
/// Administration: gRPC.
pub const ALPN_ADMIN: &[u8] = b"h2";

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections whose handshake is under way.
const HANDSHAKES: usize = 256;

/// A connection that came in.
#[derive(Debug)]
pub struct Incoming {
    /// The stream; its ALPN is the queue it came through.
    pub stream: TlsStream<TcpStream>,
    /// Who is there; none on the join protocol.
    pub peer: Option<PeerIdentity>,
    /// From where.
    pub address: SocketAddr,
}

/// Where connections of each protocol go. A full queue pushes back on the handshake.
#[derive(Debug)]
pub struct Queues {
    /// Joiners.
    pub join: mpsc::Sender<Incoming>,
    /// Nodes' links.
    pub raft: mpsc::Sender<Incoming>,
    /// Administration.
    pub admin: mpsc::Sender<Incoming>,
}

struct Configs {
    join: Arc<ServerConfig>,
    daemons: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
}

/// Listens on `address` and hands connections on until the task that is returned is aborted.
///
/// # Errors
/// The address is taken, or the certificates are unusable.
pub async fn listen(
    address: SocketAddr,
    certificates: &Arc<Certificates>,
    queues: Queues,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = bind(address).map_err(|e| {
        anyhow::anyhow!(
            "cannot listen on {address}: {e}; stop what listens there or change listen.control"
        )
    })?;
    let configs = Arc::new(Configs {
        join: join_server_config(certificates, &[ALPN_JOIN])?,
        daemons: server_config(certificates, RoleSet::DAEMONS, &[ALPN_RAFT])?,
        admin: server_config(certificates, RoleSet::ANY, &[ALPN_ADMIN])?,
    });
    let queues = Arc::new(queues);
    let slots = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
    let task = tokio::spawn(async move {
        loop {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others will close some.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (configs, queues) = (Arc::clone(&configs), Arc::clone(&queues));
            tokio::spawn(async move {
                let _slot = slot;
                match tokio::time::timeout(HANDSHAKE, greet(stream, address, &configs, &queues))
                    .await
                {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => log_refusal(address, &error),
                    Err(_) => {
                        tracing::info!(%address, "a connection was closed: no handshake within 5 s")
                    }
                }
            });
        }
    });
    Ok(task)
}

/// Binds, waiting for a daemon before this one to be gone.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = ending::wait_while(
        &format!("{address} to be free"),
        || std::net::TcpListener::bind(address),
        |error| error.kind() == io::ErrorKind::AddrInUse,
    )?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Logs why a connection failed: as a refusal when it is about a certificate.
pub fn log_refusal(address: SocketAddr, error: &io::Error) {
    match refusal_of_io(error) {
        Some(refused) => {
            metrics::counter!("lockstep_connections_refused_total").increment(1);
            tracing::warn!(%address, reason = %refused, "a connection was refused");
        }
        None => tracing::info!(%address, %error, "a connection ended in its handshake"),
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    configs: &Configs,
    queues: &Queues,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let wanted: Vec<Vec<u8>> = start
        .client_hello()
        .alpn()
        .into_iter()
        .flatten()
        .map(<[u8]>::to_vec)
        .collect();
    let (config, queue) = match wanted.first().map(Vec::as_slice) {
        Some(ALPN_JOIN) => (&configs.join, &queues.join),
        Some(ALPN_RAFT) => (&configs.daemons, &queues.raft),
        Some(ALPN_ADMIN) => (&configs.admin, &queues.admin),
        _ => {
            let why = "the connection names no protocol of Lockstep's (ALPN)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    };
    let stream = start.into_stream(Arc::clone(config)).await?;
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([leaf, ..]) => {
            let identity = PeerIdentity::from_cert(leaf)
                .map_err(|e| io::Error::new(io::ErrorKind::PermissionDenied, e))?;
            Some(identity)
        }
        _ => None,
    };
    let closed = |_| io::Error::new(io::ErrorKind::ConnectionAborted, "the daemon is stopping");
    queue
        .send(Incoming {
            stream,
            peer,
            address,
        })
        .await
        .map_err(closed)
}
