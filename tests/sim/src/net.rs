//! The network between nodes: links that keep order and lose nothing while they stand (TCP), and
//! datagrams for raft, over paths that delay, clog, and are cut in one or both directions.

use crate::coverage::Coverage;
use crate::rng::Rng;
use lockstep_types::{Nanos, SECOND, millis};
use std::collections::{BTreeMap, VecDeque};

/// A node by its place in the world.
pub type NodeIndex = usize;

/// How the network behaves. Rates are parts in a million.
#[derive(Clone, Debug)]
pub struct NetFaults {
    /// A datagram is lost; a segment of a link is sent again, which delays it.
    pub loss: u32,
    /// A datagram arrives twice.
    pub duplication: u32,
    /// A datagram is held back so that later ones pass it.
    pub reordering: u32,
    /// A message clogs its path.
    pub clog: u32,
    /// How long a path stays clogged, at most.
    pub clog_max: Nanos,
    /// A link is reset for no reason, per message.
    pub reset: u32,
    /// Silence after which an end gives a link up.
    pub give_up: Nanos,
    /// Between two attempts to connect.
    pub backoff: Nanos,
}

impl NetFaults {
    /// A network without faults.
    pub fn none() -> Self {
        Self {
            loss: 0,
            duplication: 0,
            reordering: 0,
            clog: 0,
            clog_max: 0,
            reset: 0,
            give_up: 5 * SECOND,
            backoff: millis(250),
        }
    }

    /// The rates of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            loss: rng.rate(300_000),
            duplication: rng.rate(500_000),
            reordering: rng.rate(500_000),
            clog: rng.rate(20_000),
            clog_max: rng.between(millis(10), 5 * SECOND),
            reset: rng.rate(2_000),
            give_up: rng.between(SECOND, 15 * SECOND),
            backoff: rng.between(millis(100), SECOND),
        }
    }
}

/// Something the network does later.
#[derive(Clone, Debug)]
pub enum NetEvent<M, D> {
    /// An item reaches the far end of a link.
    Arrive {
        from: NodeIndex,
        to: NodeIndex,
        link: u64,
        order: u64,
        item: Item<M>,
    },
    /// Two nodes try to connect.
    Connect { a: NodeIndex, b: NodeIndex },
    /// An end gives up on a link.
    GiveUp {
        node: NodeIndex,
        peer: NodeIndex,
        link: u64,
    },
    /// A datagram arrives.
    Datagram {
        from: NodeIndex,
        to: NodeIndex,
        content: D,
    },
}

/// What travels on a link.
#[derive(Clone, Debug)]
pub enum Item<M> {
    /// Both hellos were good.
    Up { boot: u64 },
    /// A message.
    Message(M),
    /// The peer's end was closed.
    Closed,
}

/// What a node notices.
#[derive(Clone, Debug)]
pub enum Signal<M, D> {
    /// A link stands.
    Up {
        node: NodeIndex,
        peer: NodeIndex,
        boot: u64,
    },
    /// It is gone.
    Down { node: NodeIndex, peer: NodeIndex },
    /// A message came.
    Message {
        from: NodeIndex,
        to: NodeIndex,
        message: M,
    },
    /// A datagram came.
    Datagram {
        from: NodeIndex,
        to: NodeIndex,
        content: D,
    },
}

/// Events to schedule.
pub type Later<M, D> = Vec<(Nanos, NetEvent<M, D>)>;

/// The network.
#[derive(Debug)]
pub struct Net<M, D> {
    /// How it behaves.
    pub faults: NetFaults,
    nodes: usize,
    rng: Rng,
    /// The boot of each node that runs.
    boots: Vec<Option<u64>>,
    /// Whether the kernel of a node without its process still runs.
    answers: Vec<bool>,
    /// One a direction, by `from * nodes + to`.
    paths: Vec<Path<M>>,
    /// The link that a node's kernel believes stands, by `node * nodes + peer`.
    ends: Vec<Option<u64>>,
    /// Changes of it that the node, which may be paused, has not taken in yet: until then it goes on
    /// writing to the link it knows, which is gone.
    unnoticed: Vec<u32>,
    /// Whether an attempt to connect is scheduled, by the lower and the higher node.
    connecting: Vec<bool>,
    links: u64,
    later: Later<M, D>,
}

