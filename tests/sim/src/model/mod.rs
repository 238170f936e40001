//! A model of the protocol small enough to be explored exhaustively: two sites, three replicas, the
//! production `Primary`, `Secondary` and `State::apply`, and every order in which messages arrive,
//! operations end, proposals commit and time passes, with a crash and a cut among them.
//!
//! | file | job |
//! |---|---|
//! | `mod` | what the model consists of, and what may happen next |
//! | `node` | what happens to a node: messages, disk, view, crash |
//! | `store` | a replica's device |
//! | `checks` | what must hold in every state |
//! | `setup` | what it begins with, and the scopes it is explored in |
//! | `search` | breadth first, with fingerprints |
//!
//! What is left out: real disks and batches (the store's own worlds), more than one block, the raft
//! that orders proposals (here they commit one at a time, in any order), drift of clocks.

mod checks;
mod node;
mod search;
mod setup;
mod store;

use checks::{Client, Operation};
use lockstep_control::{Attachment, Command, State, Volume};
use lockstep_logic::view_of;
use lockstep_protocol::View;
use lockstep_protocol::mutate::Broken;
use lockstep_types::{Nanos, SECOND, VolumeId};
use lockstep_wire::Message;
use node::ModelNode;
pub use search::{Report, Search, explore};
pub use setup::SCOPES;
use setup::{
    apply, attachment, founded, index_of, node_id, payload, read_of, replica_id, site_of, timings,
    write_of,
};
use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use store::Crash;

/// Blocks of the volume's only extent that are looked at.
pub const BLOCKS: u64 = 1;
/// Nodes, each with a replica: two in a, one in b.
pub const NODES: usize = 3;

const VOLUME: VolumeId = VolumeId::from_u128(0xf0);
/// The second copy of a.
const THIRD: usize = 1;
const NAMES: [&str; NODES] = ["a1", "a2", "b1"];

/// What may happen in a model, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    /// Writes of the client, all to one block.
    pub writes: u8,
    /// Its reads.
    pub reads: u8,
    /// Crashes of a node.
    pub crashes: u8,
    /// Links cut.
    pub cuts: u8,
    /// Times the volume is published to another node by force: each is a new epoch.
    pub moves: u8,
    /// Times that a beacon's time passes.
    pub ticks: u8,
    /// Whether what is under way may end in any order; otherwise it ends in the plainest one, except
    /// for what is held up.
    pub any_order: bool,
    /// Links and devices that are held up, each for as long as it likes.
    pub holds: u8,
    /// Answers of the control plane that are lost (R1: outcome unknown).
    pub unknown: u8,
    /// The first primary died with a record that nobody else had, and is back: it rejoins.
    pub rejoin: bool,
    /// The second copy of a was lost, has left, and stays away: two copies are all there is.
    pub pair: bool,
    /// A write is on its way everywhere, and the next epoch has been committed: what follows is explored.
    pub begun: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The oldest message on a link arrives.
    Deliver(usize, usize),
    /// The oldest operation of a device ends.
    Disk(usize),
    /// A node learns the committed record.
    Learn(usize),
    /// A proposal of a node commits, or is refused, and its answer is heard.
    Commit(usize),
    /// The same, and the answer is lost.
    CommitUnheard(usize),
    /// The client writes its next value.
    Write,
    /// The client reads.
    Read,
    /// A beacon's time passes everywhere.
    Tick,
    /// A node loses power.
    Crash(usize, Crash),
    /// It is back.
    Restart(usize),
    /// What is on a link stays there; from a node to itself, what its device does stays undone.
    Hold(usize, usize),
    /// It goes on.
    Release(usize, usize),
    /// A link closes, with what was on it.
    Cut(usize, usize),
    /// It stands again.
    Heal(usize, usize),
    /// The volume is published to another node, whether the old one answers or not.
    Move(usize),
}

/// A value with its hash, shared between states until it changes.
#[derive(Clone, Debug)]
pub struct Hashed<T> {
    value: Arc<T>,
    hash: u64,
    /// The value may have changed since it was hashed.
    dirty: bool,
}

impl<T: Clone + Hash> Hashed<T> {
    fn new(value: T) -> Self {
        Self {
            value: Arc::new(value),
            hash: 0,
            dirty: true,
        }
    }

    fn change<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        self.dirty = true;
        f(Arc::make_mut(&mut self.value))
    }

    fn rehash(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.hash = crate::trace::hash_of(&*self.value);
        }
    }
}

