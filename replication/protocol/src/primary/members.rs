//! Who is required, who is lost, and what is proposed about it (R1, R4, R13, R22; "Slow is a kind of
//! dead").

use super::{
    Member, PendingProposal, Phase, Primary, PrimaryEvent, PrimaryOut, Proposal, ProposalEnd,
};
use crate::mutate::Mutation;
use crate::reconcile::stands;
use crate::secondary::UNASKED;
use lockstep_types::{Nanos, NodeId, ReplicaId, millis, seconds};
use lockstep_wire::{BeaconAnswer, ReplicaError, ReplyBody, RequestBody};

/// Hold-downs after the first, second and later soft evictions of a day.
const HOLD_DOWNS: [Nanos; 3] = [seconds(60), seconds(300), seconds(1800)];
/// Soft evictions longer ago do not count.
const DAY: Nanos = seconds(24 * 3600);

/// A replica that is not joined for a while, after a failure or a soft eviction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct HoldDown {
    /// Not before then.
    pub(super) until: Nanos,
    /// Soft evictions, each less than a day after the one before.
    softly: u32,
    /// The last of them.
    last: Nanos,
}

impl Primary {
    pub(super) fn on_member_reply(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        body: ReplyBody,
        out: &mut Vec<PrimaryOut>,
    ) {
        match body {
            ReplyBody::Sealed(sealed) => {
                if matches!(self.phase, Phase::Sealing { .. }) {
                    self.on_sealed(now, replica, sealed);
                }
            }
            ReplyBody::FetchedRecord { id, record } => {
                self.on_fetched(now, replica, id, record, out)
            }
            ReplyBody::Ack { last } => self.on_ack(now, replica, last, out),
            ReplyBody::Opened { .. } => {
                if let Some(member) = self.members.get_mut(&replica) {
                    member.opened = true;
                }
            }
            ReplyBody::Reserved { id, extents } => self.on_reserved(replica, id, extents),
            ReplyBody::ReadDone {
                id: UNASKED,
                result,
            } => {
                if let Err(ReplicaError::Corrupt(range)) = result {
                    self.queue_repair(replica, range);
                }
            }
            ReplyBody::ReadDone { id, result } => {
                if self.reads.contains(id) {
                    self.on_read_done(now, replica, id, result, out);
                } else {
                    self.on_copy_read(now, id, result, out);
                }
            }
            ReplyBody::Refused { promised } => self.on_refused(replica, promised),
            ReplyBody::NoSuchLife { .. } => self.condemn(now, replica, "it lost its data", out),
            ReplyBody::Failed => self.condemn(now, replica, "its device failed", out),
            ReplyBody::OutOfOrder { .. } => self.on_out_of_order(now, replica, out),
            ReplyBody::CopyDone { id, result } => self.on_copy_done(now, id, result, out),
            ReplyBody::ExtentSummed { id, newest, result } => match self.compare.asked(id) {
                true => self.on_compare_sums(now, replica, id, newest, result, out),
                false => self.on_copy_sums(now, id, result, out),
            },
            ReplyBody::Extents { id, extents, next } if self.compare.asked(id) => {
                self.on_compare_listed(replica, id, &extents, next);
            }
            body => self.on_join_reply(now, replica, body, out),
        }
    }

    /// A replica has promised another epoch: nothing completes here until the record says who won.
    fn on_refused(&mut self, replica: ReplicaId, promised: lockstep_types::Epoch) {
        if promised > self.epoch {
            self.fence();
        } else if self.join.as_ref().is_some_and(|j| j.replica == replica) {
            self.abort_join_soon();
        }
    }

    pub(super) fn fence(&mut self) {
        if !self.is_seeking() {
            self.phase = Phase::Fenced;
        }
    }

    fn on_out_of_order(&mut self, now: Nanos, replica: ReplicaId, out: &mut Vec<PrimaryOut>) {
        if self.join.as_ref().is_some_and(|j| j.replica == replica)
            && !self.required.contains(&replica)
        {
            self.abort_join_soon(); // R5: back to resync
        } else {
            self.condemn(now, replica, "it left a gap", out);
        }
    }

