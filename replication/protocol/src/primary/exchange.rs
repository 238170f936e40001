//! Open for repair only (R9, `strict`): a member that does not answer may not leave, because its site
//! would be without a copy. Where another copy of that site could take its place, the epoch opens
//! without client I/O: the absent member stays in `required`, so nothing completes and no floor moves,
//! until it is exchanged for a verified joiner of its site in one compare-and-set. If it returns first,
//! it is sealed and the reconcile redone, one epoch later; unless it was there and lacked records, for then
//! a resync alone brings it back.

use super::{Phase, Primary, PrimaryEvent, PrimaryOut};
use crate::mutate::Mutation;
use crate::reconcile::{UnionError, union_of_tails};
use lockstep_types::{Gap, Nanos, NodeId, ReplicaId};
use lockstep_wire::{Header, RequestBody};
use std::collections::BTreeSet;

/// Why a member goes that lacks records which the others hold.
pub(super) const INCOMPLETE: &str = "its data is incomplete";

/// What is absent while the epoch is open for repair only.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Absent {
    /// Committed members that did not answer SEAL, or lack records; still required, and no member of this
    /// epoch.
    pub replicas: BTreeSet<ReplicaId>,
    /// Those of them that answered, and lack what the others hold at or below their floors: they come back
    /// by a resync alone, and sealing them again would only interrupt that of the copy that stands for them.
    incomplete: BTreeSet<ReplicaId>,
    /// When they are looked for again.
    look_at: Nanos,
    /// What the opening would have told, for when it serves.
    pub rolled: u64,
}

impl Primary {
    /// Whether clients are served: the epoch is open, and nobody is absent.
    pub(super) fn serves(&self) -> bool {
        self.phase == Phase::Open && self.absent.replicas.is_empty()
    }

    /// Whether the epoch is open for repair only.
    pub fn repairs_only(&self) -> bool {
        self.phase == Phase::Open && !self.absent.replicas.is_empty()
    }

    /// What the record should say of it; nothing while the epoch is not open.
    pub fn repair_state(&self) -> Option<bool> {
        (self.phase == Phase::Open && self.is_ours()).then(|| self.repairs_only())
    }

    /// While sealing, members that neither answer nor may leave: goes on without them if another copy
    /// of their site could take their place. Whether it does.
    pub(super) fn begin_exchange(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) -> bool {
        let gone = |m: &super::Member| m.condemned.is_some();
        let absent: BTreeSet<ReplicaId> = self
            .members
            .iter()
            .filter(|(_, m)| m.sealed.is_none() || gone(m))
            .map(|(id, _)| *id)
            .collect();
        let all_condemned = absent.iter().all(|id| gone(&self.members[id]));
        let listed: Vec<ReplicaId> = absent.union(&self.absent.replicas).copied().collect();
        let must_wait = !self.view.kept.is_empty() && !self.view.may_remove(&listed);
        let some_stay = absent.len() < self.members.len();
        if absent.is_empty() || !all_condemned || !must_wait || !some_stay {
            return false;
        }
        if !self.could_be_exchanged(&absent) {
            return false;
        }
        let sealed = self.members.iter().filter(|(id, _)| !absent.contains(id));
        let sealed = sealed.filter_map(|(id, m)| Some((*id, m.sealed.clone()?)));
        match union_of_tails(&sealed.collect(), false, self.broken) {
            Ok(union) if union.lost.is_empty() => {
                let incomplete = |id: &&ReplicaId| self.members[*id].condemned == Some(INCOMPLETE);
                let found: Vec<ReplicaId> = absent.iter().filter(incomplete).copied().collect();
                self.absent.incomplete.extend(found);
                self.members.retain(|id, _| !absent.contains(id));
                self.absent.replicas.extend(absent);
                self.waiting.clear();
                self.begin_rolling(now, union, out);
                true
            }
            // The next look counts them as absent, too.
            Ok(union) => {
                for replica in union.lost {
                    self.condemn(now, replica, INCOMPLETE, out);
                }
                false
            }
            Err(UnionError::OnlyGapped | UnionError::Hole(_)) => false,
        }
    }

