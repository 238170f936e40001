//! Losses in volumes that nobody has open: the node that lost its certified replica tells those that
//! can take care of the volume, for no primary asks after it.

use crate::io::Output;
use crate::node::Node;
use lockstep_control::Volume;
use lockstep_types::{Nanos, NodeId, VolumeId, seconds};
use lockstep_wire::{Header, ReplicaReply, ReplyBody};

/// Between reports of a loss.
const AGAIN: Nanos = seconds(5);

impl Node {
    /// Tells of a certified replica that should be here and is not, or can serve no more.
    pub(crate) fn tell_loss(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let now = self.now;
        let Some(state) = self.volumes.get(&volume) else {
            return;
        };
        let membership = &state.record.membership;
        let idle = membership.primary.is_none() && membership.attachment.is_none();
        if !idle || state.certified.is_some() || now < state.tell_loss_at {
            return;
        }
        let Some(reply) = self.loss_here(&state.record) else {
            return;
        };
        let others: Vec<NodeId> = membership
            .in_sync
            .keys()
            .filter_map(|id| state.record.replicas.get(id).map(|r| r.node))
            .filter(|node| *node != self.me && self.is_reachable(*node))
            .collect();
        for to in others {
            self.send_reply(to, reply.clone(), out);
        }
        let state = self.volumes.get_mut(&volume).expect("looked at above");
        state.tell_loss_at = now + AGAIN;
    }

    /// What a primary that asked would be told.
    fn loss_here(&self, record: &Volume) -> Option<ReplicaReply> {
        let membership = &record.membership;
        let (replica, incarnation) = membership
            .in_sync
            .iter()
            .find(|(id, _)| record.replicas.get(id).is_some_and(|r| r.node == self.me))?;
        let header = Header {
            volume: record.id,
            replica: *replica,
            incarnation: *incarnation,
            epoch: membership.epoch,
        };
        let body = match self.replicas.get(replica) {
            Some(local) if local.answers => ReplyBody::Failed,
            Some(_) => return None,
            None => self.absence(&header)?,
        };
        Some(ReplicaReply { header, body })
    }

    /// A node says that its certified replica is lost (R4). Without a primary that sees to it, a
    /// caretaker does.
    pub(crate) fn on_loss(&mut self, from: NodeId, reply: &ReplicaReply) {
        let Header {
            volume,
            replica,
            incarnation,
            ..
        } = reply.header;
        let lost = matches!(reply.body, ReplyBody::NoSuchLife { .. } | ReplyBody::Failed);
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let record = &state.record;
        let certified = record.membership.in_sync.get(&replica) == Some(&incarnation);
        let theirs = record
            .replicas
            .get(&replica)
            .is_some_and(|r| r.node == from);
        if lost && certified && theirs && record.membership.attachment.is_none() {
            state.lost.insert(replica);
            state.watched = true;
        }
    }
}
