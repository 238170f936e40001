//! What happens to a node of the model: the glue between the cores that a daemon is, in its plainest
//! form. A node's messages to itself are handled at once.

use super::store::{Crash, Device};
use super::{Message, Model, NODES, Pending, VOLUME, index_of, node_id, replica_id, timings};
use lockstep_control::{Command, Expected};
use lockstep_protocol::mutate::Broken;
use lockstep_protocol::{
    Grant, Primary, PrimaryEvent, PrimaryOut, Proposal, ProposalEnd, Role, Secondary, View,
};
use lockstep_types::{LineageId, Nanos, NodeId, ReplicaMeta, Request, Stamp};
use lockstep_wire::{Beacon, BeaconReply, BeaconVolume, ReplicaReply, ReplicaRequest, RequestBody};
use std::collections::VecDeque;

/// A machine with a device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ModelNode {
    /// Its device.
    pub device: Device,
    /// Its daemon, while it has power.
    pub process: Option<Process>,
    /// Counts starts.
    pub boot: u8,
}

/// A daemon.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    /// Its replica.
    pub secondary: Secondary,
    /// Its primary, if it wants the role.
    pub primary: Option<Primary>,
    /// Tells a primary from those before it.
    serial: u64,
    /// The record it knows.
    view: Option<View>,
    started: Nanos,
}

/// Something for a node to handle at this moment.
enum Work {
    Request(usize, ReplicaRequest),
    Reply(usize, ReplicaReply),
}

impl ModelNode {
    pub(super) fn new(node: usize, view: &View, broken: Broken) -> Self {
        let life = view.replicas[&replica_id(node)].incarnation;
        let lineage = LineageId::from_u128(7);
        let meta = ReplicaMeta::new(replica_id(node), VOLUME, lineage, life, view.blocks);
        let grant = Grant::never();
        let secondary = Secondary::new(meta.clone(), Stamp::ZERO, grant, timings(), broken);
        Self {
            device: Device::new(meta),
            process: Some(Process {
                secondary,
                primary: None,
                serial: 0,
                view: Some(view.clone()),
                started: 0,
            }),
            boot: 0,
        }
    }

    /// The version of the record that it knows.
    pub fn version(&self) -> u64 {
        let view = self.process.as_ref().and_then(|p| p.view.as_ref());
        view.map_or(0, |view| view.version)
    }

    /// Its primary.
    pub fn primary(&self) -> Option<&Primary> {
        self.process.as_ref().and_then(|p| p.primary.as_ref())
    }
}

