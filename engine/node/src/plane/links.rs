//! Replication links: one TLS connection between every two data nodes, on the ring. The node with
//! the smaller id dials. The first frame each way is a hello; whoever is of another cluster, or not
//! the node its certificate names, is refused and logged.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_logic::io::Input;
use lockstep_net::verify::dialled_name;
use lockstep_net::{PeerIdentity, Role, refusal};
use lockstep_ring::timer::boottime;
use lockstep_ring::{
    Address, CloseReason, ConnId, FrameLengths, Framing, ListenerId, Reactor, SendError,
    SocketError, Transport,
};
use lockstep_types::{ClusterId, Nanos, NodeId, millis};
use lockstep_wire::{Hello, Message, VERSION, Versions, negotiate};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::ending;

#[cfg(test)]
mod tests;

/// The protocol's name in the TLS handshake.
pub const ALPN_DATA: &[u8] = b"lockstep-data/1";

const FIRST_WAIT: Nanos = millis(50);
const LONGEST_WAIT: Nanos = millis(500);
/// Who has said nothing for so long is not heard; longer than a lease.
const HEARD: Nanos = millis(3500);

/// What the links need to know of this node.
pub struct LinkConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Minted at this start of the daemon.
    pub boot: u64,
    /// For dialling.
    pub client: Arc<ClientConfig>,
    /// For listening: data nodes only.
    pub server: Arc<ServerConfig>,
}

/// A data node to be linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPeer {
    /// The node.
    pub node: NodeId,
    /// Where its replication listens.
    pub address: SocketAddr,
}

/// All replication links of one data-plane thread.
pub struct Links {
    config: LinkConfig,
    listener: ListenerId,
    peers: BTreeMap<NodeId, Peer>,
    connections: BTreeMap<ConnId, Connection>,
}

/// The link to a peer, as it is now.
#[derive(Clone, Debug)]
pub struct LinkMeasure {
    /// The other node.
    pub peer: NodeId,
    /// It stands.
    pub up: bool,
    /// As the kernel has measured it.
    pub round_trip: Option<Duration>,
}

struct Peer {
    address: SocketAddr,
    /// The link that stands.
    link: Option<ConnId>,
    /// When it said something last, on any link; what the kernel says in its name does not count.
    heard: Option<Nanos>,
    /// The attempt under way, if this node dials.
    dialling: Option<ConnId>,
    /// When to dial next.
    dial_at: Nanos,
    wait: Nanos,
    /// The failure last told, so that a dead peer is not told of twice a second.
    told: String,
}

#[derive(Debug)]
struct Connection {
    /// As the certificate names it.
    peer: Option<NodeId>,
    /// The hello was good.
    greeted: bool,
    address: String,
}

impl Links {
    /// Listens for links at `address`.
    ///
    /// # Errors
    /// The address is taken.
    pub fn listen(
        config: LinkConfig,
        address: SocketAddr,
        reactor: &mut Reactor,
    ) -> Result<Self, SocketError> {
        let transport = Transport::TlsServer(Arc::clone(&config.server));
        let listener = ending::wait_while(
            &format!("{address} to be free"),
            || reactor.listen(&Address::Tcp(address), transport.clone(), Some(framing())),
            |error| matches!(error, SocketError::System { source, .. } if source.kind() == ErrorKind::AddrInUse),
        )?;
        Ok(Self {
            config,
            listener,
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
        })
    }

    /// Whether this is the links' listener.
    pub fn is_listener(&self, listener: ListenerId) -> bool {
        self.listener == listener
    }

    /// Every peer, and how far away it is.
    pub fn measure(&self, reactor: &mut Reactor) -> Vec<LinkMeasure> {
        let measure = |(id, peer): (&NodeId, &Peer)| LinkMeasure {
            peer: *id,
            up: peer.link.is_some(),
            round_trip: peer.link.and_then(|conn| reactor.round_trip(conn)),
        };
        self.peers.iter().map(measure).collect()
    }

    /// Whether this connection is a link or may become one.
    pub fn owns(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    /// With whom to be linked from now on.
    pub fn set_peers(
        &mut self,
        peers: &[DataPeer],
        reactor: &mut Reactor,
        inputs: &mut Vec<Input>,
    ) {
        let wanted: BTreeMap<NodeId, SocketAddr> = peers
            .iter()
            .filter(|peer| peer.node != self.config.node)
            .map(|peer| (peer.node, peer.address))
            .collect();
        let gone: Vec<NodeId> = self
            .peers
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            let peer = self.peers.remove(&id).expect("just listed");
            for conn in peer.link.into_iter().chain(peer.dialling) {
                self.connections.remove(&conn);
                reactor.abort(conn);
            }
            if peer.link.is_some() {
                inputs.push(Input::LinkDown { peer: id });
            }
        }
        for (id, address) in wanted {
            let peer = self.peers.entry(id).or_insert_with(|| Peer {
                address,
                link: None,
                heard: None,
                dialling: None,
                dial_at: 0,
                wait: FIRST_WAIT,
                told: String::new(),
            });
            if peer.address != address {
                peer.address = address;
                peer.dial_at = 0;
            }
        }
    }

