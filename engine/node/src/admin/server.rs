//! The two doors: `admin.sock` in the data directory, and the control port.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lockstep_api::proto::cluster_server::ClusterServer;
use lockstep_api::proto::devices_server::DevicesServer;
use lockstep_api::proto::nodes_server::NodesServer;
use lockstep_api::proto::pools_server::PoolsServer;
use lockstep_api::proto::recovery_server::RecoveryServer;
use lockstep_api::proto::volumes_server::VolumesServer;
use lockstep_net::{Certificates, PeerIdentity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, Router};

use super::Shared;
use crate::listener::Incoming;

/// The running services.
pub struct Server {
    tasks: Vec<JoinHandle<()>>,
    socket: std::path::PathBuf,
}

impl Server {
    /// Serves on the Unix socket and on what the control port hands over.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn start(
        shared: Shared,
        mut administrators: mpsc::Receiver<Incoming>,
    ) -> anyhow::Result<Self> {
        let path = shared.inner.directory.admin_socket();
        // The directory's lock is held: whatever socket is there is of a daemon that is dead.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)
            .map_err(|e| anyhow::anyhow!("cannot listen on {}: {e}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let local = router(&shared);
        let remote = router(&shared);
        let certificates = Arc::clone(&shared.inner.certificates);
        let over_socket = tokio::spawn(async move {
            let (connections, accepted) = mpsc::channel::<io::Result<Local>>(64);
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            if connections.send(Ok(Local(stream))).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "an administrator's connection could not be accepted");
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                    }
                }
            });
            if let Err(error) = local.serve_with_incoming(Queue(accepted)).await {
                tracing::error!(%error, "administration over the socket ended");
            }
        });
        let over_tls = tokio::spawn(async move {
            let (connections, accepted) = mpsc::channel::<io::Result<Remote>>(64);
            tokio::spawn(async move {
                while let Some(incoming) = administrators.recv().await {
                    let certificates = Arc::clone(&certificates);
                    let remote = Remote(incoming.stream, incoming.peer, certificates);
                    if connections.send(Ok(remote)).await.is_err() {
                        return;
                    }
                }
            });
            if let Err(error) = remote.serve_with_incoming(Queue(accepted)).await {
                tracing::error!(%error, "administration over the control port ended");
            }
        });
        Ok(Self {
            tasks: vec![over_socket, over_tls],
            socket: path,
        })
    }

    /// Takes no more requests.
    pub fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn router(shared: &Shared) -> Router {
    tonic::transport::Server::builder()
        .add_service(ClusterServer::new(shared.clone()))
        .add_service(NodesServer::new(shared.clone()))
        .add_service(PoolsServer::new(shared.clone()))
        .add_service(VolumesServer::new(shared.clone()))
        .add_service(DevicesServer::new(shared.clone()))
        .add_service(RecoveryServer::new(shared.clone()))
}

/// A channel as the stream that tonic takes.
struct Queue<T>(mpsc::Receiver<T>);

impl<T> tokio_stream::Stream for Queue<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// A connection through the socket.
struct Local(UnixStream);
/// A connection through the control port.
struct Remote(
    TlsStream<TcpStream>,
    Option<PeerIdentity>,
    Arc<Certificates>,
);

impl Local {
    fn still_welcome(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Remote {
    /// A node that is removed while it is connected is sent away: its certificate ends with it.
    fn still_welcome(&self) -> io::Result<()> {
        match self.1 {
            Some(peer) if self.2.is_barred(peer.node) => {
                tracing::warn!(peer = %peer.node, "an administrator's connection was cut: its node was removed");
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            _ => Ok(()),
        }
    }
}

impl Connected for Local {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Whom a caller's certificate names.
#[derive(Clone, Copy)]
pub(super) struct Caller(pub Option<PeerIdentity>);

impl Connected for Remote {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(self.1)
    }
}

macro_rules! passes_through {
    ($type:ident) => {
        impl AsyncRead for $type {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                std::task::ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
                Poll::Ready(self.still_welcome())
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.still_welcome()?;
                Pin::new(&mut self.0).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    };
}

passes_through!(Local);
passes_through!(Remote);
