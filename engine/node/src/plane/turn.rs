//! The loop: events of the ring and orders of tokio become the node's inputs, its outputs become
//! operations of the ring and reports to tokio.

mod block;
mod published;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use bytes::Bytes;
use lockstep_logic::Node;
use lockstep_logic::io::{Input, Output, ProposalResult, Ticket};
use lockstep_nbd::Limits;
use lockstep_ring::timer::boottime;
use lockstep_ring::{ConnId, Event, ListenerId, MailReceiver, Pool, Reactor};
use lockstep_types::{AttachmentId, Nanos, NodeId, VolumeId, millis};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::buffers::FromPool;
use super::devices::Devices;
use super::disks::{self, Disks};
use super::exports::{Action, Exports};
use super::links::Links;
use super::remote::Remote;
use super::socket::Socket;
use super::ublk::Queues;
use super::{Order, PlaneConfig, PlaneReport, ServeDevice};

/// While something waits for a buffer, it is tried again this often.
const STARVED: Nanos = millis(1);
/// Bytes of one NBD request; announced to clients.
const MAX_REQUEST: u32 = 4 << 20;
/// Bytes under way on one NBD connection.
const MAX_BYTES: usize = 32 << 20;
/// Runs of one answer about allocation.
const RUNS: usize = 1024;

pub(super) struct DataPlane {
    node: Node,
    me: NodeId,
    disks: Disks,
    links: Links,
    exports: Exports<Client, FromPool>,
    devices: Devices,
    queues: Queues,
    /// NBD by TCP, if this node offers it.
    remote: Option<Remote>,
    sockets: BTreeMap<VolumeId, Socket>,
    listeners: BTreeMap<ListenerId, VolumeId>,
    clients: BTreeMap<ConnId, Flow>,
    /// Connections to the kernel's NBD client, each with its order and its publication.
    kernel: BTreeMap<ConnId, (Ticket, AttachmentId)>,
    /// Connections being accepted on an export's socket, or by TCP.
    arriving: BTreeMap<ConnId, Option<VolumeId>>,
    directory: PathBuf,
    reports: mpsc::Sender<PlaneReport>,
    /// Reports that found the queue full.
    backlog: VecDeque<PlaneReport>,
    stopped: bool,
    /// The node has taken in something since its last commit.
    uncommitted: bool,
    // Kept between turns for their room.
    inputs: VecDeque<Input>,
    fresh: Vec<Input>,
    outputs: Vec<Output>,
    actions: Vec<Action<Client>>,
    answered: Vec<Action<Client>>,
}

/// Who uses an export.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Client {
    /// By NBD.
    Socket(ConnId),
    /// The kernel, by FUSE; numbered as they come.
    Device(u64),
    /// The kernel, by ublk; numbered as they come.
    Ublk(u64),
}

/// What is under way to an NBD client.
#[derive(Default)]
struct Flow {
    /// Bytes given to the ring and not known to be sent.
    unsent: usize,
    /// Nothing is read from it for now.
    paused: bool,
}

impl DataPlane {
    pub(super) fn new(
        config: PlaneConfig,
        reactor: &mut Reactor,
        reports: mpsc::Sender<PlaneReport>,
    ) -> anyhow::Result<Self> {
        let limits = Limits {
            max_request: MAX_REQUEST,
            max_in_flight: config.requests,
            max_bytes: MAX_BYTES,
            ..Limits::default()
        };
        let me = config.links.node;
        let links = Links::listen(config.links, config.listen, reactor)?;
        let remote = match config.nbd {
            Some(nbd) => Some(Remote::listen(nbd, reactor)?),
            None => None,
        };
        let mut disks = Disks::default();
        let mut pools = Vec::new();
        for (device, disk) in config.pools {
            pools.push((device, disk.size()));
            disks.add(device, disk, reactor);
        }
        let mut plane = Self {
            node: super::start::node(
                me,
                boottime(),
                &pools,
                config.failed_before,
                config.scrub_pass,
            ),
            me,
            disks,
            links,
            exports: Exports::new(limits, FromPool(reactor.pool().clone())),
            devices: Devices::default(),
            queues: Queues::default(),
            remote,
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            clients: BTreeMap::new(),
            kernel: BTreeMap::new(),
            arriving: BTreeMap::new(),
            directory: config.exports,
            reports,
            backlog: VecDeque::new(),
            stopped: false,
            uncommitted: false,
            inputs: VecDeque::new(),
            fresh: Vec::new(),
            outputs: Vec::new(),
            actions: Vec::new(),
            answered: Vec::new(),
        };
        let mut outputs = Vec::new();
        plane.node.start(boottime(), &mut outputs);
        for output in outputs {
            plane.carry_out(output, reactor);
        }
        plane.commit(reactor);
        Ok(plane)
    }

