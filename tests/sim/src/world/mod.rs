//! The whole world: sites a and b, the witness w, their nodes, disks, links, volumes, clients, an
//! operator, and faults. Production cores decide; the world only carries out what they ask for.

mod chaos;
pub mod client;
mod clients;
mod consensus;
mod estate;
mod liveness;
mod losses;
mod node;
mod odd;
mod operator;
pub mod plan;
mod proposals;
mod rebuild;
mod scrub;
mod step;
mod voters;

use crate::clock::Clock;
use crate::coverage::Coverage;
use crate::invariants::Checks;
use crate::net::{Net, NetEvent, NodeIndex};
use crate::queue::EventQueue;
use crate::rng::Rng;
use crate::run::{Config, Failure, Outcome};
use crate::trace::{Trace, hash_of};
use bytes::Bytes;
use clients::Clients;
use lockstep_control::{Applied, Change, Proposal, State};
use lockstep_types::{ClusterId, Nanos, NodeId, ReplicaId, SECOND, VolumeId};
use lockstep_wire::{Message, ReplyBody, RequestBody};
use node::SimNode;
use operator::Operator;
use plan::Plan;
use proposals::Proposals;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

pub use chaos::Chaos;
pub use node::{Machine, SimDisk};

/// What happens at a moment.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "boxing each message would cost more than it saves"
)]
pub enum Event {
    /// A core's timer is due.
    Timer { node: NodeIndex, boot: u64 },
    /// A device's operation ends.
    Disk {
        node: NodeIndex,
        slot: usize,
        life: u64,
        id: u64,
    },
    /// An operation on a raft log ends.
    LogDisk { node: NodeIndex, boot: u64 },
    /// The network does something.
    Net(NetEvent<Message, Bytes>),
    /// A proposal reaches a node's log.
    Propose { id: u64, node: NodeIndex },
    /// Its answer reaches the operator.
    Answer { id: u64 },
    /// It is waited for no longer.
    GiveUpProposal { id: u64 },
    /// A client thinks of something.
    Client { volume: VolumeId, attachment: u64 },
    /// Nodes hear of each other's logs, and the leader looks after the voters.
    Voters,
    /// The operator acts.
    Operate,
    /// The operator looks after volumes that are not attached as they should be.
    Tend,
    /// A fault strikes or ends.
    Chaos(Chaos),
    /// A failed device is exchanged.
    Exchange { node: NodeIndex },
    /// A device that failed answers again, and its node starts anew.
    Mend { node: NodeIndex },
    /// A step of a script.
    Script(usize),
    /// A look at everything, to check what is too dear to check at each step.
    Inspect,
}

/// The world.
pub struct World {
    /// What it is made of.
    pub plan: Plan,
    /// The story.
    pub trace: Trace,
    /// What was reached.
    pub coverage: Coverage,
    /// The rule that is broken on purpose.
    pub mutation: Option<crate::mutation::Mutation>,
    pub(crate) queue: EventQueue<Event>,
    pub(crate) step: u64,
    pub(crate) dice: Rng,
    pub(crate) net: Net<Message, Bytes>,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) cluster: ClusterId,
    pub(crate) proposals: Proposals,
    pub(crate) clients: Clients,
    pub(crate) operator: Operator,
    /// Every committed entry, as the first voter applied it.
    pub(crate) committed: Committed,
    /// The same of generations before the last forced rebuild.
    older: Vec<Committed>,
    pub(crate) copies_lost: u32,
    pub(crate) losses: losses::Losses,
    /// How often each join was interrupted on purpose.
    joins_broken: BTreeMap<(VolumeId, ReplicaId), u32>,
    /// What every founding voter started from.
    genesis: Option<lockstep_consensus::Snapshot>,
    /// Faults end here.
    pub(crate) faults_until: Nanos,
    pub(crate) failure: Option<Failure>,
    pub(crate) checks: Checks,
    /// What a script does, by its place; taken when its time has come.
    script: Vec<Option<Act>>,
    /// When each write was acknowledged; kept in scripted worlds.
    pub(crate) acks: Vec<Nanos>,
    /// Voters are cut off from each other, and nobody else is.
    pub(crate) voters_mute: bool,
    /// What a script waits for.
    trap: Option<Trap>,
    /// What a script does when the copy on a node has been certified.
    at_certification: Option<(NodeIndex, Act)>,
    /// So many appends to a node arrive with a bit turned.
    spoils: Option<(NodeIndex, u32)>,
    /// Requests that a kernel held on a device of before.
    held_requests: BTreeMap<u64, VolumeId>,
    /// A device that a script remembers, with its publication.
    pub(crate) remembered: Option<lockstep_types::AttachmentId>,
    /// What is repaired now, scrub has found.
    scrub_is_due: bool,
    /// Whose raft log hardly moves (a script).
    pub(crate) slow_log: Option<NodeIndex>,
    /// What is left to do at this moment.
    pub(crate) work: VecDeque<(NodeIndex, step::Work)>,
}

