//! The faults of a run: when each strikes, and what it does to the world.

use super::plan::{FaultKind, STRIKING};
use super::{Event, World};
use crate::disk::{Disk, Profile};
use crate::net::NodeIndex;
use lockstep_types::{Nanos, SECOND, millis};

/// A fault, or its end.
#[derive(Clone, Debug)]
pub enum Chaos {
    /// A fault of a kind strikes somewhere.
    Strike(FaultKind),
    /// Directions that were cut heal.
    Heal(Vec<(NodeIndex, NodeIndex)>),
    /// A process dies, for a while.
    Kill { node: NodeIndex, back_after: Nanos },
    /// A process or machine starts again.
    Restart { node: NodeIndex, swap: bool },
    /// A stopped process goes on.
    Resume { node: NodeIndex },
    /// A device is as fast as before.
    Recover { node: NodeIndex },
    /// The devices of a node are slow from now on, and not so slow that writes are overdue.
    SlowForLong { node: NodeIndex },
}

impl World {
    /// Schedules the first fault of each kind.
    pub(super) fn begin_chaos(&mut self) {
        if self.plan.drift > 0 {
            self.coverage.hit("fault: clocks drift");
        }
        if self.plan.every(FaultKind::Corruption).is_some() {
            // The atlas: only this device rots, and what it loses counts as the copy that may be lost.
            self.copies_lost += 1;
            self.queue.after(
                5 * SECOND,
                Event::Chaos(Chaos::Strike(FaultKind::Corruption)),
            );
        }
        if self.plan.odd(FaultKind::SlowForLong) {
            let node = self.dice.below(self.plan.data_nodes[0] as u64) as usize;
            self.queue
                .after(5 * SECOND, Event::Chaos(Chaos::SlowForLong { node }));
        }
        for kind in STRIKING {
            self.next_strike(kind);
        }
    }

    pub(super) fn chaos(&mut self, chaos: Chaos) {
        match chaos {
            Chaos::Strike(kind) => {
                if self.faults_last() {
                    self.strike(kind);
                    // Rot sets in once, for good.
                    if kind != FaultKind::Corruption {
                        self.next_strike(kind);
                    }
                }
            }
            Chaos::Heal(directions) => {
                let now = self.now();
                for (from, to) in directions {
                    self.net.set_blocked(now, from, to, false);
                }
                self.say("chaos", format_args!("a cut heals"));
            }
            Chaos::Kill { node, back_after } => {
                if self.faults_last() {
                    self.kill(node);
                    self.restart_later(node, back_after, false);
                }
            }
            Chaos::Restart { node, swap } => self.restart(node, swap),
            Chaos::Resume { node } => self.resume(node),
            Chaos::Recover { node } => {
                self.say(
                    "chaos",
                    format_args!("the device of {} is fast again", self.name(node)),
                );
                self.speed_up(node);
            }
            Chaos::SlowForLong { node } => self.slow_for_long(node),
        }
    }

    fn slow_for_long(&mut self, node: NodeIndex) {
        const WRITE: Nanos = millis(150);
        self.coverage.hit("fault: slow for long");
        self.say(
            "chaos",
            format_args!("the device of {} is slow for long", self.name(node)),
        );
        for disk in &mut self.nodes[node].disks {
            let profile = &mut disk.disk.profile;
            // A flush that takes as many times as long would hold writes up until they are overdue.
            profile.flush = profile.flush.min(profile.latency);
            disk.disk.slow = WRITE / (profile.latency + 2 * profile.page_time);
        }
    }

    /// The devices of a node are as fast as before.
    pub(crate) fn speed_up(&mut self, node: NodeIndex) {
        let now = self.now();
        for slot in 0..self.nodes[node].disks.len() {
            let disk = &mut self.nodes[node].disks[slot];
            let life = disk.life;
            for hurried in disk.disk.speed_up(now) {
                self.queue.at(
                    hurried.done_at,
                    Event::Disk {
                        node,
                        slot,
                        life,
                        id: hurried.id,
                    },
                );
            }
        }
    }

    fn next_strike(&mut self, kind: FaultKind) {
        let Some(every) = self.plan.every(kind) else {
            return;
        };
        let wait = self.dice.about(every).max(millis(10));
        self.queue.after(wait, Event::Chaos(Chaos::Strike(kind)));
    }

