//! V11: once faults stop, the control plane goes on, every volume that can be served is, every request
//! is answered, and a size that was committed has reached its device (R8). `world/liveness.rs` says how
//! long that may take.

use crate::world::World;
use crate::world::plan::FaultKind;
use lockstep_logic::io::AttachmentState;
use lockstep_types::VolumeId;

impl World {
    /// A voter that runs has not applied anything since faults stopped. Logs that learn do not count.
    pub(crate) fn control_plane_stands_still(&self) -> bool {
        let before = self.checks.applied_when_faults_stopped;
        let voting = &self.committed.state.voters.voting;
        self.nodes
            .iter()
            .filter(|node| voting.contains(&node.raft_id))
            .filter_map(|node| node.voter())
            .any(|voter| voter.state.applied <= before)
    }

    pub(crate) fn unanswered(&self) -> bool {
        self.clients
            .volumes
            .iter()
            .any(|(volume, client)| client.waits() && !self.may_wait(*volume))
    }

    /// Something that ought to be served is not.
    pub(crate) fn unserved(&self) -> bool {
        self.clients
            .volumes
            .iter()
            .any(|(volume, client)| match &client.attached {
                _ if self.may_wait(*volume) => false,
                None => true,
                Some(attached) => {
                    !matches!(attached.state, AttachmentState::Open { .. })
                        || self.is_short(*volume, attached.blocks)
                        || attached
                            .outstanding
                            .values()
                            .any(|request| request.start < self.checks.faults_stopped_at)
                }
            })
    }

    /// R8: a size that was committed has not reached the device.
    fn is_short(&self, volume: VolumeId, blocks: Option<u64>) -> bool {
        let record = self.committed.state.volumes.get(&volume);
        record.is_some_and(|record| blocks.is_some_and(|blocks| blocks < record.blocks))
    }

    /// What is certified is lost, or may be: then the volume waits for a person, and says so.
    pub(crate) fn may_wait(&self, volume: VolumeId) -> bool {
        self.stands_on_the_victim_alone(volume)
            || self.waits_for_the_lost(volume)
            || self.plan.over_budget
    }

    /// The only certified copy is on the device that rots: if it is lost, the volume may wait (R21).
    fn stands_on_the_victim_alone(&self, volume: VolumeId) -> bool {
        let corrupting = self.plan.every(FaultKind::Corruption).is_some();
        corrupting && self.in_sync_names(volume) == [self.name(self.plan.victim)]
    }

    pub(crate) fn why_unserved(&self) -> String {
        let mut text = String::new();
        for (volume, client) in &self.clients.volumes {
            let record = self.committed.state.volumes.get(volume);
            let members = record.map(|record| {
                let name = |id| {
                    record.replicas.get(id).map_or(
                        "?".into(),
                        |replica: &lockstep_control::Replica| {
                            self.name(self.index_of(replica.node))
                        },
                    )
                };
                let names: Vec<String> = record.membership.in_sync.keys().map(name).collect();
                format!(
                    "epoch {} in sync {}",
                    record.membership.epoch,
                    names.join(" ")
                )
            });
            let state = match &client.attached {
                None => "is not attached".to_string(),
                Some(attached) => format!(
                    "on {} is {:?} with {} requests waiting",
                    self.name(attached.node),
                    attached.state,
                    attached.outstanding.len()
                ),
            };
            let waiting = self
                .checks
                .waiting
                .get(volume)
                .map(|why| format!(", says: {why}"))
                .unwrap_or_default();
            text.push_str(&format!(
                "{volume:?} {state} ({}{waiting}); ",
                members.unwrap_or_else(|| "never created".into())
            ));
        }
        text
    }
}
