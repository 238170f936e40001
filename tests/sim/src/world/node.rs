//! A node of the world: a machine with devices and a log folder, and the process that runs on it.

use super::plan::{FaultKind, Plan};
use super::step::Inward;
use super::voters::Electors;
use super::{SITES, World};
use crate::clock::Clock;
use crate::control::{Folder, Voter};
use crate::disk::{Disk, Profile};
use crate::mutation::{self, Mutation, ShellMutation};
use crate::net::NodeIndex;
use crate::rng::Rng;
use lockstep_consensus::Config as VoterConfig;
use lockstep_consensus::log::{LogIdentity, genesis};
use lockstep_logic::{Node, NodeConfig};
use lockstep_protocol::Timings;
use lockstep_store::{FormatOptions, NewPool, OpenOptions};
use lockstep_types::{
    AttachmentId, BLOCK, ClusterId, DeviceId, Incarnation, Nanos, NodeId, NodeRole, SECOND,
    VolumeId,
};
use std::collections::{BTreeMap, VecDeque};

/// Superblocks, metadata and the ring of a simulated pool lie below this.
pub(super) const DATA_FROM: u64 = 6 << 20;

/// Replicas that a simulated pool can hold.
pub(super) const PLACES: u32 = 8;

/// What a machine is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// It has power; a process may run.
    On,
    /// It has none.
    Off,
}

/// A node.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// a1, a2, b1, w.
    pub name: String,
    /// 0 is a, 1 is b, 2 is w.
    pub site: usize,
    /// What it does.
    pub role: NodeRole,
    pub(crate) machine: Machine,
    pub(crate) process: Option<Process>,
    /// Stopped by a signal; what comes in waits.
    pub(crate) paused: bool,
    pub(crate) inbox: VecDeque<Inward>,
    pub(crate) clock: Clock,
    pub(crate) boots: u64,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) folder: Folder,
    /// Its voter's raft id; 0 for none.
    pub(crate) raft_id: u64,
    /// Front-end devices that exist on the machine: they outlive the process.
    pub(crate) devices: BTreeMap<VolumeId, AttachmentId>,
    pub(crate) drift: i32,
    pub(crate) seed: Rng,
}

/// A device of a node.
pub struct SimDisk {
    /// Its id, as its superblock would say.
    pub device: DeviceId,
    /// The device.
    pub disk: Disk,
    /// Counts exchanges: operations of an exchanged device come to nothing.
    pub life: u64,
    /// Whether a pool was made on it.
    pub formatted: bool,
    /// What the daemon keeps of it in `pools/DEVICE.failed`.
    pub failed_before: bool,
    /// It fails for a while, and answers to what was read of it meanwhile may be on their way until then.
    pub shaky_until: Nanos,
}

/// A running daemon.
pub struct Process {
    /// Names this start.
    pub boot: u64,
    /// The data plane; the witness has none.
    pub data: Option<Node>,
    /// Its raft log, which votes or learns; none once it failed.
    pub voter: Option<Voter>,
    /// When its timer is scheduled, in the world's time.
    pub timer: Option<Nanos>,
    /// Timers in a row that were due at once again, and when the last one was.
    pub spins: u32,
    pub last_timer: Nanos,
    /// When it began, in the world's time.
    pub started: Nanos,
    /// Its raft log failed: it goes on without (decision 0009).
    pub log_failed: bool,
    /// What it knows of who votes.
    pub electors: Electors,
}

pub(super) fn build(plan: &Plan, rng: &mut Rng) -> Vec<SimNode> {
    let mut nodes = Vec::new();
    for (site, label) in SITES.iter().enumerate() {
        let count = if site == 2 { 1 } else { plan.data_nodes[site] };
        for i in 1..=count {
            let name = if site == 2 {
                (*label).to_string()
            } else {
                format!("{label}{i}")
            };
            nodes.push(SimNode::new(nodes.len(), name, site, plan, rng));
        }
    }
    nodes
}

