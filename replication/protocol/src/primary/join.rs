//! A replica comes back, or a new one comes: from its history to its certification (R1, R5, R15, R16).

use super::copy::{Copy, CopyEnd};
use super::{Member, Phase, Primary, PrimaryEvent, PrimaryOut, Proposal, ProposalEnd};
use crate::mutate::Mutation;
use lockstep_types::{
    BlockRange, Cut, EpochStart, ExtentIndex, Gap, Nanos, ReplicaId, ResyncNumber, Sequence, Stamp,
    last_common, seconds,
};
use lockstep_wire::{ReplyBody, RequestBody};
use std::collections::{BTreeMap, BTreeSet};

/// After a resync that broke off, before the next is tried.
const AGAIN: Nanos = seconds(1);

/// No answer to a question of a join for so long breaks it off.
const UNANSWERED: Nanos = seconds(10);

/// The joining of one replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Join {
    pub(super) replica: ReplicaId,
    /// Whether writes are sent to it already.
    pub(super) shadowing: bool,
    resync: ResyncNumber,
    step: Step,
    /// The certified replica its delta is taken from.
    source: ReplicaId,
    cut: Stamp,
    /// Extents to compare and copy.
    todo: BTreeSet<ExtentIndex>,
    target_has: BTreeSet<ExtentIndex>,
    source_has: BTreeSet<ExtentIndex>,
    running: BTreeMap<u64, ExtentIndex>,
    total: u64,
    done: u64,
    bytes: u64,
    reported: u64,
    /// The version from which its certification was proposed, and may still commit.
    proposed_at: Option<u64>,
    /// It is not proposed again before then.
    propose_from: Nanos,
    /// When anything was last heard of it.
    since: Nanos,
    broken_off: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Step {
    /// How far are you?
    Asking {
        id: u64,
    },
    /// Page by page.
    Listing {
        what: Listing,
        id: u64,
    },
    Cutting {
        id: u64,
    },
    /// Until everything before the first shadowed record has completed.
    Quiescing {
        first: Sequence,
    },
    Copying,
    /// In `required` from this sequence on; until all before it are durable there (R5).
    Catching {
        before: Sequence,
    },
    Certifying {
        id: u64,
    },
    Proposing,
}

/// Extents that decide what is compared: the target's are listed before its tail is voided, the
/// source's after everything before the first shadow has completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Listing {
    TargetNewer,
    TargetPresent,
    SourceNewer,
    SourcePresent,
}

impl Listing {
    fn is_of_source(self) -> bool {
        matches!(self, Self::SourceNewer | Self::SourcePresent)
    }
}

impl Primary {
    pub(super) fn advance_join(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        match &self.join {
            None => {
                self.pace.allowed(now, false);
                self.begin_join(now, out);
            }
            Some(join) if join.broken_off => self.end_broken_join(now, out),
            Some(join)
                if self
                    .view
                    .replicas
                    .get(&join.replica)
                    .is_none_or(|r| r.leaving) =>
            {
                self.abort_join_soon()
            }
            Some(_) => self.drive_join(now, out),
        }
    }

    /// A replica that is not certified but there: the first by id that may be tried.
    fn begin_join(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let candidate = self.view.replicas.iter().find(|(id, r)| {
            let held = self.hold_down.get(id).is_some_and(|held| now < held.until);
            // While it is open for repair only, nobody joins but in place of one who is absent: a joiner is told a
            // floor that the others who are absent are not at.
            let wanted = !self.repairs_only() || !self.exchanged_for(**id).is_empty();
            !self.view.in_sync.contains_key(id)
                && r.ready
                && !r.leaving
                && !held
                && wanted
                && self.link_up(r.node)
        });
        let Some((replica, wanted)) = candidate.map(|(id, r)| (*id, r.clone())) else {
            return;
        };
        let Some(source) = self.certified_source(&[]) else {
            return;
        };
        let id = self.id();
        let resync = ResyncNumber((self.epoch.counter() << 24) + id);
        self.members
            .insert(replica, Member::new(wanted.node, wanted.incarnation, now));
        self.join = Some(Join {
            replica,
            shadowing: false,
            resync,
            step: Step::Asking { id },
            source,
            cut: Stamp::ZERO,
            todo: BTreeSet::new(),
            target_has: BTreeSet::new(),
            source_has: BTreeSet::new(),
            running: BTreeMap::new(),
            total: 0,
            done: 0,
            bytes: 0,
            reported: 0,
            proposed_at: None,
            propose_from: now,
            since: now,
            broken_off: false,
        });
        self.send(replica, RequestBody::JoinState { id }, out);
    }

