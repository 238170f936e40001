//! Nodes wired by queues: devices that never err and answer at once, links that keep order, and a log
//! that applies the real control state in one line.

#![allow(dead_code, reason = "each test file uses its part")]

use bytes::{Bytes, BytesMut};
use lockstep_control::{
    Change, Command, NewReplica, Node as Member, Policy, Pool, Proposal, Rpo, State, Volume,
};
use lockstep_logic::io::{AttachmentState, Input, NodeEvent, Output, ProposalResult, Tag, Ticket};
use lockstep_logic::{Node, NodeConfig};
use lockstep_protocol::Timings;
use lockstep_protocol::mutate::Broken;
use lockstep_store::{DiskOp, DiskResult, FormatOptions, NewPool, OpenOptions, pool_writes};
use lockstep_types::{
    AttachmentId, BLOCK, BlockRange, ClusterId, DeviceId, FaultDomain, Incarnation, LineageId,
    Locality, Nanos, NodeId, NodeRole, ReplicaId, Request, RequestError, RequestOp, Response,
    SECOND, VolumeId, checksum_blocks,
};
use lockstep_wire::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const DEVICE_BYTES: u64 = 64 << 20;
pub const V: VolumeId = VolumeId::from_u128(0x5001);

type Answer = Result<Response, RequestError>;

pub struct World {
    pub now: Nanos,
    pub nodes: BTreeMap<NodeId, Machine>,
    pub state: State,
    index: u64,
    /// Messages on their way, by when they arrive; in order for each pair.
    wire: BTreeMap<(Nanos, u64), (NodeId, NodeId, Message)>,
    arrives: BTreeMap<(NodeId, NodeId), Nanos>,
    /// Operations of devices, by when they end.
    disk: BTreeMap<(Nanos, u64), (NodeId, DeviceId, DiskOp)>,
    /// Everything takes some time and ends in any order; otherwise all is done at once.
    pub rough: Option<Dice>,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub control_answers: bool,
    proposals: BTreeMap<(Nanos, u64), (NodeId, Ticket, Command)>,
    pub completed: BTreeMap<Tag, Answer>,
    pub answered: BTreeMap<Ticket, Result<(), String>>,
    pub events: Vec<(NodeId, NodeEvent)>,
    next: u64,
}

pub struct Machine {
    pub id: NodeId,
    pub device: DeviceId,
    pub node: Option<Node>,
    boot: u64,
    inbox: VecDeque<Input>,
    blocks: BTreeMap<u64, Bytes>,
    /// What was on stable media where it has been written since and not been flushed.
    stable: BTreeMap<u64, Option<Bytes>>,
    /// Every write fails with this.
    pub broken_disk: Option<i32>,
    /// What its shell remembers of its device.
    failed_before: BTreeSet<DeviceId>,
    pub attachments: BTreeMap<VolumeId, (AttachmentId, AttachmentState)>,
    pub stopped: bool,
    /// Its control plane is cut off: it learns nothing, and nothing it proposes is decided.
    pub no_control: bool,
}

pub fn n(i: u128) -> NodeId {
    NodeId::from_u128(i)
}

pub fn r(i: u128) -> ReplicaId {
    ReplicaId::from_u128(0x7000 + i)
}

pub fn a(i: u128) -> AttachmentId {
    AttachmentId::from_u128(0xa000 + i)
}

/// xorshift64*: small, and the same everywhere.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// What has come by now.
fn due<T>(all: &mut BTreeMap<(Nanos, u64), T>, now: Nanos) -> Option<T> {
    let first = all.first_entry().filter(|entry| entry.key().0 <= now)?;
    Some(first.remove())
}

fn device(node: NodeId) -> DeviceId {
    DeviceId::from_u128(0xd000 + node.as_u128())
}

