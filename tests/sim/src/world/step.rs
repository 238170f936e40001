//! One step of a node: what comes in is handed to a core, what the core wants is carried out.

use super::{Event, World};
use crate::net::{NetEvent, NodeIndex, Signal};
use crate::words;
use bytes::Bytes;
use lockstep_consensus::Input as VoterInput;
use lockstep_logic::Node;
use lockstep_logic::io::{Input, NodeEvent, Output};
use lockstep_protocol::Comparison;
use lockstep_store::{DiskResult, DiskToken};
use lockstep_types::Nanos;
use lockstep_wire::Message;
use std::collections::VecDeque;

/// What reaches a node from outside; a stopped process finds it when it goes on.
#[derive(Debug)]
pub enum Inward {
    /// A device's operation ended.
    Disk {
        slot: usize,
        token: DiskToken,
        result: DiskResult,
    },
    /// An operation on its raft log ended.
    LogDisk,
    /// The network.
    Signal(Signal<Message, Bytes>),
    /// For its data plane.
    Data(Input),
    /// For its voter.
    Voter(VoterInput),
}

/// What a core of a node has to do at this moment.
#[derive(Debug)]
pub enum Work {
    /// Its data plane.
    Data(Input),
    /// Its voter.
    Voter(VoterInput),
}

impl World {
    /// Hands something to a node's process, or to the kernel that keeps it for a stopped one.
    pub(crate) fn deliver(&mut self, node: NodeIndex, inward: Inward) {
        let it = &mut self.nodes[node];
        if it.process.is_none() {
            return;
        }
        if it.paused {
            it.inbox.push_back(inward);
            return;
        }
        match inward {
            Inward::Disk {
                slot,
                token,
                result,
            } => {
                let device = self.nodes[node].disks[slot].device;
                self.push(
                    node,
                    Work::Data(Input::Disk {
                        device,
                        token,
                        result,
                    }),
                );
            }
            Inward::LogDisk => self.log_op_done(node),
            Inward::Signal(signal) => self.signal(node, signal),
            Inward::Data(input) => self.push(node, Work::Data(input)),
            Inward::Voter(input) => self.push(node, Work::Voter(input)),
        }
        self.drain();
    }

    pub(super) fn push(&mut self, node: NodeIndex, work: Work) {
        self.work.push_back((node, work));
    }

    /// Does all there is to do at this moment.
    pub(super) fn drain(&mut self) {
        let mut touched = Vec::new();
        // As in the daemon: whatever a node has to take in at this moment, it takes in before its
        // stores send a batch.
        let mut owed = VecDeque::new();
        loop {
            if self.failure.is_some() {
                return;
            }
            let Some((node, work)) = self.work.pop_front() else {
                let Some(node) = owed.pop_front() else { break };
                self.run_data(node, |data, now, out| data.commit(now, out));
                continue;
            };
            if !touched.contains(&node) {
                touched.push(node);
            }
            match work {
                Work::Data(input) => {
                    self.take_data(node, input);
                    if !owed.contains(&node) {
                        owed.push_back(node);
                    }
                }
                Work::Voter(input) => self.step_voter(node, input),
            }
        }
        for node in touched {
            self.set_timer(node);
            self.check_node(node);
        }
    }

    fn take_data(&mut self, node: NodeIndex, input: Input) {
        self.mix(&input);
        if self.trace.wants_words() && !matches!(input, Input::Timer) {
            self.say_input(node, &input);
        }
        match &input {
            Input::Message { message, .. } => self.checks.resync.heard(message),
            Input::LinkUp { peer, .. } | Input::LinkDown { peer } => {
                let peer = self.index_of(*peer);
                self.net.noticed(node, peer);
            }
            _ => {}
        }
        self.run_data(node, |data, now, out| data.take(now, input, out));
    }

    fn run_data(&mut self, node: NodeIndex, act: impl FnOnce(&mut Node, Nanos, &mut Vec<Output>)) {
        let local = self.clock(node).local(self.now());
        let mut out = Vec::new();
        let Some(data) = self.nodes[node]
            .process
            .as_mut()
            .and_then(|process| process.data.as_mut())
        else {
            return;
        };
        act(data, local, &mut out);
        for output in out {
            self.carry_out(node, output);
        }
    }