    fn step(&mut self, step: Step) {
        if let Some(join) = &mut self.join {
            join.step = step;
        }
    }

    pub(super) fn on_join_reply(
        &mut self,
        now: Nanos,
        from: ReplicaId,
        body: ReplyBody,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Some(join) = &mut self.join else { return };
        join.since = now;
        let step = join.step.clone();
        let (replica, source) = (join.replica, join.source);
        match (body, step) {
            (
                ReplyBody::JoinStated {
                    id,
                    history,
                    last,
                    floor,
                    cut,
                    gap,
                    ..
                },
                Step::Asking { id: asked },
            ) if id == asked && from == replica => {
                let found = self.cut_of(&history, last, floor, cut, gap);
                if let Some(join) = &mut self.join {
                    join.cut = found;
                }
                self.list(Listing::TargetNewer, 0, out);
            }
            (ReplyBody::Extents { id, extents, next }, Step::Listing { what, id: asked }) => {
                let side = if what.is_of_source() { source } else { replica };
                if id == asked && from == side {
                    self.on_extents(what, &extents, next, out);
                }
            }
            (ReplyBody::CutDone { id }, Step::Cutting { id: asked })
                if id == asked && from == replica =>
            {
                let first = self.writes.sequenced().next();
                if let Some(join) = &mut self.join {
                    join.shadowing = true;
                    join.step = Step::Quiescing { first };
                }
                if let Some(member) = self.members.get_mut(&replica) {
                    member.acked = Sequence(first.0 - 1);
                }
                self.send(replica, RequestBody::ShadowStart { from: first }, out);
            }
            (ReplyBody::Certified { id }, Step::Certifying { id: asked })
                if id == asked && from == replica =>
            {
                self.step(Step::Proposing);
            }
            _ => {}
        }
    }

    /// R15: the last common stamp; never above the target's own floor, above which its records may be
    /// others than ours, nor above a cut it already has.
    fn cut_of(
        &self,
        history: &[EpochStart],
        last: Stamp,
        floor: Stamp,
        cut: Option<Cut>,
        gap: Gap,
    ) -> Stamp {
        let Some(mut common) = last_common(
            &self.history,
            self.writes.sequenced(),
            history,
            last.sequence,
        ) else {
            return Stamp::ZERO;
        };
        if self.broken.is(Mutation::R15HistoryIgnored) {
            common.sequence = last.sequence;
        } else {
            common.sequence = common.sequence.min(floor.sequence);
        }
        if gap.excludes() {
            return Stamp::ZERO; // what is missing may lie below its floor: below all of it
        }
        match cut {
            Some(cut) if cut.stamp.sequence < common.sequence => cut.stamp,
            _ => common,
        }
    }

    /// Asks for a page of extents.
    fn list(&mut self, what: Listing, from: ExtentIndex, out: &mut Vec<PrimaryOut>) {
        let id = self.id();
        let Some(join) = &mut self.join else { return };
        join.step = Step::Listing { what, id };
        let than = join.cut.sequence;
        let (side, body) = match what {
            Listing::TargetNewer => (join.replica, RequestBody::ExtentsNewer { id, than, from }),
            Listing::SourceNewer => (join.source, RequestBody::ExtentsNewer { id, than, from }),
            Listing::TargetPresent => (join.replica, RequestBody::ExtentsPresent { id, from }),
            Listing::SourcePresent => (join.source, RequestBody::ExtentsPresent { id, from }),
        };
        self.send(side, body, out);
    }

