//! Whether a volume is blank: its certified copies are asked, for the node that has it attached need not hold
//! one. All of them hold every acknowledged write, so that any one of them knows.

use std::time::Duration;

use lockstep_api::{error, proto};
use lockstep_control::Node;
use lockstep_types::{Incarnation, ReplicaId, VolumeId};
use tonic::{Code, Status};

use super::{Shared, forward};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Shared {
    /// By the certified copies of this node; none if there are none.
    pub(super) async fn blank_here(&self, volume: VolumeId) -> Result<Option<bool>, Status> {
        let copies: Vec<(ReplicaId, Incarnation)> = {
            let state = self.control().state();
            let volume = state.volume(volume).map_err(|e| error::rejected(&e))?;
            let certified = volume.membership.in_sync.iter();
            let here = |(id, _): &(&ReplicaId, &Incarnation)| {
                let held = volume.replicas.get(*id);
                held.is_some_and(|replica| replica.node == self.control().node())
            };
            certified
                .filter(here)
                .map(|(id, life)| (*id, *life))
                .collect()
        };
        if copies.is_empty() {
            return Ok(None);
        }
        let busy = || Status::unavailable("this node's data plane is busy or has stopped");
        let blank = self.bridge()?.are_blank(copies).await.ok_or_else(busy)?;
        Ok(Some(blank))
    }

    /// By the first node with a certified copy that answers.
    pub(super) async fn blank_anywhere(&self, volume: VolumeId) -> Result<bool, Status> {
        if let Some(blank) = self.blank_here(volume).await? {
            return Ok(blank);
        }
        let nodes: Vec<Node> = {
            let state = self.control().state();
            let volume = state.volume(volume).map_err(|e| error::rejected(&e))?;
            let certified = volume.membership.in_sync.keys();
            let held = certified.filter_map(|id| volume.replicas.get(id));
            held.filter_map(|replica| state.nodes.get(&replica.node).cloned())
                .collect()
        };
        let mut why = "it has no certified copy".to_owned();
        for node in nodes {
            let asked = tokio::time::timeout(PATIENCE, self.blank_on(&node, volume)).await;
            match asked {
                Ok(Ok(Some(blank))) => return Ok(blank),
                Ok(Ok(None)) => why = format!("node '{}' holds no copy any more", node.name),
                Ok(Err(status)) => why = status.message().to_owned(),
                Err(_) => why = format!("node '{}' does not answer", node.name),
            }
        }
        Err(error::status(
            Code::Unavailable,
            error::UNAVAILABLE,
            format!("nobody can tell whether the volume is blank: {why}"),
        ))
    }

    async fn blank_on(&self, node: &Node, volume: VolumeId) -> Result<Option<bool>, Status> {
        let client = forward::client_of(self, node).await?;
        let request = proto::IsBlankRequest {
            volume: volume.to_string(),
            here: true,
        };
        Ok(client.volumes().is_blank(request).await?.into_inner().blank)
    }
}
