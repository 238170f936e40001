//! Random lives of a pool, compared with the model at every step: appends of every kind, copies,
//! voids, restamping, floors that trail, reads, deletions, crashes, restarts.

use super::disk::Cut;
use super::model::{Cell, Op, Replica};
use super::rng::Rng;
use super::{Bench, DROP, KEEP, MIXED, content, flatten, meta, without_payload, write};
use lockstep_store::mutate::Broken;
use lockstep_store::{AppendContext, Event, FormatOptions, Recovery, StoreError, Tag};
use lockstep_types::{
    BLOCK, BlockRange, EXTENT_BLOCKS, Epoch, Gap, Record, RecordKind, ReplicaId, Sequence, Stamp,
    checksum_blocks, millis, seconds,
};
use std::collections::BTreeMap;

/// Extents of each volume.
const EXTENTS: u64 = 14;

/// What a life is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub actions: u64,
    pub ring: u64,
    pub delta_pages: u64,
    pub device: u64,
    pub recent: u64,
    pub cached_pages: usize,
    /// Crashes and restarts in ten thousand actions.
    pub crashes: u64,
    /// Per cent of steps of the device, against actions of the owner.
    pub steps: u64,
}

impl Plan {
    pub fn draw(rng: &mut Rng, actions: u64) -> Self {
        Self {
            actions,
            // One in eight has windows that hold a whole extent.
            ring: [4096, 512, 768, 1024][rng.below(8).min(3) as usize] << 10,
            delta_pages: 4 + rng.below(13),
            device: (8 + rng.below(9)) << 20, // and the ring
            recent: [0, 64 << 10, 1 << 20][rng.below(3) as usize],
            cached_pages: 1 + rng.below(4) as usize,
            crashes: [20, 60, 200][rng.below(3) as usize],
            steps: [40, 60, 80][rng.below(3) as usize],
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions {
            device_bytes: self.device + self.ring,
            ring_bytes: self.ring,
            delta_bytes: self.delta_pages * BLOCK as u64,
            max_replicas: 4,
            window_bytes: (self.ring / 8).min(512 << 10) as u32 / BLOCK as u32 * BLOCK as u32,
        }
    }
}

/// What a life has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub laps: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub records: u64,
    pub copies: u64,
    pub voids: u64,
    pub rolls: u64,
    pub deleted: u64,
    pub reads: u64,
    pub torn: u64,
    pub refused: u64,
}

#[derive(Clone, Copy, Debug)]
enum Wait {
    Create(ReplicaId),
    Delete(ReplicaId),
    Void(ReplicaId, Sequence),
    Promise(ReplicaId, Epoch),
    Copy(ReplicaId, u64),
    Read(ReplicaId, BlockRange, Since),
    Sums(ReplicaId, u32, Since),
    Record(ReplicaId, Stamp),
}

/// What a read may be compared with: nothing was taken back since.
#[derive(Clone, Copy, Debug)]
struct Since {
    op: u64,
    takebacks: u64,
}

pub struct Driver {
    pub bench: Bench,
    rng: Rng,
    plan: Plan,
    pub replicas: BTreeMap<ReplicaId, Replica>,
    waiting: BTreeMap<Tag, Wait>,
    /// Replicas that are being created or deleted.
    unsure: BTreeMap<ReplicaId, bool>,
    voiding: BTreeMap<ReplicaId, Sequence>,
    promised: BTreeMap<ReplicaId, Epoch>,
    reserved: BTreeMap<ReplicaId, u32>,
    /// Sequences still to be rolled forward.
    rolling: BTreeMap<ReplicaId, (Sequence, Sequence)>,
    /// Volumes whose floor stands still.
    suspended: Option<ReplicaId>,
    next_op: u64,
    next_replica: u64,
    takebacks: u64,
    pub seen: Seen,
}