    pub(super) fn run(&mut self, reactor: &mut Reactor, orders: &MailReceiver<Order>) {
        let mut events = Vec::new();
        while !self.stopped {
            self.links.dial(boottime(), reactor);
            reactor.turn(self.deadline(), &mut events);
            for event in events.drain(..) {
                self.on_event(event, reactor, orders);
            }
            if boottime() >= self.node.next_timer() {
                self.inputs.push_back(Input::Timer);
            }
            self.disks.retry(reactor);
            self.exports.retry_held(&mut self.actions);
            self.note_sent(reactor);
            self.read_devices(reactor);
            self.commit(reactor);
            self.flush_backlog();
        }
        self.leave(reactor);
    }

    fn deadline(&self) -> Nanos {
        let starved = self.disks.is_starved() || !self.backlog.is_empty();
        let starved = if starved {
            boottime() + STARVED
        } else {
            Nanos::MAX
        };
        self.node
            .next_timer()
            .min(self.links.next_timer())
            .min(starved)
    }

    fn on_event(&mut self, event: Event, reactor: &mut Reactor, orders: &MailReceiver<Order>) {
        match event {
            Event::DiskWritten { .. } | Event::DiskRead { .. } | Event::Flushed { .. } => {
                self.inputs.extend(self.disks.completed(event, reactor));
            }
            Event::Accepted {
                listener,
                conn,
                peer,
            } => self.accepted(listener, conn, peer.to_string(), reactor),
            Event::Connected { conn, certificate } => match self.arriving.remove(&conn) {
                Some(volume) => {
                    self.clients.insert(conn, Flow::default());
                    let client = Client::Socket(conn);
                    match volume {
                        Some(volume) => self.exports.connected(client, volume, &mut self.actions),
                        None => self.exports.connected_remotely(client, &mut self.actions),
                    }
                }
                // A client of this very connection: its TLS stands, and rustls has let it in.
                None if self.clients.contains_key(&conn) => {}
                None => self.links.connected(conn, certificate.as_ref(), reactor),
            },
            Event::Received { conn, data } => {
                let data = self.keepable(data, reactor.pool());
                self.exports
                    .received(Client::Socket(conn), data, &mut self.actions);
            }
            Event::Frame {
                conn,
                head,
                payload,
            } => {
                self.links
                    .frame(conn, &head, payload, reactor, &mut self.fresh);
            }
            Event::Closed { conn, reason } => {
                self.arriving.remove(&conn);
                if self.clients.remove(&conn).is_some() {
                    self.exports.closed(Client::Socket(conn));
                    self.kernel_left(conn, reason.to_string());
                } else {
                    self.links.closed(conn, &reason, &mut self.fresh);
                }
            }
            Event::Mail => {
                while let Some(order) = orders.take() {
                    self.on_order(order, reactor);
                    self.settle(reactor);
                }
            }
            Event::Readable { watch } => self.devices.readable(watch),
            Event::Commanded {
                driver,
                token,
                result,
            } => self.ublk_told(driver, token, result, reactor),
            Event::Writable { .. } | Event::Timer => {}
        }
        self.settle(reactor);
    }

    fn accepted(
        &mut self,
        listener: ListenerId,
        conn: ConnId,
        peer: String,
        reactor: &mut Reactor,
    ) {
        let is_remote = |remote: &Remote| remote.is_listener(listener);
        if let Some(volume) = self.listeners.get(&listener) {
            self.arriving.insert(conn, Some(*volume));
        } else if self.remote.as_ref().is_some_and(is_remote) {
            self.arriving.insert(conn, None);
        } else if self.links.is_listener(listener) {
            self.links.accepted(conn, peer);
        } else {
            reactor.abort(conn);
        }
    }