impl Model {
    /// Something for a node's primary; what it wants goes on its way.
    fn with_primary(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Primary, Nanos, &mut Vec<PrimaryOut>),
    ) {
        let now = self.now;
        let mut out = Vec::new();
        self.nodes[node].change(|it| {
            if let Some(primary) = it.process.as_mut().and_then(|p| p.primary.as_mut()) {
                act(primary, now, &mut out);
            }
        });
        self.carry_out(node, out);
    }

    /// Something for a node's replica; its answers go on their way.
    fn with_secondary(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Secondary, Nanos, &mut Device, &mut Vec<(NodeId, ReplicaReply)>),
    ) {
        let now = self.now;
        let mut replies = Vec::new();
        self.nodes[node].change(|it| {
            let Some(process) = it.process.as_mut() else {
                return;
            };
            let before = process.secondary.meta().promised;
            act(&mut process.secondary, now, &mut it.device, &mut replies);
            let promised = process.secondary.meta().promised;
            if promised > before
                && let Some(primary) = process.primary.as_mut()
            {
                primary.on_local_promise(promised); // R13
            }
        });
        let mut work = VecDeque::new();
        for (to, reply) in replies {
            match index_of(to) {
                to if to == node => work.push_back(Work::Reply(node, reply)),
                to => self.send(node, to, Message::Reply(reply)),
            }
        }
        self.do_all(work);
    }

    fn do_all(&mut self, mut work: VecDeque<Work>) {
        while let Some(next) = work.pop_front() {
            match next {
                Work::Request(node, request) => self.request(node, node, request),
                Work::Reply(node, reply) => self.reply(node, node, reply),
            }
        }
    }

    fn request(&mut self, node: usize, from: usize, request: ReplicaRequest) {
        self.with_secondary(node, |secondary, now, device, replies| {
            secondary.on_request(now, node_id(from), request, device, replies);
        });
    }

    fn reply(&mut self, node: usize, from: usize, reply: ReplicaReply) {
        self.with_primary(node, |primary, now, out| {
            primary.on_reply(now, node_id(from), reply, &|_| true, out);
        });
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.linked(from, to) {
            self.links[from][to].change(|queue| queue.push_back(message));
        }
    }

    fn carry_out(&mut self, node: usize, out: Vec<PrimaryOut>) {
        let mut work = VecDeque::new();
        for wanted in out {
            match wanted {
                PrimaryOut::Send { node: to, request } => match index_of(to) {
                    to if to == node => work.push_back(Work::Request(node, request)),
                    to => self.send(node, to, Message::Request(request)),
                },
                PrimaryOut::Propose { id, proposal } => self.propose(node, id, proposal),
                PrimaryOut::Complete { tag, result } => self.completed(node, tag, result),
                PrimaryOut::Beacon => self.send_beacons(node),
                PrimaryOut::Event(PrimaryEvent::Opened { epoch, .. }) => {
                    self.client.change(|client| client.opened(epoch));
                }
                PrimaryOut::Event(_) | PrimaryOut::Slow { .. } => {}
            }
        }
        self.do_all(work);
    }

    fn propose(&mut self, node: usize, id: u64, proposal: Proposal) {
        let (volume, me) = (VOLUME, node_id(node));
        let seen = |expected: lockstep_protocol::Expected| Expected {
            epoch: expected.epoch,
            version: expected.version,
        };
        let command = match proposal {
            Proposal::Promote {
                expected,
                attachment,
            } => Command::Promote {
                volume,
                expected: seen(expected),
                node: me,
                attachment,
                primary_silent: false,
            },
            Proposal::ChangeInSync {
                expected,
                remove,
                add,
                reason,
            } => Command::ChangeInSync {
                volume,
                expected: seen(expected),
                node: me,
                remove,
                add,
                reason,
            },
            Proposal::StepDown { expected } => Command::StepDown {
                volume,
                expected: seen(expected),
                node: me,
            },
            Proposal::Reincarnate { replica, from, to } => Command::Reincarnate {
                volume,
                replica,
                from,
                to,
            },
        };
        let it = &self.nodes[node].value;
        let serial = it.process.as_ref().map_or(0, |process| process.serial);
        let pending = Pending {
            from: node,
            boot: it.boot,
            serial,
            id,
            command,
        };
        self.proposals.change(|all| all.push(pending));
    }

    pub(super) fn proposal_ended(&mut self, pending: &Pending, applied: Option<bool>) {
        let end = match applied {
            Some(true) => ProposalEnd::Applied,
            Some(false) => ProposalEnd::Refused,
            None => ProposalEnd::Unknown,
        };
        let node = pending.from;
        let process = self.nodes[node].value.process.as_ref();
        if process.is_some_and(|process| process.serial == pending.serial) {
            let id = pending.id;
            self.with_primary(node, |primary, now, out| {
                primary.on_proposal_end(now, id, end, out);
            });
        }
    }

    pub(super) fn client_asks(&mut self, node: usize, tag: u64, request: Request) {
        self.with_primary(node, |primary, now, out| {
            primary.on_client(now, tag, request, &|_| true, out);
        });
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Request(request) => self.request(to, from, request),
            Message::Reply(reply) => self.reply(to, from, reply),
            Message::Beacon(beacon) => self.on_beacon(from, to, &beacon),
            Message::BeaconReply(reply) => {
                for answer in &reply.volumes {
                    self.with_primary(to, |primary, now, out| {
                        primary.on_beacon_answer(now, reply.sent, answer, &|_| true, out);
                    });
                }
            }
            Message::Hello(_) => unreachable!("nobody says hello here"),
        }
    }

    fn on_beacon(&mut self, from: usize, to: usize, beacon: &Beacon) {
        let mut answers = Vec::new();
        for entry in &beacon.volumes {
            self.with_secondary(to, |secondary, now, device, _| {
                answers.push(secondary.on_beacon(now, node_id(from), node_id(to), entry, device));
            });
        }
        let reply = BeaconReply {
            sent: beacon.sent,
            volumes: answers,
        };
        self.send(to, from, Message::BeaconReply(reply));
    }

    fn send_beacons(&mut self, node: usize) {
        let sent = self.now;
        for to in 0..NODES {
            let primary = self.nodes[node].value.primary();
            let volumes: Vec<BeaconVolume> = primary
                .map(|primary| primary.beacons_for(node_id(to)).collect())
                .unwrap_or_default();
            if volumes.is_empty() {
                continue;
            }
            if to != node {
                self.send(node, to, Message::Beacon(Beacon { sent, volumes }));
                continue;
            }
            for entry in volumes {
                let me = node_id(node);
                self.with_secondary(node, |secondary, now, device, _| {
                    secondary.on_beacon(now, me, me, &entry, device);
                });
            }
        }
    }

    pub(super) fn tick(&mut self, node: usize) {
        if self.nodes[node]
            .value
            .primary()
            .is_some_and(Primary::is_open)
        {
            self.send_beacons(node);
        }
        self.with_primary(node, |primary, now, out| {
            primary.on_timer(now, &|_| true, out);
        });
    }

    pub(super) fn disk(&mut self, node: usize) {
        self.with_secondary(node, |secondary, now, device, replies| {
            device.finish_one(now, secondary, replies);
        });
    }

    /// The node learns the committed record as it is now.
    pub(super) fn learn(&mut self, node: usize) {
        let view = (*self.view.value).clone();
        let it = &self.nodes[node].value;
        if it.process.is_none() || it.version() >= view.version {
            return;
        }
        self.nodes[node].change(|it| {
            if let Some(process) = it.process.as_mut() {
                process.view = Some(view.clone());
            }
        });
        self.review(node);
        self.with_primary(node, |primary, now, out| primary.on_view(now, view, out));
    }

    /// The node begins or ends its role, as the record asks.
    pub(super) fn review(&mut self, node: usize) {
        let Some(process) = self.nodes[node].value.process.as_ref() else {
            return;
        };
        let published = process.view.as_ref().and_then(|view| view.attachment);
        let wanted = published
            .filter(|(_, at)| index_of(*at) == node)
            .map(|(id, _)| Role::Attached(id));
        if process.primary.as_ref().map(Primary::role) == wanted {
            return;
        }
        self.end_role(node);
        let Some(role) = wanted else { return };
        let (now, broken) = (self.now, self.broken);
        self.nodes[node].change(|it| {
            if let Some(process) = it.process.as_mut() {
                process.serial += 1;
                let view = process.view.clone().expect("the role comes from it");
                let (me, started) = (node_id(node), process.started);
                let timings = timings();
                let primary = Primary::new(me, role, view, started, now, timings, broken);
                process.primary = Some(primary);
            }
        });
        let peers = (0..NODES).filter(|peer| *peer != node);
        let links: Vec<(usize, bool)> = peers.map(|peer| (peer, self.linked(node, peer))).collect();
        self.with_primary(node, |primary, now, out| {
            for (peer, up) in links {
                primary.on_link(now, node_id(peer), true, out);
                if !up {
                    primary.on_link(now, node_id(peer), false, out);
                }
            }
            primary.on_timer(now, &|_| true, out);
        });
    }

    /// What was asked and not answered is never answered well (R12).
    fn end_role(&mut self, node: usize) {
        if self.nodes[node].value.primary().is_none() {
            return;
        }
        let mut out = Vec::new();
        self.nodes[node].change(|it| {
            let primary = it.process.as_mut().and_then(|p| p.primary.take());
            if let Some(mut primary) = primary {
                primary.stop();
                primary.finish_stop(&mut out);
            }
        });
        let releases = out.into_iter().filter(|out| {
            matches!(out, PrimaryOut::Send { request, .. } if request.body == RequestBody::Release)
        });
        let releases = releases.collect();
        self.carry_out(node, releases);
        self.client.change(|client| client.device_gone(node));
    }

    pub(super) fn crash(&mut self, node: usize, how: Crash) {
        let linked: Vec<usize> = (0..NODES)
            .filter(|other| *other != node && self.linked(node, *other))
            .collect();
        self.nodes[node].change(|it| {
            it.process = None;
            it.device.crash(how);
        });
        self.client.change(|client| client.device_gone(node));
        for other in linked {
            self.drop_link(node, other);
        }
    }

    pub(super) fn restart(&mut self, node: usize) {
        let (now, broken) = (self.now, self.broken);
        self.nodes[node].change(|it| {
            it.boot += 1;
            let meta = it.device.disk.meta.clone();
            let grant = Grant::at_start(now);
            let last = it.device.disk.last();
            it.process = Some(Process {
                secondary: Secondary::new(meta, last, grant, timings(), broken),
                primary: None,
                serial: u64::from(it.boot) << 32,
                view: None,
                started: now,
            });
        });
        for other in (0..NODES).filter(|other| *other != node) {
            if self.linked(node, other) {
                self.link_changed(node, other, true);
            }
        }
    }

    pub(super) fn set_cut(&mut self, a: usize, b: usize, cut: bool) {
        if cut {
            self.drop_link(a, b);
        }
        self.cut[a][b] = cut;
        self.cut[b][a] = cut;
        if !cut && self.linked(a, b) {
            self.link_changed(a, b, true);
        }
    }

    /// What was on the way is lost, and whoever lives is told.
    fn drop_link(&mut self, a: usize, b: usize) {
        self.links[a][b].change(VecDeque::clear);
        self.links[b][a].change(VecDeque::clear);
        self.link_changed(a, b, false);
    }

    fn link_changed(&mut self, a: usize, b: usize, up: bool) {
        for (node, peer) in [(a, b), (b, a)] {
            self.with_primary(node, |primary, now, out| {
                primary.on_link(now, node_id(peer), up, out);
            });
        }
        // Nothing said while a link went down may cross it.
        if !up {
            self.links[a][b].change(VecDeque::clear);
            self.links[b][a].change(VecDeque::clear);
        }
    }
}
