//! The control plane of the world: logs persist, speak and apply; those of nodes that do not vote learn.

use super::step::{Inward, Work};
use super::{Event, World};
use crate::control::Voter;
use crate::net::NodeIndex;
use crate::trace::hash_of;
use crate::words;
use bytes::Bytes;
use lockstep_consensus::{ConfState, Input as VoterInput, Output as VoterOutput};
use lockstep_control::{Applied, Change, Command, Node as ControlNode, Pool, Proposal, State};
use lockstep_logic::io::Input;
use std::collections::BTreeSet;

/// How much slower than usual a log is that hardly moves.
const SLOW_LOG: u64 = 1_000_000;

impl World {
    /// The state that every founding voter starts from.
    pub(super) fn founding_state(&mut self) -> State {
        let mut commands = vec![Command::InitCluster {
            id: self.cluster,
            name: "simulated".into(),
            ca_certificate: b"certificate".to_vec(),
            sealed_ca_key: b"key".to_vec(),
        }];
        for node in &self.nodes {
            commands.push(Command::PutNode(ControlNode {
                id: node.id,
                name: node.name.clone(),
                site: super::SITES[node.site].into(),
                zone: String::new(),
                rack: String::new(),
                role: node.role,
                control_address: format!("{}:7450", node.name),
                data_addresses: vec![format!("{}:7451", node.name)],
                cordoned: false,
            }));
            commands.extend(node.disks.iter().map(|disk| {
                let device = disk.device;
                let extents = disk.disk.bytes() / lockstep_types::EXTENT as u64;
                Command::PutPool(Pool {
                    device,
                    node: node.id,
                    name: "pool".into(),
                    extents,
                    free_extents: extents,
                    places: super::node::PLACES,
                })
            }));
        }
        for node in self.nodes.iter().filter(|node| node.raft_id != 0) {
            commands.push(Command::PutVoter {
                raft_id: node.raft_id,
                node: node.id,
            });
        }
        let mut state = State::new();
        #[cfg(feature = "mutate")]
        if let Some(crate::mutation::Mutation::Control(mutation)) = self.mutation {
            state.mutation = Some(mutation);
        }
        for (i, command) in commands.into_iter().enumerate() {
            let proposal = Proposal {
                at_unix_ms: 0,
                command,
            };
            let applied = state.apply(i as u64 + 1, &proposal);
            assert!(
                applied.result.is_ok(),
                "{:?}: {:?}",
                proposal.command,
                applied.result
            );
        }
        let voting = self
            .nodes
            .iter()
            .map(|node| node.raft_id)
            .filter(|id| *id != 0)
            .collect();
        state.apply_configuration(state.applied + 1, voting);
        // The founding snapshot stands at index 1 of the log.
        state.applied = 1;
        state
    }

    pub(super) fn step_voter(&mut self, node: NodeIndex, input: VoterInput) {
        let local = self.clock(node).local(self.now());
        if let VoterInput::Frame { frame, .. } = &input {
            self.mix(frame);
        }
        let mut out = Vec::new();
        let Some(voter) = self.nodes[node]
            .process
            .as_mut()
            .and_then(|process| process.voter.as_mut())
        else {
            return;
        };
        voter.consensus.step(local, input, &mut out);
        self.consensus_outputs(node, out);
    }

    /// Carries out what a voter wants.
    pub(super) fn consensus_outputs(&mut self, node: NodeIndex, out: Vec<VoterOutput>) {
        let now = self.now();
        for output in out {
            match output {
                VoterOutput::Send { to, frame } => {
                    let to = self.index_of(to);
                    if !self.voters_mute {
                        self.net.send_datagram(now, node, to, frame);
                    }
                }
                VoterOutput::Persist { token, ops } => {
                    self.voter_mut(node).persist(token, ops);
                    self.schedule_log_op(node);
                }
                VoterOutput::Apply {
                    index,
                    data,
                    ticket,
                    ..
                } => self.apply(node, index, &data, ticket),
                VoterOutput::ApplySnapshot { index, data } => {
                    self.apply_snapshot(node, index, &data)
                }
                VoterOutput::TakeSnapshot { index } => {
                    let data =
                        lockstep_control::encode_snapshot(&self.voter_mut(node).state).into();
                    self.coverage.hit("control: snapshot taken");
                    self.push(node, Work::Voter(VoterInput::Snapshot { index, data }));
                }
                VoterOutput::Reconfigured { index, conf, .. } => {
                    self.reconfigured(node, index, &conf)
                }
                VoterOutput::Refused { ticket, reason, .. } => {
                    self.coverage.hit("control: proposal refused or unknown");
                    self.say_node(node, format_args!("proposal #{ticket}: {reason}"));
                    self.proposal_unknown(ticket);
                }
                VoterOutput::ReadReady { .. } => {}
                VoterOutput::Role(role) => {
                    if role.leading {
                        self.coverage.hit("control: leader elected");
                        self.say_node(
                            node,
                            format_args!("leads the control plane in term {}", role.term),
                        );
                    }
                }
            }
        }
    }

