//! V5, what it rests on: writes of one volume that are in flight together never overlap (R6). Sequence
//! order at each replica hides a primary that forgot it, so it is looked at where records are sent.

use crate::net::NodeIndex;
use lockstep_types::{BlockRange, Epoch, Sequence, VolumeId};
use lockstep_wire::{Message, RequestBody};
use std::collections::BTreeMap;

/// What each primary has sent and certainly not answered.
#[derive(Default)]
pub struct Overlap(BTreeMap<(NodeIndex, VolumeId), Sent>);

#[derive(Default)]
struct Sent {
    epoch: Epoch,
    ranges: BTreeMap<Sequence, BlockRange>,
}

impl Overlap {
    /// Every write up to there has been answered, whatever the floor says: it waits for a joiner too.
    pub fn answered(&mut self, node: NodeIndex, volume: VolumeId, upto: Sequence) {
        if let Some(sent) = self.0.get_mut(&(node, volume)) {
            sent.ranges = sent.ranges.split_off(&upto.next());
        }
    }

    /// A node says something.
    pub fn said(&mut self, node: NodeIndex, message: &Message) -> Result<(), String> {
        let Message::Request(request) = message else {
            return Ok(());
        };
        let RequestBody::Append {
            record,
            floor,
            roll: false,
            ..
        } = &request.body
        else {
            return Ok(());
        };
        let key = (node, request.header.volume);
        let sent = self.0.entry(key).or_default();
        if sent.epoch != request.header.epoch {
            *sent = Sent::default();
            sent.epoch = request.header.epoch;
        }
        // At or below the floor it may have been answered; above, it has not.
        sent.ranges = sent.ranges.split_off(&floor.sequence.next());
        let Some(range) = record.touches() else {
            return Ok(());
        };
        let sequence = record.stamp.sequence;
        let mut before = sent.ranges.range(..sequence);
        if let Some((other, _)) = before.find(|(_, held)| held.overlaps(range)) {
            return Err(format!(
                "{sequence} was sent although it overlaps {other}, which is in flight"
            ));
        }
        sent.ranges.insert(sequence, range);
        Ok(())
    }
}