    /// The echo of a beacon is the lease, from the time it was sent (R13).
    pub(super) fn note_beacon(
        &mut self,
        now: Nanos,
        sent: Nanos,
        answer: &BeaconAnswer,
        out: &mut Vec<PrimaryOut>,
    ) {
        let replica = answer.header.replica;
        if answer.promised > self.epoch {
            return self.fence();
        }
        let lease = self.timings.lease;
        let Some(member) = self.members.get_mut(&replica) else {
            return;
        };
        let same = answer.header.incarnation == member.incarnation
            || self.broken.is(Mutation::R4IncarnationNotChecked);
        if !same {
            return self.condemn(now, replica, "it lost its data", out);
        }
        member.heard = now;
        if !answer.granted {
            return;
        }
        member.lease_until = member.lease_until.max(sent + lease);
        if self.phase == Phase::Open
            && answer.last.sequence < member.acked
            && self.view.in_sync.contains_key(&replica)
        {
            return self.condemn(now, replica, "it has less than it acknowledged", out); // R4
        }
        self.pardon(now, replica);
    }

    /// R13: for every member of required, now is before its last acknowledged beacon plus L. The own
    /// node's replica needs none: a higher promise there ends us in the same thread.
    pub(super) fn lease_valid(&self, now: Nanos) -> bool {
        self.required.iter().all(|id| {
            self.members
                .get(id)
                .is_some_and(|m| m.node == self.me || now < m.lease_until)
        })
    }

    /// Whoever does not answer is proposed for removal; until that has committed, writes wait (R1, R2).
    pub(super) fn watch_members(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let lost: Vec<(ReplicaId, &'static str)> = self
            .required
            .iter()
            .filter_map(|id| Some((*id, self.members.get(id)?)))
            .filter(|(_, m)| m.condemned.is_none())
            .filter_map(|(id, m)| Some((id, self.guilt(now, m)?)))
            .collect();
        for (replica, why) in lost {
            self.suspect(now, replica, why, out);
        }
        let joiner = self
            .join
            .as_ref()
            .map(|j| j.replica)
            .filter(|id| !self.view.in_sync.contains_key(id));
        if joiner
            .and_then(|id| self.members.get(&id))
            .is_some_and(|m| self.silence(now, m).is_some())
        {
            self.abort_join_soon(); // nobody waits for one that is not certified yet
        }
        if let Some(replica) = self.slow.judge(now)
            && self.may_go_softly(replica)
        {
            out.push(PrimaryOut::Slow { replica });
        }
    }

    /// Why a member is to go, if it is: an overdue write, or silence.
    fn guilt(&self, now: Nanos, member: &Member) -> Option<&'static str> {
        let late = self.writes.oldest().is_some_and(|(sequence, sent)| {
            member.acked < sequence && now >= sent + self.timings.write_age
        });
        if late {
            return Some("its oldest write is overdue");
        }
        self.silence(now, member)
    }

    /// A member is not heard: it must go, unless it is heard again before its removal commits.
    pub(super) fn suspect(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        why: &'static str,
        out: &mut Vec<PrimaryOut>,
    ) {
        if let Some(member) = self.members.get_mut(&replica)
            && member.condemned.is_none()
        {
            member.curable = true;
        }
        self.condemn_for(now, replica, why, out);
    }

    /// A member that was condemned for its silence is heard. Should its removal commit all the same,
    /// it leaves.
    pub(super) fn pardon(&mut self, now: Nanos, replica: ReplicaId) {
        let Some(member) = self.members.get(&replica) else {
            return;
        };
        if member.condemned.is_none() || !member.curable || self.guilt(now, member).is_some() {
            return;
        }
        let member = self.members.get_mut(&replica).expect("looked at above");
        member.condemned = None;
        member.curable = false;
        self.waiting.clear();
    }

