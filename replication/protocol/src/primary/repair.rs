//! Repair of bad blocks of a member, from another certified replica, in line.

use super::copy::{Copy, CopyEnd};
use super::{Primary, PrimaryEvent, PrimaryOut};
use lockstep_types::{BlockRange, Nanos, ReplicaId};

/// Repairs that wait at most; scrub finds the rest again.
const QUEUE: usize = 256;

/// One range to repair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Repair {
    replica: ReplicaId,
    range: BlockRange,
    copy: Option<u64>,
}

impl Primary {
    pub(super) fn queue_repair(&mut self, replica: ReplicaId, range: BlockRange) {
        let known = self
            .repairs
            .iter()
            .any(|r| r.replica == replica && r.range.contains(range));
        if known || self.repairs.len() >= QUEUE {
            return;
        }
        for range in range.split_by_extent() {
            self.repairs.push_back(Repair {
                replica,
                range,
                copy: None,
            });
        }
    }

    pub(super) fn advance_repairs(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(front) = self.repairs.front().cloned() else {
            return;
        };
        let member = self.required.contains(&front.replica)
            && self.view.in_sync.contains_key(&front.replica);
        if !member {
            self.repairs.pop_front();
            if let Some(key) = front.copy {
                self.drop_copy(key);
            }
            return;
        }
        let key = match front.copy {
            Some(key) => key,
            None => {
                let key = self.start_copy(Copy::new(front.replica, front.range, None));
                self.repairs.front_mut().expect("looked at above").copy = Some(key);
                key
            }
        };
        match self.poll_copy(now, key, out) {
            None => {}
            Some(CopyEnd::Done(_)) => {
                self.repairs.pop_front();
                let event = PrimaryEvent::Repaired {
                    replica: front.replica,
                    start: front.range.start,
                    count: front.range.count,
                };
                out.push(PrimaryOut::Event(event));
            }
            Some(CopyEnd::Failed) => {
                // No good copy is reachable: the next read or scrub asks again.
                self.repairs.pop_front();
            }
        }
    }
}
