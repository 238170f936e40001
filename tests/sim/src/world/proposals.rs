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
    /// The voter that put it into the log.
    voter: Option<(NodeIndex, u64)>,
    /// The answer, and the entry whose changes must be known before it.
    answer: Option<(u64, ProposalResult)>,
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
        let (votes, alone) = (process.voter.is_some(), process.log_failed);
        let id = self.make(from, command);
        if alone {
            return; // given up in time
        }
        let (voter, delay) = if votes {
            (node, 0)
        } else {
            match self.a_voter_near(node) {
                Some(voter) => (voter, self.plan.delays[1] / 2 + self.dice.about(millis(2))),
                None => return,
            }
        };
        self.queue.after(delay, Event::Propose { id, voter });
    }

    /// The operator proposes through any voter that runs.
    pub(crate) fn propose_operator(&mut self, command: Command) {
        let voters: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].voter().is_some())
            .collect();
        let id = self.make(From::Operator, command);
        if !voters.is_empty() {
            let voter = *self.dice.pick(&voters);
            self.queue
                .after(self.dice.about(millis(5)), Event::Propose { id, voter });
        }
    }

    fn make(&mut self, from: From, command: Command) -> u64 {
        self.proposals.made += 1;
        let id = self.proposals.made;
        self.proposals.under_way.insert(
            id,
            UnderWay {
                from,
                command,
                voter: None,
                answer: None,
            },
        );
        self.queue.after(6 * SECOND, Event::GiveUpProposal { id });
        id
    }

    fn a_voter_near(&mut self, node: NodeIndex) -> Option<NodeIndex> {
        let known: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].voter().is_some() && self.net.reach(*n, node))
            .collect();
        let leads = |n: &&NodeIndex| {
            self.nodes[**n]
                .voter()
                .is_some_and(|voter| voter.consensus.status().role.leading)
        };
        match known.iter().find(leads) {
            Some(leader) => Some(*leader),
            None if known.is_empty() => None,
            None => Some(*self.dice.pick(&known)),
        }
    }

    pub(super) fn on_propose(&mut self, id: u64, voter: NodeIndex) {
        let Some(proposal) = self.proposals.under_way.get_mut(&id) else {
            return;
        };
        if let From::Node { node, .. } = proposal.from
            && node != voter
            && !self.net.reach(node, voter)
        {
            return;
        }
        let Some(process) = self.nodes[voter]
            .process
            .as_ref()
            .filter(|process| process.voter.is_some())
        else {
            return;
        };
        proposal.voter = Some((voter, process.boot));
        let command = proposal.command.clone();
        let at_unix_ms = self.now() / 1_000_000;
        let data = lockstep_control::encode_proposal(&Proposal {
            at_unix_ms,
            command,
        })
        .into();
        self.deliver(
            voter,
            Inward::Voter(VoterInput::Propose { ticket: id, data }),
        );
    }

    /// A voter applied the entry of a proposal that was made through it.
    pub(super) fn proposal_applied(
        &mut self,
        id: u64,
        voter: NodeIndex,
        index: u64,
        result: Result<Outcome, Rejected>,
    ) {
        let result = match result {
            Ok(outcome) => ProposalResult::Applied(outcome),
            Err(rejected) => ProposalResult::Rejected(rejected),
        };
        self.answer(id, voter, index, result);
    }

    pub(super) fn proposal_unknown(&mut self, id: u64) {
        let Some(voter) = self
            .proposals
            .under_way
            .get(&id)
            .and_then(|proposal| proposal.voter)
        else {
            return;
        };
        self.answer(id, voter.0, 0, ProposalResult::Unknown);
    }

    fn answer(&mut self, id: u64, voter: NodeIndex, index: u64, result: ProposalResult) {
        let Some(proposal) = self.proposals.under_way.get_mut(&id) else {
            return;
        };
        proposal.answer = Some((index, result));
        let local = matches!(proposal.from, From::Node { node, .. } if node == voter);
        if local {
            self.on_answer(id);
        } else {
            let delay = self.plan.delays[1] / 2 + self.dice.about(millis(2));
            self.queue.after(delay, Event::Answer { id });
        }
    }

    pub(super) fn on_answer(&mut self, id: u64) {
        let Some(proposal) = self.proposals.under_way.get(&id) else {
            return;
        };
        let Some((index, result)) = proposal.answer.clone() else {
            return;
        };
        match proposal.from {
            From::Operator => {
                let proposal = self
                    .proposals
                    .under_way
                    .remove(&id)
                    .expect("looked at above");
                self.operator_proposed(&proposal.command, result);
            }
            From::Node { node, boot, ticket } => {
                let voter = proposal.voter.expect("a voter answers").0;
                if voter != node && !self.net.reach(voter, node) {
                    return; // lost; it is given up in time
                }
                let Some(process) = self.nodes[node]
                    .process
                    .as_ref()
                    .filter(|process| process.boot == boot)
                else {
                    self.proposals.under_way.remove(&id);
                    return;
                };
                // Its changes come before the answer.
                if process.learned.is_none_or(|learned| learned < index) {
                    return self.deliver(node, Inward::Feed { voter, upto: index });
                }
                self.proposals.under_way.remove(&id);
                self.mix(&result);
                if self.nodes[node].paused {
                    self.deliver(node, Inward::Data(Input::Proposed { ticket, result }));
                } else {
                    self.push(node, Work::Data(Input::Proposed { ticket, result }));
                }
            }
        }
    }

    /// Answers that waited for a node to learn what they follow from.
    pub(super) fn retry_answers(&mut self, node: NodeIndex) {
        let waiting = |proposal: &UnderWay| matches!(proposal.from, From::Node { node: whose, .. } if whose == node);
        let ids: Vec<u64> = self
            .proposals
            .under_way
            .iter()
            .filter(|(_, proposal)| waiting(proposal) && proposal.answer.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.queue.after(0, Event::Answer { id });
        }
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
