//! Exports: the NBD sessions of attached volumes, between a connection's bytes and the node's
//! requests. It makes no system call and knows no ring: connections are named by `K`.
//!
//! An attachment id is bound to each session at negotiation (R12): requests carry it for the
//! session's whole life, whatever the volume is published as later.

mod connection;
mod devices;
mod requests;
mod tally;
mod ublk;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lockstep_frontend::{Done, Op, Run};
use lockstep_fuse::Negotiated;
use lockstep_logic::io::{AttachmentState, Tag};
use lockstep_nbd::{
    CloseReason, ExportError, ExportInfo, Intent, Limits, Listed, Out, Parts, Session, Tls,
};
use lockstep_types::{
    AttachmentId, BLOCK, BlockRange, EXTENT, Nanos, Request, RequestError, Response, VolumeId,
};

use connection::{Connection, Front, Via};
pub use requests::Gather;
use requests::{Origin, Requests};
pub use tally::{BOUNDS, Kind, Tally, VolumeTally};

/// What the shell does for an export.
#[derive(Debug)]
pub enum Action<K> {
    /// Write to the connection, in order.
    Send(K, Parts),
    /// Once what was sent before is on its way, go on under TLS.
    StartTls(K),
    /// Flush and close it.
    Close(K, CloseReason),
    /// Say which blocks of the range hold data, by [`Exports::complete_status`].
    Status {
        /// Who asks.
        client: K,
        /// Names the request.
        tag: u64,
        /// The volume.
        volume: VolumeId,
        /// As bound at negotiation (R12).
        attachment: AttachmentId,
        /// Not empty.
        range: BlockRange,
    },
    /// The kernel has agreed: to be kept beside the device.
    DeviceReady(K, Negotiated),
    /// Answer the request of a tag of a ublk device with these bytes and this result.
    Commit {
        /// The device.
        key: K,
        /// Its tag.
        tag: u16,
        /// Of a read.
        data: lockstep_frontend::ReadParts,
        /// Bytes, 0, or an errno, negative.
        result: i32,
    },
    /// The kernel has let go of a device, and why.
    DeviceEnded(K, String),
    /// Put to the node.
    Client {
        /// The volume.
        volume: VolumeId,
        /// As bound at negotiation (R12).
        attachment: AttachmentId,
        /// Names the piece.
        tag: Tag,
        /// What to do.
        request: Request,
    },
}

/// A volume attached here.
#[derive(Debug)]
struct Attached {
    name: String,
    attachment: AttachmentId,
    state: AttachmentState,
    /// As of the last `Open`; zero before the first.
    blocks: u64,
}

/// All exports of one data-plane thread.
#[derive(Debug)]
pub struct Exports<K, G> {
    limits: Limits,
    volumes: BTreeMap<VolumeId, Attached>,
    connections: BTreeMap<K, Connection>,
    requests: Requests<K, G>,
    /// Publications that have been open here.
    opened: BTreeSet<AttachmentId>,
    stopping: bool,
}

impl<K: Copy + Ord, G: Gather> Exports<K, G> {
    /// No exports yet.
    pub fn new(limits: Limits, gather: G) -> Self {
        Self {
            limits,
            volumes: BTreeMap::new(),
            connections: BTreeMap::new(),
            requests: Requests::new(gather),
            opened: BTreeSet::new(),
            stopping: false,
        }
    }

    /// A volume is (being) attached here under this id.
    pub fn attach(&mut self, volume: VolumeId, name: String, attachment: AttachmentId) {
        let attached = Attached {
            name,
            attachment,
            state: AttachmentState::Suspended,
            blocks: 0,
        };
        self.volumes.insert(volume, attached);
        self.requests.tallies().begin(volume);
    }

