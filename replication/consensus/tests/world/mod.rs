//! A small cluster in one thread: replicas, links that delay, lose, repeat and break, disks that are
//! slow and tear what they were writing in a crash. The same seed gives the same run.
//!
//! Checked at every step: no two replicas ever apply different commands at one index, and no
//! acknowledged command is ever missing where something later has been applied.
#![allow(dead_code)]

pub mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _};

use bytes::Bytes;
use lockstep_consensus::log::{self, LogIdentity};
use lockstep_consensus::{
    Config, Consensus, Input, Member, Output, Reconfiguration, Refusal, Role, Snapshot,
};
use lockstep_types::{ClusterId, Nanos, NodeId, SECOND, millis};

use disk::Disk;

pub const CLUSTER: ClusterId = ClusterId::from_u128(0xc1);

/// What the world is made of; the scenario changes it as it goes.
pub struct World {
    pub now: Nanos,
    pub nodes: BTreeMap<u128, Node>,
    /// Pairs (from, to) over which nothing passes.
    cut: BTreeSet<(u128, u128)>,
    events: BTreeMap<(Nanos, u64), Event>,
    order: u64,
    dice: u64,
    members: Vec<Member>,
    next_ticket: u64,
    /// What was ever applied, by index.
    history: BTreeMap<u64, Bytes>,
    /// Settled attempts: the index, or why not.
    pub settled: BTreeMap<u64, Result<u64, Refusal>>,
    pub chaos: Chaos,
    /// Every frame ever sent, digested.
    pub trace: DefaultHasher,
}

/// How bad the network is.
#[derive(Clone, Copy, Default)]
pub struct Chaos {
    pub lost_per_mille: u64,
    pub repeated_per_mille: u64,
    /// Mean one-way delay to and from the witness; others are at 1 ms.
    pub witness_delay: Nanos,
    pub disk_delay: Nanos,
    /// Longer frames get lost, in bytes; 0 for no such limit.
    pub longest_frame: usize,
}

pub struct Node {
    pub raft_id: u64,
    pub witness: bool,
    /// Absent while it is down.
    pub consensus: Option<Consensus>,
    pub disk: Disk,
    /// A disk that takes requests and never finishes one.
    pub disk_stuck: bool,
    pub machine: Machine,
    pub role: Role,
    boot: u64,
    writing: Option<(u64, Vec<log::DiskOp>)>,
}

/// A state machine that keeps every command.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Machine {
    pub applied: u64,
    pub commands: BTreeMap<u64, Bytes>,
}

enum Event {
    Frame {
        from: u128,
        to: u128,
        frame: Bytes,
    },
    DiskDone {
        node: u128,
        boot: u64,
        token: u64,
    },
    /// Whether it is up is seen when it happens.
    Link {
        node: u128,
        other: u128,
    },
}

