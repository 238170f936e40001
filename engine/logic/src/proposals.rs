//! What is put to the control plane, and what becomes of it.

use crate::io::{Output, ProposalResult, Ticket};
use crate::node::Node;
use lockstep_control::{Command, Expected};
use lockstep_protocol::{Proposal, ProposalEnd};
use lockstep_types::{Nanos, ReplicaId, VolumeId, seconds};
use std::collections::BTreeMap;

/// A proposal that the shell has not answered after this long counts as unknown (R1).
const OVERDUE: Nanos = seconds(20);

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Asker {
    /// The primary of this serial number, under its own id.
    Primary {
        volume: VolumeId,
        serial: u64,
        id: u64,
    },
    Replica(ReplicaId),
    Attach(Ticket),
    Detach(VolumeId),
    StepDown(VolumeId),
    /// A stamp for the ledger: should it not be committed, the interval stays without it.
    Ledger,
}

/// Proposals that have not ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Proposals {
    open: BTreeMap<Ticket, (Asker, Nanos)>,
    last: Ticket,
    /// One has ended since the start, so the records told are as new as that.
    pub current: bool,
}

impl Proposals {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Node {
    pub(crate) fn propose(&mut self, asker: Asker, command: Command, out: &mut Vec<Output>) {
        self.proposals.last += 1;
        let ticket = self.proposals.last;
        self.proposals.open.insert(ticket, (asker, self.now));
        out.push(Output::Propose { ticket, command });
    }

    pub(crate) fn propose_for_primary(
        &mut self,
        volume: VolumeId,
        serial: u64,
        id: u64,
        proposal: Proposal,
        out: &mut Vec<Output>,
    ) {
        let node = self.me;
        let command = match proposal {
            Proposal::Promote {
                expected,
                attachment,
            } => Command::Promote {
                volume,
                expected: seen(expected),
                node,
                attachment,
                primary_silent: self.attached_is_silent(volume),
            },
            Proposal::ChangeInSync {
                expected,
                remove,
                add,
                reason,
            } => Command::ChangeInSync {
                volume,
                expected: seen(expected),
                node,
                remove,
                add,
                reason,
            },
            Proposal::StepDown { expected } => Command::StepDown {
                volume,
                expected: seen(expected),
                node,
            },
            Proposal::Reincarnate { replica, from, to } => Command::Reincarnate {
                volume,
                replica,
                from,
                to,
            },
        };
        self.propose(Asker::Primary { volume, serial, id }, command, out);
    }

    /// A proposal ended; what it changed has been told before.
    pub(crate) fn on_proposed(
        &mut self,
        ticket: Ticket,
        result: ProposalResult,
        out: &mut Vec<Output>,
    ) {
        let Some((asker, _)) = self.proposals.open.remove(&ticket) else {
            return; // overdue: counted as unknown
        };
        let told = !matches!(result, ProposalResult::Unknown);
        let first = told && !self.proposals.current;
        self.proposals.current |= told;
        match asker {
            Asker::Primary { volume, serial, id } => {
                let end = match result {
                    ProposalResult::Applied(_) => ProposalEnd::Applied,
                    ProposalResult::Rejected(_) => ProposalEnd::Refused,
                    ProposalResult::Unknown => ProposalEnd::Unknown,
                };
                let running = self.volumes.get(&volume).and_then(|v| v.running.as_ref());
                if running.is_some_and(|running| running.serial == serial) {
                    self.with_primary(volume, out, |primary, now, _, pushed| {
                        primary.on_proposal_end(now, id, end, pushed);
                    });
                }
            }
            Asker::Replica(replica) => self.replica_proposal_ended(replica, first, out),
            Asker::Attach(ticket) => self.attach_proposed(ticket, result, out),
            Asker::Detach(volume) => self.detach_proposed(volume, result, out),
            Asker::StepDown(volume) => self.step_down_proposed(volume),
            Asker::Ledger => {}
        }
    }

    pub(crate) fn proposals_overdue(&mut self, out: &mut Vec<Output>) {
        let overdue: Vec<Ticket> = self
            .proposals
            .open
            .iter()
            .filter(|(_, (_, since))| self.now >= since + OVERDUE)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in overdue {
            self.on_proposed(ticket, ProposalResult::Unknown, out);
        }
    }
}

fn seen(expected: lockstep_protocol::Expected) -> Expected {
    Expected {
        epoch: expected.epoch,
        version: expected.version,
    }
}