    pub(super) fn carry_out(&mut self, node: NodeIndex, output: Output) {
        let now = self.now();
        match output {
            Output::Disk { device, op } => {
                self.mix(&op);
                if self.trace.wants_words() {
                    self.say_node(node, format_args!("  disk {}", crate::disk::describe(&op)));
                }
                let it = &mut self.nodes[node];
                let slot = it
                    .disks
                    .iter()
                    .position(|disk| disk.device == device)
                    .expect("a node uses its own devices");
                let disk = &mut it.disks[slot];
                let submitted = disk.disk.submit(now, op);
                let event = Event::Disk {
                    node,
                    slot,
                    life: disk.life,
                    id: submitted.id,
                };
                self.queue.at(submitted.done_at, event);
            }
            Output::Send { to, mut message } => {
                self.mix(&message);
                self.tell_what_was_promised(&message);
                if self.trace.wants_words()
                    && !matches!(message, Message::Beacon(_) | Message::BeaconReply(_))
                {
                    let to = self.name(self.index_of(to));
                    self.say_node(node, format_args!("→ {to}: {}", words::message(&message)));
                }
                let to = self.index_of(to);
                self.mind_trap(node, &message);
                self.check_said(node, &message);
                self.lose_floors(&mut message);
                self.spoil(to, &mut message);
                self.net.send(now, node, to, message);
            }
            Output::Propose { ticket, command } => {
                self.say_node(
                    node,
                    format_args!("proposes #{ticket} {}", words::short(&command)),
                );
                self.propose_from(node, ticket, command);
            }
            Output::Complete { tag, result } => self.client_answered(node, tag, result),
            Output::Attachment {
                volume,
                attachment,
                state,
            } => self.attachment_changed(node, volume, attachment, state),
            Output::Answered { ticket, result } => self.operator_answered(node, ticket, result),
            Output::Event(event) => self.node_event(node, event),
            Output::Stopped => self.say_node(node, format_args!("has stopped")),
        }
    }

    fn node_event(&mut self, node: NodeIndex, event: NodeEvent) {
        self.say_node(node, format_args!("* {}", words::short(&event)));
        if let NodeEvent::PoolReady { device, .. } = &event
            && let Some(pass) = self.plan.scrub_pass
            && let Some(process) = self.nodes[node].process.as_mut()
            && let Some(data) = process.data.as_mut()
        {
            data.set_scrub_pass(*device, pass);
        }
        let what = match &event {
            NodeEvent::PoolReady {
                torn_batches: 1.., ..
            } => "node: pool recovered with a torn batch",
            NodeEvent::PoolReady { corrupt: true, .. } => "node: pool recovered corrupt",
            NodeEvent::PoolReady { .. } => "node: pool recovered",
            NodeEvent::PoolFailed { device, .. } => self.pool_failed(node, *device),
            NodeEvent::FailureNoted { device } => self.failure_noted(node, *device),
            NodeEvent::Opened {
                volume,
                epoch,
                rolled,
                ..
            } => {
                let (volume, epoch) = (*volume, *epoch);
                if *rolled > 0 {
                    self.coverage.hit("volume: opened after rolling a tail");
                }
                self.opened(node, volume, epoch);
                "volume: opened"
            }
            NodeEvent::Closed { volume, .. } => {
                self.checks.closed(node, *volume);
                "volume: closed"
            }
            NodeEvent::Evicting { why, .. } => {
                self.coverage.hit("volume: evicting");
                why
            }
            NodeEvent::InSync { .. } => "volume: in-sync set changed",
            NodeEvent::ResyncStarted {
                volume, replica, ..
            } => {
                self.break_join(node, *volume, *replica);
                "resync: started"
            }
            NodeEvent::ResyncProgress { .. } => "resync: progress",
            NodeEvent::ResyncVerified { .. } => "resync: verified",
            NodeEvent::Comparison { found, .. } => match found {
                Comparison::PassEnded { extents } => {
                    self.coverage.add("compare: extents compared", *extents);
                    "compare: a pass ended"
                }
                Comparison::LostWrite { .. } => "compare: lost write found",
                Comparison::Differ { .. } => "compare: copies differ",
            },
            NodeEvent::DeviceLostWrite { .. } => "compare: lost write counted by its node",
            NodeEvent::Repaired { .. } if self.scrub_is_due => "scrub: found and repaired",
            NodeEvent::Repaired { .. } => "repair: blocks repaired",
            NodeEvent::Waiting { volume, reason } => {
                self.checks.waiting.insert(*volume, reason.clone());
                "volume: waiting"
            }
            _ => "node: other event",
        };
        self.coverage.hit(what);
    }

