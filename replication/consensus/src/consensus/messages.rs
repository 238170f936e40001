//! Frames in, messages out.

use bytes::Bytes;
use lockstep_types::{Nanos, NodeId};
use raft::{SnapshotStatus, StateRole};
use raft_proto::eraftpb::{EntryType, Message, MessageType};

use super::Consensus;
use crate::config::SNAPSHOT_TIMEOUT;
use crate::frame::{Body, Envelope, Frame};
use crate::io::Output;
use crate::relay::Route;

impl Consensus {
    pub(super) fn on_link(&mut self, now: Nanos, node: NodeId, up: bool, out: &mut Vec<Output>) {
        if self.reach.set_link(node, up) {
            self.gossip(out);
            if !up && self.reach.route(now, node, |relay| self.is_relay(relay)) == Route::None {
                self.directory
                    .voter_of(node, &self.conf)
                    .into_iter()
                    .for_each(|id| self.raw.report_unreachable(id));
            }
        }
    }

    pub(super) fn on_frame(
        &mut self,
        now: Nanos,
        from: NodeId,
        frame: Bytes,
        out: &mut Vec<Output>,
    ) {
        let Ok(envelope) = Envelope::decode(self.identity.cluster, &frame) else {
            self.refused_frames += 1;
            return;
        };
        // Only voters speak for others.
        let speaks_for = envelope.origin == from || self.is_relay(from) || !self.is_voter();
        if !speaks_for || envelope.origin == self.identity.node {
            self.refused_frames += 1;
            return;
        }
        if envelope.destination != self.identity.node {
            return self.relay(from, envelope, frame, out);
        }
        match Frame::decode(self.identity.cluster, &frame) {
            Ok(Frame {
                body: Body::Links(links),
                origin,
                ..
            }) if origin == from => {
                self.reach.hear(now, origin, links);
            }
            Ok(Frame {
                body: Body::Raft(message),
                origin,
                ..
            }) if self.is_admissible(&message, origin) => {
                self.on_message(message);
            }
            _ => self.refused_frames += 1,
        }
    }

    /// Passes a frame on between two that do not see each other; only straight, so that it cannot
    /// go round.
    fn relay(&mut self, from: NodeId, envelope: Envelope, frame: Bytes, out: &mut Vec<Output>) {
        let straight =
            envelope.origin == from && self.reach.links().contains(&envelope.destination);
        if self.is_voter() && straight {
            out.push(Output::Send {
                to: envelope.destination,
                frame,
            });
        }
    }

    fn on_message(&mut self, message: Message) {
        let campaign = self.refuses_as_older(&message);
        // Errors say that the message came too late or for another; raft itself never needs it.
        let _ = self.raw.step(message);
        if campaign {
            let _ = self.raw.campaign();
        }
    }

    /// Whether a message makes sense for this replica. What does not would end raft, or the log's
    /// identity (R20).
    fn is_admissible(&mut self, message: &Message, origin: NodeId) -> bool {
        use MessageType::*;
        let kind = message.get_msg_type();
        let dense = |entries: &[raft_proto::eraftpb::Entry]| {
            entries
                .iter()
                .zip(message.index + 1..)
                .all(|(entry, index)| entry.index == index)
        };
        let sound = match kind {
            MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum => false,
            MsgPropose => {
                let normal =
                    |e: &raft_proto::eraftpb::Entry| e.get_entry_type() == EntryType::EntryNormal;
                !message.entries.is_empty() && message.entries.iter().all(normal)
            }
            MsgReadIndex | MsgReadIndexResp => message.entries.len() == 1,
            MsgAppend => dense(&message.entries),
            MsgSnapshot => message.get_snapshot().get_metadata().index > 0,
            _ => true,
        };
        let local = matches!(kind, MsgPropose | MsgReadIndex);
        let deaf = self.durable.is_installing() && matches!(kind, MsgAppend | MsgSnapshot);
        sound
            && !deaf
            && (message.term > 0 || local)
            && message.to == self.identity.raft_id
            && message.from != self.identity.raft_id
            && message.from != raft::INVALID_ID
            && self.directory.admit(message.from, origin)
    }

    pub(super) fn send_all(&mut self, now: Nanos, messages: Vec<Message>, out: &mut Vec<Output>) {
        for message in messages {
            self.send(now, message, out);
        }
    }

    fn send(&mut self, now: Nanos, message: Message, out: &mut Vec<Output>) {
        let to = message.to;
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let next = self.directory.node(to).and_then(|destination| {
            match self
                .reach
                .route(now, destination, |relay| self.is_relay(relay))
            {
                Route::Direct => Some((destination, destination)),
                Route::Via(relay) => Some((destination, relay)),
                Route::None => None,
            }
        });
        match next {
            Some((destination, next)) => {
                if is_snapshot {
                    self.snapshots_under_way.insert(to, now + SNAPSHOT_TIMEOUT);
                }
                let frame = self.frame(destination, Body::Raft(message));
                out.push(Output::Send { to: next, frame });
            }
            None if self.raw.raft.state == StateRole::Leader => {
                self.raw.report_unreachable(to);
                if is_snapshot {
                    self.raw.report_snapshot(to, SnapshotStatus::Failure);
                }
            }
            None => {}
        }
    }

    /// Tells every neighbour whom this node sees.
    pub(super) fn gossip(&self, out: &mut Vec<Output>) {
        for neighbour in self.reach.links() {
            let frame = self.frame(*neighbour, Body::Links(self.reach.links().clone()));
            out.push(Output::Send {
                to: *neighbour,
                frame,
            });
        }
    }

    fn frame(&self, destination: NodeId, body: Body) -> Bytes {
        Frame {
            cluster: self.identity.cluster,
            origin: self.identity.node,
            destination,
            body,
        }
        .encode()
    }
}
