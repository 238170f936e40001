//! The end of a run: faults stop for a healthy core, all I/O must complete within a bound (V11), and
//! at quiescence the certified copies are the same byte for byte (V6).

use super::client::{Kind, Outstanding};
use super::step::Inward;
use super::{Event, World};
use crate::net::{NetFaults, NodeIndex};
use lockstep_logic::io::Input;
use lockstep_types::{BlockRange, EXTENT_BLOCKS, Nanos, SECOND, VolumeId};

/// How long after the last fault everything must be served again: leases, elections, the 30 s for
/// which unseen peers are waited for, and a resync.
const BOUND: Nanos = 150 * SECOND;

/// How long after the last fault the control plane must have a leader and have told every voter.
const CONTROL_BOUND: Nanos = 20 * SECOND;

/// Longer than it takes to shut a silent member out, and to let those in that are back.
const CALM: Nanos = 15 * SECOND;

impl World {
    pub(super) fn settle_down(&mut self) {
        self.stop_faults();
        self.leave_one_dead();
        let deadline = self.now() + BOUND;
        self.checks.applied_when_faults_stopped = self.committed.applied;
        let in_time = (0..CONTROL_BOUND / SECOND).any(|_| {
            self.propose_anything();
            let next = self.now() + SECOND;
            self.run_while(next, Self::control_plane_stands_still)
        });
        if !in_time {
            let why = format!(
                "the control plane stands still {} s after the last fault",
                CONTROL_BOUND / SECOND
            );
            return self.broken_unless_failed("V11", &why);
        }
        self.clients_go_on(30);
        if !self.run_while(deadline, Self::unserved) {
            let why = self.why_unserved();
            return self.broken_unless_failed(
                "V11",
                &format!("{} s after the last fault: {why}", BOUND / SECOND),
            );
        }
        self.clients_go_on(0);
        if !self.run_while(deadline, Self::unanswered) {
            let why = self.why_unserved();
            return self
                .broken_unless_failed("V11", &format!("requests are still unanswered: {why}"));
        }
        self.coverage.hit("liveness: everything served");
        if !self.run_while(deadline, Self::unfreed) {
            let why = self.why_unfreed().unwrap_or_default();
            return self.broken_unless_failed("R18", &format!("not freed: {why}"));
        }
        let volumes: Vec<VolumeId> = self.clients.volumes.keys().copied().collect();
        if volumes
            .iter()
            .any(|volume| self.waits_for_the_lost(*volume))
        {
            self.coverage
                .hit("liveness: a volume waits for lost copies");
        }
        self.rot_cold_blocks();
        self.read_everything();
        let read_by = self.now().max(deadline) + 30 * SECOND;
        if !self.run_while(read_by, Self::unanswered) {
            let why = self.why_unserved();
            return self
                .broken_unless_failed("V11", &format!("the last reads are unanswered: {why}"));
        }
        let quiet = self.now() + 5 * SECOND;
        self.run_until(quiet);
        if self.failure.is_none() {
            self.check_quiescence();
        }
    }

    /// Runs while something is so; false if it still is at the deadline.
    fn run_while(&mut self, deadline: Nanos, so: fn(&Self) -> bool) -> bool {
        while self.failure.is_none() && so(self) {
            if self.now() >= deadline {
                return false;
            }
            let next = self.now() + SECOND / 4;
            self.run_until(next);
            if self.queue.next_at().is_none_or(|at| at > next) {
                // Time passes although nothing happens.
                self.queue.at(next, Event::Inspect);
                self.run_until(next);
            }
        }
        true
    }

    fn broken_unless_failed(&mut self, what: &str, why: &str) {
        if self.failure.is_none() {
            self.fail(what, why);
        }
    }

    fn stop_faults(&mut self) {
        let now = self.now();
        self.faults_until = now;
        self.say("chaos", format_args!("faults stop"));
        self.net.faults = NetFaults {
            give_up: self.net.faults.give_up,
            backoff: self.net.faults.backoff,
            ..NetFaults::none()
        };
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.net.set_blocked(now, from, to, false);
            }
        }
        for node in 0..self.nodes.len() {
            self.speed_up(node);
            for disk in &mut self.nodes[node].disks {
                disk.disk.profile.corrupt([0; 4]);
            }
            self.resume(node);
            let process = self.nodes[node].process.as_ref();
            if process.is_some_and(|process| process.log_failed) {
                self.kill(node); // somebody mends its disk
            }
            self.restart(node, false);
        }
        self.plan.operations = u64::MAX;
    }

    /// Sometimes one node stays dead. It goes in a calm moment: who is to leave a set because of the last
    /// faults has left by then.
    fn leave_one_dead(&mut self) {
        let dead = match self.dice.per_cent(30) {
            true => {
                let calm = self.now() + CALM;
                self.run_until(calm);
                self.may_stay_dead()
            }
            false => None,
        };
        if let Some(node) = dead {
            self.say_node(node, format_args!("stays dead"));
            self.coverage.hit("liveness: a node stays dead");
            self.power_off(node);
        }
        self.operator_moves_off(dead);
    }

    /// A node that the rest can do without.
    fn may_stay_dead(&mut self) -> Option<NodeIndex> {
        let node = self.dice.below(self.nodes.len() as u64) as usize;
        let id = self.nodes[node].id;
        let spared = self.committed.state.volumes.values().all(|volume| {
            let strict = volume.policy.rpo == lockstep_control::Rpo::Strict;
            let members = volume
                .membership
                .in_sync
                .keys()
                .filter_map(|id| volume.replicas.get(id));
            !strict && members.filter(|replica| replica.node != id).count() > 0
        });
        (self.quorum_without(node)
            && self.every_volume_stands()
            && spared
            && self.copies_lost == 0
            && self.devices_answer())
        .then_some(node)
    }

    /// No device has failed, or has answered again only just now: whoever nobody asked anything meanwhile would
    /// find out later, and be the second that is lost (world seed 2650021).
    fn devices_answer(&self) -> bool {
        let now = self.now();
        let mut disks = self.nodes.iter().flat_map(|node| &node.disks);
        disks.all(|disk| !disk.disk.is_dead(now) && disk.shaky_until <= now)
    }

    /// All volumes have been made.
    pub(super) fn every_volume_stands(&self) -> bool {
        let volumes = &self.committed.state.volumes;
        let stands = |id| volumes.get(id).is_some_and(|record| record.is_ready());
        !self.something_leaves() && self.clients.volumes.keys().all(stands)
    }

    /// Reads all there is, so that every write is looked at once more.
    fn read_everything(&mut self) {
        let volumes: Vec<VolumeId> = self.clients.volumes.keys().copied().collect();
        for volume in volumes {
            self.step += 1;
            let step = self.step;
            let client = self.clients.client(volume);
            let Some(attached) = &mut client.attached else {
                continue;
            };
            let (node, id) = (attached.node, attached.id);
            let mut inputs = Vec::new();
            for extent in 0..attached.blocks.unwrap_or(0) / EXTENT_BLOCKS {
                let range = BlockRange::of_extent(extent as u32);
                let request = Outstanding {
                    start: step,
                    kind: Kind::Read,
                    range,
                    value: 0,
                };
                client.history.starts(&request);
                let tag = 1 << 62 | client.number << 32 | extent;
                inputs.push(Input::Client {
                    volume,
                    attachment: id,
                    tag,
                    request: request.request(client.number),
                });
                attached.outstanding.insert(tag, request);
            }
            for input in inputs {
                if let Input::Client { tag, .. } = &input {
                    self.clients.expect(*tag, volume);
                }
                self.deliver(node, Inward::Data(input));
            }
        }
    }
}