    /// The volume is no longer attached here: its NBD sessions end. Devices end when they are taken
    /// apart. Requests still under way are answered by the node.
    pub fn detach(&mut self, volume: VolumeId, out: &mut Vec<Action<K>>) {
        if let Some(attached) = self.volumes.remove(&volume) {
            self.opened.remove(&attached.attachment);
        }
        self.requests.tallies().end(volume);
        let keys: Vec<K> = self
            .connections
            .iter()
            .filter(|(_, c)| c.volume == Some(volume))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.drive(key, out, |session, outs| session.shutdown(outs));
        }
    }

    /// What the clock says: to be told whenever it may have moved on, at least once a turn.
    pub fn set_time(&mut self, now: Nanos) {
        self.requests.set_time(now);
    }

    /// Clients that have the volume open by NBD; the kernel's, of a block device, is none.
    pub fn clients(&self, volume: VolumeId) -> usize {
        let using = |c: &&Connection| {
            c.volume == Some(volume)
                && !c.gone
                && c.attachment.is_some()
                && matches!(
                    c.front,
                    Front::Nbd {
                        via: Via::Socket | Via::Tcp,
                        ..
                    }
                )
        };
        self.connections.values().filter(using).count()
    }

    /// The state of an attachment changed.
    pub fn set_state(
        &mut self,
        volume: VolumeId,
        attachment: AttachmentId,
        state: AttachmentState,
        out: &mut Vec<Action<K>>,
    ) {
        let Some(attached) = self.volumes.get_mut(&volume) else {
            return;
        };
        if attached.attachment != attachment {
            return;
        }
        attached.state = state;
        if let AttachmentState::Open { blocks } = state {
            attached.blocks = blocks;
            self.opened.insert(attachment);
        }
        self.answer_waiting(volume, out);
        self.retry_held(out);
        if let AttachmentState::Open { blocks } = state {
            let bytes = blocks * BLOCK as u64;
            for connection in self.connections.values_mut() {
                if connection.attachment == Some(attachment) {
                    connection.grown(bytes);
                }
            }
        }
    }

    /// A client connected to the socket of this volume.
    pub fn connected(&mut self, key: K, volume: VolumeId, out: &mut Vec<Action<K>>) {
        self.begin(key, Some(volume), Via::Socket, out);
    }

    /// The kernel is to have a session for the block device of this publication.
    pub fn connected_by_kernel(
        &mut self,
        key: K,
        volume: VolumeId,
        attachment: AttachmentId,
        out: &mut Vec<Action<K>>,
    ) {
        self.begin(key, Some(volume), Via::Kernel(attachment), out);
    }

    /// A client connected by TCP: it must encrypt, and then names what it wants.
    pub fn connected_remotely(&mut self, key: K, out: &mut Vec<Action<K>>) {
        self.begin(key, None, Via::Tcp, out);
    }

    fn begin(&mut self, key: K, volume: Option<VolumeId>, via: Via, out: &mut Vec<Action<K>>) {
        let tls = match via {
            Via::Tcp => Tls::Required,
            Via::Socket | Via::Kernel(_) => Tls::Unsupported,
        };
        let limits = Limits { tls, ..self.limits };
        let connection = Connection {
            front: Front::Nbd {
                session: Box::new(Session::new(limits)),
                via,
                waiting: None,
            },
            volume,
            attachment: None,
            gone: false,
        };
        self.connections.insert(key, connection);
        self.drive(key, out, |session, outs| session.start(outs));
    }

    /// Bytes arrived.
    pub fn received(&mut self, key: K, bytes: Bytes, out: &mut Vec<Action<K>>) {
        self.drive(key, out, |session, outs| session.receive(bytes, outs));
    }

    /// So many bytes of what was to be sent are on their way.
    pub fn sent(&mut self, key: K, count: usize, out: &mut Vec<Action<K>>) {
        self.drive(key, out, |session, outs| session.sent(count, outs));
    }

    /// The connection is gone.
    pub fn closed(&mut self, key: K) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.gone = true;
            self.forget_if_done(key);
        }
    }

    /// Whether to read from this connection.
    pub fn wants_more(&self, key: K) -> bool {
        let Some(connection) = self.connections.get(&key) else {
            return false;
        };
        let Front::Nbd { session, via, .. } = &connection.front else {
            return false;
        };
        let left_to_the_next = self.stopping && matches!(via, Via::Kernel(_));
        !connection.gone && !left_to_the_next && session.wants_more()
    }

    /// The node answered a piece. The only way to a client's answer.
    pub fn complete(
        &mut self,
        tag: Tag,
        result: Result<Response, RequestError>,
        out: &mut Vec<Action<K>>,
    ) {
        self.requests.complete(tag, result);
        self.settle(out);
    }

    /// Which blocks hold data: runs of (blocks, whether they do), from the range's start on; where that
    /// is not known, everything counts as data, which is true enough for every reader.
    pub fn complete_status(
        &mut self,
        client: K,
        tag: u64,
        range: BlockRange,
        known: Option<Vec<(u32, bool)>>,
        out: &mut Vec<Action<K>>,
    ) {
        let runs = known.unwrap_or_else(|| vec![(range.count, true)]);
        let runs = runs.into_iter().map(|(blocks, allocated)| Run {
            length: blocks * BLOCK as u32,
            allocated,
        });
        self.requests
            .answer(client, tag, Ok(Done::Status(runs.collect())));
        self.settle(out);
    }

    /// Tries again what found no buffer or waits for its volume.
    pub fn retry_held(&mut self, out: &mut Vec<Action<K>>) {
        let volumes = &self.volumes;
        self.requests
            .retry_held(|volume, id| state_in(volumes, volume, id), out);
        self.settle(out);
    }

    /// Requests put to the node and not answered.
    pub fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// Takes no more requests anywhere. Block devices hear nothing of it: they wait for the next daemon.
    pub fn stop(&mut self, out: &mut Vec<Action<K>>) {
        self.stopping = true;
        let clients: Vec<K> = self
            .connections
            .iter()
            .filter(|(_, c)| !c.is_device())
            .map(|(key, _)| *key)
            .collect();
        for key in clients {
            self.drive(key, out, |session, outs| session.shutdown(outs));
        }
    }

    fn drive(
        &mut self,
        key: K,
        out: &mut Vec<Action<K>>,
        step: impl FnOnce(&mut Session, &mut Vec<Out>),
    ) {
        self.step(key, out, step);
        self.settle(out);
    }

    fn step(
        &mut self,
        key: K,
        out: &mut Vec<Action<K>>,
        step: impl FnOnce(&mut Session, &mut Vec<Out>),
    ) {
        let Some(Connection {
            front: Front::Nbd { session, .. },
            ..
        }) = self.connections.get_mut(&key)
        else {
            return;
        };
        let mut outs = Vec::new();
        step(session, &mut outs);
        self.follow(key, outs, out);
        self.forget_if_done(key);
    }

    fn follow(&mut self, key: K, outs: Vec<Out>, out: &mut Vec<Action<K>>) {
        for item in outs {
            match item {
                Out::Send(parts) => out.push(Action::Send(key, parts)),
                Out::Request(request) => self.request(key, request, out),
                Out::WantExport { name, intent } => self.want(key, name, intent, out),
                Out::WantList => self.list(key, out),
                Out::StartTls => out.push(Action::StartTls(key)),
                Out::Close(reason) => out.push(Action::Close(key, reason)),
            }
        }
    }

    /// A client names what it wants.
    fn want(&mut self, key: K, name: String, intent: Intent, out: &mut Vec<Action<K>>) {
        let named = self
            .volumes
            .iter()
            .find(|(_, attached)| attached.name == name)
            .map(|(id, _)| *id);
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let Front::Nbd { via, waiting, .. } = &mut connection.front else {
            return;
        };
        if *via == Via::Tcp {
            connection.volume = named;
        }
        let Some(volume) = connection.volume else {
            let answer = Err(ExportError::Unknown { name });
            return self.drive(key, out, |session, outs| session.export(answer, outs));
        };
        *waiting = Some((name, intent));
        self.answer_waiting(volume, out);
    }

    /// Answers clients that asked for the export, once its size is known.
    fn answer_waiting(&mut self, volume: VolumeId, out: &mut Vec<Action<K>>) {
        let asking: Vec<(K, String, Intent)> = self
            .connections
            .iter()
            .filter(|(_, c)| c.volume == Some(volume))
            .filter_map(|(key, c)| match &c.front {
                Front::Nbd { waiting, .. } => {
                    waiting.clone().map(|(name, intent)| (*key, name, intent))
                }
                Front::Fuse(_) | Front::Ublk(_) => None,
            })
            .collect();
        for (key, name, intent) in asking {
            let only = self.connections[&key].only();
            let attached = self
                .volumes
                .get(&volume)
                .filter(|attached| only.is_none_or(|id| id == attached.attachment));
            let Some(answer) = offer(attached, &name, self.stopping) else {
                continue;
            };
            let id = attached.map(|attached| attached.attachment);
            let connection = self.connections.get_mut(&key).expect("just listed");
            if let Front::Nbd { waiting, .. } = &mut connection.front {
                *waiting = None;
            }
            if answer.is_ok() && intent == Intent::Open {
                // R12: the id this client's requests carry from now on.
                connection.attachment = id;
            }
            self.drive(key, out, |session, outs| session.export(answer, outs));
        }
    }

    fn list(&mut self, key: K, out: &mut Vec<Action<K>>) {
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let own = connection.volume;
        let remote = matches!(connection.front, Front::Nbd { via: Via::Tcp, .. });
        let listed: Vec<Listed> = self
            .volumes
            .iter()
            .filter(|(id, _)| remote || own == Some(**id))
            .map(|(_, attached)| Listed {
                name: attached.name.clone(),
                description: String::new(),
            })
            .collect();
        self.step(key, out, |session, outs| session.list(&listed, outs));
    }

    fn request(&mut self, key: K, request: lockstep_frontend::Request, out: &mut Vec<Action<K>>) {
        let connection = self
            .connections
            .get(&key)
            .expect("a session's requests come while it is here");
        let origin = Origin {
            client: key,
            volume: connection
                .volume
                .expect("requests follow an export that was opened"),
            attachment: connection
                .attachment
                .expect("requests follow an export that was opened"),
        };
        match request.op {
            Op::Flush => {
                let state = self.state_of(origin.volume, origin.attachment);
                self.requests.flush(origin, request.tag, state);
            }
            Op::BlockStatus => out.push(Action::Status {
                client: key,
                tag: request.tag,
                volume: origin.volume,
                attachment: origin.attachment,
                range: request.range().expect("sessions refuse an empty range"),
            }),
            Op::Read | Op::Write | Op::Trim | Op::WriteZeroes => {
                self.requests.begin(origin, &request, out);
            }
        }
    }

    fn state_of(&self, volume: VolumeId, attachment: AttachmentId) -> Option<AttachmentState> {
        state_in(&self.volumes, volume, attachment)
    }

    /// Gives the sessions what has been answered.
    fn settle(&mut self, out: &mut Vec<Action<K>>) {
        while let Some((key, tag, answer)) = self.requests.next_answer() {
            match self.connections.get(&key).map(|c| &c.front) {
                None => {}
                // What fails because this daemon stops is not answered: the next one is given it again.
                Some(_)
                    if self.connections[&key].is_device() && self.stopping && answer.is_err() => {}
                Some(Front::Nbd { .. }) => self.step(key, out, |session, outs| {
                    session.complete(tag, answer, outs)
                }),
                Some(Front::Fuse(_)) => self.device_step(key, out, |session, outs| {
                    session.complete(tag, answer, outs)
                }),
                Some(Front::Ublk(_)) => self.ublk_step(key, out, |session, outs| {
                    session.complete(tag, answer, outs)
                }),
            }
        }
    }

    fn forget_if_done(&mut self, key: K) {
        if self.connections.get(&key).is_some_and(Connection::is_done) {
            self.connections.remove(&key);
        }
    }
}

