//! The control plane's links: one mTLS connection between every two nodes, for consensus frames and
//! for what nodes tell each other. The node with the smaller id dials, so that there are no two.
//!
//! A link counts as up only once it has proved both directions: a ping was answered. Frames may get
//! lost (a full queue drops them); consensus copes with that, and everything else is told again.

mod connection;
mod dial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_net::{Certificates, Role};
use lockstep_types::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::listener::Incoming;

/// Frames waiting to be sent on one link.
const QUEUE: usize = 1024;

/// A node to be linked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its certificate's role.
    pub role: Role,
    /// `host:port`.
    pub address: String,
}

/// What the links tell.
#[derive(Debug)]
pub enum LinkEvent {
    /// A link stands, proved in both directions.
    Up(NodeId),
    /// It is gone.
    Down(NodeId),
    /// A consensus frame.
    Consensus {
        /// The node at the other end, as its certificate names it.
        from: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// A message between nodes.
    Message {
        /// The node at the other end, as its certificate names it.
        from: NodeId,
        /// The message.
        body: Bytes,
    },
}

/// What is sent on a link.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    Consensus(Bytes),
    Message(Bytes),
}

/// All links of this node. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
    peers: watch::Sender<Vec<Peer>>,
}

pub(crate) struct Shared {
    me: NodeId,
    certificates: Arc<Certificates>,
    events: mpsc::Sender<LinkEvent>,
    /// The queue of each link that stands or is being proved, and a number that tells it from its
    /// predecessor.
    queues: Mutex<BTreeMap<NodeId, (u64, mpsc::Sender<Parcel>)>>,
}

impl Links {
    /// Starts them: dials from the current runtime, takes what comes in from `incoming`. Events go
    /// to `events`; a slow reader pushes back on the links.
    pub fn start(
        me: NodeId,
        certificates: Arc<Certificates>,
        incoming: mpsc::Receiver<Incoming>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let shared = Arc::new(Shared {
            me,
            certificates,
            events,
            queues: Mutex::default(),
        });
        let (peers, watching) = watch::channel(Vec::new());
        tokio::spawn(dial::keep_dialled(Arc::clone(&shared), watching));
        tokio::spawn(accept(Arc::clone(&shared), incoming));
        Self { shared, peers }
    }

    /// Whom to be linked with from now on.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.peers.send_if_modified(|current| {
            let changed = *current != peers;
            *current = peers;
            changed
        });
    }

    /// Nodes that were removed: their certificates are refused from now on, and their links end.
    pub async fn bar(&self, removed: BTreeSet<NodeId>) {
        self.shared.certificates.bar(removed.clone());
        for node in removed {
            let was_linked = self.shared.queues.lock().remove(&node).is_some();
            if was_linked {
                tracing::info!(peer = %node, "a control link was cut: its node was removed");
                // A connection whose queue was taken away says nothing of its end.
                let _ = self.shared.events.send(LinkEvent::Down(node)).await;
            }
        }
    }

    /// Ends every link, and makes no more.
    pub fn close(&self) {
        self.set_peers(Vec::new());
        self.shared.queues.lock().clear();
    }

    /// Sends a consensus frame; it is lost if there is no link or its queue is full.
    pub fn send_consensus(&self, to: NodeId, frame: Bytes) {
        self.shared.send(to, Parcel::Consensus(frame));
    }

    /// Sends a message; it is lost if there is no link or its queue is full.
    pub fn send_message(&self, to: NodeId, body: Bytes) {
        self.shared.send(to, Parcel::Message(body));
    }

    /// Sends a message on every link.
    pub fn broadcast(&self, body: &Bytes) {
        let queues: Vec<_> = self
            .shared
            .queues
            .lock()
            .values()
            .map(|(_, queue)| queue.clone())
            .collect();
        for queue in queues {
            // Told again with the next one.
            let _ = queue.try_send(Parcel::Message(body.clone()));
        }
    }
}

impl Shared {
    fn send(&self, to: NodeId, parcel: Parcel) {
        let queue = self.queues.lock().get(&to).map(|(_, queue)| queue.clone());
        let sent = queue.is_some_and(|queue| queue.try_send(parcel).is_ok());
        if !sent {
            metrics::counter!("lockstep_control_frames_dropped_total").increment(1);
        }
    }

    /// Makes this connection the link to `peer`; an older one ends when its queue goes.
    pub(crate) fn register(&self, peer: NodeId) -> (u64, mpsc::Receiver<Parcel>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let number = crate::mint::number();
        self.queues.lock().insert(peer, (number, sender));
        (number, receiver)
    }