    fn reconfigured(&mut self, node: NodeIndex, index: u64, conf: &ConfState) {
        let voters = conf.voters.iter().chain(&conf.voters_outgoing);
        let voting: BTreeSet<u64> = voters.copied().collect();
        self.coverage.hit("control: reconfigured");
        self.say_node(node, format_args!("voters are now {:x?}", conf.voters));
        let (now, generation) = (self.now(), self.voter_mut(node).state.generation);
        let history = self.history(generation);
        if history.applied < index {
            let before = history.state.voters.voting.clone();
            history.state.apply_configuration(index, voting.clone());
            history.applied = index;
            let electorates = [&conf.voters, &conf.voters_outgoing]
                .map(|ids| ids.iter().copied().collect::<BTreeSet<u64>>())
                .into_iter()
                .filter(|ids| !ids.is_empty())
                .collect();
            history.leave_electorates(now, electorates);
            history.entries.insert(index, (0, Vec::new()));
            if conf.voters_outgoing.is_empty() && before != voting {
                self.coverage.hit("control: voters replaced");
            }
        }
        let state = &mut self.voter_mut(node).state;
        state.apply_configuration(index, voting);
    }

    fn apply(&mut self, node: NodeIndex, index: u64, data: &Bytes, ticket: Option<u64>) {
        let proposal = match lockstep_control::decode_proposal(data) {
            Ok(proposal) => proposal,
            Err(error) => {
                return self.fail(
                    "control",
                    format!("a committed entry cannot be read: {error}"),
                );
            }
        };
        let state = &mut self.voter_mut(node).state;
        let applied = state.apply(index, &proposal);
        let generation = state.generation;
        if self.history(generation).applied < index {
            if generation == self.committed.state.generation {
                self.first_applied(index, &proposal, &applied, data);
            } else {
                // It is of no consequence for what the new generation says, and must be one history yet.
                self.history(generation)
                    .apply(index, &proposal, &applied, data);
            }
        }
        // Every voter applies the same entries, in the same order, to the same effect.
        match self.history(generation).entries.get(&index) {
            Some((hash, changes)) if *hash == hash_of(data) && *changes == applied.changes => {}
            _ => {
                return self.fail(
                    "consensus",
                    format!(
                        "{} applied another entry {index} than the others",
                        self.name(node)
                    ),
                );
            }
        }
        self.changes_for(node, applied.changes.clone());
        if let Some(ticket) = ticket {
            self.proposal_applied(ticket, applied.result);
        }
    }

    /// The first voter to apply an entry: what it does is what all will do.
    fn first_applied(&mut self, index: u64, proposal: &Proposal, applied: &Applied, data: &Bytes) {
        let word = match &applied.result {
            Ok(_) => "done".to_string(),
            Err(rejected) => format!("refused: {rejected}"),
        };
        self.say(
            "control",
            format_args!("{index}: {} — {word}", words::short(&proposal.command)),
        );
        self.mix(data);
        self.coverage.hit(if applied.result.is_ok() {
            "control: command applied"
        } else {
            "control: command refused"
        });
        self.committed.apply(index, proposal, applied, data);
        self.check_committed(proposal, applied);
        self.mind_deletions(&applied.changes);
        self.mind_certification(&applied.changes);
    }

    fn apply_snapshot(&mut self, node: NodeIndex, index: u64, data: &Bytes) {
        let state = match lockstep_control::decode_snapshot(data) {
            Ok(state) => state,
            Err(error) => {
                return self.fail("control", format!("a snapshot cannot be read: {error}"));
            }
        };
        self.say_node(node, format_args!("takes the control state at {index}"));
        #[cfg(feature = "mutate")]
        let state = State {
            mutation: self.committed.state.mutation,
            ..state
        };
        let voter = self.voter_mut(node);
        voter.state = state;
        let members = voter.members();
        let changes = voter.state.everything();
        self.push(node, Work::Voter(members));
        for change in changes {
            self.push(node, Work::Data(Input::Change(change)));
        }
    }

    fn changes_for(&mut self, node: NodeIndex, changes: Vec<Change>) {
        let voters_changed = changes.iter().any(|c| {
            matches!(
                c,
                Change::Voter { .. } | Change::VoterGone { .. } | Change::Node(_)
            )
        });
        for change in changes {
            self.push(node, Work::Data(Input::Change(change)));
        }
        if voters_changed {
            let members = self.voter_mut(node).members();
            self.push(node, Work::Voter(members));
        }
    }

    fn voter_mut(&mut self, node: NodeIndex) -> &mut Voter {
        self.nodes[node]
            .process
            .as_mut()
            .and_then(|process| process.voter.as_mut())
            .expect("only voters have outputs")
    }

    fn schedule_log_op(&mut self, node: NodeIndex) {
        let boot = self.nodes[node].process.as_ref().expect("it runs").boot;
        let factor = match self.slow_log == Some(node) {
            true => SLOW_LOG,
            false => 1,
        };
        let took = self.log_latency() * factor;
        self.queue.after(took, Event::LogDisk { node, boot });
    }

    pub(super) fn on_log_disk(&mut self, node: NodeIndex, boot: u64) {
        if self.nodes[node]
            .process
            .as_ref()
            .is_some_and(|process| process.boot == boot)
        {
            self.deliver(node, Inward::LogDisk);
        }
    }

    pub(super) fn log_op_done(&mut self, node: NodeIndex) {
        if self.log_fails(node) {
            return self.log_failed(node);
        }
        let it = &mut self.nodes[node];
        let process = it.process.as_mut().expect("the boot was looked at");
        // An operation of a voter that this one replaced ends without a word.
        let Some(voter) = process
            .voter
            .as_mut()
            .filter(|v| v.op_under_way().is_some())
        else {
            return;
        };
        match voter.op_done(&mut it.folder) {
            Some(token) => self.push(node, Work::Voter(VoterInput::Persisted { token })),
            None => self.schedule_log_op(node),
        }
    }
}