    /// Bytes of a client that may be kept for long: half-received writes must not empty the pool
    /// from which everything else lives.
    fn keepable(&self, data: Bytes, pool: &Pool) -> Bytes {
        if pool.free_bytes() < pool.size() / 4 {
            Bytes::copy_from_slice(&data)
        } else {
            data
        }
    }

    fn on_order(&mut self, order: Order, reactor: &mut Reactor) {
        let input = match order {
            Order::Peers(peers) => {
                self.links.set_peers(&peers, reactor, &mut self.fresh);
                self.links.dial(boottime(), reactor);
                return;
            }
            Order::Change(change) => {
                self.follow_change(&change, reactor);
                Input::Change(change)
            }
            Order::Proposed { ticket, result } => Input::Proposed { ticket, result },
            Order::Attach {
                ticket,
                volume,
                attachment,
            } => Input::Attach {
                ticket,
                volume,
                attachment,
            },
            Order::Detach {
                ticket,
                volume,
                attachment,
            } => Input::Detach {
                ticket,
                volume,
                attachment,
            },
            Order::Clients { volume, asker } => {
                let _ = asker.send(self.exports.clients(volume));
                return;
            }
            order @ (Order::Serve { .. }
            | Order::ServeKernel { .. }
            | Order::ServeUblk { .. }
            | Order::FailDevice(_)
            | Order::Unserve(_)) => return self.device_order(order, reactor),
            Order::Inspect(asker) => {
                // Whoever asked may have gone.
                let _ = asker.send(self.node.inspect(boottime()));
                return;
            }
            Order::Copies(volume, asker) => {
                let _ = asker.send(self.node.held_copies(volume));
                return;
            }
            Order::Blank(copies, asker) => {
                let _ = asker.send(disks::are_blank(&self.node, &copies));
                return;
            }
            Order::Stop => {
                self.exports.stop(&mut self.actions);
                Input::Stop
            }
        };
        self.inputs.push_back(input);
    }

    /// Runs the node until nothing is left to do without the world.
    fn settle(&mut self, reactor: &mut Reactor) {
        loop {
            self.inputs.extend(self.fresh.drain(..));
            self.act(reactor);
            let Some(input) = self.inputs.pop_front() else {
                if self.fresh.is_empty() && self.actions.is_empty() {
                    return;
                }
                continue;
            };
            if let Input::LinkUp { peer, .. } | Input::LinkDown { peer } = input {
                let up = matches!(input, Input::LinkUp { .. });
                self.report(PlaneReport::Link { peer, up });
            }
            let mut outputs = std::mem::take(&mut self.outputs);
            self.node.take(boottime(), input, &mut outputs);
            self.uncommitted = true;
            self.carry_out_all(outputs, reactor);
        }
    }

    /// The end of a turn: what all of it brought goes to the disks in one batch each.
    fn commit(&mut self, reactor: &mut Reactor) {
        self.settle(reactor);
        if self.uncommitted {
            reactor.push();
        }
        while std::mem::take(&mut self.uncommitted) {
            let mut outputs = std::mem::take(&mut self.outputs);
            self.node.commit(boottime(), &mut outputs);
            self.carry_out_all(outputs, reactor);
            self.settle(reactor);
        }
    }

    fn carry_out_all(&mut self, mut outputs: Vec<Output>, reactor: &mut Reactor) {
        for output in outputs.drain(..) {
            self.carry_out(output, reactor);
        }
        self.outputs = outputs;
    }

    fn carry_out(&mut self, output: Output, reactor: &mut Reactor) {
        match output {
            Output::Disk { device, op } => self.disks.carry_out(device, op, reactor),
            Output::Send { to, message } => self.links.send(to, &message, reactor),
            // The only place a client's request is answered.
            Output::Complete { tag, result } => {
                self.exports.complete(tag, result, &mut self.actions)
            }
            Output::Propose { ticket, command } => {
                if let Err(TrySendError::Full(_)) = self
                    .reports
                    .try_send(PlaneReport::Propose { ticket, command })
                {
                    self.inputs.push_back(Input::Proposed {
                        ticket,
                        result: ProposalResult::Unknown,
                    });
                }
            }
            Output::Attachment {
                volume,
                attachment,
                state,
            } => {
                self.exports
                    .set_state(volume, attachment, state, &mut self.actions);
                self.report(PlaneReport::Attachment {
                    volume,
                    attachment,
                    state,
                });
            }
            Output::Answered { ticket, result } => {
                self.report(PlaneReport::Answered { ticket, result })
            }
            Output::Event(event) => {
                // For people only: dropped rather than kept waiting.
                let event = disks::in_words(&self.node, event);
                let _ = self.reports.try_send(PlaneReport::Event(event));
            }
            Output::Stopped => self.stopped = true,
        }
    }

