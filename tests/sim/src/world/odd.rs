//! Faults that a tenth of the seeds have each, and what is noted about messages on their way.

use super::chaos::Chaos;
use super::plan::FaultKind;
use super::{Event, World};
use crate::control::Voter;
use crate::net::NodeIndex;
use lockstep_types::{NodeRole, ReplicaId, SECOND, Stamp, VolumeId, millis};
use lockstep_wire::{Message, ReplyBody, RequestBody};

/// Parts of floors that get lost, in a seed that has this.
const LOST_PER_CENT: u32 = 60;
/// Operations on raft logs that fail, in a million.
const LOG_FAILS: u32 = 1_000;
/// How often a join is interrupted.
const TWICE: u32 = 2;

impl World {
    /// A floor that is told does not arrive: the receiver goes on with the one it knows.
    pub(super) fn lose_floors(&mut self, message: &mut Message) {
        if !self.plan.odd(FaultKind::LostFloors) || !self.faults_last() {
            return;
        }
        let floors: Vec<&mut Stamp> = match message {
            Message::Beacon(beacon) => beacon.volumes.iter_mut().map(|v| &mut v.floor).collect(),
            Message::Request(request) => match &mut request.body {
                // A record that is rolled forward states the floor of its union: that one counts.
                RequestBody::Append {
                    floor, roll: false, ..
                } => vec![floor],
                _ => return,
            },
            _ => return,
        };
        for floor in floors {
            if self.dice.per_cent(LOST_PER_CENT) {
                *floor = Stamp::ZERO;
                self.coverage.hit("fault: floor update lost");
            }
        }
    }

    /// Whether the operation on a raft log that is under way fails.
    pub(super) fn log_fails(&mut self, node: NodeIndex) -> bool {
        let under_way = self.nodes[node]
            .voter()
            .is_some_and(|v| v.op_under_way().is_some());
        let may = self.plan.odd(FaultKind::LogFails) && self.faults_last();
        under_way && may && self.dice.chance(LOG_FAILS)
    }

    /// It is not written again: a data node goes on without a voter, a witness ends (decision 0009). Both
    /// start again in time.
    pub(super) fn log_failed(&mut self, node: NodeIndex) {
        self.coverage.hit("fault: raft log failed");
        self.say_node(node, format_args!("cannot write its raft log any more"));
        let back_after = self.dice.between(millis(50), 20 * SECOND);
        let it = &mut self.nodes[node];
        let process = it.process.as_mut().expect("it was writing");
        process.log_failed = true;
        let voter = process.voter.take();
        if let Some(op) = voter.as_ref().and_then(Voter::op_under_way) {
            it.folder
                .interrupt(op, false, &mut self.dice, &mut self.coverage);
        }
        let wait = match it.role {
            NodeRole::Witness => 0,
            NodeRole::Data => self.dice.between(SECOND, 90 * SECOND),
        };
        let kill = Chaos::Kill { node, back_after };
        self.queue.after(wait, Event::Chaos(kill));
    }

    /// A bit of an append turns over on its way, where a script says so.
    pub(super) fn spoil(&mut self, to: NodeIndex, message: &mut Message) {
        let Some((node, left)) = &mut self.spoils else {
            return;
        };
        let Message::Request(request) = message else {
            return;
        };
        if let RequestBody::Append { record, .. } = &mut request.body
            && *node == to
            && *left > 0
            && !record.payload.is_empty()
        {
            *left -= 1;
            let mut payload = record.payload.to_vec();
            payload[0] ^= 1;
            record.payload = payload.into();
            self.coverage.hit("script: append spoiled");
        }
    }

    /// A join has begun: its target or its source dies under it, twice.
    pub(super) fn break_join(&mut self, primary: NodeIndex, volume: VolumeId, replica: ReplicaId) {
        if !self.plan.odd(FaultKind::JoinBroken) || !self.faults_last() {
            return;
        }
        let broken = self.joins_broken.entry((volume, replica)).or_default();
        if *broken == TWICE {
            return;
        }
        *broken += 1;
        if *broken == TWICE {
            self.coverage.hit("fault: join interrupted twice");
        }
        let record = self.committed.state.volumes.get(&volume);
        let target = record
            .and_then(|r| r.replicas.get(&replica))
            .map(|r| self.index_of(r.node));
        let node = match target {
            Some(target) if self.dice.per_cent(60) => target,
            _ => primary,
        };
        let wait = self.dice.below(millis(200));
        let kill = Chaos::Kill {
            node,
            back_after: self.dice.between(millis(50), 2 * SECOND),
        };
        self.queue.after(wait, Event::Chaos(kill));
    }

    /// Whether a SEAL comes while durable writes are on their way (R10).
    pub(super) fn note_seal(&mut self, node: NodeIndex, message: &Message) {
        let Message::Request(request) = message else {
            return;
        };
        let busy = self.nodes[node]
            .disks
            .iter()
            .any(|disk| disk.disk.is_writing_durably());
        if matches!(request.body, RequestBody::Seal) && busy {
            self.coverage.hit("reached: SEAL during a flush");
        }
    }

    /// A replica that answers a SEAL, or an opening, has that durably (R3).
    pub(super) fn tell_what_was_promised(&mut self, message: &Message) {
        if let Message::Reply(reply) = message {
            let opened = matches!(reply.body, ReplyBody::Opened { .. });
            if opened || matches!(reply.body, ReplyBody::Sealed(_)) {
                self.checks.promises.told(&reply.header, opened);
            }
        }
    }
}