#[derive(Debug)]
struct Path<M> {
    delay: Nanos,
    blocked: bool,
    clogged_until: Nanos,
    /// When the last item of the link arrives: later ones stay behind it.
    last_arrival: Nanos,
    /// Sent, and caught by a cut: arrives when it heals, if the link lives that long.
    stuck: VecDeque<(u64, u64, Item<M>)>,
    /// How many items each link was given, and how many were taken from it in order.
    given: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
    /// Items that overtook others of their link, because those were caught by a cut: they wait.
    ahead: BTreeMap<(u64, u64), Item<M>>,
}

impl<M, D: Clone> Net<M, D> {
    /// A network of nodes with these one-way delays, `delay(from, to)`.
    pub fn new(
        nodes: usize,
        faults: NetFaults,
        rng: Rng,
        delay: impl Fn(NodeIndex, NodeIndex) -> Nanos,
    ) -> Self {
        let path = |i: usize| Path {
            delay: delay(i / nodes, i % nodes),
            blocked: false,
            clogged_until: 0,
            last_arrival: 0,
            stuck: VecDeque::new(),
            given: BTreeMap::new(),
            taken: BTreeMap::new(),
            ahead: BTreeMap::new(),
        };
        Self {
            faults,
            nodes,
            rng,
            boots: vec![None; nodes],
            answers: vec![false; nodes],
            paths: (0..nodes * nodes).map(path).collect(),
            ends: vec![None; nodes * nodes],
            unnoticed: vec![0; nodes * nodes],
            connecting: vec![false; nodes * nodes],
            links: 0,
            later: Vec::new(),
        }
    }

    /// What is to be scheduled since the last call.
    pub fn take_later(&mut self) -> Later<M, D> {
        std::mem::take(&mut self.later)
    }

    /// A node starts: it and its peers try to connect.
    pub fn start(&mut self, now: Nanos, node: NodeIndex, boot: u64) {
        assert!(self.boots[node].is_none(), "a node starts once");
        self.boots[node] = Some(boot);
        self.unnoticed[node * self.nodes..][..self.nodes].fill(0);
        for peer in (0..self.nodes).filter(|peer| *peer != node) {
            self.connect_soon(now, node, peer);
        }
    }

    /// A node ends. A killed process's kernel closes its sockets; a lost machine says nothing.
    pub fn stop(&mut self, now: Nanos, node: NodeIndex, says_so: bool) {
        self.boots[node] = None;
        self.answers[node] = says_so;
        for peer in 0..self.nodes {
            let Some(link) = self.ends[node * self.nodes + peer].take() else {
                continue;
            };
            if says_so {
                self.send_item(now, node, peer, link, Item::Closed);
            } else {
                self.give_up_later(now, peer, node, link);
            }
        }
    }

    /// What is said in one direction arrives after this moment.
    pub fn clog(&mut self, from: NodeIndex, to: NodeIndex, until: Nanos) {
        self.paths[from * self.nodes + to].clogged_until = until;
    }

    /// Cuts or heals one direction.
    pub fn set_blocked(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex, blocked: bool) {
        let index = from * self.nodes + to;
        if self.paths[index].blocked == blocked {
            return;
        }
        self.paths[index].blocked = blocked;
        if blocked {
            // Without echoes neither end proves the link in both directions (safety.md, one-way loss).
            for (node, peer) in [(from, to), (to, from)] {
                if let Some(link) = self.ends[node * self.nodes + peer] {
                    self.give_up_later(now, node, peer, link);
                }
            }
            return;
        }
        // What the cut caught is sent again.
        let resent = now + self.rng.between(millis(1), SECOND);
        self.paths[index].last_arrival = self.paths[index].last_arrival.max(resent);
        for (link, order, item) in std::mem::take(&mut self.paths[index].stuck) {
            self.schedule(now, from, to, link, order, item);
        }
    }

    /// Whether a direction is cut.
    pub fn is_blocked(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.paths[from * self.nodes + to].blocked
    }

    /// Whether both nodes run and hear each other.
    pub fn reach(&self, a: NodeIndex, b: NodeIndex) -> bool {
        self.boots[a].is_some()
            && self.boots[b].is_some()
            && !self.is_blocked(a, b)
            && !self.is_blocked(b, a)
    }

    /// A node has taken in that its link to a peer came up or went.
    pub fn noticed(&mut self, node: NodeIndex, peer: NodeIndex) {
        let unnoticed = &mut self.unnoticed[node * self.nodes + peer];
        *unnoticed = unnoticed.saturating_sub(1);
    }

