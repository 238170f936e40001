//! The copies of an open volume are compared with each other, extent by extent, in the background (R17).
//! Scrub compares a copy with its own checksums; a copy whose device lost a write that it had acknowledged
//! may match them and still be older than the others, and only a look at all of them shows it before a
//! failover does.
//!
//! An extent is compared under a place in the overlap order, like a copy (R16), when everything sequenced
//! is on every member: the answers are of one sequence. A difference counts only when a second comparison
//! confirms it.

use super::copy::{Copy, CopyEnd};
use super::verdict::{Held, judge};
use super::write::Occupant;
use super::{Primary, PrimaryEvent, PrimaryOut};
use crate::mutate::Mutation;
use lockstep_types::{
    BlockRange, EXTENT_BLOCKS, ExtentIndex, Nanos, ReplicaId, Sequence, millis, seconds,
};
use lockstep_wire::{ExtentContent, ReplicaError, RequestBody};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Comparisons of one extent that writes or silence may spoil before the pass goes on without it.
const TRIES: u32 = 8;
/// A question without an answer is given up after this.
const UNANSWERED: Nanos = seconds(10);
/// Between two extents, at least.
const LEAST_INTERVAL: Nanos = millis(10);
/// A pass that fell behind catches up by no more than this at once.
const BEHIND: Nanos = seconds(1);

/// What a comparison found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Comparison {
    /// A pass over the volume ended: so many extents were compared on all members.
    PassEnded { extents: u64 },
    /// The loser's device lost a write of the extent that it had acknowledged. It is repaired, from the
    /// winner or one that has the same.
    LostWrite {
        extent: ExtentIndex,
        winner: ReplicaId,
        loser: ReplicaId,
    },
    /// Two copies of an extent differ, and no stamp says which is right: they are left as they are, and
    /// people must decide.
    Differ {
        extent: ExtentIndex,
        one: ReplicaId,
        other: ReplicaId,
    },
}

/// Where the comparison is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Compare {
    pass: Option<Pass>,
    /// Listed as present somewhere and not compared yet; at most a page of each member.
    todo: VecDeque<ExtentIndex>,
    /// Nothing is asked before then.
    due: Nanos,
    step: Step,
}

/// Once round the volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pass {
    began: Nanos,
    /// Of the volume when it began, at least one.
    extents: u32,
    /// Where it began: it ends there too.
    first: ExtentIndex,
    /// Extents that were asked for, those that nobody has included.
    listed: u32,
    compared: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
enum Step {
    #[default]
    Resting,
    /// Which extents does anybody have? What is absent everywhere is passed over a page at a time.
    Listing {
        since: Nanos,
        from: ExtentIndex,
        pages: BTreeMap<ReplicaId, (u64, Option<Page>)>,
    },
    Comparing(Round),
    /// A winner's content goes to those that lost a write, one after the other.
    Mending {
        index: ExtentIndex,
        copy: u64,
        loser: ReplicaId,
        rest: Vec<ReplicaId>,
        /// Whose content is not the winner's.
        losers: Vec<ReplicaId>,
    },
}

/// One member's answer to a listing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Page {
    extents: Vec<ExtentIndex>,
    next: Option<ExtentIndex>,
}

/// The comparison of one extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Round {
    index: ExtentIndex,
    /// The copies differed once.
    again: bool,
    tries: u32,
    /// Its place in the overlap order, since when.
    held: Option<Nanos>,
    stage: Stage,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage {
    /// Until the range is free.
    Waiting,
    /// Until every member has everything up to here.
    Settling { at: Sequence },
    Asked {
        since: Nanos,
        answers: BTreeMap<ReplicaId, (u64, Option<Answer>)>,
    },
}

type Answer = Result<Held, ReplicaError>;

impl Compare {
    /// Whether an answer with this id is for the comparison.
    pub(super) fn asked(&self, id: u64) -> bool {
        match &self.step {
            Step::Listing { pages, .. } => pages.values().any(|(asked, _)| *asked == id),
            Step::Comparing(Round {
                stage: Stage::Asked { answers, .. },
                ..
            }) => answers.values().any(|(asked, _)| *asked == id),
            _ => false,
        }
    }

    /// Whether no comparison is going on.
    pub(super) fn is_resting(&self) -> bool {
        self.step == Step::Resting
    }

    /// Whether a copy that lost a write is being repaired.
    pub(super) fn is_mending(&self) -> bool {
        matches!(self.step, Step::Mending { .. })
    }
}