    fn strike(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Partition => self.cut_somewhere(),
            FaultKind::Crash => {
                let node = self.any_node();
                self.kill_for_a_while(node, false, false);
            }
            FaultKind::Power => self.power_fails(),
            FaultKind::Blackout => {
                self.coverage.hit("fault: whole cluster power loss");
                for node in 0..self.nodes.len() {
                    self.power_off(node);
                    let until = self.outage() / 4;
                    self.restart_later(node, until, false);
                }
            }
            FaultKind::Pause => self.pause_somebody(),
            FaultKind::DeviceFailure => self.fail_a_device(),
            FaultKind::Slow => {
                let node = self.any_data_node();
                let factor = 10u64.pow(self.dice.between(1, 3) as u32);
                self.coverage.hit("fault: slow device");
                self.say(
                    "chaos",
                    format_args!("the device of {} is {factor} × slower", self.name(node)),
                );
                self.nodes[node]
                    .disks
                    .iter_mut()
                    .for_each(|disk| disk.disk.slow = factor);
                let until = self.outage();
                self.queue
                    .after(until, Event::Chaos(Chaos::Recover { node }));
            }
            FaultKind::Swap => {
                let node = self.any_data_node();
                if self.may_lose_copies_of(node) {
                    self.copies_lost += 1;
                    self.kill_for_a_while(node, true, true);
                }
            }
            FaultKind::Corruption if !self.may_rot() => {
                let again = Event::Chaos(Chaos::Strike(FaultKind::Corruption));
                self.queue.after(SECOND, again);
            }
            FaultKind::Corruption if self.plan.over_budget => self.rot_everywhere(),
            FaultKind::Corruption => {
                let rates = self.plan.corruption;
                for disk in &mut self.nodes[self.plan.victim].disks {
                    disk.disk.profile.corrupt(rates);
                }
            }
            // The others strike by themselves.
            _ => {}
        }
    }

    /// Of a node, or of a site; where a device lies, of its node.
    fn power_fails(&mut self) {
        if let Some(liar) = self.plan.liar {
            return self.kill_for_a_while(liar, true, false);
        }
        if !self.dice.per_cent(30) {
            let node = self.any_node();
            return self.kill_for_a_while(node, true, false);
        }
        let site = self.dice.below(3) as usize;
        self.coverage.hit("fault: site power loss");
        let until = self.outage();
        for node in self.nodes_of_site(site) {
            self.power_off(node);
            self.restart_later(node, until, false);
        }
    }

    fn pause_somebody(&mut self) {
        let node = self.any_node();
        let long = self.dice.between(millis(100), 10 * SECOND);
        if long > 3 * SECOND {
            self.coverage.hit("fault: pause longer than a lease");
        }
        self.pause(node);
        self.queue.after(long, Event::Chaos(Chaos::Resume { node }));
    }

    /// Over the budget: data rots on every device. Journals and metadata are left whole, and writes are lost
    /// on one device only: two that lose the same write agree on what was before it, and nobody can tell.
    fn rot_everywhere(&mut self) {
        let victim = self.plan.victim;
        let [read_error, rot, misdirected, lost] = self.plan.corruption;
        for (node, it) in self.nodes.iter_mut().enumerate() {
            let writes = if node == victim {
                [misdirected, lost]
            } else {
                [0; 2]
            };
            for disk in &mut it.disks {
                let bytes = disk.disk.bytes();
                disk.disk.profile.corruptible = super::node::DATA_FROM..bytes;
                disk.disk
                    .profile
                    .corrupt([read_error, rot, writes[0], writes[1]]);
            }
        }
    }

    fn cut_somewhere(&mut self) {
        let count = self.nodes.len();
        let mut directions = Vec::new();
        let style = self.dice.below(6);
        match style {
            0 => {
                let alone = self.any_node();
                directions.extend(
                    (0..count)
                        .filter(|n| *n != alone)
                        .flat_map(|n| [(alone, n), (n, alone)]),
                );
                self.coverage.hit("fault: one node isolated");
            }
            1 => {
                let (from, to) = (self.any_node(), self.any_node());
                directions.push((from, to));
                self.coverage.hit("fault: one-way loss");
            }
            2 => {
                let site = self.dice.below(3) as usize;
                let inside = |n: &usize| self.nodes[*n].site == site;
                let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
                directions.extend(pairs.filter(|(a, b)| inside(a) != inside(b)));
                self.coverage.hit("fault: site isolated");
            }
            3 | 4 => {
                let (x, y) = *self.dice.pick(&[(0, 1), (0, 2), (1, 2)]);
                for a in self.nodes_of_site(x) {
                    for b in self.nodes_of_site(y) {
                        directions.extend([(a, b), (b, a)]);
                    }
                }
                self.coverage.hit("fault: link between two sites cut");
            }
            _ => {
                for a in 0..count {
                    for b in 0..a {
                        if self.dice.per_cent(30) {
                            directions.extend([(a, b), (b, a)]);
                        }
                    }
                }
                self.coverage.hit("fault: random cuts");
            }
        }
        directions.retain(|(from, to)| from != to && !self.net.is_blocked(*from, *to));
        let names: Vec<String> = directions
            .iter()
            .map(|(from, to)| format!("{}→{}", self.name(*from), self.name(*to)))
            .collect();
        self.say("chaos", format_args!("cut: {}", names.join(" ")));
        let now = self.now();
        for (from, to) in &directions {
            self.net.set_blocked(now, *from, *to, true);
        }
        let until = self.outage();
        self.queue
            .after(until, Event::Chaos(Chaos::Heal(directions)));
    }

    fn kill_for_a_while(&mut self, node: NodeIndex, power: bool, swap: bool) {
        if power {
            self.power_off(node);
        } else {
            self.kill(node);
        }
        let until = if power || self.dice.per_cent(30) {
            self.outage()
        } else {
            self.dice.between(millis(50), 3 * SECOND)
        };
        self.restart_later(node, until, swap);
    }

    fn restart_later(&mut self, node: NodeIndex, after: Nanos, swap: bool) {
        self.queue
            .after(after, Event::Chaos(Chaos::Restart { node, swap }));
    }

    fn fail_a_device(&mut self) {
        let node = self.any_data_node();
        if self.dice.per_cent(50) {
            return self.fail_for_a_while(node);
        }
        if !self.may_lose_copies_of(node) {
            return;
        }
        let now = self.now();
        if self.nodes[node]
            .disks
            .iter()
            .all(|disk| disk.disk.is_dead(now))
        {
            return;
        }
        self.coverage.hit("fault: device failed for good");
        self.say(
            "chaos",
            format_args!("the device of {} fails for good", self.name(node)),
        );
        self.copies_lost += 1;
        for disk in &mut self.nodes[node].disks {
            disk.disk.profile.dies_at = Some(now);
        }
        self.note_loss(node);
        // Somebody exchanges it.
        self.kill_for_swap(node);
    }

    /// A cable is pulled, or a controller resets: nothing is lost, and nothing is certain any more. Under
    /// `strict` the volume would wait for an operator (docs/decisions/0014).
    fn fail_for_a_while(&mut self, node: NodeIndex) {
        let now = self.now();
        if self.plan.volumes.iter().any(|volume| volume.strict) {
            return;
        }
        let mut disks = self.nodes[node].disks.iter();
        if disks.any(|disk| disk.disk.is_dead(now)) {
            return;
        }
        self.coverage.hit("fault: device failed for a while");
        self.say(
            "chaos",
            format_args!("the device of {} fails for a while", self.name(node)),
        );
        for disk in &mut self.nodes[node].disks {
            disk.disk.profile.dies_at = Some(now);
            disk.shaky_until = Nanos::MAX;
        }
        let wait = self.outage();
        self.queue.after(wait, Event::Mend { node });
    }

    pub(super) fn mend(&mut self, node: NodeIndex) {
        self.say(
            "chaos",
            format_args!("the device of {} answers again", self.name(node)),
        );
        self.kill(node);
        let now = self.now();
        for disk in &mut self.nodes[node].disks {
            disk.disk.profile.dies_at = None;
            disk.shaky_until = now + 10 * SECOND;
        }
        self.forget_loss_known(node);
        let wait = self.dice.between(millis(50), 3 * SECOND);
        self.restart_later(node, wait, false);
    }

    fn kill_for_swap(&mut self, node: NodeIndex) {
        let wait = self.outage();
        self.queue.after(wait, Event::Exchange { node });
    }

    /// A failed device is exchanged while the machine is off.
    pub(super) fn exchange(&mut self, node: NodeIndex) {
        self.power_off(node);
        let wait = self.dice.between(SECOND, 10 * SECOND);
        self.restart_later(node, wait, true);
    }

    /// Replaces the devices of a node that is off by blank ones.
    pub(super) fn swap_devices(&mut self, node: NodeIndex) {
        self.coverage.hit("fault: device swapped");
        self.say(
            "chaos",
            format_args!("{} gets a blank device", self.name(node)),
        );
        self.note_loss(node);
        self.forget_loss_known(node);
        for disk in &mut self.nodes[node].disks {
            let rng = self.dice.split("swap");
            let profile = Profile::draw(&mut self.dice);
            disk.disk = Disk::new(disk.disk.bytes(), profile, rng);
            disk.life += 1;
            disk.formatted = false;
            disk.failed_before = false;
        }
    }

    /// How long something is away: mostly short, sometimes as long as it takes to be given up.
    fn outage(&mut self) -> Nanos {
        match self.dice.below(4) {
            0 => self.dice.between(millis(50), SECOND),
            1 | 2 => self.dice.between(SECOND, 12 * SECOND),
            _ => self.dice.between(10 * SECOND, 70 * SECOND),
        }
    }

    fn any_node(&mut self) -> NodeIndex {
        self.dice.below(self.nodes.len() as u64) as usize
    }

    pub(super) fn any_data_node(&mut self) -> NodeIndex {
        let data = self.plan.data_nodes[0] + self.plan.data_nodes[1];
        self.dice.below(data as u64) as usize
    }
}