impl SimNode {
    fn new(index: usize, name: String, site: usize, plan: &Plan, rng: &mut Rng) -> Self {
        let role = if site == 2 {
            NodeRole::Witness
        } else {
            NodeRole::Data
        };
        let mut disks = Vec::new();
        if role == NodeRole::Data {
            let mut profile = Profile::draw(rng);
            if plan.victim == index && plan.every(FaultKind::Corruption).is_some() {
                // The rates themselves are set when the volumes stand.
                profile.corruptible = 0..plan.pool_bytes_of(index);
            }
            let device = DeviceId::from_u128(0xd00 + index as u128);
            if plan.liar == Some(index) {
                profile.lying = Some(rng.between(4, 400));
            }
            if plan.odd(FaultKind::SealInFlush) && site == plan.small % 2 {
                profile.latency *= 20;
            }
            let disk = Disk::new(plan.pool_bytes_of(index), profile, rng.split("disk"));
            disks.push(SimDisk {
                device,
                disk,
                life: 0,
                formatted: false,
                failed_before: false,
                shaky_until: 0,
            });
        }
        let drift = match plan.drift {
            0 => 0,
            max => rng.between(0, 2 * u64::from(max)) as i32 - max as i32,
        };
        Self {
            id: NodeId::from_u128(0x100 * (site as u128 + 0xa) + index as u128 + 1),
            name,
            site,
            role,
            machine: Machine::On,
            process: None,
            paused: false,
            inbox: VecDeque::new(),
            clock: Clock::new(0, rng.below(1000 * SECOND), drift),
            boots: 0,
            disks,
            folder: Folder::default(),
            raft_id: 0,
            devices: BTreeMap::new(),
            drift,
            seed: rng.split("node"),
        }
    }

    /// Whether a process runs and is not stopped.
    pub fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    pub(crate) fn voter(&self) -> Option<&Voter> {
        self.process
            .as_ref()
            .and_then(|process| process.voter.as_ref())
    }

    pub(crate) fn data(&self) -> Option<&Node> {
        self.process
            .as_ref()
            .and_then(|process| process.data.as_ref())
    }
}

impl World {
    /// Makes the founding voters' logs: one each in a, b and w, or two in a and b where there are two
    /// nodes in each.
    pub(super) fn found_cluster(&mut self) {
        let each = if self.plan.data_nodes.iter().all(|n| *n >= 2) {
            2
        } else {
            1
        };
        let mut founders = Vec::new();
        for site in 0..3 {
            founders.extend(self.nodes_of_site(site).into_iter().take(each));
        }
        for (i, node) in founders.iter().enumerate() {
            self.nodes[*node].raft_id = i as u64 + 1;
        }
        let state = self.founding_state();
        let data = lockstep_control::encode_snapshot(&state);
        let ids: Vec<u64> = (1..=founders.len() as u64).collect();
        let first = genesis(&ids, data.into());
        self.genesis = Some(first.clone());
        for node in founders {
            let identity = self.log_identity(node);
            Voter::found(&mut self.nodes[node].folder, identity, Some(&first));
        }
        self.committed.applied = 1;
        self.committed.electorates = vec![state.voters.voting.clone()];
        self.committed.state = state;
    }

    fn log_identity(&mut self, node: NodeIndex) -> LogIdentity {
        LogIdentity {
            cluster: self.cluster,
            node: self.nodes[node].id,
            raft_id: self.nodes[node].raft_id,
            incarnation: self.dice.next_u64(),
        }
    }

    /// Starts the process of a node that has power.
    pub(super) fn start(&mut self, node: NodeIndex) {
        let now = self.now();
        let cluster = self.cluster;
        assert!(self.nodes[node].process.is_none(), "one process a node");
        self.nodes[node].boots += 1;
        let boot = (node as u64) << 32 | self.nodes[node].boots;
        self.say_node(node, format_args!("starts, boot {boot:#x}"));
        let local = self.nodes[node].clock.local(now);
        if self.nodes[node].folder.is_empty() {
            self.found_log(node);
        }
        let mut out = Vec::new();
        let witness = self.nodes[node].role == NodeRole::Witness;
        let config = VoterConfig { witness, boot };
        let it = &mut self.nodes[node];
        let voter = match Voter::start(local, &mut it.folder, cluster, it.id, config, &mut out) {
            Ok((voter, torn)) => {
                if torn {
                    self.coverage.hit("log: torn tail dropped");
                }
                Some(voter)
            }
            Err(why) => {
                self.fail("raft log", format!("{}: {why:?}", self.name(node)));
                None
            }
        };
        let data =
            (self.nodes[node].role == NodeRole::Data).then(|| self.build_data_plane(node, local));
        self.nodes[node].process = Some(Process {
            boot,
            data,
            voter,
            timer: None,
            spins: 0,
            last_timer: 0,
            started: now,
            log_failed: false,
            electors: Electors::default(),
        });
        self.net.start(now, node, boot);
        self.consensus_outputs(node, out);
        self.start_data_plane(node);
        self.set_timer(node);
    }