    fn on_extents(
        &mut self,
        what: Listing,
        extents: &[(ExtentIndex, Sequence)],
        next: Option<ExtentIndex>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Some(join) = &mut self.join else { return };
        let list = match what {
            Listing::TargetNewer | Listing::SourceNewer => &mut join.todo,
            Listing::TargetPresent => &mut join.target_has,
            Listing::SourcePresent => &mut join.source_has,
        };
        list.extend(extents.iter().map(|(index, _)| *index));
        match (next, what) {
            (Some(from), _) => self.list(what, from, out),
            (None, Listing::TargetNewer) => self.list(Listing::TargetPresent, 0, out),
            (None, Listing::TargetPresent) => self.cut_target(out),
            (None, Listing::SourceNewer) => self.list(Listing::SourcePresent, 0, out),
            (None, Listing::SourcePresent) => self.begin_copying(out),
        }
    }

    fn cut_target(&mut self, out: &mut Vec<PrimaryOut>) {
        let id = self.id();
        let Some(join) = &mut self.join else { return };
        join.step = Step::Cutting { id };
        let replica = join.replica;
        let cut = Cut {
            stamp: join.cut,
            resync: join.resync,
            shadow_from: Sequence::ZERO,
        };
        self.send(replica, RequestBody::JoinCut { id, cut }, out);
    }

    /// The delta is complete: newer on either side, and present on one side only (R15, S10).
    fn begin_copying(&mut self, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &mut self.join else { return };
        let source_has = std::mem::take(&mut join.source_has);
        let target_has = std::mem::take(&mut join.target_has);
        join.todo
            .extend(source_has.symmetric_difference(&target_has));
        join.total = join.todo.len() as u64;
        join.step = Step::Copying;
        let event = PrimaryEvent::ResyncStarted {
            replica: join.replica,
            cut: join.cut,
            extents: join.total,
        };
        out.push(PrimaryOut::Event(event));
    }

    fn drive_join(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &self.join else { return };
        let replica = join.replica;
        let acked = self
            .members
            .get(&replica)
            .map_or(Sequence::ZERO, |m| m.acked);
        match &join.step {
            Step::Quiescing { first } if self.writes.completed() >= Sequence(first.0 - 1) => {
                // Whatever was sequenced before the first shadow is in the source by now.
                self.list(Listing::SourceNewer, 0, out);
            }
            Step::Copying => self.drive_copies(now, out),
            Step::Catching { before }
                if acked >= *before || self.broken.is(Mutation::R5CertifiedBehind) =>
            {
                let id = self.next_id + 1;
                self.next_id = id;
                let body = RequestBody::Certify {
                    id,
                    resync: join.resync,
                    last: *before,
                    floor: self.floor().max(self.first_floor()),
                    blocks: self.applied_blocks,
                    history: self.history.clone(),
                };
                self.step(Step::Certifying { id });
                self.send(replica, body, out);
            }
            Step::Proposing if self.proposal.is_none() && now >= join.propose_from => {
                self.propose_joiner(now, out);
            }
            Step::Asking { .. } | Step::Listing { .. } | Step::Cutting { .. }
                if now >= join.since + UNANSWERED =>
            {
                self.abort_join_soon();
            }
            _ => {}
        }
    }

    /// What everybody has in whom this epoch is opened (R11). It is told a joiner, too, though no floor moves
    /// while the epoch is open for repair only: what it has of before lies in copies, and a floor alone
    /// lets it know after a restart how far it has come.
    fn first_floor(&self) -> Stamp {
        let untold = self.broken.is(Mutation::R15FirstFloorUntold);
        let opened = self.history.last().filter(|_| !untold);
        opened.map_or(Stamp::ZERO, |start| Stamp::new(start.epoch, start.base))
    }

    fn drive_copies(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &self.join else { return };
        let (replica, resync) = (join.replica, join.resync);
        let running: Vec<(u64, ExtentIndex)> = join.running.iter().map(|(k, v)| (*k, *v)).collect();
        for (key, _) in running {
            match self.poll_copy(now, key, out) {
                None => {}
                Some(CopyEnd::Done(bytes)) => {
                    if let Some(join) = &mut self.join {
                        join.running.remove(&key);
                        join.done += 1;
                        join.bytes += bytes;
                    }
                }
                Some(CopyEnd::Failed) => return self.abort_join_soon(),
            }
        }
        let most = self.pace.allowed(now, true);
        loop {
            let Some(join) = &mut self.join else { return };
            if join.running.len() >= most {
                break;
            }
            let Some(index) = join.todo.pop_first() else {
                break;
            };
            let range = BlockRange::of_extent(index);
            let key = self.start_copy(Copy::new(replica, range, Some(resync)));
            if let Some(join) = &mut self.join {
                join.running.insert(key, index);
            }
            self.drive_copy(now, key, out);
        }
        self.report_progress(out);
        let Some(join) = &self.join else { return };
        if join.todo.is_empty() && join.running.is_empty() {
            self.enter_required(out);
        }
    }

