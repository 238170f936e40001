//! What this node knows besides the committed state: from heartbeats.

use std::collections::BTreeMap;

use lockstep_control::{PrimaryReport, Progress, Report, View, Volume};
use lockstep_types::{
    DeviceId, Epoch, Gap, Incarnation, NodeId, ReplicaId, Sequence, Stamp, VolumeId,
};

use crate::control::Control;
use crate::control::heartbeat::{PrimaryBeat, ReplicaBeat};

/// What is known of the cluster, without a volume.
pub fn of_cluster(control: &Control) -> View {
    View {
        answering: control.answering(),
        quorum: control.role().borrow().leader_id != 0,
        replicas: BTreeMap::new(),
        primary: None,
    }
}

/// What is known that concerns a volume. For many, [`Beats`] once.
pub fn of_volume(control: &Control, volume: &Volume) -> View {
    Beats::of(control).volume(volume)
}

/// What heartbeats say, read once for any number of volumes: looking through them for each would cost the square.
#[derive(Debug)]
pub struct Beats {
    cluster: View,
    replicas: BTreeMap<(NodeId, ReplicaId), ReplicaBeat>,
    primaries: BTreeMap<(NodeId, VolumeId), PrimaryBeat>,
    /// Pools that serve no more, and why.
    failed: BTreeMap<(NodeId, DeviceId), String>,
}

impl Beats {
    /// As it is now.
    pub fn of(control: &Control) -> Self {
        let mut beats = Self {
            cluster: of_cluster(control),
            replicas: BTreeMap::new(),
            primaries: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        for (node, beat) in control.heartbeats() {
            // What cannot be read is of a version to come, and says nothing.
            let replicas = beat
                .replicas
                .into_iter()
                .filter_map(|replica| Some(((node, replica.replica.parse().ok()?), replica)));
            beats.replicas.extend(replicas);
            let primaries = beat
                .primaries
                .into_iter()
                .filter_map(|primary| Some(((node, primary.volume.parse().ok()?), primary)));
            beats.primaries.extend(primaries);
            let failed = beat
                .pools
                .into_iter()
                .filter_map(|pool| Some(((node, pool.device.parse().ok()?), pool.failed?)));
            beats.failed.extend(failed);
        }
        beats
    }

    /// What concerns this volume.
    pub fn volume(&self, volume: &Volume) -> View {
        let mut view = self.cluster.clone();
        for (id, replica) in &volume.replicas {
            if let Some(beat) = self.replicas.get(&(replica.node, *id)) {
                view.replicas.insert(*id, report(beat));
            }
        }
        let primary = volume
            .membership
            .primary
            .and_then(|node| self.primaries.get(&(node, volume.id)));
        if let Some(beat) = primary {
            view.primary = Some(PrimaryReport {
                epoch: Epoch(beat.epoch),
                open: beat.open,
                waiting: beat.waiting.clone(),
            });
            resyncs(volume, beat, &mut view.replicas);
        }
        for (id, replica) in &volume.replicas {
            if let Some(why) = self.failed.get(&(replica.node, replica.device)) {
                let report = view
                    .replicas
                    .entry(*id)
                    .or_insert_with(|| blank(volume, *id));
                report.failed = Some(why.clone());
            }
        }
        view
    }
}

/// Why a pool serves no more, if it does not.
pub fn pool_failure(control: &Control, device: DeviceId) -> Option<String> {
    let device = device.to_string();
    control
        .heartbeats()
        .into_values()
        .flat_map(|beat| beat.pools)
        .find(|pool| pool.device == device)
        .and_then(|pool| pool.failed)
}

fn resyncs(volume: &Volume, beat: &PrimaryBeat, to: &mut BTreeMap<ReplicaId, Report>) {
    for resync in &beat.resyncs {
        let Ok(id) = resync.replica.parse::<ReplicaId>() else {
            continue;
        };
        let joining =
            volume.replicas.contains_key(&id) && !volume.membership.in_sync.contains_key(&id);
        if joining {
            let report = to.entry(id).or_insert_with(|| blank(volume, id));
            report.resync = Some(Progress {
                done: resync.done,
                total: resync.total,
                bytes: resync.bytes,
            });
        }
    }
}

fn report(beat: &ReplicaBeat) -> Report {
    Report {
        incarnation: Incarnation(beat.incarnation),
        promised: Epoch(beat.promised),
        last: Stamp::new(Epoch(beat.last_epoch), Sequence(beat.last_sequence)),
        gap: match beat.gap {
            0 => Gap::None,
            1 => Gap::Torn,
            3 => Gap::Suspect,
            _ => Gap::Corrupt,
        },
        resync: None,
        failed: beat.failed.then(|| "its device failed".to_owned()),
    }
}

/// A report that says nothing beyond the record.
fn blank(volume: &Volume, id: ReplicaId) -> Report {
    Report {
        incarnation: volume.replicas[&id].incarnation,
        promised: volume.membership.epoch,
        last: Stamp::ZERO,
        gap: Gap::None,
        resync: None,
        failed: None,
    }
}
