//! The operator: what Kubernetes and people do. Creates volumes, publishes them, moves them while
//! nodes are dead or cut off, adds, moves and removes copies, grows volumes; `estate` has the rest.

use super::estate::Estate;
use super::plan::{FaultKind, Plan, VolumePlan};
use super::step::Inward;
use super::{Event, World};
use crate::net::NodeIndex;
use crate::rng::Rng;
use lockstep_control::{Attachment, Command, NewReplica, Settings, Volume};
use lockstep_logic::io::{AttachmentState, Input, ProposalResult, Ticket};
use lockstep_types::{
    AttachmentId, EXTENT_BLOCKS, Incarnation, Nanos, NodeRole, ReplicaId, SECOND, VolumeId, millis,
};
use std::collections::BTreeMap;

/// What it wants.
pub struct Operator {
    pub(super) rng: Rng,
    pub(super) wishes: BTreeMap<VolumeId, Wish>,
    pub(super) estate: Estate,
    tickets: BTreeMap<Ticket, (VolumeId, NodeIndex, Asked)>,
    asked: Ticket,
}

/// A volume that is wanted, or wanted no more.
pub(super) struct Wish {
    create: Command,
    pub(super) wanted: VolumePlan,
    /// Where the pod is.
    pub(super) node: NodeIndex,
    /// The attachment that was asked for, and when; it may or may not exist.
    asking: Option<(AttachmentId, Nanos)>,
    /// It is to be deleted.
    pub(super) leaving: bool,
}