    /// When the next peer is to be dialled; `Nanos::MAX` if none is.
    pub fn next_timer(&self) -> Nanos {
        let due = self
            .peers
            .iter()
            .filter(|(id, peer)| self.is_due(**id, peer));
        due.map(|(_, peer)| peer.dial_at)
            .min()
            .unwrap_or(Nanos::MAX)
    }

    /// Dials whoever is due.
    pub fn dial(&mut self, now: Nanos, reactor: &mut Reactor) {
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(id, peer)| self.is_due(**id, peer) && peer.dial_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let peer = self.peers.get_mut(&id).expect("just listed");
            peer.dial_at = now + peer.wait;
            peer.wait = (peer.wait * 2).min(LONGEST_WAIT);
            let name = dialled_name(Role::DataNode, Some(id));
            let transport = Transport::TlsClient(Arc::clone(&self.config.client), name);
            match reactor.connect(&Address::Tcp(peer.address), transport, Some(framing())) {
                Ok(conn) => {
                    peer.dialling = Some(conn);
                    let address = peer.address.to_string();
                    self.connections.insert(
                        conn,
                        Connection {
                            peer: Some(id),
                            greeted: false,
                            address,
                        },
                    );
                }
                Err(error) => tell(id, peer, &error.to_string(), false),
            }
        }
    }

    /// A connection came in.
    pub fn accepted(&mut self, conn: ConnId, address: String) {
        self.connections.insert(
            conn,
            Connection {
                peer: None,
                greeted: false,
                address,
            },
        );
    }

    /// A handshake is over: says hello.
    pub fn connected(
        &mut self,
        conn: ConnId,
        certificate: Option<&CertificateDer<'_>>,
        reactor: &mut Reactor,
    ) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        // The chain was checked in the handshake; this reads whom it names.
        let identity = certificate.and_then(|der| PeerIdentity::from_cert(der).ok());
        let Some(identity) = identity.filter(|who| who.role == Role::DataNode) else {
            refused(connection, "its certificate names no data node");
            reactor.abort(conn);
            return;
        };
        connection.peer = Some(identity.node);
        let hello = Message::Hello(Hello {
            cluster: self.config.cluster,
            node: self.config.node,
            boot: self.config.boot,
            oldest: Versions::SUPPORTED.oldest,
            newest: VERSION,
        });
        // It fits: nothing was queued before it. A connection that is closing says so itself.
        let _ = send_on(reactor, conn, &hello);
    }

    /// A frame arrived.
    pub fn frame(
        &mut self,
        conn: ConnId,
        head: &[u8],
        payload: Bytes,
        reactor: &mut Reactor,
        inputs: &mut Vec<Input>,
    ) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let message = match lockstep_wire::decode(head, payload) {
            // The node itself checks what requests carry, once.
            Ok(message @ Message::Request(_)) => message,
            Ok(message) if message.payload_is_intact() => message,
            Ok(_) => {
                refused(connection, "a payload does not match its checksums");
                reactor.abort(conn);
                return;
            }
            Err(error) => {
                refused(connection, &error.to_string());
                reactor.abort(conn);
                return;
            }
        };
        match (message, connection.greeted, connection.peer) {
            (Message::Hello(hello), false, Some(peer)) => {
                self.greeted(conn, peer, &hello, reactor, inputs)
            }
            (Message::Hello(_), ..) | (_, false, _) | (_, _, None) => {
                refused(
                    connection,
                    "a message out of place: a link begins with one hello",
                );
                reactor.abort(conn);
            }
            (message, true, Some(from)) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.heard = Some(boottime());
                }
                inputs.push(Input::Message { from, message });
            }
        }
    }

    /// Peers that have said something of late. A link that stands proves nothing: one to a machine without power
    /// stands for minutes. Whoever has a volume open says something every half second.
    pub fn heard(&self, now: Nanos) -> Vec<NodeId> {
        let fresh = |at: Nanos| now < at + HEARD;
        let peers = self.peers.iter();
        peers
            .filter(|(_, peer)| peer.heard.is_some_and(fresh))
            .map(|(node, _)| *node)
            .collect()
    }

    /// A connection is over.
    pub fn closed(&mut self, conn: ConnId, reason: &CloseReason, inputs: &mut Vec<Input>) {
        let Some(connection) = self.connections.remove(&conn) else {
            return;
        };
        let is_refusal = match reason {
            CloseReason::Tls(error) => refusal(error),
            _ => None,
        };
        let text = is_refusal
            .as_ref()
            .map_or_else(|| reason.to_string(), ToString::to_string);
        let Some((id, peer)) = connection
            .peer
            .and_then(|id| Some((id, self.peers.get_mut(&id)?)))
        else {
            if is_refusal.is_some() {
                refused(&connection, &text);
            }
            return;
        };
        if peer.dialling == Some(conn) {
            peer.dialling = None;
        }
        if peer.link == Some(conn) {
            peer.link = None;
            tracing::info!(peer = %id, reason = %text, "replication link down");
            inputs.push(Input::LinkDown { peer: id });
        } else if !connection.greeted && !matches!(reason, CloseReason::Local) {
            tell(id, peer, &text, is_refusal.is_some());
        }
    }

    /// Sends a message on a peer's link; dropped if it does not stand. A link whose queue is full is
    /// closed: it loses nothing while it stands.
    pub fn send(&mut self, to: NodeId, message: &Message, reactor: &mut Reactor) {
        let Some(conn) = self.peers.get(&to).and_then(|peer| peer.link) else {
            return;
        };
        if send_on(reactor, conn, message) == Err(SendError::Full) {
            tracing::warn!(peer = %to, "replication link closed: its send queue is full");
            metrics::counter!("lockstep_links_overrun_total").increment(1);
            reactor.abort(conn);
        }
    }

    /// Stops listening.
    pub fn stop(&self, reactor: &mut Reactor) {
        reactor.stop_listening(self.listener);
    }

    fn is_due(&self, id: NodeId, peer: &Peer) -> bool {
        id > self.config.node && peer.link.is_none() && peer.dialling.is_none()
    }

    fn greeted(
        &mut self,
        conn: ConnId,
        from: NodeId,
        hello: &Hello,
        reactor: &mut Reactor,
        inputs: &mut Vec<Input>,
    ) {
        let connection = self
            .connections
            .get_mut(&conn)
            .expect("its frame just came");
        if let Err(why) = check_hello(&self.config, from, hello) {
            refused(connection, &why);
            reactor.abort(conn);
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else {
            // Not known yet: this node's control state lags behind. The peer calls again.
            tracing::info!(peer = %from, "a replication link has to wait until this node knows the peer");
            reactor.close(conn);
            return;
        };
        connection.greeted = true;
        peer.dialling = peer.dialling.filter(|dialling| *dialling != conn);
        if let Some(old) = peer.link.replace(conn) {
            self.connections.remove(&old);
            reactor.abort(old);
            inputs.push(Input::LinkDown { peer: from });
        }
        peer.wait = FIRST_WAIT;
        peer.told.clear();
        tracing::info!(peer = %from, "replication link up");
        inputs.push(Input::LinkUp {
            peer: from,
            boot: hello.boot,
        });
    }
}