impl World {
    /// Data nodes 1..=count, each in a site of its own unless `sites` says otherwise.
    pub fn new(sites: &[&str]) -> Self {
        let mut world = Self {
            now: 1000 * SECOND,
            nodes: BTreeMap::new(),
            state: State::new(),
            index: 0,
            wire: BTreeMap::new(),
            arrives: BTreeMap::new(),
            disk: BTreeMap::new(),
            rough: None,
            cut: BTreeSet::new(),
            control_answers: true,
            proposals: BTreeMap::new(),
            completed: BTreeMap::new(),
            answered: BTreeMap::new(),
            events: Vec::new(),
            next: 0,
        };
        world.commit(Command::InitCluster {
            id: ClusterId::from_u128(1),
            name: "test".into(),
            ca_certificate: vec![1],
            sealed_ca_key: vec![2],
        });
        for (i, site) in sites.iter().enumerate() {
            world.add_node(n(i as u128 + 1), site);
        }
        for id in world.nodes.keys().copied().collect::<Vec<_>>() {
            world.start(id);
        }
        world.run();
        world
    }

    fn add_node(&mut self, id: NodeId, site: &str) {
        self.commit(Command::PutNode(Member {
            id,
            name: format!("n{}", id.as_u128()),
            site: site.into(),
            zone: String::new(),
            rack: String::new(),
            role: NodeRole::Data,
            control_address: "127.0.0.1:1".into(),
            data_addresses: vec!["127.0.0.1:2".into()],
            cordoned: false,
        }));
        self.commit(Command::PutPool(Pool {
            device: device(id),
            node: id,
            name: "pool".into(),
            extents: 128,
            free_extents: 128,
            places: 0,
        }));
        let mut machine = Machine {
            id,
            device: device(id),
            node: None,
            boot: 0,
            inbox: VecDeque::new(),
            blocks: BTreeMap::new(),
            stable: BTreeMap::new(),
            broken_disk: None,
            failed_before: BTreeSet::new(),
            attachments: BTreeMap::new(),
            stopped: false,
            no_control: false,
        };
        machine.format(1);
        self.nodes.insert(id, machine);
    }