impl Wish {
    pub(super) fn new(create: Command, node: NodeIndex, wanted: VolumePlan) -> Self {
        Self {
            create,
            wanted,
            node,
            asking: None,
            leaving: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Attach(AttachmentId),
    Detach(AttachmentId),
}

impl Operator {
    /// Wants nothing yet.
    pub fn new(_plan: &Plan, rng: Rng) -> Self {
        Self {
            rng,
            wishes: BTreeMap::new(),
            estate: Estate::default(),
            tickets: BTreeMap::new(),
            asked: 0,
        }
    }
}

impl World {
    pub(super) fn begin_operator(&mut self) {
        for wanted in self.plan.volumes.clone() {
            self.make_volume(&wanted);
        }
        self.queue.after(2 * SECOND, Event::Tend);
        if let Some(every) = self.plan.operator_every {
            self.queue.after(4 * SECOND + every, Event::Operate);
        }
    }

    /// Every half second: volumes are created and published where they should be.
    pub(super) fn on_tend(&mut self) {
        self.queue.after(SECOND / 2, Event::Tend);
        self.tend_estate();
        let volumes: Vec<VolumeId> = self.operator.wishes.keys().copied().collect();
        for volume in volumes {
            self.tend(volume);
        }
    }

    fn tend(&mut self, volume: VolumeId) {
        let now = self.now();
        let record = self.committed.state.volumes.get(&volume).cloned();
        let wish = &self.operator.wishes[&volume];
        let node = wish.node;
        let asking = wish
            .asking
            .is_some_and(|(_, since)| now < since + 3 * SECOND);
        if wish.leaving && !asking {
            return self.tend_leaving(volume, record.as_ref());
        }
        let Some(record) = record else {
            let create = wish.create.clone();
            return self.propose_operator(create);
        };
        if !record.is_ready() || asking {
            return;
        }
        let device = self.nodes[node].devices.get(&volume).copied();
        match (device, record.membership.attachment) {
            (Some(device), Some(attachment)) if attachment.id == device => {
                if !self.takes_away(volume, device) {
                    self.tend_restarted(node, volume, device);
                }
            }
            (Some(device), _) => {
                // The device of a former publication, fenced: it goes first.
                let fenced = self
                    .clients
                    .client(volume)
                    .attached
                    .as_ref()
                    .is_some_and(|a| a.state == AttachmentState::Fenced);
                if self.tries_beside(node, volume) {
                    let id = AttachmentId::from_u128(self.operator.rng.id());
                    self.ask(node, volume, Asked::Attach(id));
                } else if fenced || !self.faults_last() {
                    self.remove_device(node, volume, device);
                }
            }
            (None, Some(attachment)) => self.end_publication(node, volume, attachment),
            (None, None) => self.publish(node, volume, &record),
        }
    }

    /// Published, but its device is not there: the machine lost it, or it is elsewhere.
    pub(super) fn end_publication(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        attachment: Attachment,
    ) {
        let elsewhere = self.index_of(attachment.node);
        let there = self.nodes[elsewhere].devices.get(&volume) == Some(&attachment.id);
        if !there {
            self.coverage
                .hit("operator: publication of a lost device ended");
            self.propose_operator(Command::Detach {
                volume,
                attachment: attachment.id,
                device_gone: true,
            });
        } else if elsewhere != node {
            self.detach_elsewhere(elsewhere, volume, attachment.id);
        }
    }

    /// Somebody ends the publication by force, and leaves the device where it is.
    fn takes_away(&mut self, volume: VolumeId, attachment: AttachmentId) -> bool {
        let takes = self.plan.odd(FaultKind::AttachBeside)
            && self.faults_last()
            && self.operator.rng.per_cent(2);
        if takes {
            self.coverage.hit("operator: detached by force");
            self.propose_operator(Command::Detach {
                volume,
                attachment,
                device_gone: false,
            });
        }
        takes
    }

    /// Somebody publishes the volume again while the old device still stands, with requests held (R12).
    fn tries_beside(&mut self, node: NodeIndex, volume: VolumeId) -> bool {
        let record = self.committed.state.volumes.get(&volume);
        let detached = record.is_some_and(|r| r.membership.attachment.is_none());
        let held = self
            .clients
            .client(volume)
            .attached
            .as_ref()
            .is_some_and(|a| !a.outstanding.is_empty());
        let tries = self.plan.odd(FaultKind::AttachBeside)
            && self.faults_last()
            && detached
            && self.nodes[node].runs()
            && self.operator.rng.per_cent(50);
        if tries {
            self.coverage.hit("operator: attach beside an old device");
            if held {
                self.coverage
                    .hit("operator: attach beside an old device with requests held");
            }
        }
        tries
    }

    /// The record names the new attachment although it remembers the old one's device.
    fn is_fenced_and_published(
        &self,
        volume: VolumeId,
        old: AttachmentId,
        new: AttachmentId,
    ) -> bool {
        self.committed
            .state
            .volumes
            .get(&volume)
            .is_some_and(|record| {
                let published = record.membership.attachment.is_some_and(|a| a.id == new);
                published && record.fenced.contains_key(&old)
            })
    }

    /// After a restart of the daemon the device is handed to it again, under the same id (R12).
    fn tend_restarted(&mut self, node: NodeIndex, volume: VolumeId, device: AttachmentId) {
        let Some(process) = self.nodes[node]
            .process
            .as_ref()
            .filter(|process| process.data.is_some())
        else {
            return;
        };
        let boot = process.boot;
        if self.checks.attached_in(node, volume) == Some(boot) {
            return;
        }
        self.checks.attach_asked(node, volume, boot);
        self.ask(node, volume, Asked::Attach(device));
    }

    fn publish(&mut self, node: NodeIndex, volume: VolumeId, record: &Volume) {
        if record
            .fenced
            .values()
            .any(|whose| *whose == self.nodes[node].id)
        {
            let fenced: Vec<AttachmentId> = record.fenced.keys().copied().collect();
            for attachment in fenced {
                self.propose_operator(Command::DeviceGone { volume, attachment });
            }
            return;
        }
        let id = AttachmentId::from_u128(self.operator.rng.id());
        if !self.nodes[node].runs() {
            let other = self.a_data_node();
            self.wish(volume).node = other;
            return;
        }
        self.ask(node, volume, Asked::Attach(id));
    }

    /// The pod lives there from now on.
    pub(crate) fn wish_node(&mut self, volume: VolumeId, node: NodeIndex) {
        self.wish(volume).node = node;
    }

    /// Somebody attaches the volume there, whatever the record says.
    pub(crate) fn ask_attach(&mut self, node: NodeIndex, volume: VolumeId) {
        let id = AttachmentId::from_u128(self.operator.rng.id());
        self.ask(node, volume, Asked::Attach(id));
    }

    fn detach_elsewhere(&mut self, node: NodeIndex, volume: VolumeId, attachment: AttachmentId) {
        let heard_by = (0..self.nodes.len())
            .filter(|other| *other != node && self.net.reach(node, *other))
            .count();
        let reachable = self.nodes[node].runs() && heard_by * 2 >= self.nodes.len() - 1;
        if reachable && self.operator.rng.per_cent(60) {
            self.coverage.hit("operator: detached cleanly");
            self.remove_device(node, volume, attachment);
        } else {
            self.coverage.hit("operator: detached by force");
            self.propose_operator(Command::Detach {
                volume,
                attachment,
                device_gone: false,
            });
        }
    }

    /// Takes a device away and tells the daemon.
    pub(super) fn remove_device(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        device: AttachmentId,
    ) {
        self.nodes[node].devices.remove(&volume);
        self.device_gone(volume, device);
        self.ask(node, volume, Asked::Detach(device));
    }

    fn ask(&mut self, node: NodeIndex, volume: VolumeId, asked: Asked) {
        let now = self.now();
        self.operator.asked += 1;
        let ticket = self.operator.asked;
        self.operator.tickets.insert(ticket, (volume, node, asked));
        let input = match asked {
            Asked::Attach(attachment) => {
                self.wish(volume).asking = Some((attachment, now));
                Input::Attach {
                    ticket,
                    volume,
                    attachment,
                }
            }
            Asked::Detach(attachment) => Input::Detach {
                ticket,
                volume,
                attachment,
            },
        };
        self.say(
            "operator",
            format_args!("{}: {asked:?} {volume:?}", self.name(node)),
        );
        self.deliver(node, Inward::Data(input));
    }

    pub(super) fn operator_answered(
        &mut self,
        node: NodeIndex,
        ticket: Ticket,
        result: Result<(), String>,
    ) {
        let Some((volume, _, asked)) = self.operator.tickets.remove(&ticket) else {
            return;
        };
        self.say_node(
            node,
            format_args!("answers the operator about {volume:?}, {asked:?}: {result:?}"),
        );
        if !self.operator.wishes.contains_key(&volume) {
            return; // deleted meanwhile
        }
        if let Asked::Attach(id) = asked {
            self.wish(volume).asking = None;
            match result {
                Ok(()) => {
                    self.coverage.hit("operator: attached");
                    let there = self.nodes[node].devices.get(&volume).copied();
                    if there.is_some_and(|old| self.is_fenced_and_published(volume, old, id)) {
                        let name = self.name(node);
                        return self.fail(
                            "R12",
                            format!("{name}: {volume:?} was published beside its old device"),
                        );
                    }
                    if !self.is_published(volume, id) {
                        // Asked before a pause, answered after the publication had ended: whoever
                        // asked has given up, and the client is elsewhere.
                        self.coverage.hit("operator: attached too late");
                        return;
                    }
                    if there.is_none() {
                        self.device_appears(node, volume, id);
                    }
                    let boot = self.nodes[node]
                        .process
                        .as_ref()
                        .map(|process| process.boot);
                    self.checks.attach_asked(node, volume, boot.unwrap_or(0));
                    self.reissue(volume);
                }
                Err(why) => {
                    self.coverage.hit("operator: attach refused");
                    self.checks.waiting.insert(volume, why);
                    let is_new = self.nodes[node].devices.get(&volume) != Some(&id);
                    if !is_new {
                        // Handed over again; another publication says nothing of this device, whose
                        // requests the daemon has.
                        self.checks.attach_asked(node, volume, 0);
                    }
                    if self.operator.rng.per_cent(20) && is_new {
                        let other = self.a_data_node();
                        self.wish(volume).node = other;
                    }
                }
            }
        }
    }

    fn is_published(&self, volume: VolumeId, id: AttachmentId) -> bool {
        let record = self.committed.state.volumes.get(&volume);
        let current = record.and_then(|record| record.membership.attachment.as_ref());
        current.is_some_and(|attachment| attachment.id == id)
    }

    pub(super) fn operator_proposed(&mut self, command: &Command, result: ProposalResult) {
        self.say(
            "operator",
            format_args!(
                "{}: {}",
                crate::words::short(command),
                crate::words::short(&result)
            ),
        );
    }

    /// Something changes that nobody needed to change now.
    pub(super) fn on_operate(&mut self) {
        if !self.faults_last() {
            return;
        }
        if let Some(every) = self.plan.operator_every {
            let wait = self.operator.rng.about(every).max(millis(50));
            self.queue.after(wait, Event::Operate);
        }
        let volumes: Vec<VolumeId> = self.operator.wishes.keys().copied().collect();
        if volumes.is_empty() {
            return self.propose_anything();
        }
        let volume = *self.operator.rng.pick(&volumes);
        let Some(record) = self
            .committed
            .state
            .volumes
            .get(&volume)
            .filter(|record| record.is_ready())
            .cloned()
        else {
            return;
        };
        match self.operator.rng.below(11) {
            0..=3 => {
                self.coverage.hit("operator: pod moves");
                let node = self.a_data_node();
                self.wish(volume).node = node;
            }
            4 => {
                self.coverage.hit("operator: volume grows");
                let blocks = record.blocks + EXTENT_BLOCKS * self.operator.rng.between(1, 3);
                if blocks <= 20 * EXTENT_BLOCKS {
                    self.propose_operator(Command::ResizeVolume { volume, blocks });
                }
            }
            5 => self.add_copy(&record),
            6 => self.move_copy(&record),
            7 => self.begin_deletion(volume),
            8 => self.cordon_somebody(),
            9 => self.change_policy(volume),
            _ => {
                let replicas: Vec<ReplicaId> = record.replicas.keys().copied().collect();
                let replica = *self.operator.rng.pick(&replicas);
                self.coverage.hit("operator: copy removed");
                self.propose_operator(Command::RemoveReplica {
                    volume,
                    replica,
                    even_below_policy: false,
                });
            }
        }
    }

    /// A change that disturbs nothing.
    pub(super) fn propose_anything(&mut self) {
        let overprovision_per_cent = 100 + self.operator.rng.below(100) as u32;
        self.propose_operator(Command::SetSettings(Settings {
            overprovision_per_cent,
        }));
    }

    fn add_copy(&mut self, record: &Volume) {
        let Some(node) = self.node_without_copy(record) else {
            return;
        };
        self.coverage.hit("operator: copy added");
        let replica = self.new_replica(node);
        self.propose_operator(Command::AddReplica {
            volume: record.id,
            replica,
        });
    }

    fn move_copy(&mut self, record: &Volume) {
        let Some(node) = self.node_without_copy(record) else {
            return;
        };
        self.coverage.hit("operator: copy moved");
        let replicas: Vec<ReplicaId> = record.replicas.keys().copied().collect();
        let from = *self.operator.rng.pick(&replicas);
        let to = self.new_replica(node);
        self.propose_operator(Command::MoveReplica {
            volume: record.id,
            from,
            to,
        });
    }

    fn node_without_copy(&mut self, record: &Volume) -> Option<NodeIndex> {
        let has = |node: &NodeIndex| {
            record
                .replicas
                .values()
                .any(|replica| replica.node == self.nodes[*node].id)
        };
        let free: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].role == NodeRole::Data && !has(node))
            .collect();
        (!free.is_empty()).then(|| *self.operator.rng.pick(&free))
    }

    fn new_replica(&mut self, node: NodeIndex) -> NewReplica {
        NewReplica {
            replica: ReplicaId::from_u128(self.operator.rng.id()),
            node: self.nodes[node].id,
            device: self.nodes[node].disks[0].device,
            incarnation: Incarnation(1),
        }
    }

    /// Pods go where they can live.
    pub(super) fn operator_moves_off(&mut self, dead: Option<NodeIndex>) {
        self.checks.faults_stopped_at = self.step;
        let Some(dead) = dead else { return };
        let alive = (0..self.nodes.len())
            .find(|node| *node != dead && self.nodes[*node].role == NodeRole::Data);
        let Some(alive) = alive else { return };
        for wish in self
            .operator
            .wishes
            .values_mut()
            .filter(|wish| wish.node == dead)
        {
            wish.node = alive;
        }
    }

    pub(super) fn a_data_node(&mut self) -> NodeIndex {
        let data = self.plan.data_nodes[0] + self.plan.data_nodes[1];
        self.operator.rng.below(data as u64) as usize
    }

    pub(super) fn wish(&mut self, volume: VolumeId) -> &mut Wish {
        self.operator
            .wishes
            .get_mut(&volume)
            .expect("volumes are wished for once")
    }
}
