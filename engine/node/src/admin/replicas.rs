//! Copies of a volume: one more, one elsewhere, one less.

use lockstep_api::{error, proto, wish};
use lockstep_control::{Command, NewReplica, State};
use lockstep_types::{DeviceId, NodeId, VolumeId};
use tonic::Status;

use super::Shared;
use super::volumes::new_replica;

impl Shared {
    pub(super) async fn add_one(
        &self,
        request: proto::AddReplicaRequest,
    ) -> Result<proto::ReplicaReply, Status> {
        self.catch_up().await?;
        let (volume, replica) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            let replica = match request.node.as_str() {
                "" => {
                    let answering = self.control().answering();
                    let choice = state
                        .place_one_more(volume, &answering)
                        .map_err(|refusal| error::unplaced(&refusal))?;
                    new_replica(choice.node, choice.device)
                }
                named => on_node(&state, named, &request.pool)?,
            };
            (volume.id, replica)
        };
        let added = replica.replica;
        self.propose(Command::AddReplica { volume, replica })
            .await?;
        Ok(proto::ReplicaReply {
            replica: added.to_string(),
            volume: Some(self.shown(volume)?),
        })
    }

    /// Adds the copies that a volume's policy asks for and that are nowhere. Where there is no place for one the
    /// volume's explanation says why; what it has is as good as before.
    pub(super) async fn add_what_lacks(&self, id: VolumeId) -> Result<(), Status> {
        for _ in 0..lockstep_placement::MAX_COPIES {
            let replica = {
                let state = self.control().state();
                let Some(volume) = state.volumes.get(&id) else {
                    return Ok(());
                };
                match state.place_one_more(volume, &self.control().answering()) {
                    Ok(choice) => new_replica(choice.node, choice.device),
                    Err(_) => return Ok(()),
                }
            };
            self.propose(Command::AddReplica {
                volume: id,
                replica,
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn move_one(
        &self,
        request: proto::MoveReplicaRequest,
    ) -> Result<proto::ReplicaReply, Status> {
        self.catch_up().await?;
        let (volume, from, to) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            let from = wish::replica(&state, volume, &request.from)?;
            let to = match request.node.as_str() {
                "" => {
                    let answering = self.control().answering();
                    let choice = state
                        .place_instead_of(volume, from, &answering)
                        .map_err(|refusal| error::unplaced(&refusal))?;
                    new_replica(choice.node, choice.device)
                }
                named => on_node(&state, named, &request.pool)?,
            };
            (volume.id, from, to)
        };
        let added = to.replica;
        self.propose(Command::MoveReplica { volume, from, to })
            .await?;
        Ok(proto::ReplicaReply {
            replica: added.to_string(),
            volume: Some(self.shown(volume)?),
        })
    }

    pub(super) async fn remove_one(
        &self,
        request: proto::RemoveReplicaRequest,
    ) -> Result<proto::ReplicaReply, Status> {
        self.catch_up().await?;
        let (volume, replica) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            (volume.id, wish::replica(&state, volume, &request.replica)?)
        };
        let even_below_policy = request.even_below_policy;
        self.propose(Command::RemoveReplica {
            volume,
            replica,
            even_below_policy,
        })
        .await?;
        Ok(proto::ReplicaReply {
            replica: replica.to_string(),
            volume: Some(self.shown(volume)?),
        })
    }

    pub(super) async fn keep_one(
        &self,
        request: proto::KeepReplicaRequest,
    ) -> Result<proto::ReplicaReply, Status> {
        self.catch_up().await?;
        let (volume, replica) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            (volume.id, wish::replica(&state, volume, &request.replica)?)
        };
        self.propose(Command::KeepReplica { volume, replica })
            .await?;
        Ok(proto::ReplicaReply {
            replica: replica.to_string(),
            volume: Some(self.shown(volume)?),
        })
    }
}

/// A copy on the node named: in the pool named, or the one with the most room.
fn on_node(state: &State, node: &str, pool: &str) -> Result<NewReplica, Status> {
    let node: NodeId = wish::node(state, node)?.id;
    let device: DeviceId = match pool {
        "" => {
            let pools = state.pools.values().filter(|pool| pool.node == node);
            let roomiest = pools.max_by_key(|pool| state.room(pool.device));
            roomiest
                .ok_or_else(|| {
                    error::invalid(format!("node '{}' has no pool", state.node_name(node)))
                })?
                .device
        }
        named => wish::pool(state, &node.to_string(), named)?.device,
    };
    Ok(new_replica(node, device))
}
