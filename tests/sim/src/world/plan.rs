//! What a seed's world is made of, and which faults it suffers: every rate is drawn, zero included.

use super::client::Habits;
use crate::net::NetFaults;
use crate::rng::Rng;
use crate::run::Less;
use lockstep_types::{Nanos, SECOND, millis};
use std::ops::Range;

/// The kinds of faults, as bits of [`Less::faults_off`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum FaultKind {
    /// Loss, duplication, reordering, clogging, resets.
    Network = 0,
    /// Cuts between nodes and sites.
    Partition = 1,
    /// Processes killed and restarted.
    Crash = 2,
    /// Machines that lose power, one or a site at a time.
    Power = 3,
    /// The whole cluster loses power.
    Blackout = 4,
    /// Processes stopped for longer than a lease.
    Pause = 5,
    /// Clocks that drift.
    Drift = 6,
    /// Devices that fail for good.
    DeviceFailure = 7,
    /// Rot, unreadable sectors, lost and misdirected writes, inside the atlas.
    Corruption = 8,
    /// Devices that become slow.
    Slow = 9,
    /// Devices swapped or formatted anew at a restart.
    Swap = 10,
    /// Pools too small for what is written.
    Full = 11,
    /// Floors that are told get lost on the way.
    LostFloors = 12,
    /// Devices of one site take long for a durable write, so that a SEAL meets one.
    SealInFlush = 13,
    /// Joins are interrupted, each twice.
    JoinBroken = 14,
    /// Volumes are attached again while requests are held on the old device.
    AttachBeside = 15,
    /// One pool alone is too small for what is written.
    FullOnOne = 16,
    /// One device is slow for so long that the soft rule sends its copy away.
    SlowForLong = 17,
    /// Voters lose their raft logs with the power, one at a time, the witness too.
    LogLost = 18,
    /// An operation on a raft log fails: no room, or an error of the disk.
    LogFails = 19,
}

/// Those that strike now and then.
pub const STRIKING: [FaultKind; 8] = [
    FaultKind::Partition,
    FaultKind::Crash,
    FaultKind::Power,
    FaultKind::Blackout,
    FaultKind::Pause,
    FaultKind::DeviceFailure,
    FaultKind::Slow,
    FaultKind::Swap,
];

/// How many kinds there are.
pub const FAULT_KINDS: u32 = 20;

/// A world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Data nodes in site a, and in site b.
    pub data_nodes: [usize; 2],
    /// Mean one-way delay inside a site, between a and b, and from either to the witness.
    pub delays: [Nanos; 3],
    /// The volumes.
    pub volumes: Vec<VolumePlan>,
    /// Bytes of each pool.
    pub pool_bytes: u64,
    /// How the network behaves while faults last.
    pub net: NetFaults,
    /// How long faults last.
    pub duration: Nanos,
    /// Client operations in all, at most.
    pub operations: u64,
    /// Mean time between two operations of one client while it is busy, a tenth of those it has otherwise.
    pub think: Nanos,
    /// When clients are busy.
    pub busy: Range<Nanos>,
    /// Mean time between two faults of each kind; none: never.
    pub every: [Option<Nanos>; 12],
    /// Mean time between two actions of the operator; none: never.
    pub operator_every: Option<Nanos>,
    /// Parts in a million that clocks drift at most.
    pub drift: u32,
    /// The data node that rot may strike: the atlas leaves the others whole.
    pub victim: usize,
    /// Rates of corruption on the victim.
    pub corruption: [u32; 4],
    /// What clients do; none: drawn for each.
    pub habits: Option<Habits>,
    /// Bit i: the fault of kind i, which a tenth of the seeds have.
    pub odd: u32,
    /// The one pool that is small.
    pub small: usize,
    /// A scrub goes round a device in this time; none: in a week, and so not at all.
    pub scrub_pass: Option<Nanos>,
    /// The node whose devices lie about flushes: over budget only.
    pub liar: Option<usize>,
    /// More is lost than the cluster is built to survive: an error or a volume that waits, never wrong
    /// data.
    pub over_budget: bool,
}

/// A volume.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    /// What placement is asked for.
    pub copies: &'static str,
    /// Whether writes wait rather than stand in one site.
    pub strict: bool,
    /// Blocks at creation.
    pub blocks: u64,
}

impl Plan {
    /// The world of a seed.
    pub fn draw(rng: &mut Rng, less: &Less) -> Self {
        let mut shape = rng.split("shape");
        let data_nodes = if less.few_nodes {
            [1, 1]
        } else {
            [shape.between(1, 3) as usize, shape.between(1, 3) as usize]
        };
        let delays = draw_delays(&mut shape);
        let mut faults = rng.split("faults");
        let duration = faults.between(20, 120) * SECOND;
        let mut net = NetFaults::draw(&mut rng.split("net"));
        let mut every = draw_every(&mut faults, less, duration);
        if every[FaultKind::Network as usize].is_none() {
            net = NetFaults {
                give_up: net.give_up,
                backoff: net.backoff,
                ..NetFaults::none()
            };
        }
        let victim = faults.below((data_nodes[0] + data_nodes[1]) as u64) as usize;
        let corruption = [100_000, 100_000, 20_000, 20_000].map(|most| faults.rate(most));
        let mut load = rng.split("load");
        let operations = match less.operations {
            0 => load.between(100, 4_000),
            n => u64::from(n),
        };
        let drift = if every[FaultKind::Drift as usize].is_some() {
            10_000
        } else {
            0
        };
        let operator_on = load.per_cent(60) && !less.no_operator;
        let operator_every = operator_on.then(|| load.between(duration / 20, duration / 2));
        let volumes = draw_volumes(&mut load, less, data_nodes);
        // `strict` keeps a lost copy's place until an operator gives the site another: not here.
        if volumes.iter().any(|volume| volume.strict) {
            every[FaultKind::Corruption as usize] = None;
        }
        let full = every[FaultKind::Full as usize].is_some();
        let mut scrub = rng.split("scrub");
        let scrub_pass = scrub.per_cent(50).then(|| scrub.between(4, 40) * SECOND);
        let (odd, small) = draw_odd(&mut rng.split("odd"), less, data_nodes);
        Self {
            data_nodes,
            delays,
            volumes,
            pool_bytes: if full { 12 << 20 } else { 24 << 20 },
            net,
            duration,
            operations,
            think: millis(load.between(1, 40)),
            busy: 0..Nanos::MAX,
            every,
            operator_every,
            drift,
            victim,
            corruption,
            habits: None,
            odd,
            small,
            scrub_pass,
            liar: None,
            over_budget: false,
        }
        .watching_the_slow()
    }

