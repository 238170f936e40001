//! One store on one crashing device: appends, reads, copies, discards, voids, floors, power cuts,
//! kills with late writes, and recovery, against a plain model of what must be there.

mod acts;
mod checks;
mod finish;
mod model;
mod plan;
mod script;

use crate::coverage::Coverage;
use crate::disk::Disk;
use crate::invariants::v05_linearizable::Value;
use crate::mutation::Mutation;
use crate::queue::EventQueue;
use crate::rng::Rng;
use crate::run::{Config, Failure, Outcome};
use crate::trace::Trace;
use crate::words;
use lockstep_store::{DiskToken, Event as StoreEvent, OpenOptions, Output, Recovery, Store, Tag};
use lockstep_types::{
    BlockRange, Epoch, Gap, Incarnation, LineageId, Nanos, ReplicaId, ReplicaMeta, Sequence, Stamp,
    VolumeId, millis,
};
use model::{Made, Model, Values};
pub use plan::Plan;
pub use script::Step;
use std::collections::{BTreeMap, BTreeSet};

/// A run with more events than this goes round in circles.
const MOST_EVENTS: u64 = 400_000;

enum Event {
    Disk { life: u64, id: u64 },
    Timer { life: u64 },
    Act,
    Crash { kill: bool },
    Start,
}

pub(crate) struct Owned {
    pub id: ReplicaId,
    pub number: u64,
    pub model: Model,
    pub meta: ReplicaMeta,
    pub created: bool,
    pub epoch: Epoch,
    pub floor: Stamp,
    pub granted: u32,
    /// Void asked for and not yet durable.
    pub voiding: Option<(Tag, Sequence)>,
    pub pinned: bool,
    /// What was durable before the last batch: the mark covers it (R24).
    pub marked: Stamp,
}

impl Owned {
    /// No mark covers what a replica lacks if this is its last record.
    fn is_beyond_mark(&self, last: Stamp) -> bool {
        let same = last.sequence == self.marked.sequence && last.epoch >= self.marked.epoch;
        same || last.sequence > self.marked.sequence
    }
}

pub(crate) struct Reading {
    pub replica: usize,
    pub range: BlockRange,
    /// The last durable sequence when it began: what it gives is at least as new, unless it was voided.
    pub from: Sequence,
    /// What it may give beside, by block: what was made void under it.
    pub voided: BTreeMap<u64, Vec<Value>>,
}

/// The world of one store.
pub struct StoreWorld {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    queue: EventQueue<Event>,
    rng: Rng,
    pub(crate) disk: Disk,
    store: Option<Store>,
    options: OpenOptions,
    mutation: Option<Mutation>,
    life: u64,
    timer: Option<Nanos>,
    /// Journal batches on their way.
    batches: BTreeSet<DiskToken>,
    pub(crate) replicas: Vec<Owned>,
    pub(crate) values: Values,
    pub(crate) reading: BTreeMap<Tag, Reading>,
    tags: Tag,
    left: u64,
    operations: u64,
    /// Disk operations begun or ended.
    pub(crate) disk_steps: u64,
    pub(crate) recovering: bool,
    pub(crate) failed_device: bool,
    pub(crate) failure: Option<Failure>,
}

/// Runs a seed.
pub fn run(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let plan = Plan::draw(&mut rng.split("plan"));
    run_plan(config, plan, rng)
}

/// Runs a plan.
pub fn run_plan(config: &Config, plan: Plan, rng: Rng) -> Outcome {
    run_counting(config, plan, rng).0
}

