//! Between the control plane and the data plane: committed changes and ends of proposals to the
//! ring, in log order; proposals, answers and news from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_control::Change;
use lockstep_control::candidates::Held;
use lockstep_fuse::Negotiated;
use lockstep_logic::ReplicaInspection;
use lockstep_logic::io::{AttachmentState, NodeEvent, ProposalResult, Ticket};
use lockstep_protocol::Comparison;
use lockstep_types::{
    AttachmentId, DeviceId, Gap, Incarnation, NodeId, NodeRole, ReplicaId, VolumeId,
};
use lockstep_ublk::Queue;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::heartbeat::{PoolBeat, PrimaryBeat, ReplicaBeat, ResyncBeat};
use crate::control::{Control, Feed, ProposeError};
use crate::plane::{DataPeer, Order, Plane, PlaneReport, ServeDevice};
use crate::pool::failures::Failures;

/// How long a look at the data plane may take.
const INSPECT: Duration = Duration::from_millis(500);

/// What the data plane has said of itself.
#[derive(Clone, Debug, Default)]
pub struct PlaneView {
    /// Pools that are recovered, and those that failed, with why.
    pub pools: BTreeMap<DeviceId, Option<String>>,
    /// Volumes whose primary is here.
    pub primaries: BTreeMap<VolumeId, Primary>,
    /// Volumes attached here.
    pub attachments: BTreeMap<VolumeId, (AttachmentId, AttachmentState)>,
    /// Block devices that the kernel has let go of since they were served; those of its NBD client wait for
    /// another connection.
    pub ended: BTreeSet<AttachmentId>,
}

/// A volume as its primary here sees it.
#[derive(Clone, Debug, Default)]
pub struct Primary {
    /// Its epoch.
    pub epoch: u64,
    /// Whether requests are served.
    pub open: bool,
    /// Why not.
    pub waiting: Option<String>,
    /// Replicas being resynced, as heartbeats tell it.
    pub resyncs: BTreeMap<String, ResyncBeat>,
}

/// The data plane as the rest of the daemon speaks to it. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

struct Inner {
    plane: Plane,
    tickets: AtomicU64,
    answers: Mutex<BTreeMap<Ticket, oneshot::Sender<Result<(), String>>>>,
    /// Devices whose kernel side has not agreed yet.
    expected: Mutex<BTreeMap<AttachmentId, oneshot::Sender<Negotiated>>>,
    /// Devices that are served, each by the number of its order: one publication may have several,
    /// one after the other.
    served: Mutex<BTreeMap<AttachmentId, Ticket>>,
    view: watch::Sender<PlaneView>,
}