    fn say_input(&mut self, node: NodeIndex, input: &Input) {
        let text = match input {
            Input::Disk {
                token,
                result: DiskResult::Read(bytes),
                ..
            } => format!("disk #{token} read {}", bytes.len()),
            Input::Disk { token, result, .. } => format!("disk #{token} {result:?}"),
            Input::Message {
                message: Message::Beacon(_) | Message::BeaconReply(_),
                ..
            } => return,
            Input::Message { from, message } => {
                format!(
                    "← {}: {}",
                    self.name(self.index_of(*from)),
                    words::message(message)
                )
            }
            Input::Client { tag, request, .. } => {
                let op = match &request.op {
                    lockstep_types::RequestOp::Write { .. } => "write".into(),
                    other => format!("{other:?}"),
                };
                format!(
                    "client #{tag} {op} {}..{}",
                    request.range.start,
                    request.range.end()
                )
            }
            other => words::short(other),
        };
        self.say_node(node, format_args!("{text}"));
    }

    fn signal(&mut self, node: NodeIndex, signal: Signal<Message, Bytes>) {
        match signal {
            Signal::Up { peer, boot, .. } => {
                let peer = self.nodes[peer].id;
                self.push(node, Work::Data(Input::LinkUp { peer, boot }));
                self.push(
                    node,
                    Work::Voter(VoterInput::Link {
                        node: peer,
                        up: true,
                    }),
                );
            }
            Signal::Down { peer, .. } => {
                let peer = self.nodes[peer].id;
                self.push(node, Work::Data(Input::LinkDown { peer }));
                self.push(
                    node,
                    Work::Voter(VoterInput::Link {
                        node: peer,
                        up: false,
                    }),
                );
            }
            Signal::Message { from, message, .. } => {
                self.note_seal(node, &message);
                let from = self.nodes[from].id;
                self.push(node, Work::Data(Input::Message { from, message }));
            }
            Signal::Datagram { from, content, .. } => {
                let from = self.nodes[from].id;
                self.push(
                    node,
                    Work::Voter(VoterInput::Frame {
                        from,
                        frame: content,
                    }),
                );
            }
        }
    }

    pub(super) fn on_net(&mut self, event: NetEvent<Message, Bytes>) {
        let now = self.now();
        for signal in self.net.happen(now, event, &mut self.coverage) {
            let node = match &signal {
                Signal::Up { node, .. } | Signal::Down { node, .. } => *node,
                Signal::Message { to, .. } | Signal::Datagram { to, .. } => *to,
            };
            self.deliver(node, Inward::Signal(signal));
        }
    }

    pub(super) fn on_disk(&mut self, node: NodeIndex, slot: usize, life: u64, id: u64) {
        let now = self.now();
        let disk = &mut self.nodes[node].disks[slot];
        if disk.life != life {
            return;
        }
        if let Some((token, result)) = disk.disk.complete(now, id, &mut self.coverage) {
            self.deliver(
                node,
                Inward::Disk {
                    slot,
                    token,
                    result,
                },
            );
        }
    }

    pub(super) fn on_timer(&mut self, node: NodeIndex, boot: u64) {
        let now = self.now();
        let local = self.clock(node).local(now);
        let Some(process) = self.nodes[node].process.as_mut() else {
            return;
        };
        if process.boot != boot || process.timer != Some(now) {
            return;
        }
        process.timer = None;
        process.spins = if now - process.last_timer < 1000 {
            process.spins + 1
        } else {
            0
        };
        process.last_timer = now;
        if process.spins > 10_000 {
            let name = self.name(node);
            return self.fail(
                "V10",
                format!("{name}: a timer is due again at once, ten thousand times in a row"),
            );
        }
        let data_due = process
            .data
            .as_ref()
            .is_some_and(|data| data.next_timer() <= local);
        let voter_due = process
            .voter
            .as_ref()
            .is_some_and(|voter| voter.consensus.next_timer() <= local);
        if self.nodes[node].paused {
            return; // set again when it goes on
        }
        if data_due {
            self.push(node, Work::Data(Input::Timer));
        }
        if voter_due {
            self.push(node, Work::Voter(VoterInput::Timer));
        }
        self.drain();
        self.set_timer(node);
    }

    /// Schedules the next timer of a node's cores.
    pub(super) fn set_timer(&mut self, node: NodeIndex) {
        let now = self.now();
        if self.nodes[node].paused {
            return;
        }
        let clock = self.nodes[node].clock.clone();
        let Some(process) = self.nodes[node].process.as_mut() else {
            return;
        };
        let data = process.data.as_ref().map(|data| data.next_timer());
        let voter = process
            .voter
            .as_ref()
            .map(|voter| voter.consensus.next_timer());
        let Some(local) = [data, voter].into_iter().flatten().min() else {
            return;
        };
        if local == u64::MAX {
            return;
        }
        let at = clock.world(local).max(now + 1);
        if process.timer.is_none_or(|scheduled| at < scheduled) {
            process.timer = Some(at);
            let boot = process.boot;
            self.queue.at(at, Event::Timer { node, boot });
        }
    }
}