/// What a script waits for a node to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A rolled record (R11).
    Rolled,
    /// Its answer to a SEAL (R9).
    Sealed,
    /// An acknowledgement (R2).
    Acked,
}

/// Something happens when a node has said something so many times.
struct Trap {
    node: NodeIndex,
    trigger: Trigger,
    left: u32,
    then: Act,
}

/// A step of a script.
type Act = Box<dyn FnOnce(&mut World)>;

/// The committed log, as the voters applied it: all of them the same.
#[derive(Default)]
pub struct Committed {
    /// Each entry's hash and what it changed.
    pub entries: BTreeMap<u64, (u64, Vec<Change>)>,
    /// The state after the last of them.
    pub state: State,
    /// How far `state` is.
    pub applied: u64,
    /// Who votes; on the way from one electorate to another a majority of both is needed.
    pub electorates: Vec<BTreeSet<u64>>,
    /// Who did before, and until when that counts: a voter that starts again may not know yet that the change is
    /// over (world seed 2300364).
    pub left: (Nanos, Vec<BTreeSet<u64>>),
}

impl Committed {
    fn apply(&mut self, index: u64, proposal: &Proposal, applied: &Applied, data: &Bytes) {
        let told = (hash_of(data), applied.changes.clone());
        self.entries.insert(index, told);
        self.state.apply(index, proposal);
        self.applied = index;
    }

    fn leave_electorates(&mut self, now: Nanos, next: Vec<BTreeSet<u64>>) {
        let (until, before) = &mut self.left;
        if *until < now {
            before.clear();
        }
        *until = now + OVER;
        before.append(&mut self.electorates);
        self.electorates = next;
    }
}

/// Until then every voter that runs knows of a change of the voters.
const OVER: Nanos = 30 * SECOND;

/// A run with more events than this goes round in circles.
const MOST_STEPS: u64 = 6_000_000;

/// The sites by number.
pub const SITES: [&str; 3] = ["a", "b", "w"];

/// Bytes that a primary may have above its floor in a simulated world.
pub fn window() -> u64 {
    node::timings().window
}

impl World {
    /// Runs a seed to its end.
    pub fn run(config: &Config) -> Outcome {
        let mut rng = Rng::new(config.seed);
        let plan = Plan::draw(&mut rng.split("plan"), &config.less);
        Self::run_plan(config, plan, rng, |_| {})
    }

    /// Runs a plan; `prepare` may add events of its own.
    pub fn run_plan(
        config: &Config,
        plan: Plan,
        rng: Rng,
        prepare: impl FnOnce(&mut Self),
    ) -> Outcome {
        let mut world = Self::new(config, plan, rng);
        world.begin();
        prepare(&mut world);
        let until = world.faults_until;
        world.run_until(until);
        if world.failure.is_none() {
            world.settle_down();
        }
        Outcome {
            failure: world.failure,
            coverage: world.coverage,
            simulated: world.queue.now(),
            events: world.trace.events(),
            operations: world.clients.answered,
            hash: world.trace.hash(),
            steps: world.trace.steps().to_vec(),
        }
    }