impl Driver {
    pub fn new(seed: u64, actions: u64, broken: Broken) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng, actions);
        let bench = Bench::with(&plan.format(), seed ^ 0xd15c, |options| {
            options.recent_bytes = plan.recent;
            options.cached_pages = plan.cached_pages;
            options.broken = broken;
        });
        Self {
            bench,
            rng,
            plan,
            replicas: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unsure: BTreeMap::new(),
            voiding: BTreeMap::new(),
            promised: BTreeMap::new(),
            reserved: BTreeMap::new(),
            rolling: BTreeMap::new(),
            suspended: None,
            next_op: 1,
            next_replica: 1,
            takebacks: 0,
            seen: Seen::default(),
        }
    }

    /// A whole life.
    pub fn run(mut self) -> Seen {
        for _ in 0..self.plan.actions {
            if self.rng.chance(self.plan.steps) {
                self.bench.step();
            } else {
                self.act();
            }
            self.digest();
            self.audit();
        }
        self.drain();
        self.verify_all();
        self.delete_all();
        self.seen
    }

    fn audit(&self) {
        if let Err(why) = self.bench.store.audit() {
            panic!("the store contradicts itself: {why}");
        }
    }

    fn act(&mut self) {
        let crash = self.rng.below(10_000) < self.plan.crashes;
        if crash {
            return self.crash();
        }
        match self.rng.below(1000) {
            0..=399 => self.write(),
            400..=439 => self.write_whole(),
            440..=519 => self.clear(),
            520..=539 => self.resize(),
            540..=599 => self.copy(),
            600..=719 => self.raise_floor(),
            720..=729 => self.void(),
            730..=744 => self.roll(),
            745..=824 => self.read(),
            825..=844 => self.sums(),
            845..=859 => self.read_record(),
            860..=889 => self.reserve(),
            890..=894 => self.release(),
            895..=909 => self.promise(),
            910..=919 => self.create(),
            920..=922 => self.delete(),
            923..=930 => self.suspend(),
            931..=932 => self.restart(),
            933..=936 => self.drain(),
            937..=945 => self.list(),
            _ => {
                let time = millis(10 + self.rng.below(600));
                self.bench.now += time;
                self.bench.call(|store, now, out| store.timer(now, out));
            }
        }
    }

    /// A replica that takes records now.
    fn pick(&mut self) -> Option<ReplicaId> {
        let ready: Vec<ReplicaId> = self
            .replicas
            .keys()
            .filter(|id| !self.unsure.contains_key(id) && !self.voiding.contains_key(id))
            .copied()
            .collect();
        if ready.is_empty() {
            self.create();
            return None;
        }
        Some(ready[self.rng.below(ready.len() as u64) as usize])
    }

    fn context(&mut self, id: ReplicaId, range: Option<BlockRange>) -> Option<AppendContext> {
        let now = self.bench.now;
        let mut charged = false;
        if let Some(range) = range
            && !self.bench.store.is_present(id, range.extent())
        {
            let reserved = self.reserved.entry(id).or_default();
            if *reserved == 0 {
                *reserved += self.bench.store.reserve(id, 1);
            }
            if *reserved == 0 {
                self.seen.refused += 1;
                return None;
            }
            *reserved -= 1;
            charged = true;
        }
        if self.rng.chance(30) {
            self.lift(id);
        }
        Some(AppendContext {
            floor: self.replicas[&id].floor,
            charged,
            now,
        })
    }

    fn window_left(&self, id: ReplicaId) -> bool {
        self.replicas[&id].pinned() < 40 << 10
    }

    fn append(&mut self, id: ReplicaId, kind: RecordKind, range: BlockRange, charge: bool) {
        if !self.window_left(id) {
            return;
        }
        if self.rolling.contains_key(&id) {
            return self.roll_on(id);
        }
        let Some(context) = self.context(id, charge.then_some(range)) else {
            return;
        };
        let replica = self.replicas.get_mut(&id).expect("picked");
        let stamp = Stamp::new(replica.epoch, replica.next);
        replica.next = replica.next.next();
        self.append_as(id, stamp, kind, range, context);
    }

    fn append_as(
        &mut self,
        id: ReplicaId,
        stamp: Stamp,
        kind: RecordKind,
        range: BlockRange,
        context: AppendContext,
    ) {
        let salt = self.rng.next();
        let record = match kind {
            RecordKind::Write => write(stamp, range, salt),
            _ => without_payload(stamp, kind, range),
        };
        let op = self.next_op;
        self.next_op += 1;
        let replica = self.replicas.get_mut(&id).expect("picked");
        for old in replica.ops.iter_mut() {
            if !old.copy && !old.dead && old.stamp.sequence == stamp.sequence {
                old.superseded = true;
            }
        }
        replica.ops.push(Op {
            id: op,
            stamp,
            kind,
            range,
            salt,
            copy: false,
            durable: false,
            dead: false,
            superseded: false,
            floor: context.floor,
        });
        self.seen.records += 1;
        self.bench
            .call(|store, _, out| store.append(id, record, context, out));
    }

    fn write(&mut self) {
        let Some(id) = self.pick() else { return };
        let extent = self.hot_extent();
        let most = if self.rng.chance(70) { 4 } else { 10 };
        let count = 1 + self.rng.below(most);
        let first = self.rng.below(EXTENT_BLOCKS - count + 1);
        let range = BlockRange::new(extent * EXTENT_BLOCKS + first, count as u32);
        self.append(id, RecordKind::Write, range, true);
    }

    /// Whether a whole extent may be written: the windows of these tiny rings hold none, so that it
    /// must find a free extent, but for one in a larger ring.
    fn whole_fits(&mut self) -> bool {
        let in_ring = |op: &Op| op.kind == RecordKind::Write && op.range.is_whole_extent();
        let mut replicas = self.replicas.values();
        self.bench.store.free_extents() > 1
            || self.plan.ring >= 4 << 20
                && !replicas.any(|r| {
                    r.live()
                        .any(|op| in_ring(op) && op.stamp.sequence > r.floor.sequence)
                })
    }

    fn write_whole(&mut self) {
        if !self.whole_fits() {
            return;
        }
        let Some(id) = self.pick() else { return };
        let extent = self.hot_extent();
        self.append(
            id,
            RecordKind::Write,
            BlockRange::of_extent(extent as u32),
            true,
        );
    }

    fn hot_extent(&mut self) -> u64 {
        if self.rng.chance(60) {
            self.rng.below(3)
        } else {
            self.rng.below(EXTENTS)
        }
    }

    fn clear(&mut self) {
        let Some(id) = self.pick() else { return };
        let range = self.clear_range();
        let kind = match self.rng.chance(70) {
            true => RecordKind::Discard,
            false => RecordKind::WriteZeroes,
        };
        self.append(id, kind, range, false);
    }

    fn clear_range(&mut self) -> BlockRange {
        if self.rng.chance(40) {
            let extent = self.hot_extent();
            let count = 1 + self.rng.below((EXTENTS - extent).min(3));
            return BlockRange::new(extent * EXTENT_BLOCKS, (count * EXTENT_BLOCKS) as u32);
        }
        let start = self.rng.below(EXTENTS * EXTENT_BLOCKS - 1);
        let most = (EXTENTS * EXTENT_BLOCKS - start).min(200);
        BlockRange::new(start, 1 + self.rng.below(most) as u32)
    }

    fn resize(&mut self) {
        let Some(id) = self.pick() else { return };
        if self.rng.chance(30) {
            return self.append(id, RecordKind::Nothing, BlockRange::new(0, 1), false);
        }
        let blocks = EXTENTS * EXTENT_BLOCKS + (1 << 14) + self.seen.records;
        self.append(id, RecordKind::Resize, BlockRange::new(blocks, 1), false);
    }

    /// Content read elsewhere at the newest stamp here.
    fn copy(&mut self) {
        let Some(id) = self.pick() else { return };
        if !self.window_left(id) || self.rolling.contains_key(&id) {
            return;
        }
        let (kind, range) = if self.rng.chance(70) {
            let extent = self.hot_extent();
            let count = 1 + self.rng.below(10);
            let first = self.rng.below(EXTENT_BLOCKS - count + 1);
            let range = BlockRange::new(extent * EXTENT_BLOCKS + first, count as u32);
            (RecordKind::Write, range)
        } else {
            let start = self.rng.below(EXTENTS * EXTENT_BLOCKS - 1);
            let left = EXTENT_BLOCKS - start % EXTENT_BLOCKS;
            (
                RecordKind::Discard,
                BlockRange::new(start, 1 + self.rng.below(left) as u32),
            )
        };
        let replica = self.replicas.get_mut(&id).expect("picked");
        let read_at = replica.last();
        if read_at.sequence == Sequence::ZERO {
            return;
        }
        let salt = self.rng.next();
        let payload = match kind {
            RecordKind::Write => content(salt, range),
            _ => bytes::Bytes::new(),
        };
        let op = self.next_op;
        self.next_op += 1;
        replica.ops.push(Op {
            id: op,
            stamp: read_at,
            kind,
            range,
            salt,
            copy: true,
            durable: false,
            dead: false,
            superseded: false,
            floor: Stamp::ZERO,
        });
        let tag = self.bench.tag();
        self.waiting.insert(tag, Wait::Copy(id, op));
        let checksums = checksum_blocks(&payload);
        self.seen.copies += 1;
        self.bench.call(|store, now, out| {
            store.copy(now, tag, id, read_at, kind, range, checksums, payload, out)
        });
    }

    /// The floor rises to something durable.
    fn lift(&mut self, id: ReplicaId) {
        if self.rolling.contains_key(&id)
            || self.voiding.contains_key(&id)
            || self.suspended == Some(id)
        {
            return;
        }
        let replica = self.replicas.get_mut(&id).expect("picked");
        let last = replica.durable_prefix();
        let room = last.sequence.0 - replica.floor.sequence.0;
        if room == 0 {
            return;
        }
        let to = match self.rng.below(3) {
            0 => 1 + self.rng.below(room),
            _ => room,
        };
        let sequence = Sequence(replica.floor.sequence.0 + to);
        let newest = replica.above(Sequence(sequence.0 - 1))[&sequence]
            .iter()
            .map(|op| op.stamp)
            .max()
            .expect("it is durable");
        replica.floor = newest.max(replica.floor);
    }

    fn raise_floor(&mut self) {
        let Some(id) = self.pick() else { return };
        self.lift(id);
        let floor = self.replicas[&id].floor;
        self.bench.call(|store, _, _| store.set_floor(id, floor));
    }

    fn suspend(&mut self) {
        self.suspended = match self.suspended {
            Some(_) => None,
            None => self.pick(),
        };
    }

    /// Everything above a point is refuted; shadowing begins, perhaps further on (R15).
    fn void(&mut self) {
        let Some(id) = self.pick() else { return };
        if self.rolling.contains_key(&id) {
            return;
        }
        let replica = self.replicas.get_mut(&id).expect("picked");
        let last = replica.last().sequence;
        let room = last.0 - replica.floor.sequence.0;
        let above = Sequence(replica.floor.sequence.0 + self.rng.below(room + 1));
        for op in replica
            .ops
            .iter_mut()
            .filter(|op| op.stamp.sequence > above)
        {
            op.superseded = true;
        }
        self.takebacks += 1;
        self.voiding.insert(id, above);
        let tag = self.bench.tag();
        self.waiting.insert(tag, Wait::Void(id, above));
        self.seen.voids += 1;
        self.bench
            .call(|store, now, out| store.void_above(now, id, above, tag, out));
    }

    /// A new epoch takes every sequence above the floor over, one after the other (R11).
    fn roll(&mut self) {
        let Some(id) = self.pick() else { return };
        if self.rolling.contains_key(&id) {
            return self.roll_on(id);
        }
        let replica = self.replicas.get_mut(&id).expect("picked");
        let last = replica.last().sequence;
        if last == replica.floor.sequence || replica.live().any(|op| !op.durable) {
            return; // SEAL waits for what was accepted before it (R10)
        }
        let dense = replica.above(replica.floor.sequence).len() as u64;
        if dense != last.0 - replica.floor.sequence.0 {
            return; // a joiner that has not caught up is not rolled
        }
        replica.epoch = replica.epoch.next();
        let first = replica.floor.sequence.next();
        self.rolling.insert(id, (first, last));
        self.seen.rolls += 1;
        self.roll_on(id);
    }

    fn roll_on(&mut self, id: ReplicaId) {
        let (at, to) = self.rolling[&id];
        for _ in 0..1 + self.rng.below(4) {
            let Some((at, _)) = self.rolling.get(&id).copied() else {
                return;
            };
            let replica = &self.replicas[&id];
            let above = replica.above(Sequence(at.0 - 1));
            let old = above
                .get(&at)
                .unwrap_or_else(|| panic!("{at:?} to {to:?}: {above:#?} {:?}", replica.floor))
                .iter()
                .max_by_key(|op| op.stamp.epoch)
                .map(|op| (op.kind, op.range))
                .expect("what is rolled is there");
            let stamp = Stamp::new(replica.epoch, at);
            let charge = old.0 == RecordKind::Write;
            let whole = charge && old.1.is_whole_extent();
            let context = match whole && self.bench.store.free_extents() <= 1 {
                true => None,
                false => self.context(id, charge.then_some(old.1)),
            };
            let (kind, range, context) = match context {
                Some(context) => (old.0, old.1, context),
                // No space for it here any more: it is refuted instead.
                None => {
                    let context = AppendContext {
                        floor: Stamp::ZERO,
                        charged: false,
                        now: self.bench.now,
                    };
                    (RecordKind::Nothing, BlockRange::new(0, 1), context)
                }
            };
            match at == to {
                true => self.rolling.remove(&id),
                false => self.rolling.insert(id, (at.next(), to)),
            };
            self.takebacks += 1;
            self.append_as(id, stamp, kind, range, context);
        }
        let _ = at;
    }

    fn since(&self) -> Since {
        Since {
            op: self.next_op,
            takebacks: self.takebacks,
        }
    }

    fn read(&mut self) {
        let Some(id) = self.pick() else { return };
        let start = self.rng.below(EXTENTS * EXTENT_BLOCKS - 1);
        let most = (EXTENTS * EXTENT_BLOCKS - start).min(70);
        let range = BlockRange::new(start, 1 + self.rng.below(most) as u32);
        let tag = self.bench.tag();
        self.waiting
            .insert(tag, Wait::Read(id, range, self.since()));
        self.seen.reads += 1;
        self.bench
            .call(|store, now, out| store.read(now, tag, id, range, out));
    }

    fn sums(&mut self) {
        let Some(id) = self.pick() else { return };
        let extent = self.rng.below(EXTENTS) as u32;
        let tag = self.bench.tag();
        self.waiting
            .insert(tag, Wait::Sums(id, extent, self.since()));
        self.bench
            .call(|store, now, out| store.extent_sums(now, tag, id, extent, out));
    }

    fn read_record(&mut self) {
        let Some(id) = self.pick() else { return };
        let tail = self.bench.store.tail(id, Sequence::ZERO);
        if tail.is_empty() {
            return;
        }
        let stamp = tail[self.rng.below(tail.len() as u64) as usize].stamp;
        let tag = self.bench.tag();
        self.waiting.insert(tag, Wait::Record(id, stamp));
        self.bench
            .call(|store, now, out| store.read_record(now, tag, id, stamp, out));
    }

    fn reserve(&mut self) {
        let Some(id) = self.pick() else { return };
        let wanted = 1 + self.rng.below(4) as u32;
        let free = self.bench.store.free_extents();
        let granted = self.bench.store.reserve(id, wanted);
        assert_eq!(granted, wanted.min(free), "what is free is granted");
        *self.reserved.entry(id).or_default() += granted;
    }

    fn release(&mut self) {
        let Some(id) = self.pick() else { return };
        self.bench.store.release_reservations(id);
        self.reserved.remove(&id);
    }

    fn promise(&mut self) {
        let Some(id) = self.pick() else { return };
        let mut meta = self.bench.store.meta(id).expect("it is here").clone();
        meta.promised = meta.promised.next();
        let tag = self.bench.tag();
        self.waiting.insert(tag, Wait::Promise(id, meta.promised));
        self.bench
            .call(|store, now, out| store.put_meta(now, &meta, tag, out));
    }

    fn create(&mut self) {
        if self.replicas.len() >= 3 {
            return;
        }
        let meta = meta(self.next_replica);
        self.next_replica += 1;
        let id = meta.replica;
        let tag = self.bench.tag();
        self.bench
            .call(|store, now, out| store.create_replica(now, meta, tag, out));
        let full = |e: &Event| match e {
            Event::Done {
                tag: t,
                result: Err(StoreError::Full { .. }),
            } if *t == tag => Some(()),
            _ => None,
        };
        if self.bench.take(full).is_some() {
            return; // a deleted one is not gone yet
        }
        self.waiting.insert(tag, Wait::Create(id));
        self.unsure.insert(id, false);
        self.replicas.insert(id, Replica::new(id));
    }

    fn delete(&mut self) {
        if self.replicas.len() > 1
            && let Some(id) = self.pick()
        {
            self.delete_one(id);
        }
    }

    fn delete_one(&mut self, id: ReplicaId) {
        self.rolling.remove(&id);
        self.reserved.remove(&id);
        self.unsure.insert(id, true);
        let tag = self.bench.tag();
        self.waiting.insert(tag, Wait::Delete(id));
        self.seen.deleted += 1;
        self.bench
            .call(|store, now, out| store.delete_replica(now, id, tag, out));
    }

    fn list(&mut self) {
        let Some(id) = self.pick() else { return };
        let replica = &self.replicas[&id];
        let than = Sequence(self.rng.below(replica.next.0));
        let listed: BTreeMap<u32, Sequence> = self
            .bench
            .store
            .extents_newer(id, than, 0, 1000)
            .into_iter()
            .collect();
        for extent in 0..EXTENTS as u32 {
            let newest = replica.newest(extent);
            let present = self.bench.store.is_present(id, extent);
            if newest > than && (present || replica.holes_known) {
                assert_eq!(
                    listed.get(&extent),
                    Some(&newest),
                    "extent {extent} newer than {than:?}"
                );
            }
            assert!(
                listed
                    .get(&extent)
                    .is_none_or(|n| *n <= newest && *n > than)
            );
        }
    }

    /// Takes in what the store said.
    fn digest(&mut self) {
        for event in std::mem::take(&mut self.bench.events) {
            match event {
                Event::Durable { replica, stamp } => self.on_durable(replica, stamp),
                Event::Copied { tag, result } => self.on_copied(tag, result),
                Event::Done { tag, result } => self.on_done(tag, result),
                Event::Read { tag, result } => {
                    let Some(Wait::Read(id, range, since)) = self.waiting.remove(&tag) else {
                        panic!("a read that nobody asked for")
                    };
                    if self.replicas.contains_key(&id) && !self.unsure.contains_key(&id) {
                        let bytes = flatten(&result.expect("nothing is corrupt"));
                        self.compare(id, range, since, &bytes);
                    }
                }
                Event::ExtentSums { tag, result } => {
                    let Some(Wait::Sums(id, extent, since)) = self.waiting.remove(&tag) else {
                        panic!("sums that nobody asked for")
                    };
                    if self.replicas.contains_key(&id) && !self.unsure.contains_key(&id) {
                        self.compare_sums(id, extent, since, result.expect("nothing is corrupt"));
                    }
                }
                Event::RecordRead { tag, result } => {
                    let Some(Wait::Record(id, stamp)) = self.waiting.remove(&tag) else {
                        panic!("a record that nobody asked for")
                    };
                    self.compare_record(id, stamp, result);
                }
                Event::Corrupt { replica, range } => panic!("{replica} {range:?} is corrupt"),
                Event::DeviceFailed { errno, what } => panic!("{what} failed: {errno}"),
                Event::Recovered(_) => panic!("nothing was recovering"),
            }
        }
    }

    fn on_durable(&mut self, id: ReplicaId, stamp: Stamp) {
        let Some(replica) = self.replicas.get_mut(&id) else {
            return;
        };
        let Some(op) = replica
            .ops
            .iter_mut()
            .find(|op| !op.copy && !op.dead && op.stamp == stamp)
        else {
            panic!("{stamp:?} of {id} was never appended, or is void")
        };
        assert!(!op.durable, "{stamp:?} of {id} is acknowledged twice");
        op.durable = true;
        replica.floor_known = replica.floor_known.max(op.floor);
    }

    fn on_copied(&mut self, tag: Tag, result: Result<(), StoreError>) {
        let Some(Wait::Copy(id, op)) = self.waiting.remove(&tag) else {
            panic!("a copy that nobody asked for")
        };
        let Some(replica) = self.replicas.get_mut(&id) else {
            return;
        };
        let op = replica
            .ops
            .iter_mut()
            .find(|o| o.id == op)
            .expect("it was noted");
        match result {
            Ok(()) => op.durable = true,
            Err(StoreError::Full { .. }) => {
                op.dead = true;
                self.seen.refused += 1;
            }
            Err(error) => assert!(
                op.superseded || self.unsure.contains_key(&id),
                "a copy is refused: {error}"
            ),
        }
    }

    fn on_done(&mut self, tag: Tag, result: Result<(), StoreError>) {
        assert_eq!(result, Ok(()));
        match self.waiting.remove(&tag) {
            Some(Wait::Create(id)) => {
                self.unsure.remove(&id);
            }
            Some(Wait::Delete(id)) => {
                self.unsure.remove(&id);
                self.replicas.remove(&id);
                self.promised.remove(&id);
                self.voiding.remove(&id);
                if self.suspended == Some(id) {
                    self.suspended = None;
                }
            }
            Some(Wait::Void(id, above)) => {
                self.voiding.remove(&id);
                if let Some(replica) = self.replicas.get_mut(&id) {
                    let skip = self.rng.below(3) * self.rng.below(5);
                    bury(replica, above);
                    replica.epoch = replica.epoch.next();
                    replica.next = Sequence(above.0 + 1 + skip);
                }
            }
            Some(Wait::Promise(id, epoch)) => {
                let held = self.promised.entry(id).or_default();
                *held = (*held).max(epoch);
            }
            other => panic!("done, but what? {other:?}"),
        }
    }

    /// Each block is what it was when asked, or what was written since.
    fn compare(&self, id: ReplicaId, range: BlockRange, since: Since, bytes: &[u8]) {
        if since.takebacks != self.takebacks {
            return;
        }
        let replica = &self.replicas[&id];
        let before = replica.cells(range, since.op);
        for (at, cell) in before.iter().enumerate() {
            let block = range.start + at as u64;
            let found = &bytes[at * BLOCK..(at + 1) * BLOCK];
            if found == cell.bytes(block) {
                continue;
            }
            let later = replica
                .live()
                .filter(|op| op.id >= since.op && op.range.overlaps(BlockRange::new(block, 1)));
            let mut allowed = later.map(|op| match op.kind {
                RecordKind::Write => Cell::Data(op.salt),
                _ => Cell::Hole,
            });
            assert!(
                allowed.any(|cell| found == cell.bytes(block)),
                "block {block} of {id} (extent {}) is wrong: {} instead of {cell:?}\n{}\n{}",
                block / EXTENT_BLOCKS,
                self.whose(replica, block, found),
                replica
                    .ops
                    .iter()
                    .filter(|o| o.range.overlaps(BlockRange::new(block, 1)))
                    .map(|o| format!("{o:?}\n"))
                    .collect::<String>(),
                self.bench.store.outline(),
            );
        }
    }

    fn whose(&self, replica: &Replica, block: u64, found: &[u8]) -> String {
        if found.iter().all(|b| *b == 0) {
            return "zeroes".into();
        }
        let op = replica
            .ops
            .iter()
            .find(|op| found == Cell::Data(op.salt).bytes(block));
        format!("{op:?}")
    }

    fn compare_sums(
        &self,
        id: ReplicaId,
        extent: u32,
        since: Since,
        sums: lockstep_store::ExtentSums,
    ) {
        let replica = &self.replicas[&id];
        let touched = replica
            .live()
            .any(|op| op.id >= since.op && op.range.overlaps(BlockRange::of_extent(extent)));
        if touched || since.takebacks != self.takebacks {
            return;
        }
        let range = BlockRange::of_extent(extent);
        let mut checksums = sums.checksums.iter();
        for (at, cell) in replica.cells(range, u64::MAX).iter().enumerate() {
            let there = sums.present & (1 << at) != 0;
            assert_eq!(
                there,
                *cell != Cell::Hole,
                "presence of block {at} of extent {extent}"
            );
            if there {
                let bytes = cell.bytes(range.start + at as u64);
                assert_eq!(checksums.next(), Some(&crc32c::crc32c(&bytes)));
            }
        }
        let newest = replica.newest(extent);
        if sums.present != 0 || replica.holes_known {
            let ops = replica.ops.iter().filter(|o| o.range.overlaps(range));
            let ops: String = ops.map(|o| format!("{o:?}\n")).collect();
            assert_eq!(
                sums.newest,
                newest,
                "the newest record of extent {extent} of {id}:\n{ops}{}",
                self.bench.store.outline()
            );
        }
    }

    fn compare_record(&self, id: ReplicaId, stamp: Stamp, result: Result<Record, StoreError>) {
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let op = replica
            .ops
            .iter()
            .find(|op| !op.copy && op.stamp == stamp)
            .expect("it was listed");
        match result {
            Ok(record) => {
                assert_eq!(
                    (record.stamp, record.kind, record.range),
                    (stamp, op.kind, op.range)
                );
                if op.kind == RecordKind::Write {
                    assert_eq!(record.payload, content(op.salt, op.range));
                    assert!(record.checksums.matches(&record.payload));
                }
            }
            Err(StoreError::Gone(_)) => assert!(
                op.dead
                    || op.superseded
                    || self.unsure.contains_key(&id)
                    || stamp.sequence <= replica.floor.sequence,
                "{stamp:?} of {id} is gone above the floor {:?}: {op:?}\n{}",
                replica.floor,
                self.bench.store.outline()
            ),
            Err(StoreError::NoReplica(_)) => assert!(self.unsure.contains_key(&id)),
            Err(error) => panic!("{stamp:?} {op:?}: {error}\n{}", self.bench.store.outline()),
        }
    }

    fn crash(&mut self) {
        let cut = [
            DROP,
            KEEP,
            MIXED,
            Cut {
                kept: 50,
                dropped: 50,
            },
        ][self.rng.below(4) as usize];
        self.seen.crashes += 1;
        self.digest();
        self.bench.disk.power_cut(&mut self.rng, cut);
        if self.rng.chance(30) {
            self.half_a_recovery(cut);
        }
        let recovery = self
            .bench
            .reopen_or_refused()
            .unwrap_or_else(|why| panic!("refused: {why}"));
        self.resolve(recovery, false);
    }

    /// Recovery is broken off, too.
    fn half_a_recovery(&mut self, cut: Cut) {
        self.bench.store = lockstep_store::Store::open(self.bench.options.clone());
        self.bench.call(|store, now, out| store.start(now, out));
        for _ in 0..self.rng.below(40) {
            self.bench.step();
        }
        self.bench.disk.power_cut(&mut self.rng, cut);
    }

    fn restart(&mut self) {
        self.seen.restarts += 1;
        self.bench.call(|store, now, out| store.shutdown(now, out));
        self.bench.settle();
        self.digest();
        assert!(
            self.bench.store.is_quiet(),
            "it never ends: {}",
            self.bench.store.outline()
        );
        let recovery = self
            .bench
            .reopen_or_refused()
            .unwrap_or_else(|why| panic!("refused: {why}"));
        self.resolve(recovery, true);
    }

    /// What the crash left, compared with what it may have left.
    fn resolve(&mut self, recovery: Recovery, clean: bool) {
        assert!(!recovery.corrupt, "nothing was corrupt");
        self.seen.torn += recovery.torn_batches;
        self.waiting.clear();
        self.reserved.clear();
        self.rolling.clear();
        self.takebacks += 1;
        let voiding = std::mem::take(&mut self.voiding);
        let unsure = std::mem::take(&mut self.unsure);
        let found: BTreeMap<ReplicaId, _> = recovery
            .replicas
            .iter()
            .map(|r| (r.meta.replica, r))
            .collect();
        for id in found.keys() {
            assert!(
                self.replicas.contains_key(id),
                "{id} was never created, or is deleted"
            );
        }
        let gone: Vec<ReplicaId> = self
            .replicas
            .keys()
            .filter(|id| !found.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            assert!(unsure.contains_key(&id), "{id} is gone");
            self.replicas.remove(&id);
            self.promised.remove(&id);
            if self.suspended == Some(id) {
                self.suspended = None;
            }
        }
        for (id, report) in found {
            let promised = self.promised.get(&id).copied().unwrap_or_default();
            assert!(report.meta.promised >= promised, "a promise is forgotten");
            assert_ne!(report.meta.gap, Gap::Corrupt);
            assert!(
                !clean || report.meta.gap == Gap::None,
                "a clean end tears nothing"
            );
            if report.meta.gap != Gap::None {
                self.clear_gap(id);
            }
            self.resolve_replica(id, report, voiding.get(&id).copied(), clean);
        }
        self.verify_all();
    }

    fn clear_gap(&mut self, id: ReplicaId) {
        let mut meta = self.bench.store.meta(id).expect("it was reported").clone();
        meta.gap = Gap::None;
        let tag = self.bench.tag();
        self.bench
            .call(|store, now, out| store.put_meta(now, &meta, tag, out));
        self.bench.settle();
        assert_eq!(self.bench.done(tag), Some(Ok(())));
    }

    fn resolve_replica(
        &mut self,
        id: ReplicaId,
        report: &lockstep_store::RecoveredReplica,
        voiding: Option<Sequence>,
        clean: bool,
    ) {
        let floor = report.meta.floor;
        let tail: BTreeMap<Sequence, Stamp> = self
            .bench
            .store
            .tail(id, floor.sequence)
            .into_iter()
            .map(|r| (r.stamp.sequence, r.stamp))
            .collect();
        let replica = self.replicas.get_mut(&id).expect("it was reported");
        assert!(
            floor <= replica.floor,
            "a floor {floor:?} above {:?}",
            replica.floor
        );
        assert!(
            floor >= replica.floor_known,
            "a floor {floor:?} below {:?}",
            replica.floor_known
        );
        if clean {
            assert_eq!(floor, replica.floor, "a clean end keeps floors");
        }
        replica.holes_known = false;
        let voided = voiding.is_some_and(|above| was_voided(replica, above, &tail));
        if let Some(above) = voiding.filter(|_| voided) {
            bury(replica, above);
        }
        for (sequence, stamp) in &tail {
            let known = replica.records().any(|op| op.stamp == *stamp);
            assert!(
                known,
                "{stamp:?} is there at {sequence:?} and should not be"
            );
        }
        settle_records(replica, floor, &tail, clean);
        replica.floor = floor;
        replica.floor_known = floor;
        for op in &mut replica.ops {
            op.superseded &= op.dead;
        }
        let last = replica.durable_prefix();
        assert_eq!(report.last, last, "the last record without a gap");
        let blocks = replica.records().filter(|op| op.kind == RecordKind::Resize);
        let blocks = blocks.map(|op| op.range.start).max().unwrap_or(0);
        assert!(report.meta.blocks >= blocks, "a size is forgotten");
        let newest = replica.last();
        replica.next = newest.sequence.next();
        replica.epoch = replica.epoch.next();
        let above = replica.above(floor.sequence);
        let epochs: Vec<Epoch> = above.values().flatten().map(|op| op.stamp.epoch).collect();
        if epochs.windows(2).any(|e| e[0] > e[1]) {
            // Rolling was broken off: it is done again under the new epoch.
            self.rolling
                .insert(id, (floor.sequence.next(), newest.sequence));
        }
        self.resolve_copies(id);
    }

    /// A copy that was not acknowledged is there whole or not at all, and not without those before.
    fn resolve_copies(&mut self, id: ReplicaId) {
        let live: Vec<Op> = self.replicas[&id].live().cloned().collect();
        let newest_record = live.iter().filter(|op| !op.copy).map(|op| op.id).max();
        let unsure: Vec<Op> = live
            .into_iter()
            .filter(|op| op.copy && !op.durable)
            .collect();
        // What arrived before a record that survived did, too.
        let sure = unsure
            .iter()
            .filter(|op| Some(op.id) < newest_record)
            .count();
        let found: Vec<Vec<u8>> = unsure
            .iter()
            .map(|op| self.bench.read(id, op.range).expect("nothing is corrupt"))
            .collect();
        let survive = (sure..=unsure.len())
            .rev()
            .find(|survive| self.would_read(id, &unsure, *survive, &found));
        let survive = survive.unwrap_or_else(|| panic!("no part of {unsure:#?} reads like this"));
        self.keep_copies(id, &unsure, survive);
        let replica = self.replicas.get_mut(&id).expect("the caller has it");
        for op in replica.ops.iter_mut().filter(|op| op.copy) {
            op.durable = !op.dead;
        }
    }

    /// The first so many of these copies are alive.
    fn keep_copies(&mut self, id: ReplicaId, unsure: &[Op], survive: usize) {
        let replica = self.replicas.get_mut(&id).expect("the caller has it");
        for (at, copy) in unsure.iter().enumerate() {
            let held = replica.ops.iter_mut().find(|o| o.id == copy.id);
            held.expect("listed").dead = at >= survive;
        }
    }

    /// Whether the replica reads as it would with the first so many of these copies.
    fn would_read(
        &mut self,
        id: ReplicaId,
        unsure: &[Op],
        survive: usize,
        found: &[Vec<u8>],
    ) -> bool {
        self.keep_copies(id, unsure, survive);
        let replica = &self.replicas[&id];
        let newest = |op: &Op| self.bench.store.extent_newest(id, op.range.extent());
        let reads = |(op, bytes): (&Op, &Vec<u8>)| {
            let cells = replica.cells(op.range, u64::MAX);
            let mut blocks = cells
                .iter()
                .zip(bytes.chunks_exact(BLOCK))
                .zip(op.range.start..);
            blocks.all(|((cell, bytes), block)| cell.bytes(block) == bytes)
        };
        unsure[..survive]
            .iter()
            .all(|op| newest(op) >= op.stamp.sequence)
            && unsure.iter().zip(found).all(reads)
    }

    /// Reads everything and compares.
    pub fn verify_all(&mut self) {
        self.audit();
        let ids: Vec<ReplicaId> = self
            .replicas
            .keys()
            .filter(|id| !self.unsure.contains_key(id))
            .copied()
            .collect();
        for id in ids {
            if self.voiding.contains_key(&id) {
                continue;
            }
            for extent in 0..EXTENTS as u32 {
                let range = BlockRange::of_extent(extent);
                let since = self.since();
                let bytes = self
                    .bench
                    .read(id, range)
                    .unwrap_or_else(|why| panic!("extent {extent} of {id}: {why}"));
                self.digest();
                self.compare(id, range, since, &bytes);
                let tag = self.bench.tag();
                self.waiting
                    .insert(tag, Wait::Sums(id, extent, self.since()));
                self.bench
                    .call(|store, now, out| store.extent_sums(now, tag, id, extent, out));
                self.bench.settle();
                self.digest();
            }
        }
    }

    /// With time alone everything becomes durable, whatever the floors do (S5).
    pub fn drain(&mut self) {
        for _ in 0..40 {
            self.bench.idle(millis(600));
            self.digest();
            let ids: Vec<ReplicaId> = self.rolling.keys().copied().collect();
            if ids.is_empty() && self.waiting.is_empty() {
                break;
            }
            for id in ids {
                if !self.unsure.contains_key(&id) && !self.voiding.contains_key(&id) {
                    self.roll_on(id);
                }
            }
        }
        assert!(
            self.waiting.is_empty(),
            "never answered: {:?}",
            self.waiting
        );
        for replica in self.replicas.values() {
            for op in replica.live() {
                assert!(
                    op.durable || op.superseded,
                    "{op:?} of {} is stuck: {}",
                    replica.id,
                    self.bench.store.outline()
                );
            }
        }
        self.audit();
    }

    /// Deletes everything; every extent is free then.
    fn delete_all(&mut self) {
        let ids: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        for id in ids {
            self.delete_one(id);
            self.bench.idle(seconds(2));
            self.digest();
        }
        self.bench.idle(seconds(10));
        self.digest();
        assert!(self.replicas.is_empty());
        let store = &self.bench.store;
        assert_eq!(
            store.free_extents(),
            store.total_extents(),
            "extents have leaked"
        );
        self.seen.laps = store.laps();
        self.audit();
    }
}

