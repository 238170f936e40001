//! What this node knows besides the committed state: from heartbeats.

use std::collections::BTreeMap;

use lockstep_control::{PrimaryReport, Progress, Report, View, Volume};
use lockstep_types::{DeviceId, Epoch, Gap, Incarnation, ReplicaId, Sequence, Stamp};

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

/// What is known that concerns a volume.
pub fn of_volume(control: &Control, volume: &Volume) -> View {
    let mut view = of_cluster(control);
    let heartbeats = control.heartbeats();
    let name = volume.id.to_string();
    for (id, replica) in &volume.replicas {
        let text = id.to_string();
        let beat = heartbeats
            .get(&replica.node)
            .and_then(|beat| beat.replicas.iter().find(|beat| beat.replica == text));
        if let Some(beat) = beat {
            view.replicas.insert(*id, report(beat));
        }
    }
    let primary = volume
        .membership
        .primary
        .and_then(|node| heartbeats.get(&node));
    if let Some(beat) = primary.and_then(|beat| beat.primaries.iter().find(|p| p.volume == name)) {
        view.primary = Some(PrimaryReport {
            epoch: Epoch(beat.epoch),
            open: beat.open,
            waiting: beat.waiting.clone(),
        });
        resyncs(volume, beat, &mut view.replicas);
    }
    for (id, replica) in &volume.replicas {
        let failed = heartbeats.get(&replica.node).and_then(|beat| {
            let device = replica.device.to_string();
            beat.pools
                .iter()
                .find(|pool| pool.device == device)?
                .failed
                .clone()
        });
        if failed.is_some() {
            let report = view
                .replicas
                .entry(*id)
                .or_insert_with(|| blank(volume, *id));
            report.failed = failed;
        }
    }
    view
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