impl Primary {
    /// Called at every event: resting costs two comparisons.
    pub(super) fn advance_compare(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let resting = self.compare.is_resting();
        if resting && (now < self.compare.due || self.timings.compare_pass == 0) {
            return;
        }
        if self.compare.is_mending() {
            return self.drive_mending(now, out);
        }
        if !self.may_compare() {
            return self.drop_comparison(now);
        }
        match &self.compare.step {
            Step::Resting => self.compare_next(now, out),
            Step::Listing { since, .. } if now >= since + UNANSWERED => self.drop_comparison(now),
            Step::Comparing(_) => self.drive_round(now, out),
            _ => {}
        }
    }

    /// The set is whole and quiet: everybody who is required answers, and nobody joins.
    fn may_compare(&self) -> bool {
        let answers = |id: &ReplicaId| {
            self.view.in_sync.contains_key(id)
                && self
                    .members
                    .get(id)
                    .is_some_and(|m| m.condemned.is_none() && self.link_up(m.node))
        };
        self.serves()
            && !self.stopping
            && self.join.is_none()
            && self.required.len() >= 2
            && self.required.iter().all(answers)
            && !self.broken.is(Mutation::R17NeverCompared)
    }

    /// What is under way ends, and is taken up again when the set is quiet.
    fn drop_comparison(&mut self, now: Nanos) {
        self.leave_place();
        if let Step::Comparing(round) = std::mem::take(&mut self.compare.step) {
            self.compare.todo.push_front(round.index);
        }
        self.compare.due = now + self.timings.retry;
    }

    /// Time an extent has in a pass.
    fn compare_interval(&self, extents: u32) -> Nanos {
        (self.timings.compare_pass / Nanos::from(extents)).max(LEAST_INTERVAL)
    }

    fn compare_next(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        if let Some(index) = self.compare.todo.pop_front() {
            self.compare.step = Step::Comparing(Round {
                index,
                again: false,
                tries: 0,
                held: None,
                stage: Stage::Waiting,
            });
            return self.drive_round(now, out);
        }
        match &self.compare.pass {
            Some(pass) if pass.listed < pass.extents => self.list_extents(now, out),
            _ => self.begin_pass(now, out),
        }
    }

    /// The first pass of an epoch begins somewhere else each time, so that a volume which often fails over
    /// is not compared at its beginning only.
    fn begin_pass(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let before = self.compare.pass.take();
        let extents = self.blocks().div_ceil(EXTENT_BLOCKS).max(1);
        let extents = u32::try_from(extents).unwrap_or(u32::MAX);
        let mixed = self.epoch.counter().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = (mixed % u64::from(extents)) as ExtentIndex;
        let (first, began) = match &before {
            Some(pass) => {
                say(
                    Comparison::PassEnded {
                        extents: pass.compared,
                    },
                    out,
                );
                (pass.first, now.max(pass.began + self.timings.compare_pass))
            }
            None => (place, now),
        };
        self.compare.pass = Some(Pass {
            began,
            extents,
            first: first.min(extents - 1),
            listed: 0,
            compared: 0,
        });
        self.compare.due = began + self.compare_interval(extents);
    }

    fn list_extents(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Some(pass) = &self.compare.pass else {
            return;
        };
        let from = pass.place();
        let mut pages = BTreeMap::new();
        for replica in self.required.clone() {
            let id = self.id();
            pages.insert(replica, (id, None));
            self.send(replica, RequestBody::ExtentsPresent { id, from }, out);
        }
        self.compare.step = Step::Listing {
            since: now,
            from,
            pages,
        };
    }

    /// A member listed what it has. What anybody has is compared: an extent that only some have is the
    /// plainest difference.
    pub(super) fn on_compare_listed(
        &mut self,
        replica: ReplicaId,
        id: u64,
        extents: &[(ExtentIndex, Sequence)],
        next: Option<ExtentIndex>,
    ) {
        let Step::Listing { from, pages, .. } = &mut self.compare.step else {
            return;
        };
        match pages.get_mut(&replica) {
            Some((asked, page)) if *asked == id => {
                let extents = extents.iter().map(|(index, _)| *index).collect();
                *page = Some(Page { extents, next });
            }
            _ => return,
        }
        let Some(pass) = &mut self.compare.pass else {
            return;
        };
        if pages.values().any(|(_, page)| page.is_none()) {
            return;
        }
        let pages = || pages.values().filter_map(|(_, page)| page.as_ref());
        let nexts = pages().filter_map(|page| page.next);
        let end = nexts.min().unwrap_or(u32::MAX).min(pass.stretch_end());
        let found: BTreeSet<ExtentIndex> = pages()
            .flat_map(|page| page.extents.iter().copied())
            .filter(|index| (*from..end).contains(index))
            .collect();
        pass.listed += end.saturating_sub(*from).max(1);
        self.compare.todo.extend(found);
        self.compare.step = Step::Resting;
    }