/// Runs a plan, and counts the disk operations begun or ended.
pub fn run_counting(config: &Config, mut plan: Plan, mut rng: Rng) -> (Outcome, u64) {
    if config.less.operations > 0 {
        plan.actions = u64::from(config.less.operations);
    }
    if config.less.faults_off & 1 << 8 != 0 {
        plan.corruption = [0; 4];
    }
    let mut disk = Disk::new(plan.device_bytes, plan.profile.clone(), rng.split("disk"));
    let window_bytes = plan.reserved() as u32;
    let mut options = checks::format(&mut disk, &plan, window_bytes, &mut rng);
    if let Some(Mutation::Store(mutation)) = config.mutation {
        options.broken = crate::mutation::broken_store(mutation);
    }
    disk.profile.corrupt(plan.corruption);
    disk.profile.corruptible = match plan.metadata_only {
        true => checks::metadata(&plan, window_bytes),
        false => 0..plan.device_bytes,
    };
    let mut world = StoreWorld {
        trace: config.trace(),
        coverage: Coverage::default(),
        queue: EventQueue::default(),
        disk,
        store: None,
        options,
        mutation: config.mutation,
        life: 0,
        timer: None,
        batches: BTreeSet::new(),
        replicas: Vec::new(),
        values: Values::default(),
        reading: BTreeMap::new(),
        tags: 0,
        left: plan.actions,
        operations: 0,
        disk_steps: 0,
        recovering: true,
        failed_device: false,
        failure: None,
        rng,
        plan,
    };
    for i in 0..world.plan.replicas {
        world.add_replica(i);
    }
    world.queue.at(0, Event::Start);
    world.queue.at(millis(5), Event::Act);
    world.run();
    let outcome = Outcome {
        failure: world.failure,
        coverage: world.coverage,
        simulated: world.queue.now(),
        events: world.trace.events(),
        operations: world.operations,
        hash: world.trace.hash(),
        steps: world.trace.steps().to_vec(),
    };
    (outcome, world.disk_steps)
}

impl StoreWorld {
    fn add_replica(&mut self, i: usize) {
        let id = ReplicaId::from_u128(0x70 + i as u128);
        let lineage = LineageId::from_u128(self.rng.id());
        let meta = ReplicaMeta::new(
            id,
            VolumeId::from_u128(0xf0 + i as u128),
            lineage,
            Incarnation(1),
            self.plan.blocks,
        );
        self.replicas.push(Owned {
            id,
            number: i as u64 + 1,
            model: Model::default(),
            meta,
            created: false,
            epoch: Epoch(1),
            floor: Stamp::ZERO,
            granted: 0,
            voiding: None,
            pinned: self.plan.pinned && i == 0,
            marked: Stamp::ZERO,
        });
    }

    fn run(&mut self) {
        while self.failure.is_none() {
            let Some(event) = self.queue.pop() else { break };
            let now = self.queue.now();
            if self.trace.events() > MOST_EVENTS {
                return self.fail("V10", format!("{MOST_EVENTS} events, and no end"));
            }
            match event {
                Event::Disk { life, id } => self.on_disk(life, id),
                Event::Timer { life } => {
                    if life == self.life && self.timer == Some(now) {
                        self.timer = None;
                        self.trace.event(&(now, 't'));
                        self.with(|store, out| store.timer(now, out));
                    }
                }
                Event::Act => self.act(),
                Event::Crash { kill } => self.crash(kill),
                Event::Start => self.start(),
            }
            if self.left == 0 && self.reading.is_empty() {
                break;
            }
        }
        if self.failure.is_none() && !self.failed_device {
            self.finish();
        }
    }

    fn start(&mut self) {
        if self.store.is_some() {
            return;
        }
        self.life += 1;
        self.timer = None;
        self.batches.clear();
        self.recovering = true;
        // R23
        if self.mutation != Some(Mutation::Shell(crate::mutation::ShellMutation::R23NoClaim)) {
            self.disk.claim(&mut self.coverage);
        }
        if self.plan.stuck > 1 {
            self.disk.take_another_path();
        }
        self.say(format_args!("the store opens"));
        let now = self.queue.now();
        self.store = Some(Store::open(self.options.clone()));
        self.with(|store, out| store.start(now, out));
    }