    /// Mean time between two operations of one client at this moment.
    pub fn think_at(&self, now: Nanos) -> Nanos {
        match self.busy.contains(&now) {
            true => self.think,
            false => self.think * 10,
        }
    }

    /// If a device is slow for long: room for three windows of observation, in which there is enough to
    /// observe and nothing strikes, two copies in a, and clients that do not run dry.
    fn watching_the_slow(mut self) -> Self {
        if !self.odd(FaultKind::SlowForLong) {
            return self;
        }
        for kind in STRIKING {
            self.every[kind as usize] = None;
        }
        self.operator_every = None;
        // A scrub does not wait for its own reads: on a slow device they pile up (seed 60111, V10).
        self.scrub_pass = None;
        self.duration = self.duration.max(160 * SECOND);
        self.think = self.think.max(millis(60));
        self.operations = self.operations.max(6_000);
        if self.data_nodes[0] >= 2 {
            self.volumes[0].copies = "a=2,b=1";
        }
        self
    }

    /// Whether the seed has this fault of those that only some have.
    pub fn odd(&self, kind: FaultKind) -> bool {
        self.odd >> kind as u32 & 1 == 1
    }

    /// Bytes of the pool of a data node.
    pub fn pool_bytes_of(&self, node: usize) -> u64 {
        let small = self.odd(FaultKind::FullOnOne) && node == self.small;
        if small { 12 << 20 } else { self.pool_bytes }
    }

    /// Mean time between two faults of a kind.
    pub fn every(&self, kind: FaultKind) -> Option<Nanos> {
        self.every[kind as usize]
    }
}

/// Mean one-way delays inside a site, between a and b (mostly a metropolitan distance; as far as it gets in an
/// eighth of the seeds), and to the witness.
fn draw_delays(shape: &mut Rng) -> [Nanos; 3] {
    let between = match shape.below(8) {
        0 => shape.between(200_000, millis(100)),
        _ => shape.between(200_000, millis(20)) >> shape.below(4),
    };
    [
        shape.between(20_000, 400_000),
        between,
        shape.between(millis(1), millis(100)),
    ]
}

/// Mean time between two faults of each kind.
fn draw_every(faults: &mut Rng, less: &Less, duration: Nanos) -> [Option<Nanos>; 12] {
    let mut every = [None; 12];
    for (kind, slot) in every.iter_mut().enumerate() {
        let (on, mean) = (faults.per_cent(45), faults.between(duration / 16, duration));
        *slot = (on && less.faults_off >> kind & 1 == 0).then_some(mean);
    }
    every
}

fn draw_volumes(load: &mut Rng, less: &Less, data_nodes: [usize; 2]) -> Vec<VolumePlan> {
    let count = if less.one_volume {
        1
    } else {
        load.between(1, 3)
    };
    (0..count)
        .map(|_| VolumePlan::draw(load, data_nodes))
        .collect()
}

/// The faults that a tenth of the seeds have each, and the node whose pool is small.
fn draw_odd(dice: &mut Rng, less: &Less, data_nodes: [usize; 2]) -> (u32, usize) {
    let mut odd = 0;
    for kind in FaultKind::LostFloors as u32..=FaultKind::FullOnOne as u32 {
        if dice.per_cent(10) && less.faults_off >> kind & 1 == 0 {
            odd |= 1 << kind;
        }
    }
    let small = dice.below((data_nodes[0] + data_nodes[1]) as u64) as usize;
    for kind in FaultKind::SlowForLong as u32..FAULT_KINDS {
        if dice.per_cent(10) && less.faults_off >> kind & 1 == 0 {
            odd |= 1 << kind;
        }
    }
    (odd, small)
}

impl VolumePlan {
    /// One that this world has nodes for.
    pub fn draw(rng: &mut Rng, data_nodes: [usize; 2]) -> Self {
        let all = data_nodes[0] + data_nodes[1];
        let mut possible = vec!["*=1", "2", "a=1,b=1"];
        if data_nodes[0] >= 2 {
            possible.push("a=2,b=1");
        }
        if all >= 3 {
            possible.push("3");
        }
        if data_nodes[0] >= 2 && data_nodes[1] >= 2 {
            possible.push("*=2");
        }
        Self {
            copies: rng.pick::<&str>(&possible),
            strict: rng.per_cent(30),
            blocks: rng.between(2, 12) * 64,
        }
    }
}