    fn drive_round(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let hold = self.timings.copy_hold;
        let due = now >= self.compare.due;
        let Step::Comparing(round) = &self.compare.step else {
            return;
        };
        // R16: a place is given up after 100 ms, and what was found under it is worth nothing.
        if round.held.is_some_and(|since| now >= since + hold) {
            self.leave_place();
        }
        let Step::Comparing(round) = &self.compare.step else {
            return;
        };
        match &round.stage {
            Stage::Waiting if due => self.take_place(now, out),
            Stage::Settling { .. } if round.held.is_none() => self.spoil_round(now),
            Stage::Settling { at } => {
                let acked = |id: &ReplicaId| self.members.get(id).is_some_and(|m| m.acked >= *at);
                if self.required.iter().all(acked) {
                    self.ask_all_sums(now, out);
                }
            }
            Stage::Asked { since, .. } if now >= since + UNANSWERED => self.spoil_round(now),
            _ => {}
        }
    }

    fn take_place(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let (id, at) = (self.id(), self.writes.sequenced());
        let Step::Comparing(round) = &mut self.compare.step else {
            return;
        };
        let range = BlockRange::of_extent(round.index);
        if self.overlap.is_free(range) {
            self.overlap.occupy(range, Occupant::Copy(id));
            round.held = Some(now);
            round.stage = Stage::Settling { at };
            self.drive_round(now, out);
        }
    }

    fn leave_place(&mut self) {
        if let Step::Comparing(round) = &mut self.compare.step
            && round.held.take().is_some()
        {
            self.overlap.free(BlockRange::of_extent(round.index));
        }
    }

    /// Writes came between, or somebody was too slow: once more, a little later, and not for ever.
    fn spoil_round(&mut self, now: Nanos) {
        self.leave_place();
        let Step::Comparing(round) = &mut self.compare.step else {
            return;
        };
        round.tries += 1;
        if round.tries >= TRIES {
            return self.end_extent(now, false);
        }
        round.stage = Stage::Waiting;
        self.compare.due = now + self.timings.retry;
    }

    fn ask_all_sums(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Step::Comparing(round) = &self.compare.step else {
            return;
        };
        let index = round.index;
        let mut answers = BTreeMap::new();
        for replica in self.required.clone() {
            let id = self.id();
            answers.insert(replica, (id, None));
            self.send(replica, RequestBody::ExtentSums { id, index }, out);
        }
        if let Step::Comparing(round) = &mut self.compare.step {
            round.stage = Stage::Asked {
                since: now,
                answers,
            };
        }
    }

    /// A member said what it has of the extent.
    pub(super) fn on_compare_sums(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        id: u64,
        newest: Sequence,
        result: Result<ExtentContent, ReplicaError>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Step::Comparing(round) = &mut self.compare.step else {
            return;
        };
        let Stage::Asked { answers, .. } = &mut round.stage else {
            return;
        };
        match answers.get_mut(&replica) {
            Some((asked, answer)) if *asked == id => {
                *answer = Some(result.map(|content| Held { content, newest }));
            }
            _ => return,
        }
        if answers.values().any(|(_, answer)| answer.is_none()) {
            return;
        }
        if round.held.is_none() {
            return self.spoil_round(now);
        }
        let answers = std::mem::take(answers);
        let (index, again) = (round.index, round.again);
        self.leave_place();
        let mut found = BTreeMap::new();
        for (replica, (_, answer)) in answers {
            match answer {
                Some(Ok(held)) => {
                    found.insert(replica, held);
                }
                Some(Err(ReplicaError::Corrupt(bad))) => self.queue_repair(replica, bad),
                _ => {}
            }
        }
        if found.len() < self.required.len() {
            return self.end_extent(now, false); // what is corrupt is repaired first
        }
        self.weigh(now, index, again, &found, out);
    }