/// Messages on their way from one node to another.
type Queue = VecDeque<Message>;

/// A proposal on its way to the control plane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    from: usize,
    boot: u8,
    serial: u64,
    id: u64,
    command: Command,
}

/// A state of the model.
#[derive(Clone, Debug)]
pub struct Model {
    now: Nanos,
    broken: Broken,
    scope: Scope,
    /// The control plane.
    state: Arc<State>,
    view: Hashed<View>,
    nodes: [Hashed<ModelNode>; NODES],
    links: [[Hashed<Queue>; NODES]; NODES],
    cut: [[bool; NODES]; NODES],
    held: [[bool; NODES]; NODES],
    proposals: Hashed<Vec<Pending>>,
    client: Hashed<Client>,
    failure: Option<String>,
}

impl Model {
    /// The volume is open on a1 under its first epoch, with all three replicas in sync; or on b1 under
    /// its second, with a1 about to rejoin.
    pub fn new(scope: Scope, broken: Broken) -> Self {
        let state = founded();
        let view = view_of(
            &state.volumes[&VOLUME],
            site_of,
            |_, r| r.leaving,
            BTreeSet::new(),
        );
        let nodes = [0, 1, 2].map(|node| Hashed::new(ModelNode::new(node, &view, broken)));
        let links =
            [0, 1, 2].map(|_: usize| [0, 1, 2].map(|_: usize| Hashed::new(Queue::default())));
        let mut model = Self {
            now: 10 * SECOND,
            broken,
            scope,
            state: Arc::new(state),
            view: Hashed::new(view),
            nodes,
            links,
            cut: Default::default(),
            held: Default::default(),
            proposals: Hashed::new(Vec::new()),
            client: Hashed::new(Client::default()),
            failure: None,
        };
        for node in 0..NODES {
            model.review(node);
        }
        model.settle();
        if scope.rejoin {
            model.leave_behind();
        }
        if scope.pair {
            model.lose_the_third();
        }
        if scope.begun {
            model.begin_promotion();
        }
        assert!(model.failure.is_none(), "{:?}", model.failure);
        model
    }