impl World {
    /// Founding voters 1..=n by raft id; `witness` names the witness's.
    pub fn new(seed: u64, voters: &[u64], witness: u64) -> Self {
        let mut world = Self {
            now: SECOND,
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            events: BTreeMap::new(),
            order: 0,
            dice: seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15),
            members: Vec::new(),
            next_ticket: 1,
            history: BTreeMap::new(),
            settled: BTreeMap::new(),
            trace: DefaultHasher::new(),
            chaos: Chaos {
                witness_delay: millis(5),
                disk_delay: millis(1),
                ..Chaos::default()
            },
        };
        let genesis = log::genesis(voters, Machine::default().encode());
        for id in voters {
            world.add_node(u128::from(*id), *id, *id == witness, Some(&genesis));
        }
        world
    }

    /// A node with a fresh log, started and linked to all others.
    pub fn add_node(
        &mut self,
        node: u128,
        raft_id: u64,
        witness: bool,
        genesis: Option<&Snapshot>,
    ) {
        let identity = identity(node, raft_id);
        let mut disk = Disk::default();
        disk.carry_out(&log::create(identity, genesis));
        self.members.push(Member {
            raft_id,
            node: NodeId::from_u128(node),
            witness,
        });
        let fresh = Node {
            raft_id,
            witness,
            consensus: None,
            disk,
            disk_stuck: false,
            machine: Machine::default(),
            role: Role::default(),
            boot: 0,
            writing: None,
        };
        self.nodes.insert(node, fresh);
        self.start(node);
        let members = self.members.clone();
        for other in self.alive() {
            self.input(other, Input::Members(members.clone()));
        }
    }

    pub fn forget_member(&mut self, raft_id: u64) {
        self.members.retain(|member| member.raft_id != raft_id);
    }

    /// Starts a node from what is on its disk.
    pub fn start(&mut self, id: u128) {
        let boot = self.roll(u64::MAX);
        let node = self.nodes.get_mut(&id).expect("a node");
        let log = node
            .disk
            .recover(CLUSTER, NodeId::from_u128(id))
            .expect("no corruption")
            .expect("a log");
        node.disk.carry_out(&log.cleanup);
        node.machine = Machine::default();
        node.boot = boot;
        node.writing = None;
        let config = Config {
            witness: node.witness,
            boot,
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut out = Vec::new();
        node.consensus =
            Some(Consensus::new(self.now, config, log, &logger, &mut out).expect("a sound log"));
        let members = self.members.clone();
        self.outputs(id, out);
        self.input(id, Input::Members(members));
        for other in self.alive().into_iter().filter(|other| *other != id) {
            self.tell_link(id, other, millis(1));
        }
    }

    /// Kills a node; what it was writing is torn.
    pub fn kill(&mut self, id: u128) {
        let cut = self.roll(u64::MAX);
        let node = self.nodes.get_mut(&id).expect("a node");
        node.consensus = None;
        node.role = Role::default();
        if let Some((_, ops)) = node.writing.take() {
            node.disk.tear(&ops, cut);
        }
        for other in self.alive() {
            self.tell_link(id, other, millis(10));
        }
    }

    pub fn kill_if_alive(&mut self, id: u128) {
        if self.nodes[&id].consensus.is_some() {
            self.kill(id);
        }
    }

    pub fn start_if_down(&mut self, id: u128) {
        if self.nodes[&id].consensus.is_none() {
            self.start(id);
        }
    }

    /// A disk that was stuck finishes what it was at.
    pub fn unstick(&mut self, id: u128) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.disk_stuck = false;
        if let Some((token, _)) = node.writing {
            let boot = node.boot;
            self.schedule(
                millis(1),
                Event::DiskDone {
                    node: id,
                    boot,
                    token,
                },
            );
        }
    }

    /// The batch a node's disk is at.
    pub fn writing_token(&self, id: u128) -> Option<u64> {
        self.nodes[&id].writing.as_ref().map(|(token, _)| *token)
    }

    pub fn alive(&self) -> Vec<u128> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.consensus.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Cuts (or joins) both directions between two groups.
    pub fn set_cut(&mut self, left: &[u128], right: &[u128], cut: bool) {
        for a in left {
            for b in right.iter().filter(|b| *b != a) {
                self.set_cut_one_way(*a, *b, cut);
                self.set_cut_one_way(*b, *a, cut);
            }
        }
    }

    /// Cuts (or joins) one direction. A link counts only if both work, and is noticed after a second.
    pub fn set_cut_one_way(&mut self, from: u128, to: u128, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
        self.tell_link(from, to, if cut { SECOND } else { millis(50) });
    }

    pub fn propose(&mut self, at: u128, data: impl Into<Bytes>) -> u64 {
        let ticket = self.ticket();
        self.input(
            at,
            Input::Propose {
                ticket,
                data: data.into(),
            },
        );
        ticket
    }

    pub fn reconfigure(
        &mut self,
        at: u128,
        voters: &[u64],
        learners: &[u64],
        remove: &[u64],
    ) -> u64 {
        let ticket = self.ticket();
        let set = |ids: &[u64]| ids.iter().copied().collect();
        let change = Reconfiguration {
            voters: set(voters),
            learners: set(learners),
            remove: set(remove),
        };
        self.input(at, Input::Reconfigure { ticket, change });
        ticket
    }

    pub fn read(&mut self, at: u128) -> u64 {
        let ticket = self.ticket();
        self.input(at, Input::Read { ticket });
        ticket
    }

    /// Retries until a command is acknowledged; gives up after `patience`.
    pub fn commit(&mut self, at: u128, data: &str, patience: Nanos) -> Option<u64> {
        let until = self.now + patience;
        while self.now < until {
            let ticket = self.propose(at, data.to_owned());
            while self.now < until && !self.settled.contains_key(&ticket) {
                self.run(millis(10));
            }
            if let Some(Ok(index)) = self.settled.get(&ticket) {
                return Some(*index);
            }
            self.run(millis(50));
        }
        None
    }

    /// The one that leads in the highest term, if it is alive.
    pub fn leader(&self) -> Option<u128> {
        let leading = self
            .nodes
            .iter()
            .filter(|(_, node)| node.consensus.is_some() && node.role.leading);
        leading
            .max_by_key(|(_, node)| node.role.term)
            .map(|(id, _)| *id)
    }

    /// Runs until `done`, and says whether it came to that within `patience`.
    pub fn run_until(&mut self, patience: Nanos, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + patience;
        while self.now < until {
            if done(self) {
                return true;
            }
            self.run(millis(10));
        }
        done(self)
    }

    pub fn run(&mut self, length: Nanos) {
        let until = self.now + length;
        loop {
            let timer = self.next_timer();
            let event = self.events.keys().next().copied();
            let next = timer
                .map(|(at, _)| at)
                .into_iter()
                .chain(event.map(|(at, _)| at))
                .min();
            let Some(next) = next.filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(next);
            match event {
                Some(key) if key.0 == next => {
                    let event = self.events.remove(&key).expect("it was there");
                    self.happen(event);
                }
                _ => self.input(timer.expect("it is due").1, Input::Timer),
            }
        }
        self.now = until;
    }

    /// All live nodes have applied the same, and everything.
    pub fn converged(&self) -> bool {
        let mut machines = self
            .nodes
            .values()
            .filter(|node| node.consensus.is_some())
            .map(|node| &node.machine);
        let first = machines.next();
        machines.all(|machine| Some(&machine.commands) == first.map(|first| &first.commands))
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % below.max(1)
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn next_timer(&self) -> Option<(Nanos, u128)> {
        let timers = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((node.consensus.as_ref()?.next_timer(), *id)));
        timers.min()
    }

    fn schedule(&mut self, delay: Nanos, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    fn tell_link(&mut self, a: u128, b: u128, delay: Nanos) {
        for (node, other) in [(a, b), (b, a)] {
            self.schedule(delay, Event::Link { node, other });
        }
    }

    fn link_works(&self, a: u128, b: u128) -> bool {
        let alive = |id| {
            self.nodes
                .get(&id)
                .is_some_and(|node| node.consensus.is_some())
        };
        alive(a) && alive(b) && !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame { from, to, frame } => {
                if !self.cut.contains(&(from, to)) {
                    self.input(
                        to,
                        Input::Frame {
                            from: NodeId::from_u128(from),
                            frame,
                        },
                    );
                }
            }
            Event::Link { node, other } => {
                let up = self.link_works(node, other);
                self.input(
                    node,
                    Input::Link {
                        node: NodeId::from_u128(other),
                        up,
                    },
                );
            }
            Event::DiskDone {
                node: id,
                boot,
                token,
            } => {
                let node = self.nodes.get_mut(&id).expect("a node");
                if node.boot != boot || node.consensus.is_none() || node.disk_stuck {
                    return;
                }
                let (written, ops) = node.writing.take().expect("it was writing");
                assert_eq!(written, token);
                node.disk.carry_out(&ops);
                self.input(id, Input::Persisted { token });
            }
        }
    }

    pub fn input(&mut self, id: u128, input: Input) {
        let Some(consensus) = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.consensus.as_mut())
        else {
            return;
        };
        let mut out = Vec::new();
        consensus.step(self.now, input, &mut out);
        self.outputs(id, out);
    }

    fn outputs(&mut self, id: u128, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, frame } => self.transmit(id, to.as_u128(), frame),
                Output::Persist { token, ops } => self.write(id, token, ops),
                Output::Apply {
                    index,
                    data,
                    ticket,
                    ..
                } => self.apply(id, index, data, ticket),
                Output::ApplySnapshot { index, data } => self.restore(id, index, &data),
                Output::TakeSnapshot { index } => {
                    let data = self.nodes[&id].machine.encode();
                    self.input(id, Input::Snapshot { index, data });
                }
                Output::Reconfigured { index, ticket, .. } => {
                    self.settle(ticket, Ok(index));
                }
                Output::Refused { ticket, reason, .. } => self.settle(Some(ticket), Err(reason)),
                Output::ReadReady { ticket, index } => self.settle(Some(ticket), Ok(index)),
                Output::Role(role) => self.nodes.get_mut(&id).expect("a node").role = role,
            }
        }
    }

    fn settle(&mut self, ticket: Option<u64>, result: Result<u64, Refusal>) {
        if let Some(ticket) = ticket {
            let before = self.settled.insert(ticket, result);
            assert_eq!(before, None, "ticket {ticket} is settled once");
        }
    }

    fn transmit(&mut self, from: u128, to: u128, frame: Bytes) {
        (self.now, from, to, &frame).hash(&mut self.trace);
        let too_long = self.chaos.longest_frame != 0 && frame.len() > self.chaos.longest_frame;
        if self.roll(1000) < self.chaos.lost_per_mille || too_long {
            return;
        }
        let copies = if self.roll(1000) < self.chaos.repeated_per_mille {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let witness =
                self.nodes.get(&to).is_some_and(|node| node.witness) || self.nodes[&from].witness;
            let mean = if witness {
                self.chaos.witness_delay
            } else {
                millis(1)
            };
            let delay = mean / 2 + self.roll(mean);
            self.schedule(
                delay,
                Event::Frame {
                    from,
                    to,
                    frame: frame.clone(),
                },
            );
        }
    }

    fn write(&mut self, id: u128, token: u64, ops: Vec<log::DiskOp>) {
        let delay = self.chaos.disk_delay / 2 + self.roll(self.chaos.disk_delay);
        let node = self.nodes.get_mut(&id).expect("a node");
        assert!(node.writing.is_none(), "one batch at a time");
        node.writing = Some((token, ops));
        let boot = node.boot;
        self.schedule(
            delay,
            Event::DiskDone {
                node: id,
                boot,
                token,
            },
        );
    }

    fn apply(&mut self, id: u128, index: u64, data: Bytes, ticket: Option<u64>) {
        let known = self.history.entry(index).or_insert_with(|| data.clone());
        assert_eq!(*known, data, "two replicas differ at index {index}");
        let machine = &mut self.nodes.get_mut(&id).expect("a node").machine;
        assert!(index > machine.applied, "indexes rise");
        machine.applied = index;
        machine.commands.insert(index, data);
        self.settle(ticket, Ok(index));
        self.check_nothing_is_missing(id);
    }

    fn restore(&mut self, id: u128, index: u64, data: &Bytes) {
        let machine = Machine::decode(data);
        assert!(machine.applied <= index);
        for (index, data) in &machine.commands {
            assert_eq!(
                self.history.get(index),
                Some(data),
                "a snapshot differs from what was applied at {index}"
            );
        }
        self.nodes.get_mut(&id).expect("a node").machine = Machine {
            applied: index,
            ..machine
        };
        self.check_nothing_is_missing(id);
    }

    fn check_nothing_is_missing(&self, id: u128) {
        let machine = &self.nodes[&id].machine;
        let due = self.history.range(..=machine.applied).count();
        assert_eq!(
            machine.commands.len(),
            due,
            "node {id} lacks a command below {}",
            machine.applied
        );
    }
}

impl Machine {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.extend(self.applied.to_le_bytes());
        for (index, data) in &self.commands {
            out.extend(index.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            out.extend(data);
        }
        out.into()
    }

    pub fn decode(bytes: &Bytes) -> Self {
        let number =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let mut machine = Self {
            applied: number(0),
            commands: BTreeMap::new(),
        };
        let mut at = 8;
        while at < bytes.len() {
            let (index, length) = (number(at), number(at + 8) as usize);
            machine
                .commands
                .insert(index, bytes.slice(at + 16..at + 16 + length));
            at += 16 + length;
        }
        machine
    }
}

pub fn identity(node: u128, raft_id: u64) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node: NodeId::from_u128(node),
        raft_id,
        incarnation: 1000 + raft_id,
    }
}
