//! The data plane of this node: one thread that owns an io_uring, its disks, the links to its peers
//! and the exports of the volumes attached here, and runs `lockstep_logic::Node` on them. Nothing
//! on the way of a write leaves this thread or takes a lock.
//!
//! | job | module |
//! |---|---|
//! | the loop | [`turn`] |
//! | disk operations and their results | [`disks`] |
//! | replication links | [`links`] |
//! | NBD by a Unix socket, by TCP | `socket`, `remote` |
//! | sessions of NBD, FUSE and ublk | [`exports`] |
//! | the descriptors behind FUSE and ublk devices | `devices`, `ublk` |
//! | to and from tokio | this one |

mod buffers;
mod devices;
pub mod disks;
pub mod exports;
pub mod links;
mod remote;
mod socket;
mod start;
mod turn;
mod ublk;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_control::candidates::Held;
use lockstep_control::{Change, Command};
use lockstep_fuse::{Device, Negotiated};
use lockstep_logic::Inspection;
use lockstep_logic::io::{AttachmentState, NodeEvent, ProposalResult, Ticket};
use lockstep_ring::{Disk, MailSender, Reactor, mailbox};
use lockstep_types::{AttachmentId, DeviceId, Incarnation, NodeId, ReplicaId, VolumeId};
use lockstep_ublk::Queue;
use std::sync::mpsc::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub use links::{DataPeer, LinkConfig};
pub use remote::RemoteConfig;

/// Orders waiting for the ring.
const ORDERS: usize = 4096;
/// Reports waiting for tokio.
const REPORTS: usize = 65_536;

/// What the thread is started with.
pub struct PlaneConfig {
    /// For the links.
    pub links: LinkConfig,
    /// Where replication listens.
    pub listen: SocketAddr,
    /// NBD by TCP; none if this node does not offer it.
    pub nbd: Option<RemoteConfig>,
    /// Bytes of aligned buffers.
    pub buffers: usize,
    /// Requests in flight a client connection.
    pub requests: usize,
    /// Every block is checked, and every copy compared with the others, once in this time.
    pub scrub_pass: Duration,
    /// Claimed disks (R23), each with its pool's id.
    pub pools: Vec<(DeviceId, Disk)>,
    /// Those whose device failed in an earlier life.
    pub failed_before: BTreeSet<DeviceId>,
    /// Where the sockets of exports lie.
    pub exports: PathBuf,
}

/// From tokio to the ring.
#[derive(Debug)]
pub enum Order {
    /// A committed change, in log order.
    Change(Change),
    /// Addresses of the other data nodes, whole.
    Peers(Vec<DataPeer>),
    /// The end of a proposal.
    Proposed {
        /// As in [`PlaneReport::Propose`].
        ticket: Ticket,
        /// What became of it.
        result: ProposalResult,
    },
    /// Attach a volume here (R9).
    Attach {
        /// Comes back in [`PlaneReport::Answered`].
        ticket: Ticket,
        /// The volume.
        volume: VolumeId,
        /// Minted for this publication.
        attachment: AttachmentId,
    },
    /// Detach a volume from here.
    Detach {
        /// Comes back in [`PlaneReport::Answered`].
        ticket: Ticket,
        /// The volume.
        volume: VolumeId,
        /// Its publication.
        attachment: AttachmentId,
    },
    /// How many NBD clients have a volume open.
    Clients {
        /// The volume.
        volume: VolumeId,
        /// Who wants to know.
        asker: oneshot::Sender<usize>,
    },
    /// Serve a FUSE device.
    Serve {
        /// Comes back in [`PlaneReport::DeviceEnded`].
        ticket: Ticket,
        /// Which.
        serve: Box<ServeDevice>,
    },
    /// Speak NBD with the kernel, for a block device of its own client.
    ServeKernel {
        /// Comes back in [`PlaneReport::DeviceEnded`], when the connection is over.
        ticket: Ticket,
        /// The volume.
        volume: VolumeId,
        /// Its publication: the session is bound to it (R12).
        attachment: AttachmentId,
        /// This side of the connection.
        socket: OwnedFd,
    },
    /// Serve a ublk device.
    ServeUblk {
        /// Comes back in [`PlaneReport::DeviceEnded`], when the kernel has given up its last tag.
        ticket: Ticket,
        /// The volume.
        volume: VolumeId,
        /// Its publication: requests carry it for the device's whole life (R12).
        attachment: AttachmentId,
        /// Its requests.
        queue: Box<Queue>,
        /// Bytes of the volume.
        size: u64,
    },
    /// Fail what is asked of the device of this publication: it is about to be taken away, and the kernel waits for
    /// what it has handed out.
    FailDevice(AttachmentId),
    /// Serve the device of this publication no longer.
    Unserve(AttachmentId),
    /// Look at the node; nothing changes.
    Inspect(oneshot::Sender<Inspection>),
    /// What the copies of a volume here hold; nothing changes.
    Copies(VolumeId, oneshot::Sender<Vec<Held>>),
    /// Whether these copies here hold no block; nothing changes.
    Blank(Vec<(ReplicaId, Incarnation)>, oneshot::Sender<bool>),
    /// Stop in order; [`PlaneReport::Stopped`] answers.
    Stop,
}