    fn crash(&mut self, kill: bool) {
        if self.store.take().is_none() {
            return;
        }
        self.life += 1;
        self.reading.clear();
        if kill {
            self.coverage.hit("store: killed");
            self.say(format_args!("the process is killed"));
            let late = self.rng.per_cent(30);
            self.disk.kill(late);
        } else {
            self.coverage.hit("store: power cut");
            self.say(format_args!("the power goes"));
            self.disk.power_cut(&mut self.coverage);
        }
        for owned in &mut self.replicas {
            owned.granted = 0;
        }
        let (least, most) = self.plan.restart;
        let wait = self.rng.between(least, most);
        self.queue.after(wait, Event::Start);
    }

    /// Lets the store do something and carries out what it wants.
    fn with(&mut self, f: impl FnOnce(&mut Store, &mut Vec<Output>)) {
        let Some(store) = self.store.as_mut() else {
            return;
        };
        let mut out = Vec::new();
        f(store, &mut out);
        let (now, life) = (self.queue.now(), self.life);
        for output in out {
            if life != self.life {
                return; // the power went meanwhile: nothing of this was said or begun
            }
            match output {
                Output::Disk(op) => {
                    if self.trace.wants_words() {
                        self.say(format_args!("  disk {}", crate::disk::describe(&op)));
                    }
                    self.note_batch(&op);
                    let submitted = self.disk.submit(now, op);
                    self.queue.at(
                        submitted.done_at,
                        Event::Disk {
                            life: self.life,
                            id: submitted.id,
                        },
                    );
                    self.disk_step();
                }
                Output::Event(event) => self.on_event(event),
            }
        }
        self.set_timer();
    }

    /// A disk operation began or ended; the plan may say that the power goes now.
    fn disk_step(&mut self) {
        self.disk_steps += 1;
        if self.plan.cut_at == Some(self.disk_steps) {
            self.coverage.hit("store: power cut at a step");
            self.crash(false);
        }
    }

    fn set_timer(&mut self) {
        let now = self.queue.now();
        let Some(at) = self.store.as_ref().and_then(Store::next_timer) else {
            return;
        };
        let at = at.max(now + 1);
        if self.timer.is_none_or(|set| at < set) {
            self.timer = Some(at);
            self.queue.at(at, Event::Timer { life: self.life });
        }
    }

    fn on_disk(&mut self, life: u64, id: u64) {
        let now = self.queue.now();
        let Some((token, result)) = self.disk.complete(now, id, &mut self.coverage) else {
            return;
        };
        assert_eq!(
            life, self.life,
            "only operations of the living are answered"
        );
        self.trace.event(&(now, token, &result));
        self.batch_ended(token);
        if self.trace.wants_words() {
            self.say(format_args!(
                "  disk #{token} {}",
                checks::result_words(&result)
            ));
        }
        self.disk_step();
        self.with(|store, out| store.disk_done(now, token, result, out));
    }

    fn on_event(&mut self, event: StoreEvent) {
        if self.trace.wants_words() {
            self.say(format_args!("* {}", words::short(&event)));
        }
        match event {
            StoreEvent::Recovered(recovery) => self.recovered(recovery),
            StoreEvent::Durable { replica, stamp } => {
                let owned = self.owned(replica);
                if let Err(why) = owned.model.report(stamp) {
                    self.fail("V2", why);
                }
            }
            StoreEvent::Done { tag, result } => self.done(tag, result.is_ok()),
            StoreEvent::Copied { result, .. } => {
                self.coverage.hit(if result.is_ok() {
                    "store: copied"
                } else {
                    "store: copy refused"
                });
            }
            StoreEvent::Read { tag, result } => self.was_read(tag, result),
            StoreEvent::DeviceFailed { what, .. } => {
                self.coverage.hit("store: device failed");
                self.failed_device = true;
                self.left = 0;
                self.reading.clear();
                if self.plan.corruption == [0; 4] {
                    self.fail("device", format!("a healthy device was given up: {what}"));
                }
            }
            StoreEvent::Corrupt { .. } => {
                self.coverage.hit("store: corruption reported");
                if self.plan.corruption == [0; 4] {
                    self.fail(
                        "V2",
                        "blocks are called corrupt on a device that never lied",
                    );
                }
            }
            StoreEvent::RecordRead { .. } | StoreEvent::ExtentSums { .. } => {}
        }
    }

