//! A primary, looked at from outside.

use super::{Phase, Primary, Role};
use lockstep_types::{Epoch, Nanos, ReplicaId, Sequence, Stamp};
use std::collections::BTreeSet;

/// A primary, looked at from outside.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PrimaryStatus {
    /// The epoch it seeks or serves.
    pub epoch: Epoch,
    /// Whether it serves.
    pub open: bool,
    /// Whether the committed record names it.
    pub sought: bool,
    /// required(P).
    pub required: BTreeSet<ReplicaId>,
    /// Whether it may complete anything now (R13).
    pub lease_valid: bool,
    /// The last sequence given out.
    pub sequence: Sequence,
    /// The last sequence answered.
    pub completed: Sequence,
    /// Its floor.
    pub floor: Stamp,
    /// Who is being resynced.
    pub joining: Option<ReplicaId>,
    /// What it waits for, in words; empty if nothing.
    pub waiting: String,
    /// Bytes sequenced and not answered.
    pub in_flight: u64,
}

impl Primary {
    /// For inspection, `explain` and the simulator's invariants.
    pub fn status(&self, now: Nanos) -> PrimaryStatus {
        PrimaryStatus {
            epoch: self.epoch,
            open: self.serves(),
            sought: self.is_ours(),
            required: self.required.clone(),
            lease_valid: self.serves() && self.lease_valid(now),
            sequence: self.writes.sequenced(),
            completed: self.writes.completed(),
            floor: self.floor(),
            joining: self.join.as_ref().map(|j| j.replica),
            waiting: self.waiting.clone(),
            in_flight: self.writes.in_flight_bytes(),
        }
    }

    /// The role asked for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it serves.
    pub fn is_open(&self) -> bool {
        self.serves()
    }

    /// Whether its members get beacons: it serves, or repairs only.
    pub fn leads(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Length of the volume in blocks, as clients may use it.
    pub fn blocks(&self) -> u64 {
        self.applied_blocks.min(self.view.blocks)
    }

    /// Whether there is nothing left for a caretaker to do.
    pub fn work_is_done(&self) -> bool {
        self.serves()
            && self.join.is_none()
            && self.repairs.is_empty()
            && !self.compare.is_mending()
            && self
                .view
                .replicas
                .iter()
                .all(|(id, r)| self.view.in_sync.contains_key(id) && !r.leaving)
    }
}