    fn report_progress(&mut self, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &mut self.join else { return };
        let step = (join.total / 64).max(1);
        if join.done >= join.reported + step {
            join.reported = join.done;
            let (replica, done, total, bytes) = (join.replica, join.done, join.total, join.bytes);
            out.push(PrimaryOut::Event(PrimaryEvent::ResyncProgress {
                replica,
                done,
                total,
                bytes,
            }));
        }
    }

    /// R1: the joiner is required before it is proposed; R5: it has everything before that.
    fn enter_required(&mut self, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &mut self.join else { return };
        let replica = join.replica;
        out.push(PrimaryOut::Event(PrimaryEvent::ResyncVerified {
            replica,
            bytes: join.bytes,
        }));
        join.step = Step::Catching {
            before: self.writes.sequenced(),
        };
        if !self.broken.is(Mutation::R1JoinBeforeRequired) {
            self.required.insert(replica);
        }
        out.push(PrimaryOut::Beacon);
    }

    fn propose_joiner(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &mut self.join else { return };
        let replica = join.replica;
        let Some(member) = self.members.get(&replica) else {
            return;
        };
        let incarnation = member.incarnation;
        join.proposed_at = Some(self.view.version);
        join.propose_from = now + AGAIN;
        let proposal = Proposal::ChangeInSync {
            expected: self.view.expected(),
            remove: self.exchanged_for(replica),
            add: BTreeMap::from([(replica, incarnation)]),
            reason: "resynced, compared and caught up".into(),
        };
        self.propose(now, proposal, Some(replica), out);
    }

    pub(super) fn join_proposal_failed(&mut self, end: ProposalEnd) {
        let added = self.proposal.as_ref().and_then(|p| p.adds).is_some();
        if added && end == ProposalEnd::Refused {
            // Refused for good; the record as it is now says what to do next.
            self.proposal = None;
            if let Some(join) = &mut self.join {
                join.proposed_at = None;
            }
        } else if added {
            // It may still commit: the same is proposed again from the record as it is then.
            self.proposal = None;
        }
    }

    /// The certified replica whose extents are being listed is gone: the list must begin again.
    pub(super) fn join_source_gone(&mut self, gone: ReplicaId) {
        let listing = self.join.as_ref().is_some_and(|join| {
            let source = match join.step {
                Step::Listing { what, .. } => what.is_of_source(),
                Step::Quiescing { .. } => true,
                _ => false,
            };
            join.source == gone && source
        });
        if listing {
            self.abort_join_soon();
        }
    }

    /// The resync breaks off; what it holds is given back at the next advance.
    pub(super) fn abort_join_soon(&mut self) {
        if let Some(join) = &mut self.join {
            join.broken_off = true;
        }
    }

    fn end_broken_join(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(join) = &mut self.join else { return };
        join.shadowing = join.shadowing && self.required.contains(&join.replica);
        let replica = join.replica;
        for key in std::mem::take(&mut join.running).into_keys() {
            self.drop_copy(key);
        }
        let Some(join) = &self.join else { return };
        // R1: while its certification may still commit, it stays required. A change of the record
        // that did not add it makes sure that it never will.
        if let Some(version) = join.proposed_at
            && self.view.version <= version
            && !self.broken.is(Mutation::R1UnknownForgotten)
        {
            if self.proposal.is_none() && self.phase == Phase::Open {
                let proposal = Proposal::ChangeInSync {
                    expected: self.view.expected(),
                    remove: BTreeSet::from([replica]),
                    add: BTreeMap::new(),
                    reason: "it broke off before its certification was known".into(),
                };
                self.propose(now, proposal, None, out);
            }
            return;
        }
        self.required.remove(&replica);
        self.members.remove(&replica);
        self.join = None;
        self.hold_down(replica, now + AGAIN);
        self.complete_ready(now, out);
    }
}