/// The state of a publication; none if it is not, or not any more, of this node.
fn state_in(
    volumes: &BTreeMap<VolumeId, Attached>,
    volume: VolumeId,
    attachment: AttachmentId,
) -> Option<AttachmentState> {
    volumes
        .get(&volume)
        .filter(|a| a.attachment == attachment)
        .map(|a| a.state)
}

/// The answer to a client that asks for an export; none while the volume has not been opened yet.
fn offer(
    attached: Option<&Attached>,
    name: &str,
    stopping: bool,
) -> Option<Result<ExportInfo, ExportError>> {
    if stopping {
        return Some(Err(ExportError::Shutdown));
    }
    let Some(attached) = attached.filter(|a| name.is_empty() || name == a.name) else {
        return Some(Err(ExportError::Unknown {
            name: name.to_owned(),
        }));
    };
    if attached.state == AttachmentState::Fenced {
        let reason = format!(
            "volume '{}' was published elsewhere since; attach it here again",
            attached.name
        );
        return Some(Err(ExportError::Refused { reason }));
    }
    (attached.blocks > 0).then(|| {
        Ok(ExportInfo {
            size: attached.blocks * BLOCK as u64,
            read_only: false,
            preferred_block: EXTENT as u32 / 4,
            // One primary serves all connections: what one has been answered, all others see.
            multi_conn: true,
            fast_zero: true,
            description: format!("Lockstep volume {}", attached.name),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_frontend::{Flags, IoError, Payload};
    use lockstep_nbd::client::{ClientError, Connection as Client, Content, Event, Options, Reply};
    use lockstep_types::RequestOp;
    use std::collections::VecDeque;

    const VOLUME: VolumeId = VolumeId::from_u128(1);
    const ATTACHMENT: AttachmentId = AttachmentId::from_u128(2);
    const OPEN: AttachmentState = AttachmentState::Open { blocks: 1024 };

    /// Hands out buffers while it may.
    struct Buffers(std::cell::Cell<bool>);

    impl Gather for &Buffers {
        fn gather(&self, payload: Payload) -> Option<Bytes> {
            self.0.get().then(|| payload.into_bytes())
        }
    }

    /// A client at one end, the exports at the other, and what came out for the node.
    struct Rig<'a> {
        exports: Exports<u32, &'a Buffers>,
        client: Client,
        replies: Vec<Reply>,
        requests: Vec<(Tag, Request)>,
        closed: Option<CloseReason>,
        refused: bool,
    }

    impl<'a> Rig<'a> {
        fn new(buffers: &'a Buffers) -> Self {
            Self::connected(buffers, |exports, actions| {
                exports.connected(7, VOLUME, actions);
            })
        }

        fn of_kernel(buffers: &'a Buffers, attachment: AttachmentId) -> Self {
            Self::connected(buffers, |exports, actions| {
                exports.connected_by_kernel(7, VOLUME, attachment, actions);
            })
        }

        fn connected(
            buffers: &'a Buffers,
            connect: impl FnOnce(&mut Exports<u32, &'a Buffers>, &mut Vec<Action<u32>>),
        ) -> Self {
            let mut exports = Exports::new(Limits::default(), buffers);
            exports.attach(VOLUME, "pg".into(), ATTACHMENT);
            let client = Client::new(Options {
                export: "pg".into(),
                structured: false,
                allocation: false,
            });
            let mut rig = Self {
                exports,
                client,
                replies: Vec::new(),
                requests: Vec::new(),
                closed: None,
                refused: false,
            };
            let mut actions = Vec::new();
            connect(&mut rig.exports, &mut actions);
            rig.run(actions);
            rig
        }

        fn run(&mut self, actions: Vec<Action<u32>>) {
            let mut queue: VecDeque<_> = actions.into();
            while let Some(action) = queue.pop_front() {
                match action {
                    Action::Send(7, parts) => {
                        let bytes: Vec<u8> = parts.iter().flatten().copied().collect();
                        let mut events = Vec::new();
                        match self.client.receive(bytes.clone().into(), &mut events) {
                            Ok(()) => {}
                            Err(ClientError::Refused { .. }) => self.refused = true,
                            Err(error) => panic!("the server speaks NBD: {error}"),
                        }
                        let mut more = Vec::new();
                        self.exports.sent(7, bytes.len(), &mut more);
                        for event in events {
                            match event {
                                Event::Send(parts) => {
                                    self.exports.received(7, join(&parts), &mut more)
                                }
                                Event::Reply(reply) => self.replies.push(reply),
                                Event::Ready(_) => {}
                            }
                        }
                        queue.extend(more);
                    }
                    Action::Client {
                        volume: VOLUME,
                        attachment: ATTACHMENT,
                        tag,
                        request,
                    } => {
                        self.requests.push((tag, request));
                    }
                    Action::Close(7, reason) => self.closed = Some(reason),
                    other => panic!("unexpected {other:?}"),
                }
            }
        }

        fn state(&mut self, state: AttachmentState) {
            let mut actions = Vec::new();
            self.exports
                .set_state(VOLUME, ATTACHMENT, state, &mut actions);
            self.run(actions);
        }

        fn submit(&mut self, op: Op, offset: u64, length: u32, payload: Payload) -> u64 {
            let (cookie, parts) = self
                .client
                .submit(op, offset, length, Flags::default(), payload);
            let mut actions = Vec::new();
            self.exports.received(7, join(&parts), &mut actions);
            self.run(actions);
            cookie
        }

        fn complete(&mut self, result: impl Fn(&Request) -> Result<Response, RequestError>) {
            for (tag, request) in std::mem::take(&mut self.requests) {
                let mut actions = Vec::new();
                self.exports.complete(tag, result(&request), &mut actions);
                self.run(actions);
            }
        }
    }

    fn join(parts: &Parts) -> Bytes {
        parts.iter().flatten().copied().collect::<Vec<u8>>().into()
    }

    #[test]
    fn a_client_waits_for_the_volume_and_its_write_is_cut_at_extents() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        assert!(rig.requests.is_empty());
        rig.state(OPEN);
        let payload = Bytes::from(vec![5; 3 * BLOCK]);
        let cookie = rig.submit(
            Op::Write,
            62 * BLOCK as u64,
            3 * BLOCK as u32,
            payload.into(),
        );
        let ranges: Vec<_> = rig
            .requests
            .iter()
            .map(|(_, r)| (r.range.start, r.range.count))
            .collect();
        assert_eq!(ranges, [(62, 2), (64, 1)]);
        assert!(rig.replies.is_empty(), "not before the node says so");
        rig.complete(|_| Ok(Response::Done));
        assert!(
            matches!(&rig.replies[..], [Reply { cookie: c, result: Ok(Content::Plain) }] if *c == cookie)
        );
    }

    #[test]
    fn reads_come_back_and_errors_are_told() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        rig.submit(Op::Read, 0, BLOCK as u32, Payload::new());
        rig.complete(|_| Ok(Response::Data(vec![(1, Some(Bytes::from(vec![9; BLOCK])))])));
        assert!(
            matches!(&rig.replies[0].result, Ok(Content::Data(bytes)) if bytes[..] == [9; BLOCK])
        );
        rig.submit(Op::Read, 0, BLOCK as u32, Payload::new());
        rig.complete(|_| Err(RequestError::Corrupt));
        assert!(matches!(rig.replies[1].result, Err(IoError::Io)));
    }

    #[test]
    fn a_flush_waits_while_suspended_and_fails_when_fenced() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        rig.submit(Op::Flush, 0, 0, Payload::new());
        assert!(rig.replies.pop().expect("answered at once").result.is_ok());
        rig.state(AttachmentState::Suspended);
        rig.submit(Op::Flush, 0, 0, Payload::new());
        assert!(rig.replies.is_empty());
        rig.state(OPEN);
        assert!(rig.replies.pop().expect("answered now").result.is_ok());
        rig.state(AttachmentState::Suspended);
        rig.submit(Op::Flush, 0, 0, Payload::new());
        rig.state(AttachmentState::Fenced);
        assert!(matches!(
            rig.replies.pop().expect("answered").result,
            Err(IoError::Io)
        ));
    }

    #[test]
    fn a_write_without_a_buffer_waits_and_keeps_its_place() {
        let buffers = Buffers(false.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        for block in 0..2 {
            let payload = Bytes::from(vec![block; BLOCK]);
            rig.submit(
                Op::Write,
                u64::from(block) * BLOCK as u64,
                BLOCK as u32,
                payload.into(),
            );
        }
        assert!(rig.requests.is_empty());
        buffers.0.set(true);
        let mut actions = Vec::new();
        rig.exports.retry_held(&mut actions);
        rig.run(actions);
        let starts: Vec<_> = rig.requests.iter().map(|(_, r)| r.range.start).collect();
        assert_eq!(starts, [0, 1]);
        rig.complete(|_| Ok(Response::Done));
        assert_eq!(rig.replies.len(), 2);
    }

    #[test]
    fn a_session_outlives_its_socket_until_the_node_has_answered() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        rig.submit(Op::Read, 0, BLOCK as u32, Payload::new());
        rig.exports.closed(7);
        assert!(!rig.exports.wants_more(7));
        let (tag, _) = rig.requests.remove(0);
        rig.exports
            .complete(tag, Err(RequestError::NotOpen), &mut Vec::new());
        assert!(rig.exports.connections.is_empty());
        assert_eq!(rig.exports.in_flight(), 0);
    }

    #[test]
    fn many_flushes_at_once_do_not_nest() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        let mut bytes = Vec::new();
        for _ in 0..200 {
            let (_, parts) = rig
                .client
                .submit(Op::Flush, 0, 0, Flags::default(), Payload::new());
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
        }
        let mut actions = Vec::new();
        rig.exports.received(7, bytes.into(), &mut actions);
        rig.run(actions);
        assert_eq!(rig.replies.len(), 200);
    }

    #[test]
    fn a_detached_volume_ends_its_sessions() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::new(&buffers);
        rig.state(OPEN);
        let mut actions = Vec::new();
        rig.exports.detach(VOLUME, &mut actions);
        rig.run(actions);
        assert!(rig.closed.as_ref().is_some_and(CloseReason::is_clean));
    }

    #[test]
    fn the_kernel_is_served_under_its_devices_publication_only() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::of_kernel(&buffers, AttachmentId::from_u128(3));
        rig.state(OPEN);
        assert!(rig.refused, "R12: the device is of another publication");
        let mut rig = Rig::of_kernel(&buffers, ATTACHMENT);
        rig.state(OPEN);
        assert!(!rig.refused);
        rig.submit(
            Op::Write,
            0,
            BLOCK as u32,
            Bytes::from(vec![5; BLOCK]).into(),
        );
        rig.complete(|_| Ok(Response::Done));
        assert!(matches!(rig.replies[0].result, Ok(Content::Plain)));
        assert_eq!(
            rig.exports.clients(VOLUME),
            0,
            "no client that stands in the way of a detach"
        );
    }

    #[test]
    fn what_the_kernel_is_not_answered_before_the_daemon_stops_is_left_to_the_next() {
        let buffers = Buffers(true.into());
        let mut rig = Rig::of_kernel(&buffers, ATTACHMENT);
        rig.state(OPEN);
        rig.submit(
            Op::Write,
            0,
            BLOCK as u32,
            Bytes::from(vec![5; BLOCK]).into(),
        );
        rig.submit(Op::Read, 0, BLOCK as u32, Payload::new());
        let mut actions = Vec::new();
        rig.exports.stop(&mut actions);
        rig.run(actions);
        assert_eq!(rig.closed, None, "it is not told either");
        assert!(!rig.exports.wants_more(7));
        rig.complete(|request| match request.op {
            RequestOp::Read => Err(RequestError::NotOpen),
            _ => Ok(Response::Done),
        });
        let [answered] = &rig.replies[..] else {
            panic!("what was done is told, and nothing else: {:?}", rig.replies);
        };
        assert!(matches!(answered.result, Ok(Content::Plain)));
    }
}