    fn new(config: &Config, plan: Plan, mut rng: Rng) -> Self {
        let mut dice = rng.split("world");
        let nodes = node::build(&plan, &mut rng.split("nodes"));
        let sites: Vec<usize> = nodes.iter().map(|node| node.site).collect();
        let delays = plan.delays;
        let delay = |from: usize, to: usize| match (sites[from], sites[to]) {
            (a, b) if a == b => delays[0],
            (2, _) | (_, 2) => delays[2],
            _ => delays[1],
        };
        let net = Net::new(nodes.len(), plan.net.clone(), rng.split("net"), delay);
        let faults_until = 5 * SECOND + plan.duration;
        Self {
            trace: config.trace(),
            coverage: Coverage::default(),
            mutation: config.mutation,
            queue: EventQueue::default(),
            step: 0,
            net,
            nodes,
            cluster: ClusterId::from_u128(dice.id()),
            proposals: Proposals::default(),
            clients: Clients::new(&plan, rng.split("clients")),
            operator: Operator::new(&plan, rng.split("operator")),
            older: Vec::new(),
            committed: Committed::default(),
            copies_lost: 0,
            losses: losses::Losses::default(),
            joins_broken: BTreeMap::new(),
            genesis: None,
            faults_until,
            failure: None,
            checks: Checks::default(),
            script: Vec::new(),
            acks: Vec::new(),
            voters_mute: false,
            trap: None,
            at_certification: None,
            spoils: None,
            held_requests: BTreeMap::new(),
            remembered: None,
            scrub_is_due: false,
            slow_log: None,
            work: VecDeque::new(),
            dice,
            plan,
        }
    }

    fn begin(&mut self) {
        self.found_cluster();
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.queue.after(SECOND, Event::Voters);
        self.begin_operator();
        self.begin_chaos();
        self.queue.after(SECOND, Event::Inspect);
    }