    /// Whether a copy that is there and not certified stands in the site of each absent one.
    fn could_be_exchanged(&self, absent: &BTreeSet<ReplicaId>) -> bool {
        absent.iter().all(|gone| {
            let Some(site) = self.view.replicas.get(gone).map(|r| &r.site) else {
                return false;
            };
            self.view.replicas.iter().any(|(id, r)| {
                let joins = r.ready && !r.leaving && !self.view.in_sync.contains_key(id);
                joins && r.site == *site && self.link_up(r.node)
            })
        })
    }

    /// Those that leave in the same compare-and-set in which this joiner of their site is certified.
    pub(super) fn exchanged_for(&self, joiner: ReplicaId) -> BTreeSet<ReplicaId> {
        let site = |id: &ReplicaId| self.view.replicas.get(id).map(|r| r.site.as_str());
        let same = |id: &&ReplicaId| site(id).is_some() && site(id) == site(&joiner);
        self.absent.replicas.iter().filter(same).copied().collect()
    }

    /// The epoch is open and some are absent: says so, and looks for them.
    pub(super) fn begin_repairing(&mut self, now: Nanos, rolled: u64, out: &mut Vec<PrimaryOut>) {
        self.absent.rolled = rolled;
        self.absent.look_at = now + self.timings.retry;
        self.say_who_is_absent(out);
    }

    fn say_who_is_absent(&mut self, out: &mut Vec<PrimaryOut>) {
        let names: Vec<String> = self
            .absent
            .replicas
            .iter()
            .map(ToString::to_string)
            .collect();
        self.wait(
            format!(
                "open for repair only: copy {} must return, or another of its site be verified",
                names.join(", ")
            ),
            out,
        );
    }

    /// Asks the absent ones whether they are back.
    pub(super) fn look_for_absent(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        if !self.repairs_only() || now < self.absent.look_at {
            return;
        }
        self.absent.look_at = now + self.timings.retry;
        for replica in self.absent.replicas.clone() {
            if self.node_of(replica).is_some_and(|node| self.link_up(node)) {
                let id = self.id();
                self.probes.insert(id);
                self.send(replica, RequestBody::Probe { id }, out);
            }
        }
    }

    fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.view.node_of(replica)
    }

    /// An absent member answers: it is sealed with the others, and the reconcile redone. Whether the
    /// answer was one of an absent member.
    pub(super) fn absent_returned(
        &mut self,
        now: Nanos,
        header: &Header,
        gap: Gap,
        joining: bool,
    ) -> bool {
        let known = self.view.in_sync.get(&header.replica) == Some(&header.incarnation);
        if !self.repairs_only() || !known || !self.absent.replicas.contains(&header.replica) {
            return false;
        }
        let incomplete = self.absent.incomplete.contains(&header.replica)
            && !self.broken.is(Mutation::R9IncompleteSealedAgain);
        if !gap.excludes() && !joining && !incomplete {
            self.held = self.take_unanswered().into();
            self.forget_epoch();
            self.epoch = lockstep_types::Epoch::ZERO;
            self.phase = Phase::Idle { next_try: now };
        }
        true
    }

    /// The committed set changed: those that were exchanged are required no more, and once nobody is
    /// absent clients are served.
    pub(super) fn adopt_exchange(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let waited = !self.absent.replicas.is_empty();
        let in_sync = &self.view.in_sync;
        let gone = |id: &ReplicaId| !in_sync.contains_key(id);
        for replica in self.absent.replicas.iter().filter(|id| gone(id)) {
            self.required.remove(replica); // R1: only now that the exchange has committed
        }
        self.absent.replicas.retain(|id| in_sync.contains_key(id));
        if waited && self.serves() {
            let rolled = self.absent.rolled;
            self.begin_serving(now, rolled, out);
        }
    }

    /// Clients are served from here on.
    pub(super) fn begin_serving(&mut self, now: Nanos, rolled: u64, out: &mut Vec<PrimaryOut>) {
        self.waiting.clear();
        let took = now.saturating_sub(self.promotion_began);
        out.push(PrimaryOut::Event(PrimaryEvent::Opened {
            epoch: self.epoch,
            rolled,
            took,
        }));
        out.push(PrimaryOut::Beacon);
        self.sequence_resize(now, out);
    }
}
