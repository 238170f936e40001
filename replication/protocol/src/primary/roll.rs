//! Rolling the union forward: every record above the highest floor is stored by every member under
//! the new epoch, payload and all, in sequence order (R11). A crash in the middle redoes it.

use super::exchange::INCOMPLETE;
use super::{Phase, Primary, PrimaryOut};
use crate::mutate::{Broken, Mutation};
use crate::reconcile::Union;
use lockstep_types::{Epoch, Gap, Nanos, Record, RecordKind, ReplicaId, Sequence, Stamp};
use lockstep_wire::{RequestBody, Sealed, TailEntry};
use std::collections::BTreeMap;

/// Payloads fetched at a time.
const FETCHES: usize = 16;

/// Progress of a reconcile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Roll {
    floor: Stamp,
    last: Sequence,
    records: Vec<RollRecord>,
    /// How many have been sent to all.
    sent: usize,
    fetching: BTreeMap<u64, usize>,
    /// When anything last moved.
    moved: Nanos,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct RollRecord {
    entry: TailEntry,
    /// Who holds it and has not failed to give it yet.
    holders: Vec<ReplicaId>,
    record: Option<Record>,
    asked: bool,
}

impl Primary {
    pub(super) fn begin_rolling(&mut self, now: Nanos, union: Union, out: &mut Vec<PrimaryOut>) {
        for member in self.members.values_mut() {
            member.acked = union.floor.sequence;
        }
        let records = if self.broken.is(Mutation::R11TailNotRolled) {
            Vec::new()
        } else {
            union.records
        };
        let last = if records.is_empty() {
            union
                .floor
                .sequence
                .max(if self.broken.is(Mutation::R11TailNotRolled) {
                    union.last
                } else {
                    union.floor.sequence
                })
        } else {
            union.last
        };
        let records = records.into_iter().map(RollRecord::new).collect::<Vec<_>>();
        for record in records
            .iter()
            .filter(|r| r.entry.kind == RecordKind::Resize)
        {
            self.applied_blocks = self.applied_blocks.max(record.entry.range.start);
        }
        let roll = Roll {
            floor: union.floor,
            last,
            records,
            sent: 0,
            fetching: BTreeMap::new(),
            moved: now,
        };
        self.phase = Phase::Rolling(Box::new(roll));
        self.advance_rolling(now, out);
    }

    pub(super) fn advance_rolling(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        self.fetch_payloads(out);
        self.send_rolled(now, out);
        let Phase::Rolling(roll) = &self.phase else {
            return;
        };
        let (sent, all, last, moved) = (roll.sent, roll.records.len(), roll.last, roll.moved);
        let stored = all == 0 || sent == all && self.members.values().all(|m| m.acked >= last);
        if stored {
            return self.begin_opening(now, last, all as u64, out);
        }
        if now >= moved + self.timings.seal_silence {
            // Somebody does not move: seal again under this epoch, which finds out who.
            self.seal_all(now, out);
        }
    }

    fn fetch_payloads(&mut self, out: &mut Vec<PrimaryOut>) {
        let Phase::Rolling(roll) = &mut self.phase else {
            return;
        };
        let mut wanted = Vec::new();
        let room = FETCHES.saturating_sub(roll.fetching.len());
        let missing = roll.records.iter_mut().enumerate().skip(roll.sent);
        for (index, record) in missing
            .filter(|(_, r)| r.record.is_none() && !r.asked)
            .take(room)
        {
            let local = record
                .holders
                .iter()
                .find(|id| self.members.get(id).is_some_and(|m| m.node == self.me));
            let Some(holder) = local.or(record.holders.first()).copied() else {
                continue;
            };
            record.asked = true;
            wanted.push((index, holder, record.entry.stamp));
        }
        for (index, holder, stamp) in wanted {
            let id = self.id();
            if let Phase::Rolling(roll) = &mut self.phase {
                roll.fetching.insert(id, index);
            }
            self.send(holder, RequestBody::FetchRecord { id, stamp }, out);
        }
    }

    /// A holder gave a record, or could not.
    pub(super) fn on_fetched(
        &mut self,
        now: Nanos,
        from: ReplicaId,
        id: u64,
        record: Option<Record>,
        out: &mut Vec<PrimaryOut>,
    ) {
        let Phase::Rolling(roll) = &mut self.phase else {
            return;
        };
        let Some(index) = roll.fetching.remove(&id) else {
            return;
        };
        let wanted = &mut roll.records[index];
        wanted.asked = false;
        match record {
            Some(record) if wanted.is_met_by(&record) => {
                wanted.record = Some(record);
                roll.moved = now;
            }
            _ => {
                wanted.holders.retain(|holder| *holder != from);
                if wanted.holders.is_empty() {
                    let stamp = wanted.entry.stamp;
                    self.give_up(now, stamp, out);
                }
            }
        }
    }