    fn recovered(&mut self, recovery: Recovery) {
        self.recovering = false;
        self.coverage.hit("store: recovered");
        self.coverage
            .add("store: torn batch dropped", recovery.torn_batches);
        if recovery.corrupt {
            self.coverage.hit("store: journal corrupt");
        }
        if self.trace.wants_words() {
            for found in &recovery.replicas {
                let (meta, last) = (&found.meta, found.last);
                self.say(format_args!(
                    "  {:?} last {last} floor {} gap {:?} torn {}",
                    meta.replica,
                    meta.floor,
                    meta.gap,
                    found.torn.len()
                ));
            }
        }
        let rots = self.plan.corruption != [0; 4];
        for found in &recovery.replicas {
            if rots && found.meta.gap == Gap::Corrupt {
                continue; // the newer record may be what is missing (store seed 1100586)
            }
            let owned = self.owned(found.meta.replica);
            if let Err(why) = owned.model.check_epoch(found.last) {
                // Beyond the mark a lost write may have been the one that rolled it (store seed 1814386).
                if rots && owned.is_beyond_mark(found.last) {
                    return self.ends_with("store: last batch lost beyond the mark");
                }
                return self.fail("V2", why);
            }
        }
        if let Err(why) = self.check_recovery(&recovery) {
            return self.fail("V2", why);
        }
        for i in 0..self.replicas.len() {
            if self.failure.is_some() || self.failed_device {
                return;
            }
            if self.replicas[i].created {
                self.reopen(i);
            } else {
                let (now, tag) = (self.queue.now(), self.tag());
                let meta = self.replicas[i].meta.clone();
                self.replicas[i].voiding = Some((tag, Sequence(u64::MAX)));
                self.with(|store, out| store.create_replica(now, meta, tag, out));
            }
        }
    }

    /// The owner goes on under a new epoch: the tail is rolled forward, or dropped down to a cut.
    fn reopen(&mut self, i: usize) {
        let owned = &mut self.replicas[i];
        owned.epoch = owned.epoch.next();
        let floor = owned.floor;
        let last = owned.model.last();
        if last > floor.sequence && self.rng.per_cent(25) {
            let cut = Sequence(self.rng.between(floor.sequence.0, last.0));
            return self.void(i, cut);
        }
        let tail: Vec<Made> = owned
            .model
            .records
            .range(floor.sequence.next()..)
            .map(|(_, made)| made.clone())
            .collect();
        let epoch = owned.epoch;
        for made in tail {
            self.coverage.hit("store: record rolled forward");
            self.replicas[i].model.rolling.insert(made.stamp.sequence);
            self.append_made(
                i,
                Made {
                    stamp: Stamp::new(epoch, made.stamp.sequence),
                    ..made
                },
                false,
            );
        }
    }

    fn done(&mut self, tag: Tag, good: bool) {
        let Some(i) = self
            .replicas
            .iter()
            .position(|owned| owned.voiding.is_some_and(|(t, _)| t == tag))
        else {
            return;
        };
        let owned = &mut self.replicas[i];
        let (_, cut) = owned.voiding.take().expect("looked at above");
        if !good {
            return;
        }
        if owned.created {
            owned.model.cut(cut);
            owned.epoch = owned.epoch.next();
        }
        owned.created = true;
    }

    fn owned(&mut self, id: ReplicaId) -> &mut Owned {
        self.replicas
            .iter_mut()
            .find(|owned| owned.id == id)
            .expect("the store speaks of its replicas")
    }

    fn tag(&mut self) -> Tag {
        self.tags += 1;
        self.tags
    }

    pub(crate) fn fail(&mut self, what: &str, why: impl Into<String>) {
        let why = why.into();
        self.say(format_args!("BROKEN {what}: {why}"));
        self.failure.get_or_insert(Failure::new(what, why));
    }

    pub(crate) fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.say(self.queue.now(), "store", what);
    }
}
