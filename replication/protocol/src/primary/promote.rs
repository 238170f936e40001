//! From wanting the role to the open volume: probe, propose, seal, reconcile, open (R9–R13).

use super::exchange::INCOMPLETE;
use super::{Member, Phase, Primary, PrimaryEvent, PrimaryOut, Proposal, Role};
use crate::mutate::Mutation;
use crate::reconcile::{UnionError, union_of_tails};
use lockstep_types::{Epoch, EpochStart, Gap, Nanos, NodeId, ReplicaId, Sequence, extend_history};
use lockstep_wire::{Header, RequestBody, Sealed};

/// A member that answers, but not the seal, is waited for so many times as long as one that is silent.
const SEAL_PATIENCE: u64 = 10;

impl Primary {
    /// Drives whatever phase it is in as far as it goes now.
    pub(super) fn advance(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let over = |p: &super::PendingProposal| p.retry_at.is_some_and(|at| now >= at);
        if self.proposal.as_ref().is_some_and(over) {
            self.proposal = None; // proposed again below, if it is still wanted
        }
        match self.phase {
            Phase::Idle { next_try } if now >= next_try && self.may_seek() => self.probe(now, out),
            Phase::Probing { since } if now >= since + self.timings.seal_silence => {
                self.wait(
                    "no certified copy answers: one of their nodes must return".into(),
                    out,
                );
                self.phase = Phase::Idle { next_try: now };
            }
            Phase::Proposing { since } if now >= since + self.timings.seal_silence => {
                self.wait(
                    "the control plane does not answer: a majority of voters must return".into(),
                    out,
                );
                self.phase = Phase::Idle { next_try: now };
            }
            Phase::Sealing { since } => self.advance_sealing(now, since, out),
            Phase::Rolling(_) => self.advance_rolling(now, out),
            Phase::Opening { base, rolled } => self.advance_opening(now, base, rolled, out),
            Phase::Open => {
                self.look_for_absent(now, out);
                self.look_for_condemned(now, out);
                self.watch_members(now, out);
                self.complete_ready(now, out);
                self.advance_join(now, out);
                self.advance_repairs(now, out);
                self.advance_compare(now, out);
            }
            _ => {}
        }
        self.propose_removals(now, out);
    }

    /// The committed record changed: perhaps it makes us primary, perhaps somebody else.
    pub(super) fn after_view(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        if self.is_seeking() {
            let ours = self.view.primary == Some(self.me) && self.view.epoch > self.promised_from();
            if matches!(self.phase, Phase::Proposing { .. }) && ours && self.role_holds() {
                self.begin_sealing(now, out);
            }
            return;
        }
        if !self.is_ours() {
            return self.lose_epoch(now, out);
        }
        self.adopt_in_sync(now, out);
    }

    /// No epoch is ours yet, or not any more: there is nothing to fence, and answers to the one before, late on
    /// their way, say nothing of the next (world seed 2201761).
    pub(super) fn is_seeking(&self) -> bool {
        matches!(
            self.phase,
            Phase::Proposing { .. } | Phase::Probing { .. } | Phase::Idle { .. }
        )
    }

    /// Whether the record still lets us have the role (R12).
    pub(super) fn role_holds(&self) -> bool {
        match self.role {
            Role::Attached(id) => self.view.attachment == Some((id, self.me)),
            // Whoever has it attached is silent, or this role would have been ended (R9).
            Role::Caretaker => self.view.attachment.is_none_or(|(_, node)| node != self.me),
        }
    }

    fn may_seek(&self) -> bool {
        !self.stopping
            && self.role_holds()
            && !self.view.in_sync.is_empty()
            && !self.view.distrusted
    }

    /// The epoch that was committed when we proposed.
    fn promised_from(&self) -> Epoch {
        self.epoch
    }

    /// Another epoch was committed: everything of ours ends, and unanswered requests wait for the next
    /// epoch of this attachment, if there is one (R12).
    pub(super) fn lose_epoch(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        out.push(PrimaryOut::Event(PrimaryEvent::Closed {
            epoch: self.epoch,
        }));
        self.held = self.take_unanswered().into();
        self.forget_epoch();
        self.phase = Phase::Idle {
            next_try: now + self.timings.retry,
        };
    }

    /// Drops everything that belongs to one epoch.
    pub(super) fn forget_epoch(&mut self) {
        self.members.clear();
        self.required.clear();
        self.absent = Default::default();
        self.overlap = Default::default();
        self.writes = super::Writes::new(self.timings.window);
        self.reads = Default::default();
        self.join = None;
        self.copies.clear();
        self.repairs.clear();
        self.compare = Default::default();
        self.proposal = None;
    }