    /// The process is killed; its machine goes on.
    pub(crate) fn kill(&mut self, node: NodeIndex) {
        let Some(process) = self.nodes[node].process.take() else {
            return;
        };
        let now = self.now();
        self.coverage.hit("fault: process killed");
        self.say_node(node, format_args!("is killed"));
        self.net.stop(now, node, true);
        let late = self.dice.per_cent(30);
        let it = &mut self.nodes[node];
        it.disks.iter_mut().for_each(|disk| disk.disk.kill(late));
        if let Some(op) = process.voter.as_ref().and_then(Voter::op_under_way) {
            it.folder
                .interrupt(op, false, &mut self.dice, &mut self.coverage);
        }
        self.process_gone(node);
    }

    /// The machine loses power.
    pub(crate) fn power_off(&mut self, node: NodeIndex) {
        if self.nodes[node].machine == Machine::Off {
            return;
        }
        let now = self.now();
        self.coverage.hit("fault: power loss");
        self.say_node(node, format_args!("loses power"));
        self.mind_lies(node);
        let process = self.nodes[node].process.take();
        if process.is_some() {
            self.net.stop(now, node, false);
        }
        let it = &mut self.nodes[node];
        it.machine = Machine::Off;
        it.disks
            .iter_mut()
            .for_each(|disk| disk.disk.power_cut(&mut self.coverage));
        match process
            .as_ref()
            .and_then(|process| process.voter.as_ref())
            .and_then(Voter::op_under_way)
        {
            Some(op) => it
                .folder
                .interrupt(op, true, &mut self.dice, &mut self.coverage),
            None => it.folder.power_cut(&mut self.coverage),
        }
        let devices = std::mem::take(&mut it.devices);
        for (volume, attachment) in devices {
            self.device_gone(volume, attachment);
        }
        self.process_gone(node);
    }

    fn process_gone(&mut self, node: NodeIndex) {
        self.nodes[node].paused = false;
        self.nodes[node].inbox.clear();
        self.work.retain(|(whose, _)| *whose != node);
        self.checks.process_gone(node);
    }

    /// The machine and its process start again, with blank devices if `swap`.
    pub(crate) fn restart(&mut self, node: NodeIndex, swap: bool) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let now = self.now();
        if self.nodes[node].machine == Machine::Off {
            let shown = self.dice.below(100 * SECOND);
            let it = &mut self.nodes[node];
            it.machine = Machine::On;
            it.clock = Clock::new(now, shown, it.drift);
        }
        if swap && self.nodes[node].role == NodeRole::Data {
            self.swap_devices(node);
            if self.dice.per_cent(30) {
                self.lose_log(node);
            }
        }
        let loses = self.plan.odd(FaultKind::LogLost) && self.faults_last();
        if loses && self.nodes[node].boots > 0 && self.dice.per_cent(15) {
            self.lose_log(node);
        }
        // R23: a device is claimed once everything of its predecessor has landed.
        let claims = self.mutation != Some(Mutation::Shell(ShellMutation::R23NoClaim));
        if claims {
            self.nodes[node]
                .disks
                .iter_mut()
                .for_each(|disk| disk.disk.claim(&mut self.coverage));
        }
        self.start(node);
    }

    /// The process is stopped by a signal; its machine and clock go on.
    pub(crate) fn pause(&mut self, node: NodeIndex) {
        if self.nodes[node].runs() {
            self.coverage.hit("fault: process paused");
            self.say_node(node, format_args!("is stopped"));
            self.nodes[node].paused = true;
        }
    }

    /// It goes on: whatever came in meanwhile is there at once.
    pub(crate) fn resume(&mut self, node: NodeIndex) {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return;
        }
        self.say_node(node, format_args!("goes on"));
        // What its kernel has received first, its timers after: R22 wants the sockets drained.
        let inbox = std::mem::take(&mut self.nodes[node].inbox);
        for inward in inbox {
            self.deliver(node, inward);
        }
        self.set_timer(node);
    }
}