    fn weigh(
        &mut self,
        now: Nanos,
        index: ExtentIndex,
        again: bool,
        found: &BTreeMap<ReplicaId, Held>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let mut held = found.values();
        let first = held.next().map(|held| &held.content);
        if held.all(|other| Some(&other.content) == first) {
            return self.end_extent(now, true);
        }
        if !again {
            if let Step::Comparing(round) = &mut self.compare.step {
                round.again = true;
                round.stage = Stage::Waiting;
            }
            return self.drive_round(now, out);
        }
        let verdict = judge(found, self.broken);
        if let Some((one, other)) = verdict.undecided {
            let extent = index;
            say(Comparison::Differ { extent, one, other }, out);
        }
        self.end_extent(now, true);
        let Some(winner) = verdict.winner else {
            return;
        };
        for loser in verdict.losers.iter().copied() {
            let extent = index;
            say(
                Comparison::LostWrite {
                    extent,
                    winner,
                    loser,
                },
                out,
            );
            self.send(loser, RequestBody::LostWrite { index }, out);
        }
        // Who is undecided is no source either: only a winner's content is copied.
        let right = &found[&winner].content;
        let others = found.iter().filter(|(_, held)| held.content != *right);
        let except = others.map(|(id, _)| *id).collect();
        self.mend(now, index, verdict.losers, except, out);
    }

    /// Repairs the last of `rest`, then the others.
    fn mend(
        &mut self,
        now: Nanos,
        index: ExtentIndex,
        mut rest: Vec<ReplicaId>,
        losers: Vec<ReplicaId>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Some(loser) = rest.pop() else {
            return;
        };
        let range = BlockRange::of_extent(index);
        let copy = self.start_copy(Copy::repair_without(loser, range, losers.clone()));
        self.compare.step = Step::Mending {
            index,
            copy,
            loser,
            rest,
            losers,
        };
        self.drive_mending(now, out);
    }

    fn drive_mending(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        let Step::Mending {
            index, copy, loser, ..
        } = self.compare.step
        else {
            return;
        };
        let member = self.required.contains(&loser) && self.view.in_sync.contains_key(&loser);
        if !member {
            self.drop_copy(copy); // it is resynced before it may return
        } else {
            match self.poll_copy(now, copy, out) {
                None => return,
                Some(CopyEnd::Done(_)) => {
                    let range = BlockRange::of_extent(index);
                    out.push(PrimaryOut::Event(PrimaryEvent::Repaired {
                        replica: loser,
                        start: range.start,
                        count: range.count,
                    }));
                }
                Some(CopyEnd::Failed) => {} // the next pass finds it again
            }
        }
        if let Step::Mending { rest, losers, .. } = std::mem::take(&mut self.compare.step) {
            self.mend(now, index, rest, losers, out);
        }
    }

    /// The pass goes on, and catches up by a bounded time if it fell behind.
    fn end_extent(&mut self, now: Nanos, compared: bool) {
        self.leave_place();
        self.compare.step = Step::Resting;
        let Some(pass) = &mut self.compare.pass else {
            return;
        };
        pass.compared += u64::from(compared);
        let extents = pass.extents;
        let due = self.compare.due + self.compare_interval(extents);
        self.compare.due = due.max(now.saturating_sub(BEHIND));
    }
}

impl Pass {
    /// The next extent to ask for.
    fn place(&self) -> ExtentIndex {
        let at = u64::from(self.first) + u64::from(self.listed);
        (at % u64::from(self.extents)) as ExtentIndex
    }

    /// Where the stretch ends that is being listed: at the end of the volume, or where the pass began.
    fn stretch_end(&self) -> ExtentIndex {
        match self.place() >= self.first {
            true => self.extents,
            false => self.first,
        }
    }
}

fn say(found: Comparison, out: &mut Vec<PrimaryOut>) {
    out.push(PrimaryOut::Event(PrimaryEvent::Comparison(found)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_goes_round_once() {
        let mut pass = Pass {
            began: 0,
            extents: 10,
            first: 7,
            listed: 0,
            compared: 0,
        };
        assert_eq!((pass.place(), pass.stretch_end()), (7, 10));
        pass.listed = 3;
        assert_eq!((pass.place(), pass.stretch_end()), (0, 7));
        pass.listed = 9;
        assert_eq!((pass.place(), pass.stretch_end()), (6, 7));
    }
}