    /// R9: a new epoch is proposed only by a node that has just heard from a member without a gap.
    fn probe(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        self.phase = Phase::Probing { since: now };
        self.promotion_began = now;
        self.probes.clear();
        if self.broken.is(Mutation::R9PromoteWithoutProbe) {
            return self.propose_promotion(now, out);
        }
        for (replica, incarnation) in self.view.in_sync.clone() {
            let Some(node) = self.view.node_of(replica) else {
                continue;
            };
            let id = self.id();
            self.probes.insert(id);
            let header = Header {
                volume: self.view.volume,
                replica,
                incarnation,
                epoch: self.view.epoch,
            };
            let request = lockstep_wire::ReplicaRequest {
                header,
                body: RequestBody::Probe { id },
            };
            out.push(PrimaryOut::Send { node, request });
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn on_probed(
        &mut self,
        now: Nanos,
        header: Header,
        id: u64,
        promised: Epoch,
        gap: Gap,
        joining: bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        if self.probes.contains(&id) && self.absent_returned(now, &header, gap, joining) {
            return self.advance(now, out);
        }
        if self.probes.contains(&id) && self.condemned_returned(now, &header, gap, joining, out) {
            return self.advance(now, out);
        }
        let known = self.view.in_sync.get(&header.replica) == Some(&header.incarnation);
        if !matches!(self.phase, Phase::Probing { .. }) || !self.probes.contains(&id) || !known {
            return;
        }
        // A torn tail is no loss until another member shows so (docs/decisions/0004); it may be asked
        // to open, and waits in sealing for all the others.
        if gap == Gap::Corrupt && !self.broken.is(Mutation::R21SuspectServes) {
            let reason = format!(
                "copy {} lost records it had on disk: a copy without a gap must return",
                header.replica
            );
            return self.wait(reason, out); // R21, R24
        }
        if joining || promised > self.view.epoch {
            return;
        }
        self.propose_promotion(now, out);
    }

    fn propose_promotion(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        self.phase = Phase::Proposing { since: now };
        self.epoch = self.view.epoch; // what the committed one must exceed
        let attachment = match self.role {
            Role::Attached(id) => Some(id),
            Role::Caretaker => None,
        };
        let proposal = Proposal::Promote {
            expected: self.view.expected(),
            attachment,
        };
        self.propose(now, proposal, None, out);
    }

    fn begin_sealing(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let held = std::mem::take(&mut self.held);
        self.forget_epoch();
        self.held = held;
        self.epoch = self.view.epoch;
        self.required = self.view.in_sync.keys().copied().collect();
        for (replica, incarnation) in self.view.in_sync.clone() {
            if let Some(node) = self.view.node_of(replica) {
                self.members
                    .insert(replica, Member::new(node, incarnation, now));
            }
        }
        self.seal_all(now, out);
    }

    /// Asks every member for its promise and its tail.
    pub(super) fn seal_all(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        self.phase = Phase::Sealing { since: now };
        for replica in self.members.keys().copied().collect::<Vec<_>>() {
            if let Some(member) = self.members.get_mut(&replica) {
                member.sealed = None;
            }
            self.send(replica, RequestBody::Seal, out);
        }
    }

    pub(super) fn on_sealed(&mut self, now: Nanos, replica: ReplicaId, sealed: Sealed) {
        let Some(member) = self.members.get_mut(&replica) else {
            return;
        };
        member.clear_at = now + sealed.clear_in;
        member.sealed = Some(sealed);
    }

    fn advance_sealing(&mut self, now: Nanos, since: Nanos, out: &mut Vec<PrimaryOut>) {
        let missing: Vec<ReplicaId> = self
            .members
            .iter()
            .filter(|(_, m)| m.sealed.is_none())
            .map(|(id, _)| *id)
            .collect();
        let enough = missing.is_empty()
            || self.broken.is(Mutation::R9OneSealEnough) && missing.len() < self.members.len();
        if !enough {
            let standing = self.has_standing_member();
            for replica in missing {
                // No member is removed on a gapped one's word (R11).
                if standing && self.is_unreachable(now, replica, since) {
                    self.suspect(now, replica, "it did not answer the seal", out);
                }
                // One that is heard all the time and never promises holds the volume up as much.
                if standing && now >= since + SEAL_PATIENCE * self.timings.seal_silence {
                    self.condemn(now, replica, "it does not take the seal", out);
                }
            }
            if standing && self.begin_exchange(now, out) {
                return;
            }
            return self.say_who_is_missing(now, since, standing, out);
        }
        let sealed = self
            .members
            .iter()
            .filter_map(|(id, m)| m.sealed.clone().map(|s| (*id, s)))
            .collect();
        match union_of_tails(&sealed, self.absent.replicas.is_empty(), self.broken) {
            Ok(union) if !union.lost.is_empty() => {
                for replica in union.lost {
                    self.condemn(now, replica, INCOMPLETE, out);
                }
                self.begin_exchange(now, out);
            }
            Ok(union) => self.begin_rolling(now, union, out),
            Err(UnionError::OnlyGapped) => {
                self.wait(
                    "every reachable copy lost journal records: a copy without a gap must return"
                        .into(),
                    out,
                );
            }
            Err(UnionError::Hole(at)) => {
                self.wait(
                    format!("record {at} is on no reachable copy: a copy that has it must return"),
                    out,
                );
            }
        }
    }

    fn say_who_is_missing(
        &mut self,
        now: Nanos,
        since: Nanos,
        standing: bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        // Of whom that may not leave it is said so elsewhere.
        if now < since + self.timings.seal_silence || standing && !self.may_condemned_leave() {
            return;
        }
        let nodes: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| m.sealed.is_none())
            .map(|(id, m)| format!("{id} on node {}", m.node))
            .collect();
        let why = if standing {
            "waiting for the removal of"
        } else {
            "no copy without a gap was sealed; waiting for"
        };
        self.wait(format!("{why} {}", nodes.join(", ")), out);
    }

    /// No answer for 3 s; 30 s after our own start, if the peer was not seen yet (R9).
    fn is_unreachable(&self, now: Nanos, replica: ReplicaId, since: Nanos) -> bool {
        let Some(member) = self.members.get(&replica) else {
            return false;
        };
        let seen = member.node == self.me || self.links.get(&member.node).is_some_and(|l| l.seen);
        let patient = seen || now >= self.started + self.timings.start_grace;
        patient && now >= since.max(member.heard) + self.timings.seal_silence
    }

    /// Every member has the union: persist the epoch's start everywhere.
    pub(super) fn begin_opening(
        &mut self,
        now: Nanos,
        base: Sequence,
        rolled: u64,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.remember_history(base);
        for member in self.members.values_mut() {
            member.heard = now; // nothing was asked of it while others were waited for
        }
        self.phase = Phase::Opening { base, rolled };
        for replica in self.members.keys().copied().collect::<Vec<_>>() {
            self.send_open(replica, base, out);
        }
    }

    pub(super) fn send_open(&self, replica: ReplicaId, base: Sequence, out: &mut Vec<PrimaryOut>) {
        let blocks = self.applied_blocks;
        self.send(replica, RequestBody::Open { base, blocks }, out);
    }

    /// The history that all members share, and the length of the volume by their last Resize.
    fn remember_history(&mut self, base: Sequence) {
        let sealed = self.members.values().filter_map(|m| m.sealed.as_ref());
        let best = sealed.max_by_key(|s| (s.history.last().map(|h| h.epoch), s.last));
        self.history = best.map(|s| s.history.clone()).unwrap_or_default();
        if self
            .history
            .last()
            .is_none_or(|last| last.epoch < self.epoch)
        {
            let epoch = self.epoch;
            extend_history(&mut self.history, EpochStart { epoch, base });
        }
        let longest = self
            .members
            .values()
            .filter_map(|m| m.sealed.as_ref())
            .map(|s| s.blocks)
            .max();
        self.applied_blocks = self.applied_blocks.max(longest.unwrap_or(0));
    }

    fn advance_opening(
        &mut self,
        now: Nanos,
        base: Sequence,
        rolled: u64,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.watch_opening(now, out);
        let all = self.members.values().all(|m| m.opened);
        // One sealed member's "clear" suffices: the old primary needed all (R13).
        let clear = self
            .members
            .values()
            .filter(|m| m.sealed.is_some())
            .map(|m| m.clear_at)
            .min();
        let clear = clear.is_some_and(|at| now >= at) || self.broken.is(Mutation::R13NoClearWait);
        if !all {
            return;
        }
        if !clear {
            return self.wait("the lease of the primary before must run out".into(), out);
        }
        self.phase = Phase::Open;
        self.writes.open(base);
        for member in self.members.values_mut() {
            member.acked = base;
            member.heard = now;
            member.credit = 0;
        }
        if self.repairs_only() {
            self.begin_repairing(now, rolled, out);
            out.push(PrimaryOut::Beacon);
        } else {
            self.begin_serving(now, rolled, out);
        }
    }

    /// Its node, if it is the local one.
    pub(super) fn is_local(&self, node: NodeId) -> bool {
        node == self.me
    }
}

impl Member {
    pub(super) fn new(node: NodeId, incarnation: lockstep_types::Incarnation, now: Nanos) -> Self {
        Self {
            node,
            incarnation,
            acked: Sequence::ZERO,
            lease_until: 0,
            heard: now,
            credit: 0,
            reserving: None,
            full: false,
            sealed: None,
            clear_at: Nanos::MAX,
            opened: false,
            condemned: None,
            curable: false,
        }
    }
}
