//! Members that were condemned for good, may not leave because no other may stand for them, and are back: their
//! process started anew, with a device that works again or with what it lost put back. The open epoch has no
//! use for them (what they acknowledged in it may be gone); the next one seals them like anybody, and its
//! reconcile finds out what they are.

use super::{Phase, Primary, PrimaryOut};
use lockstep_types::{Gap, Nanos, ReplicaId, seconds};
use lockstep_wire::{Header, RequestBody};

/// Between two looks at who is back.
const LOOK: Nanos = seconds(1);

impl Primary {
    /// Asks condemned members that may not leave whether they are back.
    pub(super) fn look_for_condemned(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        if self.phase != Phase::Open || now < self.look_at {
            return;
        }
        let stuck = self.stuck_members();
        if stuck.is_empty() {
            return;
        }
        self.look_at = now + LOOK;
        for replica in stuck {
            let there = self.view.node_of(replica);
            if there.is_some_and(|node| self.link_up(node)) {
                let id = self.id();
                self.probes.insert(id);
                self.send(replica, RequestBody::Probe { id }, out);
            }
        }
    }

    /// A condemned member that may not leave answers, and may be one again: the epoch is given up for the next.
    /// Whether it is.
    pub(super) fn condemned_returned(
        &mut self,
        now: Nanos,
        header: &Header,
        gap: Gap,
        joining: bool,
        out: &mut Vec<PrimaryOut>,
    ) -> bool {
        let known = self.view.in_sync.get(&header.replica) == Some(&header.incarnation); // R4
        let stuck = self.phase == Phase::Open && self.stuck_members().contains(&header.replica);
        let returns = known && stuck && !joining && gap != Gap::Corrupt;
        if returns {
            self.lose_epoch(now, out);
        }
        returns
    }

    /// Whether the volume can do without its condemned members.
    pub(super) fn may_condemned_leave(&self) -> bool {
        let condemned = self
            .members
            .iter()
            .filter(|(id, m)| m.condemned.is_some() && self.view.in_sync.contains_key(id));
        let condemned: Vec<ReplicaId> = condemned.map(|(id, _)| *id).collect();
        self.view.may_remove(&condemned)
    }

    fn stuck_members(&self) -> Vec<ReplicaId> {
        let condemned = self.members.iter().filter(|(id, m)| {
            m.condemned.is_some() && !m.curable && self.view.in_sync.contains_key(id)
        });
        let condemned: Vec<ReplicaId> = condemned.map(|(id, _)| *id).collect();
        if self.view.may_remove(&condemned) {
            Vec::new() // they leave instead
        } else {
            condemned
        }
    }
}