fn bury(replica: &mut Replica, above: Sequence) {
    for op in replica
        .ops
        .iter_mut()
        .filter(|op| op.stamp.sequence > above)
    {
        op.dead = true;
    }
}

/// A void under way at the crash is there or not, for all records at once.
fn was_voided(replica: &Replica, above: Sequence, tail: &BTreeMap<Sequence, Stamp>) -> bool {
    let durable: Vec<Sequence> = replica
        .records()
        .filter(|op| op.durable && op.stamp.sequence > above)
        .map(|op| op.stamp.sequence)
        .collect();
    let there = durable.iter().filter(|s| tail.contains_key(s)).count();
    assert!(
        there == 0 || there == durable.len(),
        "half a void: of {durable:?} above {above:?} these are there: {tail:?}"
    );
    // With none durable either is possible; what is there tells.
    if durable.is_empty() {
        !tail.keys().any(|s| *s > above)
    } else {
        there == 0
    }
}

/// Which version of each sequence survived, in order of arrival without exception.
fn settle_records(
    replica: &mut Replica,
    floor: Stamp,
    tail: &BTreeMap<Sequence, Stamp>,
    clean: bool,
) {
    let mut newest_durable: BTreeMap<Sequence, Epoch> = BTreeMap::new();
    for op in replica.records().filter(|op| op.durable) {
        let held = newest_durable.entry(op.stamp.sequence).or_default();
        *held = (*held).max(op.stamp.epoch);
    }
    let mut lost: Option<Stamp> = None;
    for op in replica.ops.iter_mut().filter(|op| !op.copy && !op.dead) {
        let sequence = op.stamp.sequence;
        let durable = newest_durable.get(&sequence).copied();
        let alive = if sequence <= floor.sequence {
            durable == Some(op.stamp.epoch)
        } else {
            let there = tail.get(&sequence);
            assert!(
                there.map(|s| s.epoch) >= durable,
                "{:?} was acknowledged and is lost; there is {there:?}",
                op.stamp
            );
            there == Some(&op.stamp)
        };
        if !op.durable && !op.superseded {
            match (alive, lost) {
                (true, Some(before)) => panic!("{:?} is there without {before:?}", op.stamp),
                (false, None) => lost = Some(op.stamp),
                _ => {}
            }
        }
        assert!(
            !clean || alive || op.superseded,
            "{:?} is lost by a clean end",
            op.stamp
        );
        op.dead = !alive;
        op.durable = alive;
    }
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.laps += other.laps;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.records += other.records;
        self.copies += other.copies;
        self.voids += other.voids;
        self.rolls += other.rolls;
        self.deleted += other.deleted;
        self.reads += other.reads;
        self.torn += other.torn;
        self.refused += other.refused;
    }
}