    pub fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.nodes.get_mut(&id).expect("a node of the world")
    }

    pub fn volume(&self) -> &Volume {
        &self.state.volumes[&V]
    }

    pub fn in_sync(&self) -> Vec<ReplicaId> {
        self.volume().membership.in_sync.keys().copied().collect()
    }

    // ---- time and delivery

    /// Until nothing is on its way.
    pub fn run(&mut self) {
        loop {
            let waiting = self
                .nodes
                .values()
                .find(|m| m.node.is_some() && !m.inbox.is_empty());
            if let Some(id) = waiting.map(|m| m.id) {
                let machine = self.machine(id);
                let input = machine.inbox.pop_front().expect("looked at");
                self.step(id, input);
            } else if let Some((id, device, op)) = due(&mut self.disk, self.now) {
                let machine = self.machine(id);
                let (token, result) = machine.carry_out(op);
                machine.inbox.push_back(Input::Disk {
                    device,
                    token,
                    result,
                });
            } else if let Some((from, to, message)) = due(&mut self.wire, self.now) {
                let up = self.is_linked(from, to);
                if up && self.nodes[&to].node.is_some() {
                    self.step(to, Input::Message { from, message });
                }
            } else if self.control_answers
                && let Some((node, ticket, command)) = due(&mut self.proposals, self.now)
            {
                self.decide(node, ticket, command);
            } else {
                return;
            }
        }
    }

    /// When something comes next.
    fn next_at(&self) -> Option<Nanos> {
        let timers = self
            .nodes
            .values()
            .filter_map(|m| Some(m.node.as_ref()?.next_timer()));
        let disk = self.disk.keys().next().map(|(at, _)| *at);
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let control = self.proposals.keys().next().map(|(at, _)| *at);
        let control = control.filter(|_| self.control_answers);
        timers.chain(disk).chain(wire).chain(control).min()
    }

    /// After how long something ends, if things take time.
    fn some_time(&mut self, most: Nanos) -> Nanos {
        let now = self.now;
        now + self.rough.as_mut().map_or(0, |dice| dice.below(most))
    }

    /// Lets time pass, timers firing as they are due.
    pub fn pass(&mut self, length: Nanos) {
        let end = self.now + length;
        self.run();
        while let Some(at) = self.next_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let now = self.now;
            let due = |m: &&Machine| m.node.as_ref().is_some_and(|x| x.next_timer() <= now);
            let ready: Vec<NodeId> = self.nodes.values().filter(due).map(|m| m.id).collect();
            for id in ready {
                self.step(id, Input::Timer);
            }
            self.run();
        }
        self.now = end;
    }

    /// Lets time pass until something is so.
    pub fn until(&mut self, limit: Nanos, what: &str, so: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !so(self) {
            if self.now >= end {
                self.dump();
                panic!("not so after {} ms: {what}", limit / 1_000_000);
            }
            self.pass(10_000_000);
        }
    }

    pub fn dump(&self) {
        for (id, event) in &self.events {
            println!("n{}: {event:?}", id.as_u128());
        }
        for machine in self.nodes.values() {
            println!(
                "n{}: {:?}",
                machine.id.as_u128(),
                machine.node.as_ref().map(|x| x.inspect(self.now))
            );
        }
        for volume in self.state.volumes.values() {
            println!("{:?} {:?}", volume.membership, volume.replicas);
        }
    }

    pub fn step(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let Some(node) = self.machine(id).node.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        node.step(now, input, &mut out);
        self.outputs(id, out);
    }

    fn outputs(&mut self, id: NodeId, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Disk { device, op } => {
                    let at = self.some_time(3_000_000);
                    let number = self.id();
                    self.disk.insert((at, number), (id, device, op));
                }
                Output::Send { to, message } => {
                    let at = self.some_time(8_000_000);
                    let number = self.id();
                    let last = self.arrives.entry((id, to)).or_default();
                    *last = at.max(*last);
                    self.wire.insert((*last, number), (id, to, message));
                }
                Output::Propose { ticket, command } => {
                    let at = self.some_time(30_000_000);
                    let number = self.id();
                    self.proposals.insert((at, number), (id, ticket, command));
                }
                Output::Complete { tag, result } => {
                    let before = self.completed.insert(tag, result);
                    assert!(before.is_none(), "request {tag} was answered twice");
                }
                Output::Attachment {
                    volume,
                    attachment,
                    state,
                } => {
                    self.machine(id)
                        .attachments
                        .insert(volume, (attachment, state));
                }
                Output::Answered { ticket, result } => {
                    self.answered.insert(ticket, result);
                }
                Output::Event(event) => {
                    let marks = &mut self.machine(id).failed_before;
                    match &event {
                        NodeEvent::PoolFailed { device, .. } => marks.insert(*device),
                        NodeEvent::FailureNoted { device } => marks.remove(device),
                        _ => false,
                    };
                    self.events.push((id, event));
                }
                Output::Stopped => self.machine(id).stopped = true,
            }
        }
    }

    // ---- the control plane

    /// Commits a command at once.
    pub fn commit(&mut self, command: Command) -> ProposalResult {
        self.index += 1;
        let applied = self.state.apply(self.index, &Proposal::from(command));
        for machine in self
            .nodes
            .values_mut()
            .filter(|m| m.node.is_some() && !m.no_control)
        {
            machine
                .inbox
                .extend(applied.changes.iter().cloned().map(Input::Change));
        }
        match applied.result {
            Ok(outcome) => ProposalResult::Applied(outcome),
            Err(why) => ProposalResult::Rejected(why),
        }
    }

    fn decide(&mut self, node: NodeId, ticket: Ticket, command: Command) {
        let fate = self.rough.as_mut().map_or(99, |dice| dice.below(100));
        let result = match fate {
            _ if self.nodes[&node].no_control => ProposalResult::Unknown,
            0..=4 => ProposalResult::Unknown, // and it never comes
            5..=9 => {
                self.commit(command);
                ProposalResult::Unknown
            }
            _ => self.commit(command),
        };
        let machine = self.machine(node);
        if machine.node.is_some() {
            machine.inbox.push_back(Input::Proposed { ticket, result });
        }
    }

    /// It hears of all that was committed meanwhile.
    pub fn reconnect_control(&mut self, id: NodeId) {
        let everything = self.state.everything();
        let machine = self.machine(id);
        machine.no_control = false;
        machine
            .inbox
            .extend(everything.into_iter().map(Input::Change));
        self.run();
    }

    pub fn create_volume(&mut self, copies: &str, nodes: &[u128], blocks: u64) {
        let replicas = nodes
            .iter()
            .map(|i| NewReplica {
                replica: r(*i),
                node: n(*i),
                device: device(n(*i)),
                incarnation: Incarnation(1),
            })
            .collect();
        let result = self.commit(Command::CreateVolume {
            volume: V,
            name: "vol".into(),
            blocks,
            lineage: LineageId::from_u128(0x11),
            policy: Policy {
                copies: copies.parse().expect("a good grammar"),
                fault_domain: FaultDomain::Node,
                preferred_site: None,
                rpo: Rpo::WitnessedDegrade,
                locality: Locality::Prefer,
            },
            replicas,
        });
        assert!(matches!(result, ProposalResult::Applied(_)), "{result:?}");
        self.run();
    }

    // ---- machines and links

    pub fn start(&mut self, id: NodeId) {
        let now = self.now;
        let machine = self.machine(id);
        machine.boot += 1;
        machine.stopped = false;
        machine.attachments.clear();
        let config = NodeConfig {
            node: id,
            started: now,
            devices: vec![(machine.device, OpenOptions::new(DEVICE_BYTES))],
            failed_before: machine.failed_before.clone(),
            timings: Timings::default(),
            broken: Broken::default(),
        };
        let mut node = Node::new(config, now);
        let mut out = Vec::new();
        node.start(now, &mut out);
        machine.node = Some(node);
        let boot = machine.boot;
        self.outputs(id, out);
        let everything: Vec<Change> = self.state.everything();
        let machine = self.machine(id);
        machine
            .inbox
            .extend(everything.into_iter().map(Input::Change));
        let peers: Vec<(NodeId, u64)> = self
            .nodes
            .values()
            .filter(|m| m.id != id && m.node.is_some())
            .map(|m| (m.id, m.boot))
            .collect();
        self.wire.retain(|_, (_, to, _)| *to != id);
        for (peer, peer_boot) in peers {
            if self.is_linked(id, peer) {
                self.machine(peer)
                    .inbox
                    .push_back(Input::LinkUp { peer: id, boot });
                self.machine(id).inbox.push_back(Input::LinkUp {
                    peer,
                    boot: peer_boot,
                });
            }
        }
        self.run();
    }

    /// The process dies; its links close.
    pub fn kill(&mut self, id: NodeId) {
        let machine = self.machine(id);
        machine.node = None;
        machine.inbox.clear();
        self.wire
            .retain(|_, (from, to, _)| *from != id && *to != id);
        self.proposals.retain(|_, (node, _, _)| *node != id);
        self.lose_power(id);
        for machine in self.nodes.values_mut().filter(|m| m.node.is_some()) {
            machine.inbox.push_back(Input::LinkDown { peer: id });
        }
        self.run();
    }

    /// What was on its way to a device, or not flushed, is there or not, block by block.
    fn lose_power(&mut self, id: NodeId) {
        let gone: Vec<_> = self
            .disk
            .extract_if(.., |_, (node, _, _)| *node == id)
            .map(|(_, (_, _, op))| op)
            .collect();
        let mut dice = self.rough.take();
        let mut coin = || dice.as_mut().is_none_or(|dice| dice.below(2) == 0);
        let machine = self.nodes.get_mut(&id).expect("a node of the world");
        for op in gone {
            if let DiskOp::Write { offset, parts, .. } = op {
                let whole: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                for (i, block) in whole.chunks_exact(BLOCK).enumerate() {
                    if coin() {
                        machine.put(offset + (i * BLOCK) as u64, block);
                    }
                }
            }
        }
        for (number, before) in std::mem::take(&mut machine.stable) {
            if !coin() {
                match before {
                    Some(block) => machine.blocks.insert(number, block),
                    None => machine.blocks.remove(&number),
                };
            }
        }
        machine.stable.clear();
        self.rough = dice;
    }

    pub fn cut_link(&mut self, x: NodeId, y: NodeId, told: bool) {
        self.cut.extend([(x, y), (y, x)]);
        if told {
            self.machine(x).inbox.push_back(Input::LinkDown { peer: y });
            self.machine(y).inbox.push_back(Input::LinkDown { peer: x });
        }
        self.run();
    }

    pub fn heal_link(&mut self, x: NodeId, y: NodeId) {
        self.cut.remove(&(x, y));
        self.cut.remove(&(y, x));
        // The new link carries nothing of the old one.
        self.wire
            .retain(|_, (from, to, _)| (*from, *to) != (x, y) && (*from, *to) != (y, x));
        for (at, peer) in [(x, y), (y, x)] {
            let boot = self.machine(peer).boot;
            let machine = self.machine(at);
            if machine.node.is_some() {
                machine.inbox.push_back(Input::LinkDown { peer });
                machine.inbox.push_back(Input::LinkUp { peer, boot });
            }
        }
        self.run();
    }

    fn is_linked(&self, x: NodeId, y: NodeId) -> bool {
        !self.cut.contains(&(x, y))
    }

    // ---- clients

    pub fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn attach(&mut self, node: NodeId, attachment: AttachmentId) {
        let ticket = self.id();
        self.step(
            node,
            Input::Attach {
                ticket,
                volume: V,
                attachment,
            },
        );
        self.until(30 * SECOND, "the attach is answered", |w| {
            w.answered.contains_key(&ticket)
        });
        assert_eq!(self.answered[&ticket], Ok(()));
        self.until(40 * SECOND, "the volume opens", |w| w.is_open(node));
    }

    pub fn detach(&mut self, node: NodeId, attachment: AttachmentId) {
        let ticket = self.id();
        self.step(
            node,
            Input::Detach {
                ticket,
                volume: V,
                attachment,
            },
        );
        self.until(30 * SECOND, "the detach is answered", |w| {
            w.answered.contains_key(&ticket)
        });
        assert_eq!(self.answered[&ticket], Ok(()));
    }

    /// The publication to a node that is gone is ended by force, and the volume attached elsewhere.
    pub fn take_over(&mut self, from: NodeId, to: NodeId, attachment: AttachmentId) -> NodeId {
        let old = self.volume().membership.attachment.expect("it is attached");
        assert_eq!(old.node, from);
        self.commit(Command::Detach {
            volume: V,
            attachment: old.id,
            device_gone: true,
        });
        self.run();
        self.attach(to, attachment);
        to
    }

    pub fn is_open(&self, node: NodeId) -> bool {
        let machine = &self.nodes[&node];
        matches!(
            machine.attachments.get(&V),
            Some((_, AttachmentState::Open { .. }))
        ) && machine.node.is_some()
    }

    pub fn send(
        &mut self,
        node: NodeId,
        attachment: AttachmentId,
        start: u64,
        count: u32,
        op: RequestOp,
    ) -> Tag {
        let tag = self.id();
        let request = Request {
            range: BlockRange::new(start, count),
            op,
        };
        self.step(
            node,
            Input::Client {
                volume: V,
                attachment,
                tag,
                request,
            },
        );
        self.run();
        tag
    }

    pub fn begin_write(&mut self, node: NodeId, at: AttachmentId, start: u64, fill: u8) -> Tag {
        let payload = Bytes::from(vec![fill; BLOCK]);
        let checksums = checksum_blocks(&payload);
        self.send(node, at, start, 1, RequestOp::Write { checksums, payload })
    }

    pub fn write(&mut self, node: NodeId, at: AttachmentId, start: u64, fill: u8) {
        let tag = self.begin_write(node, at, start, fill);
        assert_eq!(self.answer(tag), Ok(Response::Done));
    }

    pub fn answer(&mut self, tag: Tag) -> Answer {
        self.until(20 * SECOND, "the request is answered", |w| {
            w.completed.contains_key(&tag)
        });
        self.completed[&tag].clone()
    }

    /// The first byte of a block.
    pub fn read(&mut self, node: NodeId, at: AttachmentId, start: u64) -> u8 {
        let tag = self.send(node, at, start, 1, RequestOp::Read);
        match self.answer(tag) {
            Ok(Response::Data(pieces)) => {
                assert_eq!(pieces.len(), 1);
                let block = pieces[0].1.clone().unwrap_or_else(|| vec![0; BLOCK].into());
                assert_eq!(block.len(), BLOCK);
                assert!(block.iter().all(|b| *b == block[0]), "one write a block");
                block[0]
            }
            other => panic!("a read was answered {other:?}"),
        }
    }
}