    /// Carries out what the exports want done.
    fn act(&mut self, reactor: &mut Reactor) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(Client::Socket(conn), parts) => {
                    let bytes: usize = parts.iter().map(Bytes::len).sum();
                    match (reactor.send(conn, parts), self.clients.get_mut(&conn)) {
                        (Ok(()), Some(client)) => client.unsent += bytes,
                        _ => reactor.abort(conn),
                    }
                }
                Action::Send(client, parts) => self.devices.send(client, &parts),
                Action::StartTls(client) => {
                    if let (Client::Socket(conn), Some(remote)) = (client, &self.remote) {
                        remote.start_tls(conn, reactor);
                    }
                }
                Action::Close(Client::Socket(conn), reason) => {
                    if !reason.is_clean() {
                        tracing::info!(%reason, "an NBD connection was closed");
                    }
                    reactor.close(conn);
                }
                Action::Close(Client::Device(_) | Client::Ublk(_), _) => {
                    unreachable!("the kernel closes a device, not we")
                }
                Action::Commit {
                    key,
                    tag,
                    data,
                    result,
                } => self.queues.commit(key, tag, (&data, result), reactor),
                Action::Status {
                    client,
                    tag,
                    volume,
                    attachment,
                    range,
                } => {
                    let now = boottime();
                    let runs = self.node.presence(now, volume, attachment, range, RUNS);
                    let more = &mut self.answered;
                    self.exports.complete_status(client, tag, range, runs, more);
                }
                Action::DeviceReady(client, agreed) => {
                    if let Some(attachment) = self.devices.attachment(client) {
                        self.report(PlaneReport::DeviceReady { attachment, agreed });
                    }
                }
                Action::DeviceEnded(client, why) => self.device_ended(client, why, reactor),
                Action::Client {
                    volume,
                    attachment,
                    tag,
                    request,
                } => {
                    self.inputs.push_back(Input::Client {
                        volume,
                        attachment,
                        tag,
                        request,
                    });
                }
            }
        }
        actions.append(&mut self.answered);
        // Nothing else above makes new actions; the vector is kept for its room.
        self.actions = actions;
    }

    /// Tells the sessions how much has left, and pauses those that want no more for now.
    fn note_sent(&mut self, reactor: &mut Reactor) {
        for (conn, client) in &mut self.clients {
            if client.unsent > 0 {
                // What waits in the socket's queue may be more than the session gave: a handshake of
                // TLS, and what encryption adds. None of that was given, so none of it is told.
                let left = reactor.unsent(*conn).min(client.unsent);
                let sent = client.unsent - left;
                client.unsent = left;
                if sent > 0 {
                    self.exports
                        .sent(Client::Socket(*conn), sent, &mut self.actions);
                }
            }
            let pause = !self.exports.wants_more(Client::Socket(*conn));
            if pause != client.paused {
                client.paused = pause;
                reactor.pause(*conn, pause);
            }
        }
        self.settle(reactor);
    }

    fn report(&mut self, report: PlaneReport) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(report);
        } else if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
            self.backlog.push_back(report);
        }
    }

    fn flush_backlog(&mut self) {
        while let Some(report) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
                self.backlog.push_front(report);
                return;
            }
        }
    }

    fn leave(&mut self, reactor: &mut Reactor) {
        self.links.stop(reactor);
        for volume in self.sockets.keys().copied().collect::<Vec<_>>() {
            self.close_export(volume, reactor);
        }
        self.act(reactor);
        // One turn more: what is queued for clients and peers goes out.
        reactor.turn(boottime() + millis(10), &mut Vec::new());
        self.backlog.push_back(PlaneReport::Stopped);
        while let Some(report) = self.backlog.pop_front() {
            if self.reports.blocking_send(report).is_err() {
                return;
            }
        }
    }
}
