//! Proposals on their way to the control plane and their answers on the way back; both may be lost,
//! and then the outcome is unknown (R1).

use super::step::{Inward, Work};
use super::{Event, World};
use crate::net::NodeIndex;
use lockstep_consensus::Input as VoterInput;
use lockstep_control::{Command, Outcome, Proposal, Rejected};
use lockstep_logic::io::{Input, ProposalResult, Ticket};
use lockstep_types::{SECOND, millis};
use std::collections::BTreeMap;

/// Those under way.
#[derive(Default)]
pub struct Proposals {
    under_way: BTreeMap<u64, UnderWay>,
    made: u64,
}

struct UnderWay {
    from: From,
    command: Command,
    answer: Option<ProposalResult>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Node {
        node: NodeIndex,
        boot: u64,
        ticket: Ticket,
    },
    Operator,
}

impl World {
    /// A data plane proposes.
    pub(super) fn propose_from(&mut self, node: NodeIndex, ticket: Ticket, command: Command) {
        let process = self.nodes[node].process.as_ref().expect("it runs");
        let from = From::Node {
            node,
            boot: process.boot,
            ticket,
        };
        let alone = process.voter.is_none();
        let id = self.make(from, command);
        if !alone {
            self.queue.after(0, Event::Propose { id, node });
        } // else its log failed: given up in time
    }

    /// The operator proposes through any node that has a log.
    pub(crate) fn propose_operator(&mut self, command: Command) {
        let nodes: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].voter().is_some())
            .collect();
        if nodes.is_empty() {
            self.make(From::Operator, command);
        } else {
            let node = *self.dice.pick(&nodes);
            self.propose_at(node, command);
        }
    }

    /// Somebody proposes through a node.
    pub(super) fn propose_at(&mut self, node: NodeIndex, command: Command) {
        let id = self.make(From::Operator, command);
        let delay = self.dice.about(millis(5));
        self.queue.after(delay, Event::Propose { id, node });
    }

    fn make(&mut self, from: From, command: Command) -> u64 {
        self.proposals.made += 1;
        let id = self.proposals.made;
        self.proposals.under_way.insert(
            id,
            UnderWay {
                from,
                command,
                answer: None,
            },
        );
        self.queue.after(6 * SECOND, Event::GiveUpProposal { id });
        id
    }

    pub(super) fn on_propose(&mut self, id: u64, node: NodeIndex) {
        let Some(proposal) = self.proposals.under_way.get(&id) else {
            return;
        };
        if self.nodes[node].voter().is_none() {
            return;
        }
        let command = proposal.command.clone();
        let at_unix_ms = self.now() / 1_000_000;
        let data = lockstep_control::encode_proposal(&Proposal {
            at_unix_ms,
            command,
        })
        .into();
        let input = VoterInput::Propose { ticket: id, data };
        self.deliver(node, Inward::Voter(input));
    }

    /// A node applied the entry of a proposal that was made through it: its data plane knows the changes by now.
    pub(super) fn proposal_applied(&mut self, id: u64, result: Result<Outcome, Rejected>) {
        let result = match result {
            Ok(outcome) => ProposalResult::Applied(outcome),
            Err(rejected) => ProposalResult::Rejected(rejected),
        };
        self.answer(id, result);
    }

    pub(super) fn proposal_unknown(&mut self, id: u64) {
        self.answer(id, ProposalResult::Unknown);
    }

    fn answer(&mut self, id: u64, result: ProposalResult) {
        let Some(proposal) = self.proposals.under_way.get_mut(&id) else {
            return;
        };
        match proposal.from {
            From::Node { node, boot, ticket } => {
                self.proposals.under_way.remove(&id);
                let process = self.nodes[node].process.as_ref();
                if process.is_some_and(|process| process.boot == boot) {
                    self.mix(&result);
                    self.push(node, Work::Data(Input::Proposed { ticket, result }));
                }
            }
            From::Operator => {
                proposal.answer = Some(result);
                let delay = self.plan.delays[1] / 2 + self.dice.about(millis(2));
                self.queue.after(delay, Event::Answer { id });
            }
        }
    }

    pub(super) fn on_answer(&mut self, id: u64) {
        let Some(proposal) = self.proposals.under_way.remove(&id) else {
            return;
        };
        let result = proposal.answer.expect("the answer is on its way");
        self.operator_proposed(&proposal.command, result);
    }

    pub(super) fn on_give_up_proposal(&mut self, id: u64) {
        let Some(proposal) = self.proposals.under_way.remove(&id) else {
            return;
        };
        self.coverage.hit("control: proposal given up");
        match proposal.from {
            From::Operator => self.operator_proposed(&proposal.command, ProposalResult::Unknown),
            From::Node { node, boot, ticket } => {
                if self.nodes[node]
                    .process
                    .as_ref()
                    .is_some_and(|process| process.boot == boot)
                {
                    self.deliver(
                        node,
                        Inward::Data(Input::Proposed {
                            ticket,
                            result: ProposalResult::Unknown,
                        }),
                    );
                }
            }
        }
    }
}