impl World {
    /// The data plane of a process that starts; blank devices get a pool first.
    fn build_data_plane(&mut self, node: NodeIndex, local: Nanos) -> Node {
        let cluster = self.cluster;
        let broken_store = match self.mutation {
            Some(Mutation::Store(mutation)) => mutation::broken_store(mutation),
            _ => Default::default(),
        };
        let it = &mut self.nodes[node];
        let mut devices = Vec::new();
        let failed = it.disks.iter().filter(|slot| slot.failed_before);
        let failed_before = failed.map(|slot| slot.device).collect();
        for slot in &mut it.disks {
            if !slot.formatted {
                slot.formatted = true;
                format_pool(
                    &mut slot.disk,
                    cluster,
                    it.id,
                    slot.device,
                    slot.life,
                    &mut it.seed,
                );
            }
            let mut options = OpenOptions::new(slot.disk.bytes());
            // Small, so that reads come from the disk.
            options.cached_pages = 8;
            options.recent_bytes = 512 << 10;
            options.broken = broken_store;
            devices.push((slot.device, options));
        }
        let broken = match self.mutation {
            Some(Mutation::Protocol(mutation)) => mutation::broken_protocol(mutation),
            _ => Default::default(),
        };
        let config = NodeConfig {
            node: it.id,
            started: local,
            devices,
            failed_before,
            timings: timings(),
            broken,
        };
        Node::new(config, local)
    }

    /// A node says that a device failed, and keeps it.
    pub(super) fn pool_failed(&mut self, node: NodeIndex, device: DeviceId) -> &'static str {
        self.note_loss_known(node);
        self.remember_failure(node, device, true);
        let now = self.now();
        let rots = node == self.plan.victim && self.plan.every(FaultKind::Corruption).is_some();
        let mut disks = self.nodes[node].disks.iter();
        if rots && disks.all(|disk| !disk.disk.is_dead(now)) {
            // What rotted is its metadata: nobody reads it again (world seed 1001923).
            self.note_loss(node);
        }
        "node: pool failed"
    }

    /// What was on the device says so itself.
    pub(super) fn failure_noted(&mut self, node: NodeIndex, device: DeviceId) -> &'static str {
        self.remember_failure(node, device, false);
        "node: pool that failed noted as suspect"
    }

    fn remember_failure(&mut self, node: NodeIndex, device: DeviceId, failed: bool) {
        let slots = self.nodes[node].disks.iter_mut();
        for slot in slots.filter(|slot| slot.device == device) {
            slot.failed_before = failed;
        }
    }

    fn start_data_plane(&mut self, node: NodeIndex) {
        let local = self.nodes[node].clock.local(self.now());
        let mut out = Vec::new();
        if let Some(data) = self.nodes[node]
            .process
            .as_mut()
            .and_then(|process| process.data.as_mut())
        {
            data.start(local, &mut out);
        }
        for output in out {
            self.carry_out(node, output);
        }
    }
}

/// The protocol's time spans, with windows that fit the small rings of simulated pools.
pub(crate) fn timings() -> Timings {
    Timings {
        window: 192 << 10,
        reserve_step: 4,
        // Volumes are small, and a pass is to end within a seed.
        compare_pass: 4 * SECOND,
        ..Timings::default()
    }
}

/// Lays a small pool out on a blank device.
fn format_pool(
    disk: &mut Disk,
    cluster: ClusterId,
    node: NodeId,
    device: DeviceId,
    life: u64,
    rng: &mut Rng,
) {
    let pool = NewPool {
        cluster,
        node,
        device,
        key: rng.id().to_le_bytes(),
        incarnation: Incarnation(life + 1),
    };
    let options = FormatOptions {
        device_bytes: disk.bytes(),
        ring_bytes: 4 << 20,
        delta_bytes: 16 * BLOCK as u64,
        max_replicas: PLACES,
        window_bytes: 256 << 10,
    };
    let (_zeroes, writes) =
        lockstep_store::pool_writes(&pool, &options).expect("a simulated device can be laid out");
    for (offset, bytes) in writes {
        disk.media_mut()
            .write_stable(offset / BLOCK as u64, &[bytes]);
    }
}