    /// Why a member counts as gone, if it does.
    fn silence(&self, now: Nanos, member: &Member) -> Option<&'static str> {
        if member.node == self.me {
            return None;
        }
        let link = self.links.get(&member.node).copied().unwrap_or_default();
        if !link.up && now >= link.since + self.timings.link_grace {
            return Some("its link is down");
        }
        let missed = self.timings.beacon * self.timings.beacons_missed;
        (now >= member.heard + missed).then_some("it missed its beacons")
    }

    /// While opening there is no I/O to measure by: a member that is silent for as long as a seal may
    /// be goes.
    pub(super) fn watch_opening(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let silent: Vec<ReplicaId> = self
            .members
            .iter()
            .filter(|(_, m)| !m.opened && now >= m.heard + self.timings.seal_silence)
            .map(|(id, _)| *id)
            .collect();
        for replica in silent {
            self.suspect(now, replica, "it did not answer the opening", out);
        }
    }

    /// A member must go, whatever it says from now on.
    pub(super) fn condemn(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        why: &'static str,
        out: &mut Vec<PrimaryOut>,
    ) {
        if let Some(member) = self.members.get_mut(&replica) {
            member.curable = false;
        }
        self.condemn_for(now, replica, why, out);
    }

    /// Nothing changes before the removal has committed (R1).
    fn condemn_for(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        why: &'static str,
        out: &mut Vec<PrimaryOut>,
    ) {
        if self.join.as_ref().is_some_and(|j| j.replica == replica)
            && !self.view.in_sync.contains_key(&replica)
        {
            return self.abort_join_soon();
        }
        let Some(member) = self.members.get_mut(&replica) else {
            return;
        };
        if member.condemned.is_some() {
            return;
        }
        member.condemned = Some(why);
        out.push(PrimaryOut::Event(PrimaryEvent::Evicting { replica, why }));
        self.slow.forget(replica);
        if self.broken.is(Mutation::R1RemoveBeforeCommit) && self.required.len() > 1 {
            self.required.remove(&replica);
        }
        self.propose_removals(now, out);
    }

    /// The soft rule spares the last copy of a site, and the last but one of all.
    fn may_go_softly(&self, replica: ReplicaId) -> bool {
        let site = self.view.replicas.get(&replica).map(|r| &r.site);
        let others = self.view.in_sync.keys().filter(|id| **id != replica);
        let mut others = others.filter_map(|id| self.view.replicas.get(id));
        let certified = self.view.in_sync.contains_key(&replica);
        certified && self.phase == Phase::Open && others.any(|r| Some(&r.site) == site)
    }

    /// A member reported by [`PrimaryOut::Slow`] goes, with the node's consent. What changed since it
    /// was reported may still spare it.
    pub fn evict_slow(&mut self, now: Nanos, replica: ReplicaId, out: &mut Vec<PrimaryOut>) {
        self.forgive_gap(now);
        if !self.may_go_softly(replica) {
            return;
        }
        let held = self.hold_down.entry(replica).or_default();
        if now >= held.last + DAY {
            held.softly = 0;
        }
        held.until = now + HOLD_DOWNS[(held.softly as usize).min(HOLD_DOWNS.len() - 1)];
        held.softly += 1;
        held.last = now;
        self.condemn(now, replica, "it is far slower than its peers", out);
    }

    /// A replica whose resync broke off is not joined again at once.
    pub(super) fn hold_down(&mut self, replica: ReplicaId, until: Nanos) {
        let held = self.hold_down.entry(replica).or_default();
        held.until = held.until.max(until);
    }

    /// Proposes that the condemned leave, and replicas that are to go once all others are in sync.
    pub(super) fn propose_removals(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let busy = self
            .proposal
            .as_ref()
            .is_some_and(|p| p.retry_at.is_none_or(|at| now < at));
        if busy || !self.is_ours() || matches!(self.phase, Phase::Fenced | Phase::Proposing { .. })
        {
            return;
        }
        let mut reason = "";
        let mut remove: Vec<ReplicaId> = Vec::new();
        for (id, member) in self
            .members
            .iter()
            .filter(|(id, _)| self.view.in_sync.contains_key(id))
        {
            if let Some(why) = member.condemned {
                remove.push(*id);
                reason = why;
            }
        }
        if remove.is_empty() {
            remove = self.leavers();
            reason = "it was taken away";
        }
        if remove.is_empty() {
            // What was refused or unknown is not wanted any more.
            if self.proposal.as_ref().is_some_and(|p| p.adds.is_none()) {
                self.proposal = None;
            }
            return;
        }
        if matches!(self.phase, Phase::Sealing { .. }) && !self.has_standing_member() {
            return; // no member is removed on a gapped one's word (R11)
        }
        if !self.view.may_remove(&remove) {
            // Those that will never serve again go first; the others may yet be heard.
            let lost = |id: &ReplicaId| self.members.get(id).is_some_and(|m| !m.curable);
            remove.retain(lost);
        }
        if remove.is_empty() || !self.view.may_remove(&remove) {
            let condemned = self.members.iter().filter(|(_, m)| m.condemned.is_some());
            let remove: Vec<ReplicaId> = condemned.map(|(id, _)| *id).collect();
            let names: Vec<String> = remove.iter().map(ToString::to_string).collect();
            return self.wait(
                format!(
                    "copy {} must return: no other may stand for it",
                    names.join(", ")
                ),
                out,
            );
        }
        if self.survivors_lag(now, &remove) {
            return;
        }
        let proposal = Proposal::ChangeInSync {
            expected: self.view.expected(),
            remove: remove.into_iter().collect(),
            add: Default::default(),
            reason: reason.to_string(),
        };
        self.propose(now, proposal, None, out);
    }

    /// Whether a member that would stay has not acknowledged what it should have by now. Nobody is
    /// shut out in favour of a copy that may be dying itself; no write could complete without it anyway.
    fn survivors_lag(&self, now: Nanos, remove: &[ReplicaId]) -> bool {
        let Some((sequence, sent)) = self.writes.oldest() else {
            return false;
        };
        let due = self.phase == Phase::Open && now >= sent + self.timings.retry;
        due && self.view.in_sync.keys().any(|id| {
            let member = self.members.get(id).filter(|_| !remove.contains(id));
            member.is_some_and(|m| m.acked < sequence)
        })
    }

    /// Whether somebody without a gap has been sealed.
    pub(super) fn has_standing_member(&self) -> bool {
        self.members.values().any(|m| {
            m.sealed
                .as_ref()
                .is_some_and(|s| stands(s, false, self.broken))
        })
    }

    /// Replicas that are to go, once every other is in sync.
    fn leavers(&self) -> Vec<ReplicaId> {
        let staying_all_in = self
            .view
            .replicas
            .iter()
            .all(|(id, r)| r.leaving || self.view.in_sync.contains_key(id));
        if self.phase != Phase::Open || !staying_all_in {
            return Vec::new();
        }
        self.view
            .in_sync
            .keys()
            .copied()
            .filter(|id| self.view.replicas.get(id).is_some_and(|r| r.leaving))
            .collect()
    }

    /// The committed set changed under our epoch.
    pub(super) fn adopt_in_sync(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let joining = self.join.as_ref().map(|j| j.replica);
        let gone: Vec<ReplicaId> = self
            .members
            .keys()
            .copied()
            .filter(|id| !self.view.in_sync.contains_key(id) && Some(*id) != joining)
            .collect();
        for replica in &gone {
            self.members.remove(replica);
            self.required.remove(replica); // R1: only now that the removal has committed
            self.slow.forget(*replica);
            self.source_gone(now, *replica, out);
        }
        if let Some(replica) = joining
            && self.view.in_sync.contains_key(&replica)
        {
            assert!(
                self.required.contains(&replica) || self.broken.is(Mutation::R1JoinBeforeRequired),
                "R1: in-sync is a subset of required"
            );
            self.required.insert(replica);
            self.join = None;
        }
        self.adopt_exchange(now, out);
        if !gone.is_empty() && matches!(self.phase, Phase::Rolling(_)) {
            self.seal_all(now, out); // what was to be fetched there may have gone with it
        }
        if self.phase == Phase::Open {
            self.sequence_resize(now, out);
            self.complete_ready(now, out);
        }
    }

    pub(super) fn propose(
        &mut self,
        now: Nanos,
        proposal: Proposal,
        adds: Option<ReplicaId>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let id = self.id();
        self.proposal = Some(PendingProposal {
            id,
            since: now,
            adds,
            retry_at: None,
        });
        out.push(PrimaryOut::Propose { id, proposal });
    }

    pub(super) fn proposal_ended(
        &mut self,
        now: Nanos,
        end: ProposalEnd,
        out: &mut Vec<PrimaryOut>,
    ) {
        match end {
            ProposalEnd::Applied => self.proposal = None,
            ProposalEnd::Refused | ProposalEnd::Unknown => {
                if matches!(self.phase, Phase::Proposing { .. }) {
                    self.proposal = None;
                    self.phase = Phase::Idle {
                        next_try: now + self.timings.retry,
                    };
                    return;
                }
                // The same thing is proposed again if it is still wanted; compare-and-set makes sure
                // that it happens once.
                let retry = now + self.timings.retry;
                if let Some(proposal) = &mut self.proposal {
                    proposal.retry_at = Some(retry);
                }
                self.join_proposal_failed(end);
            }
        }
        self.advance(now, out);
    }

    /// R22: silence counts only while we ran ourselves. After a gap longer than a beacon, everyone is
    /// given that much more time. Called before anything else, whatever comes first after the gap: a
    /// message that had waited makes the primary judge as much as a timer does.
    pub(super) fn forgive_gap(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.last_step);
        self.last_step = now;
        if gap <= self.timings.beacon.max(millis(100))
            || self.broken.is(Mutation::R22GapCountsAsSilence)
        {
            return;
        }
        for member in self.members.values_mut() {
            member.heard += gap;
        }
        for link in self.links.values_mut() {
            link.since += gap;
        }
        self.writes.forgive(gap);
        if let Phase::Sealing { since } | Phase::Probing { since } = &mut self.phase {
            *since += gap;
        }
    }

    /// A link came back: what was on its way on the old one is sent again.
    pub(super) fn resend_to(&mut self, now: Nanos, node: NodeId, out: &mut Vec<PrimaryOut>) {
        let there: Vec<ReplicaId> = self
            .members
            .iter()
            .filter(|(_, m)| m.node == node)
            .map(|(id, _)| *id)
            .collect();
        for replica in there {
            match self.phase {
                Phase::Sealing { .. } => self.send(replica, RequestBody::Seal, out),
                Phase::Rolling(_) => self.resend_rolled(replica, out),
                Phase::Opening { base, .. } => self.send_open(replica, base, out),
                Phase::Open => {
                    // A copy that found its other source while the link was down was sent to nobody.
                    self.restart_copies_of(replica);
                    self.resend_writes(replica, out);
                }
                _ => {}
            }
        }
        if self.phase == Phase::Open {
            out.push(PrimaryOut::Beacon);
        }
        if matches!(self.phase, Phase::Probing { .. }) {
            self.phase = Phase::Idle { next_try: now };
        }
    }

    pub(super) fn link_lost(&mut self, now: Nanos, node: NodeId, out: &mut Vec<PrimaryOut>) {
        let there: Vec<ReplicaId> = self
            .members
            .iter()
            .filter(|(_, m)| m.node == node)
            .map(|(id, _)| *id)
            .collect();
        for replica in there {
            if let Some(member) = self.members.get_mut(&replica) {
                member.reserving = None;
            }
            self.source_gone(now, replica, out);
            if self.join.as_ref().is_some_and(|j| j.replica == replica) {
                self.abort_join_soon();
            }
        }
    }

    /// Reads and copies that were asked of a replica which is gone are asked of another.
    fn source_gone(&mut self, now: Nanos, replica: ReplicaId, out: &mut Vec<PrimaryOut>) {
        self.reread_from_others(now, replica, out);
        self.restart_copies_of(replica);
        self.join_source_gone(replica);
    }
}