impl Bridge {
    /// Over a plane that was started.
    pub fn new(plane: Plane) -> Self {
        let view = watch::channel(PlaneView::default()).0;
        let inner = Inner {
            plane,
            tickets: AtomicU64::new(1),
            answers: Mutex::default(),
            expected: Mutex::default(),
            served: Mutex::default(),
            view,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What the data plane has said of itself, now and whenever that changes.
    pub fn view(&self) -> watch::Receiver<PlaneView> {
        self.inner.view.subscribe()
    }

    /// Attaches a volume here (R9).
    ///
    /// # Errors
    /// The data plane's reason, for people.
    pub async fn attach(&self, volume: VolumeId, attachment: AttachmentId) -> Result<(), String> {
        self.ask(|ticket| Order::Attach {
            ticket,
            volume,
            attachment,
        })
        .await
    }

    /// Detaches a volume from here.
    ///
    /// # Errors
    /// The data plane's reason, for people.
    pub async fn detach(&self, volume: VolumeId, attachment: AttachmentId) -> Result<(), String> {
        self.ask(|ticket| Order::Detach {
            ticket,
            volume,
            attachment,
        })
        .await
    }

    /// NBD clients that have a volume open; none once the data plane has stopped.
    pub async fn clients(&self, volume: VolumeId) -> usize {
        let (asker, answer) = oneshot::channel();
        self.inner
            .plane
            .order(Order::Clients { volume, asker })
            .await;
        answer.await.unwrap_or(0)
    }

    /// Serves a FUSE device from now on, once its volume is open under its attachment.
    pub async fn serve(&self, serve: ServeDevice) {
        let ticket = self.inner.tickets.fetch_add(1, Ordering::Relaxed);
        self.inner.served.lock().insert(serve.attachment, ticket);
        let serve = Box::new(serve);
        self.inner.plane.order(Order::Serve { ticket, serve }).await;
    }

    /// Speaks NBD with the kernel over `socket`, for a block device of this publication.
    pub async fn serve_kernel(&self, volume: VolumeId, attachment: AttachmentId, socket: OwnedFd) {
        let order = |ticket| Order::ServeKernel {
            ticket,
            volume,
            attachment,
            socket,
        };
        self.serve_as(attachment, order).await;
    }

    /// Serves a ublk device of this publication, whose volume has `size` bytes.
    pub async fn serve_ublk(
        &self,
        volume: VolumeId,
        attachment: AttachmentId,
        queue: Queue,
        size: u64,
    ) {
        let order = |ticket| Order::ServeUblk {
            ticket,
            volume,
            attachment,
            queue: Box::new(queue),
            size,
        };
        self.serve_as(attachment, order).await;
    }

    async fn serve_as(&self, attachment: AttachmentId, order: impl FnOnce(Ticket) -> Order) {
        let ticket = self.inner.tickets.fetch_add(1, Ordering::Relaxed);
        self.inner.served.lock().insert(attachment, ticket);
        // What ended before was another's.
        let view = &self.inner.view;
        view.send_if_modified(|view| view.ended.remove(&attachment));
        self.inner.plane.order(order(ticket)).await;
    }

    /// Fails what is asked of a publication's device, whatever its volume does: before it is taken away.
    pub async fn fail_device(&self, attachment: AttachmentId) {
        self.inner.plane.order(Order::FailDevice(attachment)).await;
    }

    /// Serves the device of a publication no longer.
    pub async fn unserve(&self, attachment: AttachmentId) {
        self.inner.plane.order(Order::Unserve(attachment)).await;
        self.inner.served.lock().remove(&attachment);
        self.inner.view.send_modify(|view| {
            view.ended.remove(&attachment);
        });
    }

    /// What the kernel agrees on for a device that is about to be served; an error if it lets go of
    /// it instead.
    pub fn expect_device(&self, attachment: AttachmentId) -> oneshot::Receiver<Negotiated> {
        let (sender, receiver) = oneshot::channel();
        self.inner.expected.lock().insert(attachment, sender);
        receiver
    }

    /// The copies that this node holds, as heartbeats tell them; empty while the data plane is busy
    /// or gone.
    pub async fn replica_beats(&self) -> Vec<ReplicaBeat> {
        let (asker, answer) = oneshot::channel();
        self.inner.plane.order(Order::Inspect(asker)).await;
        let Ok(Ok(inspection)) = tokio::time::timeout(INSPECT, answer).await else {
            return Vec::new();
        };
        for pool in &inspection.pools {
            let device = pool.device.to_string();
            metrics::gauge!("lockstep_pool_free_extents", "device" => device.clone())
                .set(pool.free_extents);
            metrics::gauge!("lockstep_journal_fill_ratio", "device" => device)
                .set(f64::from(pool.fill) / 65536.0);
        }
        let beat = |replica: ReplicaInspection| ReplicaBeat {
            replica: replica.replica.to_string(),
            incarnation: replica.incarnation.0,
            promised: replica.promised.0,
            last_epoch: replica.durable.epoch.0,
            last_sequence: replica.durable.sequence.0,
            gap: match replica.gap {
                Gap::None => 0,
                Gap::Torn => 1,
                Gap::Corrupt => 2,
                Gap::Suspect => 3,
            },
            failed: replica.failed,
        };
        inspection.replicas.into_iter().map(beat).collect()
    }

    /// What the copies of a volume here hold; none while the data plane is busy or gone.
    pub async fn held_copies(&self, volume: VolumeId) -> Option<Vec<Held>> {
        let (asker, answer) = oneshot::channel();
        self.inner.plane.order(Order::Copies(volume, asker)).await;
        tokio::time::timeout(INSPECT, answer).await.ok()?.ok()
    }

    /// Whether these copies here hold no block; none while the data plane is busy or gone.
    pub async fn are_blank(&self, copies: Vec<(ReplicaId, Incarnation)>) -> Option<bool> {
        let (asker, answer) = oneshot::channel();
        self.inner.plane.order(Order::Blank(copies, asker)).await;
        tokio::time::timeout(INSPECT, answer).await.ok()?.ok()
    }

    /// Asks the data plane to stop; [`Self::run`] ends when it has.
    pub async fn stop(&self) {
        self.inner.plane.order(Order::Stop).await;
    }

    /// Carries the feed to the ring until it ends.
    pub async fn carry_feed(self, me: NodeId, mut feed: mpsc::UnboundedReceiver<Feed>) {
        let mut nodes: BTreeMap<NodeId, String> = BTreeMap::new();
        let mut again = tokio::time::interval(Duration::from_secs(10));
        loop {
            let peers_changed = tokio::select! {
                item = feed.recv() => match item {
                    None => return,
                    Some(Feed::Change(change)) => {
                        let peers_changed = note_peer(&mut nodes, me, &change);
                        self.inner.plane.order(Order::Change(change)).await;
                        peers_changed
                    }
                    Some(Feed::Proposed { ticket, result }) => {
                        self.inner.plane.order(Order::Proposed { ticket, result }).await;
                        false
                    }
                },
                // Names may resolve later, or to something else.
                _ = again.tick() => nodes.values().any(|address| address.parse::<SocketAddr>().is_err()),
            };
            if peers_changed {
                self.inner
                    .plane
                    .order(Order::Peers(resolve(&nodes).await))
                    .await;
            }
        }
    }

    /// Takes the data plane's reports until it has stopped.
    pub async fn run(
        self,
        control: Control,
        feed: mpsc::UnboundedSender<Feed>,
        failures: Failures,
        mut reports: mpsc::Receiver<PlaneReport>,
    ) {
        while let Some(report) = reports.recv().await {
            match report {
                PlaneReport::Propose { ticket, command } => {
                    let (control, feed) = (control.clone(), feed.clone());
                    tokio::spawn(async move {
                        let result = match control.propose(command).await {
                            Ok(outcome) => ProposalResult::Applied(outcome),
                            Err(ProposeError::Rejected(rejected)) => {
                                ProposalResult::Rejected(rejected)
                            }
                            Err(ProposeError::NotDone(_) | ProposeError::Unknown(_)) => {
                                ProposalResult::Unknown
                            }
                        };
                        // Behind its own changes: they were fed when it was applied.
                        let _ = feed.send(Feed::Proposed { ticket, result });
                    });
                }
                PlaneReport::Answered { ticket, result } => {
                    if let Some(answer) = self.inner.answers.lock().remove(&ticket) {
                        let _ = answer.send(result);
                    }
                }
                PlaneReport::Attachment {
                    volume,
                    attachment,
                    state,
                } => {
                    tracing::info!(%volume, ?state, "attachment");
                    self.inner.view.send_modify(|view| {
                        view.attachments.insert(volume, (attachment, state));
                    });
                }
                PlaneReport::DeviceReady { attachment, agreed } => {
                    if let Some(expecting) = self.inner.expected.lock().remove(&attachment) {
                        let _ = expecting.send(agreed);
                    }
                }
                PlaneReport::DeviceEnded {
                    ticket,
                    attachment,
                    why,
                } => self.device_ended(ticket, attachment, &why),
                PlaneReport::Link { peer, up } => {
                    metrics::gauge!("lockstep_replication_link_up", "peer" => peer.to_string())
                        .set(f64::from(u8::from(up)));
                }
                PlaneReport::Event(event) => {
                    log(&event);
                    failures.follow(&event);
                    self.inner.view.send_modify(|view| view.note(event));
                }
                PlaneReport::Stopped => return,
            }
        }
    }

    fn device_ended(&self, ticket: Ticket, attachment: AttachmentId, why: &str) {
        tracing::info!(%attachment, %why, "a block device is not served any more");
        let served = self.inner.served.lock().get(&attachment) == Some(&ticket);
        if served {
            drop(self.inner.expected.lock().remove(&attachment));
            self.inner.view.send_modify(|view| {
                view.ended.insert(attachment);
            });
        }
    }

    async fn ask(&self, order: impl FnOnce(Ticket) -> Order) -> Result<(), String> {
        let ticket = self.inner.tickets.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.inner.answers.lock().insert(ticket, answer);
        self.inner.plane.order(order(ticket)).await;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err("this node's data plane has stopped".into()),
        }
    }
}

impl PlaneView {
    /// As heartbeats tell it.
    pub fn pool_beats(&self) -> Vec<PoolBeat> {
        self.pools
            .iter()
            .map(|(device, failed)| PoolBeat {
                device: device.to_string(),
                failed: failed.clone(),
            })
            .collect()
    }

