//! V9: a resync never overwrites a newer version (R16). Looked at from outside, at the replica's door:
//! a copy that it accepts was read no earlier than anything that it had acknowledged over those blocks
//! when the copy came.

use lockstep_types::{BlockRange, Epoch, Incarnation, ReplicaId, Sequence, Stamp};
use lockstep_wire::{Message, ReplyBody, RequestBody};
use std::collections::BTreeMap;

/// What is known of each replica that is written to from another node.
#[derive(Default)]
pub struct Resync(BTreeMap<ReplicaId, Door>);

#[derive(Default)]
struct Door {
    life: Incarnation,
    epoch: Epoch,
    /// Appended and not yet acknowledged.
    coming: BTreeMap<Sequence, (Stamp, BlockRange)>,
    /// The newest acknowledged write of each block.
    newest: BTreeMap<u64, Sequence>,
    /// Copies not yet answered: where, read when, and what was newest there when they came.
    copies: BTreeMap<u64, (BlockRange, Sequence, Sequence)>,
}

impl Resync {
    /// A message reaches the node of a replica.
    pub fn heard(&mut self, message: &Message) {
        let Message::Request(request) = message else {
            return;
        };
        let header = request.header;
        let door = self.0.entry(header.replica).or_default();
        door.belongs_to(header.incarnation, header.epoch);
        match &request.body {
            RequestBody::Append { record, .. } => {
                if let Some(range) = record.touches() {
                    let sequence = record.stamp.sequence;
                    door.coming.insert(sequence, (record.stamp, range));
                }
            }
            // What lies above the cut never was (R15).
            RequestBody::JoinCut { cut, .. } => {
                let upto = cut.stamp.sequence;
                door.newest.retain(|_, sequence| *sequence <= upto);
                door.coming.clear();
            }
            RequestBody::Copy {
                id, read_at, range, ..
            } => {
                let blocks = range.start..range.end();
                let newest = blocks.filter_map(|block| door.newest.get(&block)).max();
                let newest = newest.copied().unwrap_or_default();
                door.copies.insert(*id, (*range, read_at.sequence, newest));
            }
            _ => {}
        }
    }

    /// The node of a replica answers.
    pub fn said(&mut self, message: &Message) -> Result<(), String> {
        let Message::Reply(reply) = message else {
            return Ok(());
        };
        let header = reply.header;
        let Some(door) = self.0.get_mut(&header.replica) else {
            return Ok(());
        };
        if (door.life, door.epoch) != (header.incarnation, header.epoch) {
            return Ok(());
        }
        match &reply.body {
            ReplyBody::Ack { last } => {
                door.acknowledged(*last);
                Ok(())
            }
            ReplyBody::CopyDone { id, result } => match door.copies.remove(id) {
                Some((range, read_at, newest)) if result.is_ok() && newest > read_at => {
                    Err(format!(
                        "{:?} took a copy of blocks {}..{} read at {read_at} over a write of {newest}",
                        header.replica,
                        range.start,
                        range.end()
                    ))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Door {
    /// Another life knows nothing of the one before; another epoch has its own requests under way.
    fn belongs_to(&mut self, life: Incarnation, epoch: Epoch) {
        if life != self.life {
            *self = Self::default();
        }
        if epoch != self.epoch {
            self.coming.clear();
            self.copies.clear();
        }
        (self.life, self.epoch) = (life, epoch);
    }

    fn acknowledged(&mut self, last: Stamp) {
        let later = self.coming.split_off(&last.sequence.next());
        for (stamp, range) in std::mem::replace(&mut self.coming, later).into_values() {
            if stamp.epoch == last.epoch {
                for block in range.start..range.end() {
                    let known = self.newest.entry(block).or_default();
                    *known = stamp.sequence.max(*known);
                }
            }
        }
    }
}