/// A FUSE device to be served.
#[derive(Debug)]
pub struct ServeDevice {
    /// The volume.
    pub volume: VolumeId,
    /// Its publication: requests carry it for the device's whole life (R12).
    pub attachment: AttachmentId,
    /// The connection to the kernel.
    pub device: Device,
    /// The file behind the device.
    pub file: lockstep_fuse::Volume,
    /// What an earlier server agreed with the kernel; none for a connection just made.
    pub agreed: Option<Negotiated>,
}

/// From the ring to tokio.
#[derive(Debug)]
pub enum PlaneReport {
    /// Put a command to the control plane; [`Order::Proposed`] answers.
    Propose {
        /// Names it.
        ticket: Ticket,
        /// The command.
        command: Command,
    },
    /// A volume attached here changed its state.
    Attachment {
        /// The volume.
        volume: VolumeId,
        /// Its publication.
        attachment: AttachmentId,
        /// What front-ends may do.
        state: AttachmentState,
    },
    /// The end of an order.
    Answered {
        /// The order's.
        ticket: Ticket,
        /// For people.
        result: Result<(), String>,
    },
    /// The kernel agreed on a device just made: to be kept for the next server.
    DeviceReady {
        /// Its publication.
        attachment: AttachmentId,
        /// What was agreed.
        agreed: Negotiated,
    },
    /// A device is no longer served: the kernel has let go of it.
    DeviceEnded {
        /// As in [`Order::Serve`].
        ticket: Ticket,
        /// Its publication.
        attachment: AttachmentId,
        /// For people.
        why: String,
    },
    /// A replication link came up or went down.
    Link {
        /// The peer.
        peer: NodeId,
        /// Which.
        up: bool,
    },
    /// Something for log, metrics and progress.
    Event(NodeEvent),
    /// Everything is on disk; the thread has ended.
    Stopped,
}

/// The running data plane.
pub struct Plane {
    orders: MailSender<Order>,
    thread: JoinHandle<()>,
}

impl Plane {
    /// Starts the thread and waits until it listens and recovers.
    ///
    /// # Errors
    /// No io_uring, the address is taken, or a pool is unusable.
    pub async fn start(config: PlaneConfig) -> anyhow::Result<(Self, mpsc::Receiver<PlaneReport>)> {
        let (reports, receiver) = mpsc::channel(REPORTS);
        let (started, ready) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("ring-0".into())
            .spawn(move || run(config, reports, started))?;
        let orders = ready.await.map_err(|_| {
            anyhow::anyhow!("the data plane ended at its start; its log says why")
        })??;
        Ok((Self { orders, thread }, receiver))
    }

    /// Sends an order, waiting while the mailbox is full.
    pub async fn order(&self, order: Order) {
        let mut order = order;
        loop {
            match self.orders.try_send(order) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) => {
                    order = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // The thread has stopped; whoever waits for an answer hears of that.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Waits for the thread to end after [`PlaneReport::Stopped`].
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the data plane's thread panicked");
        }
    }
}

type Started = oneshot::Sender<anyhow::Result<MailSender<Order>>>;

fn run(config: PlaneConfig, reports: mpsc::Sender<PlaneReport>, started: Started) {
    let ring = lockstep_ring::Config {
        pool: config.buffers,
        // Replies and frames under way to a slow peer; past it the link is closed.
        send_bound: 96 << 20,
        ..lockstep_ring::Config::default()
    };
    let mut reactor = match Reactor::new(ring) {
        Ok(reactor) => reactor,
        Err(error) => {
            let why = anyhow::anyhow!(
                "io_uring cannot be set up: {error}; kernel 5.15 or later is needed, and seccomp must allow io_uring"
            );
            let _ = started.send(Err(why));
            return;
        }
    };
    let (sender, orders) = mailbox(ORDERS, reactor.waker());
    match turn::DataPlane::new(config, &mut reactor, reports) {
        Ok(mut plane) => {
            let _ = started.send(Ok(sender));
            plane.run(&mut reactor, &orders);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}
