//! What every copy of a volume that can be reached holds: asked of the nodes themselves, now, because
//! a forced promotion trusts nothing that was recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_api::{error, proto};
use lockstep_control::candidates::{Held, Ranked, rank};
use lockstep_control::{Node, Volume};
use lockstep_types::{
    Cut, Epoch, EpochStart, Gap, Incarnation, NodeId, ReplicaId, ResyncNumber, Sequence, Stamp,
    VolumeId,
};
use tonic::Status;

use super::{Shared, forward};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The copies of a volume, the one to take first.
pub struct Survey {
    /// Those that were reached.
    pub ranked: Vec<Ranked>,
    /// Why a forced promotion is refused now; empty if it is not.
    pub refused: String,
    /// The last sequence that a copy which was not reached was heard to hold, some time ago.
    pub heard: u64,
}

impl Survey {
    /// All copies that were reached.
    pub fn held(&self) -> Vec<Held> {
        self.ranked.iter().map(|one| one.held.clone()).collect()
    }
}

impl Shared {
    /// Asks every node that holds a copy.
    pub(super) async fn survey(&self, volume: &Volume) -> Result<Survey, Status> {
        let nodes: BTreeMap<NodeId, Node> = {
            let state = self.control().state();
            let held = volume.replicas.values().map(|replica| replica.node);
            held.filter_map(|id| Some((id, state.nodes.get(&id)?.clone())))
                .collect()
        };
        let mut asked = tokio::task::JoinSet::new();
        for node in nodes.into_values() {
            let (shared, volume) = (self.clone(), volume.id);
            asked.spawn(async move {
                let name = node.name.clone();
                match tokio::time::timeout(PATIENCE, shared.copies_on(&node, volume)).await {
                    Ok(Ok(held)) => held,
                    Ok(Err(status)) => {
                        tracing::debug!(node = name, %status, "a node did not say what it holds");
                        Vec::new()
                    }
                    Err(_) => Vec::new(),
                }
            });
        }
        let mut held = Vec::new();
        while let Some(answer) = asked.join_next().await {
            held.extend(answer.unwrap_or_default());
        }
        // What was overwritten is no choice any more.
        let counts = |copy: &Held| {
            volume
                .replicas
                .get(&copy.replica)
                .is_some_and(|r| !r.sealed_off)
        };
        held.retain(counts);
        let refused = refusal(volume, &held);
        let missing = volume.replicas.iter().filter(|(id, replica)| {
            !replica.sealed_off && held.iter().all(|copy| copy.replica != **id)
        });
        let heard = missing
            .filter_map(|(id, replica)| self.control().last_heard_of(replica.node, *id))
            .max();
        Ok(Survey {
            ranked: rank(held),
            refused,
            heard: heard.unwrap_or_default(),
        })
    }

    /// What this node holds of a volume.
    pub(super) async fn held_here(&self, volume: VolumeId) -> Result<Vec<Held>, Status> {
        let busy = || Status::unavailable("this node's data plane is busy or has stopped");
        self.bridge()?.held_copies(volume).await.ok_or_else(busy)
    }

    async fn copies_on(&self, node: &Node, volume: VolumeId) -> Result<Vec<Held>, Status> {
        if node.id == self.control().node() {
            return self.held_here(volume).await;
        }
        let client = forward::client_of(self, node).await?;
        let request = proto::HeldCopiesRequest {
            volume: volume.to_string(),
        };
        let reply = client.recovery().held_copies(request).await?.into_inner();
        reply.copies.into_iter().map(get).collect()
    }
}

/// While a member that holds every acknowledged write can be reached, nothing is overridden. One that
/// is damaged, or another life of its data, does not hold them.
fn refusal(volume: &Volume, held: &[Held]) -> String {
    let membership = &volume.membership;
    let serves = |copy: &&Held| {
        let certified = membership.in_sync.get(&copy.replica) == Some(&copy.incarnation);
        certified && copy.is_whole()
    };
    if membership.distrusted || !held.iter().any(|copy| serves(&copy)) {
        return String::new();
    }
    "a certified copy can be reached: attach the volume there".into()
}

/// As it goes from node to node.
pub fn put(held: &Held) -> proto::HeldCopy {
    let stamp = |epoch: Epoch, sequence: Sequence| proto::HeldStamp {
        epoch: epoch.0,
        sequence: sequence.0,
    };
    let history = held.history.iter();
    proto::HeldCopy {
        replica: held.replica.to_string(),
        incarnation: held.incarnation.0,
        last: Some(stamp(held.last.epoch, held.last.sequence)),
        history: history
            .map(|start| stamp(start.epoch, start.base))
            .collect(),
        torn: held.gap == Gap::Torn,
        corrupt: held.gap == Gap::Corrupt,
        suspect: held.gap == Gap::Suspect,
        cut: held
            .cut
            .map(|cut| stamp(cut.stamp.epoch, cut.stamp.sequence)),
        failed: held.failed,
    }
}

fn get(copy: proto::HeldCopy) -> Result<Held, Status> {
    let replica: ReplicaId = copy
        .replica
        .parse()
        .map_err(|_| error::invalid("a node named a copy by a malformed id"))?;
    let stamp = |it: proto::HeldStamp| Stamp::new(Epoch(it.epoch), Sequence(it.sequence));
    let start = |it: proto::HeldStamp| EpochStart {
        epoch: Epoch(it.epoch),
        base: Sequence(it.sequence),
    };
    Ok(Held {
        replica,
        incarnation: Incarnation(copy.incarnation),
        last: copy.last.map_or(Stamp::ZERO, stamp),
        history: copy.history.into_iter().map(start).collect(),
        gap: match (copy.corrupt, copy.suspect, copy.torn) {
            (true, _, _) => Gap::Corrupt,
            (_, true, _) => Gap::Suspect,
            (_, _, true) => Gap::Torn,
            (false, false, false) => Gap::None,
        },
        // Only where it lies matters to whoever asks.
        cut: copy.cut.map(|it| Cut {
            stamp: stamp(it),
            resync: ResyncNumber(0),
            shadow_from: Sequence::ZERO,
        }),
        failed: copy.failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_arrives_as_it_was_sent() {
        let held = Held {
            replica: ReplicaId::from_u128(7),
            incarnation: Incarnation(3),
            last: Stamp::new(Epoch(5), Sequence(90)),
            history: vec![EpochStart {
                epoch: Epoch(5),
                base: Sequence(40),
            }],
            gap: Gap::Torn,
            cut: Some(Cut {
                stamp: Stamp::new(Epoch(4), Sequence(30)),
                resync: ResyncNumber(0),
                shadow_from: Sequence::ZERO,
            }),
            failed: false,
        };
        assert_eq!(get(put(&held)).expect("read"), held);
    }
}