    /// As heartbeats tell it.
    pub fn primary_beats(&self) -> Vec<PrimaryBeat> {
        self.primaries
            .iter()
            .map(|(volume, primary)| PrimaryBeat {
                volume: volume.to_string(),
                epoch: primary.epoch,
                open: primary.open,
                waiting: primary.waiting.clone(),
                resyncs: primary.resyncs.values().cloned().collect(),
            })
            .collect()
    }

    fn note(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::PoolReady { device, .. } => {
                self.pools.insert(device, None);
            }
            NodeEvent::PoolFailed { device, what, .. } => {
                self.pools.insert(device, Some(what));
            }
            NodeEvent::Opened { volume, epoch, .. } => {
                let primary = self.primaries.entry(volume).or_default();
                (primary.epoch, primary.open, primary.waiting) = (epoch.0, true, None);
            }
            NodeEvent::Closed { volume, .. } => {
                self.primaries.remove(&volume);
            }
            NodeEvent::Waiting { volume, reason } => {
                let primary = self.primaries.entry(volume).or_default();
                (primary.open, primary.waiting) = (false, Some(reason));
            }
            event => self.note_resync(event),
        }
    }

    fn note_resync(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::ResyncStarted {
                volume,
                replica,
                extents,
                ..
            } => {
                let beat = ResyncBeat {
                    replica: replica.to_string(),
                    total: extents,
                    ..ResyncBeat::default()
                };
                self.primaries
                    .entry(volume)
                    .or_default()
                    .resyncs
                    .insert(replica.to_string(), beat);
            }
            NodeEvent::ResyncProgress {
                volume,
                replica,
                done,
                total,
                bytes,
            } => {
                let replica = replica.to_string();
                let beat = ResyncBeat {
                    replica: replica.clone(),
                    done,
                    total,
                    bytes,
                    verified: false,
                };
                self.primaries
                    .entry(volume)
                    .or_default()
                    .resyncs
                    .insert(replica, beat);
            }
            NodeEvent::ResyncVerified {
                volume,
                replica,
                bytes,
            } => {
                let replica = replica.to_string();
                let beat = self
                    .primaries
                    .entry(volume)
                    .or_default()
                    .resyncs
                    .entry(replica.clone())
                    .or_default();
                (beat.replica, beat.bytes, beat.verified) = (replica, bytes, true);
            }
            NodeEvent::InSync {
                volume, members, ..
            } => {
                // One that is certified is resynced no more.
                let certified: BTreeSet<String> = members.iter().map(ToString::to_string).collect();
                if let Some(primary) = self.primaries.get_mut(&volume) {
                    primary
                        .resyncs
                        .retain(|replica, _| !certified.contains(replica));
                }
            }
            _ => {}
        }
    }
}

