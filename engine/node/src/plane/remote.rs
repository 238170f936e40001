//! NBD by TCP, for clients on other hosts: STARTTLS with certificates of the cluster, both ways.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use lockstep_ring::{Address, ConnId, ListenerId, Reactor, SocketError, Transport};
use rustls::ServerConfig;

use crate::ending;

/// Where it listens, and whom it lets in.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// The address.
    pub listen: SocketAddr,
    /// Lets in the roles that may use volumes.
    pub server: Arc<ServerConfig>,
}

/// The listener.
#[derive(Debug)]
pub(super) struct Remote {
    listener: ListenerId,
    server: Arc<ServerConfig>,
}

impl Remote {
    pub(super) fn listen(config: RemoteConfig, reactor: &mut Reactor) -> Result<Self, SocketError> {
        let address = Address::Tcp(config.listen);
        // NBD begins in the clear: the client asks for TLS, and gets nothing before it.
        let listener = ending::wait_while(
            &format!("{} to be free", config.listen),
            || reactor.listen(&address, Transport::Plain, None),
            |error| matches!(error, SocketError::System { source, .. } if source.kind() == ErrorKind::AddrInUse),
        )?;
        Ok(Self {
            listener,
            server: config.server,
        })
    }

    pub(super) fn is_listener(&self, listener: ListenerId) -> bool {
        self.listener == listener
    }

    pub(super) fn start_tls(&self, conn: ConnId, reactor: &mut Reactor) {
        if let Err(error) = reactor.start_tls(conn, Arc::clone(&self.server)) {
            tracing::error!(%error, "TLS cannot begin on an NBD connection");
            reactor.abort(conn);
        }
    }
}