    /// Sends on the link that the sender knows, if that stands.
    pub fn send(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex, message: M) {
        let end = from * self.nodes + to;
        let Some(link) = self.ends[end].filter(|_| self.unnoticed[end] == 0) else {
            return;
        };
        self.send_item(now, from, to, link, Item::Message(message));
        if self.rng.chance(self.faults.reset) {
            self.later.push((
                now,
                NetEvent::GiveUp {
                    node: from,
                    peer: to,
                    link,
                },
            ));
            self.later.push((
                now + self.rng.below(millis(200)),
                NetEvent::GiveUp {
                    node: to,
                    peer: from,
                    link,
                },
            ));
        }
    }

    /// Sends a datagram.
    pub fn send_datagram(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex, content: D) {
        if self.is_blocked(from, to) || self.rng.chance(self.faults.loss) {
            return;
        }
        let copies = if self.rng.chance(self.faults.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut at = now + self.delay(now, from, to);
            if self.rng.chance(self.faults.reordering) {
                at += self.rng.below(millis(50));
            }
            self.later.push((
                at,
                NetEvent::Datagram {
                    from,
                    to,
                    content: content.clone(),
                },
            ));
        }
    }

    /// Carries out what was scheduled.
    pub fn happen(
        &mut self,
        now: Nanos,
        event: NetEvent<M, D>,
        coverage: &mut Coverage,
    ) -> Vec<Signal<M, D>> {
        match event {
            NetEvent::Datagram { from, to, content } => {
                let arrives = self.boots[to].is_some() && !self.is_blocked(from, to);
                if arrives {
                    vec![Signal::Datagram { from, to, content }]
                } else {
                    Vec::new()
                }
            }
            NetEvent::Connect { a, b } => {
                self.connecting[pair(a, b, self.nodes)] = false;
                self.connect(now, a, b, coverage);
                Vec::new()
            }
            NetEvent::GiveUp { node, peer, link } => self.drop_end(now, node, peer, link, coverage),
            NetEvent::Arrive {
                from,
                to,
                link,
                order,
                item,
            } => self.arrive(now, from, to, link, order, item, coverage),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn arrive(
        &mut self,
        now: Nanos,
        from: NodeIndex,
        to: NodeIndex,
        link: u64,
        order: u64,
        item: Item<M>,
        coverage: &mut Coverage,
    ) -> Vec<Signal<M, D>> {
        if self.is_blocked(from, to) {
            self.paths[from * self.nodes + to]
                .stuck
                .push_back((link, order, item));
            return Vec::new();
        }
        if self.boots[to].is_none() {
            if self.answers[to] && !matches!(item, Item::Closed) {
                self.refuse(now, from, to, link);
            }
            return Vec::new();
        }
        if matches!(item, Item::Closed) {
            return self.take(now, from, to, link, item, coverage);
        }
        // A link keeps the order in which it was given its items.
        self.paths[from * self.nodes + to]
            .ahead
            .insert((link, order), item);
        let mut signals = Vec::new();
        loop {
            let path = &mut self.paths[from * self.nodes + to];
            let next = path.taken.entry(link).or_default();
            let Some(item) = path.ahead.remove(&(link, *next)) else {
                return signals;
            };
            *next += 1;
            signals.extend(self.take(now, from, to, link, item, coverage));
        }
    }

    fn take(
        &mut self,
        now: Nanos,
        from: NodeIndex,
        to: NodeIndex,
        link: u64,
        item: Item<M>,
        coverage: &mut Coverage,
    ) -> Vec<Signal<M, D>> {
        let end = to * self.nodes + from;
        match item {
            Item::Up { boot } => {
                let mut signals = Vec::new();
                // An `Up` of a process that has since ended is void.
                if self.ends[end].is_some_and(|old| old > link) || self.boots[from] != Some(boot) {
                    return signals;
                }
                if self.ends[end].take().is_some() {
                    coverage.hit("net: link replaced");
                    self.unnoticed[end] += 1;
                    signals.push(Signal::Down {
                        node: to,
                        peer: from,
                    });
                }
                self.ends[end] = Some(link);
                self.unnoticed[end] += 1;
                signals.push(Signal::Up {
                    node: to,
                    peer: from,
                    boot,
                });
                signals
            }
            Item::Message(message) if self.ends[end] == Some(link) => {
                vec![Signal::Message { from, to, message }]
            }
            Item::Message(_) => {
                self.refuse(now, from, to, link);
                Vec::new()
            }
            Item::Closed => self.drop_end(now, to, from, link, coverage),
        }
    }

    /// The kernel of `to` resets a link that no process there knows.
    fn refuse(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex, link: u64) {
        self.send_item(now, to, from, link, Item::Closed);
    }

    fn drop_end(
        &mut self,
        now: Nanos,
        node: NodeIndex,
        peer: NodeIndex,
        link: u64,
        coverage: &mut Coverage,
    ) -> Vec<Signal<M, D>> {
        let end = node * self.nodes + peer;
        if self.boots[node].is_none() || self.ends[end] != Some(link) {
            return Vec::new();
        }
        coverage.hit("net: link lost");
        self.ends[end] = None;
        self.unnoticed[end] += 1;
        self.send_item(now, node, peer, link, Item::Closed);
        self.connect_soon(now, node, peer);
        vec![Signal::Down { node, peer }]
    }

    fn connect_soon(&mut self, now: Nanos, a: NodeIndex, b: NodeIndex) {
        let flag = pair(a, b, self.nodes);
        if !self.connecting[flag] {
            self.connecting[flag] = true;
            let wait = self.faults.backoff / 2 + self.rng.below(self.faults.backoff);
            self.later.push((
                now + wait,
                NetEvent::Connect {
                    a: a.min(b),
                    b: a.max(b),
                },
            ));
        }
    }

    fn connect(&mut self, now: Nanos, a: NodeIndex, b: NodeIndex, coverage: &mut Coverage) {
        let (Some(boot_a), Some(boot_b)) = (self.boots[a], self.boots[b]) else {
            return;
        };
        let (end_a, end_b) = (self.ends[a * self.nodes + b], self.ends[b * self.nodes + a]);
        if end_a.is_some() && end_a == end_b {
            return;
        }
        if !self.reach(a, b) {
            return self.connect_soon(now, a, b);
        }
        coverage.hit("net: connected");
        self.links += 1;
        let link = self.links;
        for (from, to, boot) in [(a, b, boot_a), (b, a, boot_b)] {
            // Whatever an older link still had in flight is lost with it.
            let path = &mut self.paths[from * self.nodes + to];
            path.stuck.clear();
            path.ahead.clear();
            self.send_item(now, from, to, link, Item::Up { boot });
        }
        // Should one of the two `Up` be void or caught by a cut, somebody tries again.
        self.connect_soon(
            now + 4 * (self.paths[a * self.nodes + b].delay + self.faults.backoff),
            a,
            b,
        );
    }

    fn give_up_later(&mut self, now: Nanos, node: NodeIndex, peer: NodeIndex, link: u64) {
        let wait = self.faults.give_up / 2 + self.rng.below(self.faults.give_up);
        self.later
            .push((now + wait, NetEvent::GiveUp { node, peer, link }));
    }

    fn send_item(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex, link: u64, item: Item<M>) {
        let given = self.paths[from * self.nodes + to]
            .given
            .entry(link)
            .or_default();
        let order = *given;
        *given += u64::from(!matches!(item, Item::Closed));
        self.schedule(now, from, to, link, order, item);
    }

    fn schedule(
        &mut self,
        now: Nanos,
        from: NodeIndex,
        to: NodeIndex,
        link: u64,
        order: u64,
        item: Item<M>,
    ) {
        let mut at = now + self.delay(now, from, to);
        let mut again = millis(200);
        while self.rng.chance(self.faults.loss / 8) && again < 4 * SECOND {
            at += again; // a lost segment is sent again
            again *= 2;
        }
        let path = &mut self.paths[from * self.nodes + to];
        at = at.max(path.last_arrival);
        path.last_arrival = at;
        self.later.push((
            at,
            NetEvent::Arrive {
                from,
                to,
                link,
                order,
                item,
            },
        ));
    }

    fn delay(&mut self, now: Nanos, from: NodeIndex, to: NodeIndex) -> Nanos {
        let path = &mut self.paths[from * self.nodes + to];
        if self.rng.chance(self.faults.clog) {
            path.clogged_until = path
                .clogged_until
                .max(now + self.rng.below(self.faults.clog_max));
        }
        let wait = path.clogged_until.saturating_sub(now);
        wait + path.delay / 2 + self.rng.about(path.delay / 2)
    }
}

fn pair(a: NodeIndex, b: NodeIndex, nodes: usize) -> usize {
    a.min(b) * nodes + a.max(b)
}
