//! V7: epochs and incarnations never go back, and ids are never used again (R18).

use crate::net::NodeIndex;
use lockstep_control::{Applied, Change};
use lockstep_logic::Inspection;
use lockstep_types::{Epoch, Incarnation, ReplicaId, VolumeId};
use lockstep_wire::Header;
use std::collections::{BTreeMap, BTreeSet};

/// The highest seen.
#[derive(Default)]
pub struct Monotone {
    epochs: BTreeMap<VolumeId, (Epoch, u64)>,
    incarnations: BTreeMap<ReplicaId, Incarnation>,
    sizes: BTreeMap<VolumeId, u64>,
    gone: BTreeSet<VolumeId>,
}

impl Monotone {
    /// Looks at what a committed entry changed.
    pub fn committed(&mut self, applied: &Applied) -> Result<(), String> {
        for change in &applied.changes {
            match change {
                Change::Volume(volume) => {
                    let now = (volume.membership.epoch, volume.membership.version);
                    let before = self.epochs.insert(volume.id, now).unwrap_or_default();
                    if now.0 < before.0 || now.1 <= before.1 && before != Default::default() {
                        return Err(format!(
                            "{:?}: epoch and version went from {before:?} to {now:?}",
                            volume.id
                        ));
                    }
                    let size = self.sizes.insert(volume.id, volume.blocks).unwrap_or(0);
                    if volume.blocks < size {
                        return Err(format!(
                            "{:?} shrank from {size} to {} blocks",
                            volume.id, volume.blocks
                        ));
                    }
                    if self.gone.contains(&volume.id) {
                        return Err(format!("{:?} was deleted and is back", volume.id));
                    }
                    for (id, replica) in &volume.replicas {
                        let before = self
                            .incarnations
                            .insert(*id, replica.incarnation)
                            .unwrap_or_default();
                        if replica.incarnation < before {
                            return Err(format!(
                                "{id:?}: incarnation went from {before} to {}",
                                replica.incarnation
                            ));
                        }
                    }
                }
                Change::VolumeGone(volume) => {
                    self.gone.insert(*volume);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What replicas promised and opened.
#[derive(Default)]
pub struct Promises {
    /// As last seen in the process that runs: a change may still be on its way to the disk.
    seen: BTreeMap<ReplicaId, (NodeIndex, State)>,
    /// What was told to others, and so is durable (R3).
    told: BTreeMap<ReplicaId, State>,
}

/// Life, promised epoch, opened epoch.
type State = (Incarnation, Epoch, Epoch);

impl Promises {
    /// Neither goes back within a life of the replica, and lives go on only.
    pub fn never_back(&mut self, node: NodeIndex, seen: &Inspection) -> Result<(), String> {
        for replica in &seen.replicas {
            let now = (replica.incarnation, replica.promised, replica.opened);
            let id = replica.replica;
            let before = self.seen.insert(id, (node, now));
            let told = self.told.get(&id).copied().unwrap_or_default();
            let before = before.map_or(told, |(_, state)| state);
            if now.0 < before.0 || now.0 == before.0 && (now.1 < before.1 || now.2 < before.2) {
                return Err(format!(
                    "{id:?}: life, promised and opened epoch went from {before:?} to {now:?}"
                ));
            }
        }
        Ok(())
    }

    /// A replica says that it has promised an epoch, or opened it.
    pub fn told(&mut self, header: &Header, opened: bool) {
        let told = self.told.entry(header.replica).or_default();
        if header.incarnation > told.0 {
            *told = (header.incarnation, Epoch::default(), Epoch::default());
        }
        if header.incarnation == told.0 {
            told.1 = told.1.max(header.epoch);
            if opened {
                told.2 = told.2.max(header.epoch);
            }
        }
    }

    /// A process ended: what it had told outlives it, what was on its way to the disk may not.
    pub fn process_gone(&mut self, node: NodeIndex) {
        self.seen.retain(|_, (whose, _)| *whose != node);
    }
}