    /// Everything that is under way ends, in the plainest order.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(action) = self.under_way().first().copied() else {
                return;
            };
            self.happen(action);
        }
        panic!("the model does not come to rest");
    }

    /// The primary dies with a record that only it has, the volume opens on b1 without it, and a1 is
    /// back: it is to rejoin with a tail that is nobody's.
    fn leave_behind(&mut self) {
        let scope = self.scope;
        self.scope = Scope {
            writes: 1,
            crashes: 1,
            moves: 1,
            ticks: 8,
            ..scope
        };
        self.happen(Action::Write);
        while self.under_way().contains(&Action::Disk(0)) {
            self.happen(Action::Disk(0));
        }
        self.happen(Action::Crash(0, Crash::Kept));
        self.happen(Action::Move(2));
        self.settle();
        while self.scope.ticks > 0 && !self.is_open(2) {
            self.happen(Action::Tick);
            self.settle();
        }
        assert!(self.is_open(2), "b1 took the volume over");
        self.happen(Action::Restart(0));
        self.scope = scope;
        let members = self.view.value.in_sync.len();
        assert_eq!(members, NODES - 1, "a1 was removed");
    }

    /// The second copy of a is lost and leaves, which the primary's open epoch outlives.
    fn lose_the_third(&mut self) {
        let scope = self.scope;
        self.scope = Scope {
            crashes: 1,
            ticks: 8,
            ..scope
        };
        self.happen(Action::Crash(THIRD, Crash::Dropped));
        self.settle();
        while self.scope.ticks > 0 && self.view.value.in_sync.len() == NODES {
            self.happen(Action::Tick);
            self.settle();
        }
        self.scope = scope;
        let members = self.view.value.in_sync.len();
        assert!(self.is_open(0) && members == NODES - 1, "a2 was removed");
    }

    /// The client writes through a1, and before anything of that arrives the volume is published to b1, and
    /// b1's promotion committed.
    fn begin_promotion(&mut self) {
        let scope = self.scope;
        self.scope = Scope {
            writes: 1,
            moves: 1,
            ..scope
        };
        self.happen(Action::Write);
        self.happen(Action::Move(2));
        self.happen(Action::Learn(2));
        self.happen(Action::Commit(0));
        self.scope = scope;
        let promoted = self.view.value.primary == Some(node_id(2));
        assert!(promoted && !self.is_open(2), "b1 is promoted, and seals");
    }

    /// Whether a later epoch than the first has opened.
    pub fn has_reopened(&self) -> bool {
        self.client.value.openings() > 1
    }

    fn is_open(&self, node: usize) -> bool {
        let primary = self.nodes[node].value.primary();
        primary.is_some_and(lockstep_protocol::Primary::is_open)
    }

    /// A hash of all that decides what can happen from here on.
    pub fn fingerprint(&mut self) -> u64 {
        self.nodes.iter_mut().for_each(Hashed::rehash);
        self.links.iter_mut().flatten().for_each(Hashed::rehash);
        self.view.rehash();
        self.proposals.rehash();
        self.client.rehash();
        let nodes = self.nodes.each_ref().map(|node| node.hash);
        let links = self
            .links
            .each_ref()
            .map(|row| row.each_ref().map(|l| l.hash));
        crate::trace::hash_of(&(
            (self.now, self.scope, self.view.hash),
            (nodes, links, self.cut, self.held),
            (self.proposals.hash, self.client.hash),
        ))
    }

    /// What broke, if anything.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].value.process.is_some()
    }

    /// Whether two nodes hear each other.
    fn linked(&self, a: usize, b: usize) -> bool {
        self.is_up(a) && self.is_up(b) && !self.cut[a][b]
    }

    /// All that may happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = self.under_way();
        // In the plainest order, what takes long waits until the rest has come to an end.
        let rest = self.scope.any_order || actions.is_empty();
        if !self.scope.any_order {
            actions.truncate(1);
        }
        if self.scope.unknown > 0 {
            let commits = |action: &Action| match action {
                Action::Commit(at) => Some(Action::CommitUnheard(*at)),
                _ => None,
            };
            let unheard: Vec<Action> = actions.iter().filter_map(commits).collect();
            actions.extend(unheard);
        }
        self.client_actions(&mut actions);
        self.fault_actions(&mut actions);
        self.hold_actions(&mut actions);
        let slow = |action: &Action| {
            matches!(
                action,
                Action::Tick | Action::Restart(_) | Action::Heal(..) | Action::Release(..)
            )
        };
        actions.retain(|action| rest || !slow(action));
        actions
    }

    /// What is under way and may end now, the plainest first.
    fn under_way(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for from in 0..NODES {
            for to in 0..NODES {
                if !self.links[from][to].value.is_empty() && !self.held[from][to] {
                    actions.push(Action::Deliver(from, to));
                }
            }
        }
        for node in (0..NODES).filter(|node| self.is_up(*node)) {
            let process = &self.nodes[node].value;
            if !process.device.ops.is_empty() && !self.held[node][node] {
                actions.push(Action::Disk(node));
            }
            if process.version() < self.view.value.version {
                actions.push(Action::Learn(node));
            }
        }
        actions.extend((0..self.proposals.value.len()).map(Action::Commit));
        actions
    }

    /// What has something to hold up may be held up, and what is held up goes on when it likes.
    fn hold_actions(&self, actions: &mut Vec<Action>) {
        for from in 0..NODES {
            for to in 0..NODES {
                let busy = match from == to {
                    true => !self.nodes[from].value.device.ops.is_empty(),
                    false => !self.links[from][to].value.is_empty(),
                };
                if self.held[from][to] {
                    actions.push(Action::Release(from, to));
                } else if busy && self.scope.holds > 0 {
                    actions.push(Action::Hold(from, to));
                }
            }
        }
    }

    fn client_actions(&self, actions: &mut Vec<Action>) {
        let there = self.client.value.node.filter(|node| self.is_up(*node));
        if there.is_none() {
            return;
        }
        if self.scope.writes > 0 {
            actions.push(Action::Write);
        }
        if self.scope.reads > 0 {
            actions.push(Action::Read);
        }
    }

    fn fault_actions(&self, actions: &mut Vec<Action>) {
        if self.scope.ticks > 0 {
            actions.push(Action::Tick);
        }
        for node in 0..NODES {
            if !self.is_up(node) {
                if !(self.scope.pair && node == THIRD) {
                    actions.push(Action::Restart(node));
                }
            } else if self.scope.crashes > 0 {
                actions.push(Action::Crash(node, Crash::Dropped));
                if !self.nodes[node].value.device.ops.is_empty() {
                    actions.push(Action::Crash(node, Crash::Kept));
                }
                if self.nodes[node].value.device.is_appending() {
                    actions.push(Action::Crash(node, Crash::Torn));
                }
            }
            for other in 0..node {
                if self.cut[node][other] {
                    actions.push(Action::Heal(other, node));
                } else if self.scope.cuts > 0 && self.linked(node, other) {
                    actions.push(Action::Cut(other, node));
                }
            }
        }
        if self.scope.moves > 0 {
            let at = self.view.value.attachment.map(|(_, node)| index_of(node));
            let others = (0..NODES).filter(|node| Some(*node) != at && self.is_up(*node));
            actions.extend(others.map(Action::Move));
        }
    }

    /// Does one of them.
    pub fn happen(&mut self, action: Action) {
        match action {
            Action::Deliver(from, to) => {
                let message = self.links[from][to].change(Queue::pop_front);
                self.arrive(from, to, message.expect("it is on its way"));
            }
            Action::Disk(node) => self.disk(node),
            Action::Learn(node) => self.learn(node),
            Action::Commit(at) => self.commit(at, true),
            Action::CommitUnheard(at) => {
                self.scope.unknown -= 1;
                self.commit(at, false);
            }
            Action::Write | Action::Read => self.ask(action == Action::Write),
            Action::Tick => {
                self.scope.ticks -= 1;
                self.now += SECOND;
                for node in 0..NODES {
                    self.tick(node);
                }
            }
            Action::Crash(node, how) => {
                self.scope.crashes -= 1;
                self.crash(node, how);
            }
            Action::Restart(node) => self.restart(node),
            Action::Hold(from, to) => {
                self.scope.holds -= 1;
                self.held[from][to] = true;
            }
            Action::Release(from, to) => self.held[from][to] = false,
            Action::Cut(a, b) => {
                self.scope.cuts -= 1;
                self.set_cut(a, b, true);
            }
            Action::Heal(a, b) => self.set_cut(a, b, false),
            Action::Move(node) => {
                self.scope.moves -= 1;
                self.publish(node);
            }
        }
        self.check();
    }

    fn ask(&mut self, write: bool) {
        let node = self.client.value.node.expect("it is attached");
        let (tag, operation, request) = if write {
            self.scope.writes -= 1;
            let value = self.client.value.next_value();
            (value, Operation::Write(value), write_of(value))
        } else {
            self.scope.reads -= 1;
            let tag = 100 + self.client.value.reads();
            (tag, Operation::Read(None), read_of())
        };
        self.client
            .change(|client| client.starts(tag, operation, node));
        self.client_asks(node, tag, request);
    }

    /// A proposal commits, or is refused; the proposer learns the record before the answer.
    fn commit(&mut self, at: usize, heard: bool) {
        let pending = self.proposals.change(|all| all.remove(at));
        let applied = apply(Arc::make_mut(&mut self.state), pending.command.clone()).is_ok();
        self.record_changed();
        let alive = self.nodes[pending.from].value.boot == pending.boot;
        if !self.is_up(pending.from) || !alive {
            return;
        }
        if heard {
            self.learn(pending.from);
        }
        self.proposal_ended(&pending, heard.then_some(applied));
    }

    fn record_changed(&mut self) {
        let view = view_of(
            &self.state.volumes[&VOLUME],
            site_of,
            |_, r| r.leaving,
            BTreeSet::new(),
        );
        if view != *self.view.value {
            self.view = Hashed::new(view);
        }
    }

    /// Takes the publication from whoever has it and gives it to another node (R12).
    fn publish(&mut self, node: usize) {
        let held = self.view.value.attachment;
        let state = Arc::make_mut(&mut self.state);
        if let Some((id, _)) = held {
            let detach = Command::Detach {
                volume: VOLUME,
                attachment: id,
                device_gone: false,
            };
            let _ = apply(state, detach);
        }
        let number = self.client.value.attachments + 1;
        let attach = Command::Attach {
            volume: VOLUME,
            attachment: Attachment {
                id: attachment(number),
                node: node_id(node),
            },
        };
        let published = apply(state, attach).is_ok();
        self.record_changed();
        if published {
            self.client.change(|client| client.moves_to(node, number));
        }
    }

    fn volume(&self) -> &Volume {
        &self.state.volumes[&VOLUME]
    }
}