    /// None of those that hold a record can read it any more. Where a member without a gap lacks it, it was
    /// acknowledged to nobody (R2) and read by nobody (R14): those who hold it leave, and come back without
    /// it. Otherwise it may have been, and the volume waits.
    fn give_up(&mut self, now: Nanos, stamp: Stamp, out: &mut Vec<PrimaryOut>) {
        let sealed = || {
            self.members
                .iter()
                .filter_map(|(id, m)| Some((*id, m.sealed.as_ref()?)))
        };
        let lacks =
            |s: &Sealed| s.gap == Gap::None && !s.joining && s.last.sequence < stamp.sequence;
        if !sealed().any(|(_, s)| lacks(s)) {
            let reason = format!("record {stamp} can be read on no reachable copy");
            return self.wait(reason, out);
        }
        let holds = |s: &Sealed| s.tail.iter().any(|entry| entry.stamp == stamp);
        let holders = sealed().filter(|(_, s)| holds(s)).map(|(id, _)| id);
        for replica in holders.collect::<Vec<_>>() {
            self.condemn(now, replica, INCOMPLETE, out);
        }
    }

    /// Sends what has been fetched, in sequence order, to every member.
    fn send_rolled(&mut self, now: Nanos, out: &mut Vec<PrimaryOut>) {
        loop {
            let epoch = self.epoch;
            let Phase::Rolling(roll) = &mut self.phase else {
                return;
            };
            let Some(next) = roll.records.get(roll.sent) else {
                return;
            };
            let Some(record) = next.restamped(epoch) else {
                return;
            };
            roll.sent += 1;
            roll.moved = now;
            let floor = roll.told_floor(epoch, self.broken);
            for replica in self.members.keys().copied().collect::<Vec<_>>() {
                let body = RequestBody::Append {
                    record: record.clone(),
                    floor,
                    roll: true,
                    charged: false,
                };
                self.send(replica, body, out);
            }
        }
    }

    /// Sends to one member again what it has not acknowledged, after its link came back.
    pub(super) fn resend_rolled(&mut self, replica: ReplicaId, out: &mut Vec<PrimaryOut>) {
        let Phase::Rolling(roll) = &self.phase else {
            return;
        };
        let acked = self
            .members
            .get(&replica)
            .map_or(Sequence::ZERO, |m| m.acked);
        for rolled in roll.records[..roll.sent]
            .iter()
            .filter(|r| r.entry.stamp.sequence > acked)
        {
            let record = rolled
                .restamped(self.epoch)
                .expect("what was sent has its payload");
            let body = RequestBody::Append {
                record,
                floor: roll.told_floor(self.epoch, self.broken),
                roll: true,
                charged: false,
            };
            self.send(replica, body, out);
        }
        // Fetches that were under way on that link are asked again.
        let Phase::Rolling(roll) = &mut self.phase else {
            return;
        };
        for index in std::mem::take(&mut roll.fetching).into_values() {
            roll.records[index].asked = false;
        }
    }
}

impl Roll {
    /// No floor moves before the epoch opens: the highest one known is told again (R11).
    fn told_floor(&self, epoch: Epoch, broken: Broken) -> Stamp {
        if broken.is(Mutation::R11FloorBeforeOpen) {
            return Stamp::new(epoch, self.last);
        }
        self.floor
    }
}

impl RollRecord {
    fn new((entry, holders): (TailEntry, Vec<ReplicaId>)) -> Self {
        // Records without payload are complete as they are.
        let record = (entry.kind != RecordKind::Write).then(|| Record {
            stamp: entry.stamp,
            kind: entry.kind,
            range: entry.range,
            checksums: entry.checksums.clone(),
            payload: Default::default(),
        });
        Self {
            entry,
            holders,
            record,
            asked: false,
        }
    }

    fn is_met_by(&self, record: &Record) -> bool {
        record.stamp == self.entry.stamp
            && record.kind == self.entry.kind
            && record.range == self.entry.range
            && record.checksums == self.entry.checksums
            && record.checksums.matches(&record.payload)
    }

    /// Restamping changes the epoch only, never the sequence (R11).
    fn restamped(&self, epoch: Epoch) -> Option<Record> {
        let record = self.record.as_ref()?;
        Some(Record {
            stamp: Stamp::new(epoch, record.stamp.sequence),
            ..record.clone()
        })
    }
}