    /// Runs until a moment, or until something breaks.
    pub(crate) fn run_until(&mut self, until: Nanos) {
        while self.failure.is_none() && self.queue.next_at().is_some_and(|at| at <= until) {
            let event = self.queue.pop().expect("there is a next event");
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        self.step += 1;
        if self.step > MOST_STEPS {
            return self.fail("V10", format!("{MOST_STEPS} events, and no end"));
        }
        match event {
            Event::Timer { node, boot } => self.on_timer(node, boot),
            Event::Disk {
                node,
                slot,
                life,
                id,
            } => self.on_disk(node, slot, life, id),
            Event::LogDisk { node, boot } => self.on_log_disk(node, boot),
            Event::Net(event) => self.on_net(event),
            Event::Propose { id, node } => self.on_propose(id, node),
            Event::Answer { id } => self.on_answer(id),
            Event::GiveUpProposal { id } => self.on_give_up_proposal(id),
            Event::Client { volume, attachment } => self.on_client(volume, attachment),
            Event::Voters => self.on_voters(),
            Event::Operate => self.on_operate(),
            Event::Tend => self.on_tend(),
            Event::Chaos(chaos) => self.chaos(chaos),
            Event::Exchange { node } => self.exchange(node),
            Event::Mend { node } => self.mend(node),
            Event::Script(act) => {
                if let Some(act) = self.script[act].take() {
                    act(self);
                }
            }
            Event::Inspect => {
                self.check_everything();
                self.queue.after(SECOND / 4, Event::Inspect);
            }
        }
        self.drain();
        for (at, event) in self.net.take_later() {
            self.queue.at(at, Event::Net(event));
        }
    }

    /// The world's time.
    pub fn now(&self) -> Nanos {
        self.queue.now()
    }

    /// Whether faults still strike.
    pub(crate) fn faults_last(&self) -> bool {
        self.now() < self.faults_until
    }

    /// Something broke; the first thing counts.
    pub(crate) fn fail(&mut self, what: &str, why: impl Into<String>) {
        let why = why.into();
        if self.failure.is_none() && self.trace.wants_words() {
            for node in 0..self.nodes.len() {
                let data = self.nodes[node].data();
                let outline = data.map(|data| data.outline()).unwrap_or_default();
                self.say_node(node, format_args!("stands at {outline}"));
            }
        }
        self.say("BROKEN", format_args!("{what}: {why}"));
        self.failure.get_or_insert(Failure::new(what, why));
    }

    pub(crate) fn say(&mut self, who: &str, what: fmt::Arguments<'_>) {
        self.trace.say(self.queue.now(), who, what);
    }

    pub(crate) fn say_node(&mut self, node: NodeIndex, what: fmt::Arguments<'_>) {
        self.trace
            .say(self.queue.now(), &self.nodes[node].name, what);
    }

    pub(crate) fn mix(&mut self, thing: &impl std::hash::Hash) {
        self.trace.event(&(self.queue.now(), hash_of(thing)));
    }

    pub(crate) fn name(&self, node: NodeIndex) -> String {
        self.nodes[node].name.clone()
    }

    pub(crate) fn index_of(&self, id: NodeId) -> NodeIndex {
        self.nodes
            .iter()
            .position(|node| node.id == id)
            .expect("nodes are never forgotten")
    }

    pub(crate) fn nodes_of_site(&self, site: usize) -> Vec<NodeIndex> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].site == site)
            .collect()
    }

    /// Whether a device could be lost now without losing the last copy of anything.
    pub(crate) fn every_volume_has_two_copies(&self) -> bool {
        let volumes = &self.committed.state.volumes;
        let two = |id| {
            let record = volumes.get(id);
            record.is_some_and(|record| record.membership.in_sync.len() >= 2)
        };
        self.clients.volumes.keys().all(two)
    }

    pub(crate) fn is_scripted(&self) -> bool {
        !self.script.is_empty()
    }

    /// A step of a script happens at a moment.
    pub(crate) fn script_at(&mut self, at: Nanos, act: Act) {
        self.queue.at(at, Event::Script(self.script.len()));
        self.script.push(Some(act));
    }

    /// A step of a script happens when the node has said something so many times.
    pub(crate) fn set_trap(&mut self, node: NodeIndex, trigger: Trigger, left: u32, then: Act) {
        self.trap = Some(Trap {
            node,
            trigger,
            left,
            then,
        });
    }

    /// A step of a script happens when the copy on the node is certified.
    pub(crate) fn when_certified(&mut self, node: NodeIndex, then: Act) {
        self.at_certification = Some((node, then));
    }

    /// An entry changed volumes: perhaps it certified the copy that a script waits for.
    pub(crate) fn mind_certification(&mut self, changes: &[Change]) {
        let Some((node, _)) = &self.at_certification else {
            return;
        };
        let name = self.name(*node);
        let certified = changes.iter().any(|change| match change {
            Change::Volume(volume) => self.in_sync_names(volume.id).contains(&name),
            _ => false,
        });
        if certified {
            let (_, then) = self.at_certification.take().expect("looked at above");
            let now = self.now();
            self.script_at(now, then);
        }
    }

    /// The appends to the node that come next are spoiled on their way.
    pub(crate) fn spoil_appends_to(&mut self, node: NodeIndex, count: u32) {
        self.spoils = Some((node, count));
    }

    /// A node sends a message: perhaps it is what a script waits for.
    pub(crate) fn mind_trap(&mut self, node: NodeIndex, message: &Message) {
        let Some(trap) = self.trap.as_mut().filter(|trap| trap.node == node) else {
            return;
        };
        let said = match message {
            Message::Request(request) => match request.body {
                RequestBody::Append { roll: true, .. } => Some(Trigger::Rolled),
                _ => None,
            },
            Message::Reply(reply) => match reply.body {
                ReplyBody::Sealed(_) => Some(Trigger::Sealed),
                ReplyBody::Ack { .. } => Some(Trigger::Acked),
                _ => None,
            },
            _ => None,
        };
        if said != Some(trap.trigger) {
            return;
        }
        trap.left = trap.left.saturating_sub(1);
        if trap.left == 0 {
            let trap = self.trap.take().expect("looked at above");
            let now = self.now();
            self.script_at(now, trap.then);
        }
    }

    pub(crate) fn named(&self, name: &str) -> NodeIndex {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .expect("a script names nodes of its world")
    }

    pub(crate) fn block_both(&mut self, a: NodeIndex, b: NodeIndex) {
        let now = self.now();
        self.net.set_blocked(now, a, b, true);
        self.net.set_blocked(now, b, a, true);
    }

    pub(crate) fn tell_voter(&mut self, node: NodeIndex, input: lockstep_consensus::Input) {
        self.deliver(node, step::Inward::Voter(input));
    }

    /// The nodes whose copies are certified.
    pub(crate) fn in_sync_names(&self, volume: VolumeId) -> Vec<String> {
        let Some(record) = self.committed.state.volumes.get(&volume) else {
            return Vec::new();
        };
        let members = record
            .membership
            .in_sync
            .keys()
            .filter_map(|id| record.replicas.get(id));
        members
            .map(|replica| self.name(self.index_of(replica.node)))
            .collect()
    }

    pub(crate) fn clock(&self, node: NodeIndex) -> &Clock {
        &self.nodes[node].clock
    }
}