    /// The connection ended. Whether it still was the link.
    pub(crate) fn unregister(&self, peer: NodeId, number: u64) -> bool {
        let mut queues = self.queues.lock();
        let current = queues.get(&peer).is_some_and(|(held, _)| *held == number);
        if current {
            queues.remove(&peer);
        }
        current
    }
}

async fn accept(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Incoming>) {
    while let Some(Incoming {
        stream,
        peer,
        address,
    }) = incoming.recv().await
    {
        let Some(peer) = peer else { continue };
        if peer.node >= shared.me {
            // Only the smaller id dials. This one has a wrong idea of us, or is us.
            tracing::warn!(%address, peer = %peer.node, "a control link was refused: the other side has to wait for this node's call");
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { connection::run(&shared, peer.node, stream).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::found::unix_now;
    use crate::listener::{Queues, listen};
    use lockstep_net::{ClusterCa, PeerIdentity, Validity};
    use lockstep_types::ClusterId;
    use std::time::Duration;

    struct TestNode {
        links: Links,
        events: mpsc::Receiver<LinkEvent>,
        peer: Peer,
        _directory: tempfile::TempDir,
        _rest: Vec<mpsc::Receiver<Incoming>>,
    }

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0")
            .expect("binds")
            .local_addr()
            .expect("bound")
            .port()
    }

    async fn node(ca: &ClusterCa, id: u128) -> TestNode {
        let who = PeerIdentity {
            cluster: ClusterId::from_u128(7),
            role: Role::DataNode,
            node: NodeId::from_u128(id),
        };
        let directory = tempfile::tempdir().expect("a directory");
        let issued = ca
            .issue(
                who,
                Validity::starting(unix_now(), Duration::from_secs(3600)),
            )
            .expect("issued");
        let certificates =
            Certificates::install(directory.path(), ca.pem(), &issued).expect("installed");
        let address = format!("127.0.0.1:{}", free_port());
        let (raft, incoming) = mpsc::channel(16);
        let mut rest = Vec::new();
        let mut other = || {
            let (sender, receiver) = mpsc::channel(16);
            rest.push(receiver);
            sender
        };
        let queues = Queues {
            join: other(),
            raft,
            admin: other(),
        };
        listen(address.parse().expect("an address"), &certificates, queues)
            .await
            .expect("listens");
        let (sender, events) = mpsc::channel(64);
        let links = Links::start(who.node, certificates, incoming, sender);
        let peer = Peer {
            node: who.node,
            role: who.role,
            address,
        };
        TestNode {
            links,
            events,
            peer,
            _directory: directory,
            _rest: rest,
        }
    }

    fn new_ca() -> ClusterCa {
        ClusterCa::create(
            ClusterId::from_u128(7),
            Validity::starting(unix_now(), Duration::from_secs(3600)),
        )
        .expect("a CA")
    }

    async fn next(node: &mut TestNode) -> LinkEvent {
        tokio::time::timeout(Duration::from_secs(10), node.events.recv())
            .await
            .expect("in time")
            .expect("running")
    }

    #[tokio::test]
    async fn two_nodes_link_and_speak_both_ways() {
        let ca = new_ca();
        let (mut a, mut b) = (node(&ca, 1).await, node(&ca, 2).await);
        a.links.set_peers(vec![b.peer.clone()]);
        b.links.set_peers(vec![a.peer.clone()]);
        assert!(matches!(next(&mut a).await, LinkEvent::Up(node) if node == b.peer.node));
        assert!(matches!(next(&mut b).await, LinkEvent::Up(node) if node == a.peer.node));
        a.links
            .send_consensus(b.peer.node, Bytes::from_static(b"raft"));
        b.links
            .send_message(a.peer.node, Bytes::from_static(b"hello"));
        let got = next(&mut b).await;
        assert!(
            matches!(&got, LinkEvent::Consensus { frame, .. } if &frame[..] == b"raft"),
            "{got:?}"
        );
        let got = next(&mut a).await;
        assert!(
            matches!(&got, LinkEvent::Message { body, .. } if &body[..] == b"hello"),
            "{got:?}"
        );
        // A peer that is taken away is unlinked on both sides.
        a.links.set_peers(Vec::new());
        assert!(matches!(next(&mut a).await, LinkEvent::Down(_)));
        assert!(matches!(next(&mut b).await, LinkEvent::Down(_)));
    }

    #[tokio::test]
    async fn a_node_of_another_cluster_is_not_linked() {
        let (ours, theirs) = (new_ca(), new_ca());
        let (mut a, b) = (node(&ours, 1).await, node(&theirs, 2).await);
        a.links.set_peers(vec![b.peer.clone()]);
        let silent = tokio::time::timeout(Duration::from_millis(700), a.events.recv()).await;
        assert!(silent.is_err(), "{silent:?}");
    }
}