fn check_hello(config: &LinkConfig, from: NodeId, hello: &Hello) -> Result<(), String> {
    if hello.cluster != config.cluster {
        return Err(format!("it belongs to cluster {}", hello.cluster));
    }
    if hello.node != from {
        return Err(format!(
            "it says it is node {}, its certificate says {from}",
            hello.node
        ));
    }
    negotiate(Versions::SUPPORTED, hello.versions())
        .map(drop)
        .map_err(|e| e.to_string())
}

/// How replication's frames are cut out of the stream.
fn framing() -> Framing {
    Framing {
        head: lockstep_wire::HEADER,
        max_rest: lockstep_wire::MAX_BODY,
        max_payload: lockstep_wire::MAX_PAYLOAD,
        lengths: |head| match lockstep_wire::peek(head) {
            Ok(Some(lengths)) => Ok(FrameLengths {
                rest: lengths.body,
                payload: lengths.payload,
            }),
            Ok(None) => Err("a header that is not whole"),
            Err(_) => Err("not a replication frame of a version spoken here"),
        },
    }
}

fn send_on(reactor: &mut Reactor, conn: ConnId, message: &Message) -> Result<(), SendError> {
    let encoded = lockstep_wire::encode(message);
    reactor.send(conn, std::iter::once(encoded.head).chain(encoded.payload))
}

fn refused(connection: &Connection, why: &str) {
    metrics::counter!("lockstep_connections_refused_total").increment(1);
    tracing::warn!(address = %connection.address, peer = ?connection.peer, reason = %why, "a replication link was refused");
}

fn tell(id: NodeId, peer: &mut Peer, why: &str, refused: bool) {
    if peer.told == why {
        return;
    }
    if refused {
        metrics::counter!("lockstep_connections_refused_total").increment(1);
        tracing::warn!(peer = %id, address = %peer.address, reason = %why, "a replication link was refused");
    } else {
        tracing::info!(peer = %id, address = %peer.address, reason = %why, "no replication link");
    }
    peer.told = why.to_owned();
}
