//! What the operator owns: volumes are made, deleted under whatever faults there are and made again under a
//! new id (R18), and promised otherwise; nodes are cordoned and given back.

use super::World;
use super::operator::Wish;
use super::plan::{FaultKind, VolumePlan};
use crate::net::NodeIndex;
use lockstep_control::{Applied, Change, Command, NewReplica, Policy, Rejected, Rpo, Volume};
use lockstep_types::{
    AttachmentId, FaultDomain, Incarnation, LineageId, Locality, NodeId, NodeRole, ReplicaId,
    VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

/// What was made and what is gone.
#[derive(Default)]
pub struct Estate {
    /// Volumes asked for so far: no id is used twice.
    made: u128,
    /// What stood in volumes that are gone, and is to be made again.
    again: Vec<VolumePlan>,
    /// Volumes that are gone for good.
    gone: BTreeSet<VolumeId>,
    /// A volume was promised to wait rather than stand in one site, after the plan was drawn.
    pub strict: bool,
    /// As committed: nodes that are given nothing new, and what had been given.
    cordoned: BTreeSet<NodeId>,
    replicas: BTreeSet<ReplicaId>,
    attachments: BTreeMap<VolumeId, AttachmentId>,
}

fn policy_of(wanted: &VolumePlan) -> Policy {
    Policy {
        copies: wanted.copies.parse().expect("the plan's grammars are good"),
        fault_domain: FaultDomain::Node,
        preferred_site: None,
        rpo: if wanted.strict {
            Rpo::Strict
        } else {
            Rpo::WitnessedDegrade
        },
        locality: Locality::None,
    }
}

impl World {
    /// Wants a volume from now on; false if it can be placed nowhere.
    pub(super) fn make_volume(&mut self, wanted: &VolumePlan) -> bool {
        let answering: BTreeSet<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let policy = policy_of(wanted);
        let placed = self
            .committed
            .state
            .place(&policy, wanted.blocks, None, &answering);
        let Ok(choices) = placed else {
            self.coverage.hit("operator: placement refused");
            return false;
        };
        let number = self.operator.estate.made;
        self.operator.estate.made += 1;
        let volume = VolumeId::from_u128(0xf0 + number);
        let rng = &mut self.operator.rng;
        let replicas = choices
            .iter()
            .map(|choice| NewReplica {
                replica: ReplicaId::from_u128(rng.id()),
                node: choice.node,
                device: choice.device,
                incarnation: Incarnation(1),
            })
            .collect();
        let create = Command::CreateVolume {
            volume,
            name: format!("v{number}"),
            blocks: wanted.blocks,
            lineage: LineageId::from_u128(rng.id()),
            policy,
            replicas,
        };
        let node = self.a_data_node();
        let wish = Wish::new(create, node, wanted.clone());
        self.operator.wishes.insert(volume, wish);
        self.clients.add_volume(volume);
        true
    }

    /// What is gone is made again while faults last; nodes are given back once they end.
    pub(super) fn tend_estate(&mut self) {
        let now = self.now();
        let dead = |node: &super::SimNode| node.disks.iter().any(|d| d.disk.is_dead(now));
        // On a device that is dead, and may never be exchanged, no copy would ever be ready.
        if self.faults_last() && self.nodes.iter().any(dead) {
            return;
        }
        if self.faults_last() {
            let again = std::mem::take(&mut self.operator.estate.again);
            for wanted in again {
                if self.make_volume(&wanted) {
                    self.coverage
                        .hit("operator: volume made in place of a deleted one");
                } else {
                    self.operator.estate.again.push(wanted);
                }
            }
            return;
        }
        let nodes = self.committed.state.nodes.values();
        let cordoned: Vec<NodeId> = nodes.filter(|n| n.cordoned).map(|n| n.id).collect();
        for node in cordoned {
            self.propose_operator(Command::CordonNode {
                node,
                cordoned: false,
            });
        }
    }

    /// The volume is to go, with all there is of it.
    pub(super) fn begin_deletion(&mut self, volume: VolumeId) {
        self.coverage.hit("operator: volume given up");
        self.say("operator", format_args!("{volume:?} is to be deleted"));
        self.wish(volume).leaving = true;
    }

    /// A volume that is to go: its device first, then its publication, then itself.
    pub(super) fn tend_leaving(&mut self, volume: VolumeId, record: Option<&Volume>) {
        let Some(record) = record.filter(|record| !record.deleting) else {
            // What a daemon was cut off with, or is told of the end by.
            for node in 0..self.nodes.len() {
                if let Some(device) = self.nodes[node].devices.get(&volume).copied() {
                    self.coverage
                        .hit("operator: device of a deleted volume taken away");
                    self.remove_device(node, volume, device);
                }
            }
            if record.is_none() {
                self.deletion_ended(volume);
            }
            return;
        };
        let node = self.operator.wishes[&volume].node;
        let device = self.nodes[node].devices.get(&volume).copied();
        match (device, record.membership.attachment) {
            (Some(device), _) => self.remove_device(node, volume, device),
            (None, Some(attachment)) => self.end_publication(node, volume, attachment),
            (None, None) => self.propose_operator(Command::DeleteVolume { volume }),
        }
    }

    /// The record is gone, and with it whatever a node that answers had of the volume.
    fn deletion_ended(&mut self, volume: VolumeId) {
        self.coverage.hit("operator: volume deleted");
        let wish = self.operator.wishes.remove(&volume).expect("it was wished");
        self.operator.estate.gone.insert(volume);
        // The atlas lets rot set in when the volumes stand: it does not wait for later ones.
        if self.plan.every(FaultKind::Corruption).is_none() {
            self.operator.estate.again.push(wish.wanted);
        }
    }

    /// An entry was committed: what clients knew of a volume ends with it.
    pub(super) fn mind_deletions(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Volume(volume) = change
                && volume.deleting
            {
                self.clients.end_volume(volume.id);
                self.checks.waiting.remove(&volume.id);
            }
        }
    }

    /// A node is given nothing new from now on, or again.
    pub(super) fn cordon_somebody(&mut self) {
        let node = self.a_data_node();
        let id = self.nodes[node].id;
        let nodes = self.committed.state.nodes.values();
        let free = nodes.filter(|n| n.role == NodeRole::Data && !n.cordoned);
        let others = free.filter(|n| n.id != id).count();
        let cordoned = !self.operator.estate.cordoned.contains(&id);
        if cordoned && others == 0 {
            return;
        }
        self.coverage.hit(if cordoned {
            "operator: node cordoned"
        } else {
            "operator: node uncordoned"
        });
        self.propose_operator(Command::CordonNode { node: id, cordoned });
    }

    /// Something else is asked of the volume.
    pub(super) fn change_policy(&mut self, volume: VolumeId) {
        let mut wanted = VolumePlan::draw(&mut self.operator.rng, self.plan.data_nodes);
        // `strict` keeps a lost copy's place until an operator gives the site another: not here.
        let fails = [FaultKind::Corruption, FaultKind::DeviceFailure];
        let fails = fails
            .into_iter()
            .any(|kind| self.plan.every(kind).is_some());
        wanted.strict &= self.copies_lost == 0 && !fails;
        self.operator.estate.strict |= wanted.strict;
        self.coverage.hit("operator: policy changed");
        self.propose_operator(Command::SetPolicy {
            volume,
            policy: policy_of(&wanted),
        });
    }

    /// Nothing new is given to a cordoned node.
    pub(crate) fn check_cordons(&mut self, applied: &Applied) -> Result<(), String> {
        if matches!(applied.result, Err(Rejected::Cordoned { .. })) {
            self.coverage.hit("control: cordoned node spared");
        }
        let estate = &mut self.operator.estate;
        for change in &applied.changes {
            match change {
                Change::Node(node) if node.cordoned => {
                    estate.cordoned.insert(node.id);
                }
                Change::Node(node) => {
                    estate.cordoned.remove(&node.id);
                }
                Change::Volume(volume) => {
                    for (id, replica) in &volume.replicas {
                        let new = estate.replicas.insert(*id);
                        if new && estate.cordoned.contains(&replica.node) {
                            return Err(format!("{id:?} was put on a cordoned node"));
                        }
                    }
                    let Some(attachment) = volume.membership.attachment else {
                        continue;
                    };
                    let before = estate.attachments.insert(volume.id, attachment.id);
                    if before != Some(attachment.id) && estate.cordoned.contains(&attachment.node) {
                        return Err(format!("{:?} was published to a cordoned node", volume.id));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletions are under way.
    pub(super) fn something_leaves(&self) -> bool {
        self.operator.wishes.values().any(|wish| wish.leaving)
    }

    pub(crate) fn unfreed(&self) -> bool {
        self.why_unfreed().is_some()
    }

    /// R18: data that a committed tombstone names, or that a deleted volume left, on a node that could
    /// have deleted it.
    pub(crate) fn why_unfreed(&self) -> Option<String> {
        if self.plan.over_budget {
            return None;
        }
        let state = &self.committed.state;
        let held = |id: &VolumeId| state.tombstones.values().any(|t| t.volume == *id);
        // What a dead device holds keeps the record, and nothing else does.
        let waits = |id: &VolumeId| state.volumes.get(id).is_some_and(|r| r.deleting) && held(id);
        let mut leaving = self.operator.wishes.iter().filter(|(_, wish)| wish.leaving);
        if let Some((volume, _)) = leaving.find(|(volume, _)| !waits(volume)) {
            return Some(format!("{volume:?} is still being deleted"));
        }
        for node in (0..self.nodes.len()).filter(|node| self.can_free(*node)) {
            let (id, name) = (self.nodes[node].id, self.name(node));
            let mut tombstones = state.tombstones.values();
            if let Some(tombstone) = tombstones.find(|tombstone| tombstone.node == id) {
                let (replica, volume) = (tombstone.replica, tombstone.volume);
                return Some(format!(
                    "{name} has not said that {replica:?} of {volume:?} is gone"
                ));
            }
            let gone = &self.operator.estate.gone;
            let local = self.clock(node).local(self.now());
            let seen = self.nodes[node].data()?.inspect(local);
            if let Some(left) = seen.replicas.iter().find(|r| gone.contains(&r.volume)) {
                let (replica, volume) = (left.replica, left.volume);
                return Some(format!("{name} keeps {replica:?} of deleted {volume:?}"));
            }
        }
        None
    }

    /// Its process runs, and its devices work.
    fn can_free(&self, node: NodeIndex) -> bool {
        let rots = node == self.plan.victim && self.plan.every(FaultKind::Corruption).is_some();
        let Some(data) = self.nodes[node].data().filter(|_| !rots) else {
            return false;
        };
        let now = self.now();
        let disks = &self.nodes[node].disks;
        data.pools().all(|pool| pool.ready) && disks.iter().all(|disk| !disk.disk.is_dead(now))
    }
}