impl Machine {
    /// A blank device becomes a pool.
    pub fn format(&mut self, life: u64) {
        self.blocks.clear();
        let pool = NewPool {
            cluster: ClusterId::from_u128(1),
            node: self.id,
            device: self.device,
            key: [life as u8; 16],
            incarnation: Incarnation(life),
        };
        let options = FormatOptions {
            device_bytes: DEVICE_BYTES,
            ring_bytes: 8 << 20,
            delta_bytes: 1 << 20,
            max_replicas: 8,
            window_bytes: 256 << 10,
        };
        let (_, writes) = pool_writes(&pool, &options).expect("the device is large enough");
        for (offset, bytes) in writes {
            self.put(offset, &bytes);
        }
        self.stable.clear();
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (i, block) in bytes.chunks_exact(BLOCK).enumerate() {
            let number = offset / BLOCK as u64 + i as u64;
            let before = self.blocks.insert(number, Bytes::copy_from_slice(block));
            self.stable.entry(number).or_insert(before);
        }
    }

    fn carry_out(&mut self, op: DiskOp) -> (u64, DiskResult) {
        if let Some(errno) = self.broken_disk {
            let (DiskOp::Read { token, .. }
            | DiskOp::Write { token, .. }
            | DiskOp::Flush { token }) = op;
            return (token, DiskResult::Failed(errno));
        }
        match op {
            DiskOp::Flush { token } => {
                self.stable.clear();
                (token, DiskResult::Done)
            }
            DiskOp::Write {
                token,
                offset,
                parts,
                durable,
            } => {
                let mut whole = BytesMut::new();
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                self.put(offset, &whole);
                if durable {
                    let first = offset / BLOCK as u64;
                    let blocks = first..first + (whole.len() / BLOCK) as u64;
                    self.stable.retain(|number, _| !blocks.contains(number));
                }
                (token, DiskResult::Done)
            }
            DiskOp::Read {
                token,
                offset,
                length,
            } => {
                let first = offset / BLOCK as u64;
                let mut bytes = BytesMut::new();
                for number in first..first + u64::from(length) / BLOCK as u64 {
                    match self.blocks.get(&number) {
                        Some(block) => bytes.extend_from_slice(block),
                        None => bytes.extend_from_slice(&[0; BLOCK]),
                    }
                }
                (token, DiskResult::Read(bytes.freeze()))
            }
        }
    }
}
