//! Dialling: one task a peer with a larger id, with a short back-off.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lockstep_net::tls::connector;
use lockstep_net::verify::{dialled_name, refusal_of_io};
use lockstep_types::NodeId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connection;
use super::{Peer, Shared};
use crate::listener::ALPN_RAFT;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(3);

/// Keeps a dialling task for each peer that is ours to dial.
pub(super) async fn keep_dialled(shared: Arc<Shared>, mut peers: watch::Receiver<Vec<Peer>>) {
    let mut tasks: BTreeMap<NodeId, (Peer, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted: BTreeMap<NodeId, Peer> = peers
            .borrow_and_update()
            .iter()
            .filter(|peer| peer.node > shared.me)
            .map(|peer| (peer.node, peer.clone()))
            .collect();
        let gone: Vec<NodeId> = tasks
            .iter()
            .filter(|(id, (peer, _))| wanted.get(id) != Some(peer))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let (_, task) = tasks.remove(&id).expect("just listed");
            task.abort();
            drop_link(&shared, id).await;
        }
        for (id, peer) in wanted {
            tasks.entry(id).or_insert_with(|| {
                let task = tokio::spawn(dial_forever(Arc::clone(&shared), peer.clone()));
                (peer, task)
            });
        }
        if peers.changed().await.is_err() {
            tasks.into_values().for_each(|(_, task)| task.abort());
            return;
        }
    }
}

/// The task that ran the link was aborted: nobody else says that it is down.
async fn drop_link(shared: &Shared, peer: NodeId) {
    let was_there = shared.queues.lock().remove(&peer).is_some();
    if was_there {
        let _ = shared.events.send(super::LinkEvent::Down(peer)).await;
    }
}

async fn dial_forever(shared: Arc<Shared>, peer: Peer) {
    let mut wait = FIRST_WAIT;
    let mut told = String::new();
    loop {
        match tokio::time::timeout(CONNECT, dial(&shared, &peer)).await {
            Ok(Ok(stream)) => {
                (wait, told) = (FIRST_WAIT, String::new());
                connection::run(&shared, peer.node, stream).await;
            }
            Ok(Err(error)) => tell(&peer, &error, &mut told),
            Err(_) => tell(&peer, &io::ErrorKind::TimedOut.into(), &mut told),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Logs a failure once, until it changes: a dead peer is dialled twice a second for hours.
fn tell(peer: &Peer, error: &io::Error, told: &mut String) {
    let refused = refusal_of_io(error);
    let text = refused
        .as_ref()
        .map_or_else(|| error.to_string(), ToString::to_string);
    if *told == text {
        return;
    }
    if refused.is_some() {
        metrics::counter!("lockstep_connections_refused_total").increment(1);
        tracing::warn!(peer = %peer.node, address = %peer.address, reason = %text, "a control link was refused");
    } else {
        tracing::info!(peer = %peer.node, address = %peer.address, error = %text, "a node cannot be reached");
    }
    *told = text;
}

async fn dial(
    shared: &Shared,
    peer: &Peer,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = connector(&shared.certificates, &[ALPN_RAFT]).map_err(io::Error::other)?;
    let stream = TcpStream::connect(&peer.address).await?;
    stream.set_nodelay(true)?;
    connector
        .connect(dialled_name(peer.role, Some(peer.node)), stream)
        .await
}