fn log(event: &NodeEvent) {
    match event {
        NodeEvent::Floor { .. } | NodeEvent::ResyncProgress { .. } => tracing::trace!(?event),
        NodeEvent::ResyncVerified { bytes, .. } => {
            metrics::counter!("lockstep_resynced_bytes_total").increment(*bytes);
            tracing::info!(?event);
        }
        NodeEvent::PoolFailed { .. } => {
            metrics::counter!("lockstep_pools_failed_total").increment(1);
            tracing::error!(?event);
        }
        NodeEvent::Evicting { .. } => {
            metrics::counter!("lockstep_evictions_total").increment(1);
            tracing::warn!(?event);
        }
        NodeEvent::Repaired { count, .. } => {
            metrics::counter!("lockstep_blocks_repaired_total").increment(u64::from(*count));
            tracing::warn!(?event);
        }
        // Told to the node of the device; the primary's own event names both copies.
        NodeEvent::DeviceLostWrite { device, .. } => {
            let device = device.to_string();
            metrics::counter!("lockstep_lost_writes_total", "device" => device).increment(1);
            tracing::error!(?event);
        }
        NodeEvent::Comparison { found, .. } => match found {
            Comparison::PassEnded { .. } => tracing::info!(?event),
            Comparison::LostWrite { .. } => tracing::warn!(?event),
            Comparison::Differ { .. } => {
                metrics::counter!("lockstep_copies_differ_total").increment(1);
                tracing::error!(?event);
            }
        },
        _ => tracing::info!(?event),
    }
}

/// Keeps the addresses of the other data nodes; whether they changed.
fn note_peer(nodes: &mut BTreeMap<NodeId, String>, me: NodeId, change: &Change) -> bool {
    match change {
        Change::Node(node) if node.id != me && node.role == NodeRole::Data => {
            match node.data_addresses.first() {
                Some(address) => nodes.insert(node.id, address.clone()).as_ref() != Some(address),
                None => nodes.remove(&node.id).is_some(),
            }
        }
        Change::NodeGone(node) => nodes.remove(node).is_some(),
        _ => false,
    }
}

async fn resolve(nodes: &BTreeMap<NodeId, String>) -> Vec<DataPeer> {
    let mut peers = Vec::new();
    for (node, address) in nodes {
        match tokio::net::lookup_host(address)
            .await
            .map(|mut found| found.next())
        {
            Ok(Some(address)) => peers.push(DataPeer {
                node: *node,
                address,
            }),
            Ok(None) => {
                tracing::warn!(%node, %address, "a node's replication address resolves to nothing")
            }
            Err(error) => {
                tracing::warn!(%node, %address, %error, "a node's replication address cannot be resolved")
            }
        }
    }
    peers
}
