//! Publications: begun only after a certified member was just heard (R9), ended only once nothing of
//! the old device can come any more (R12).

use crate::io::{Output, ProposalResult, Ticket};
use crate::messages::ATTACH_PROBES;
use crate::node::{Node, Queued};
use crate::proposals::Asker;
use lockstep_control::{Attachment, Command, Outcome};
use lockstep_types::{AttachmentId, Gap, Nanos, NodeId, ReplicaId, VolumeId, millis, seconds};
use lockstep_wire::{Header, Message, ReplicaReply, ReplicaRequest, ReplyBody, RequestBody};

/// How long a publication may take before it is answered with what is in its way.
const PATIENCE: Nanos = seconds(20);
/// Between rounds of probes, and of proposals that came to nothing.
const AGAIN: Nanos = millis(500);
/// How long a detach waits for the last writes to be durable everywhere.
const DRAIN: Nanos = seconds(10);

/// A publication on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Attaching {
    volume: VolumeId,
    attachment: AttachmentId,
    since: Nanos,
    /// Probes of the last round have ids from here on.
    first_probe: u64,
    /// Nothing is sent or proposed before then.
    next_try: Nanos,
    /// A proposal has not been answered.
    proposed: bool,
}

/// The end of a publication on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Detaching {
    tickets: Vec<Ticket>,
    attachment: AttachmentId,
    since: Nanos,
    next_try: Nanos,
    /// A proposal has not been answered.
    proposed: bool,
}

impl Node {
    pub(crate) fn begin_attach(
        &mut self,
        ticket: Ticket,
        volume: VolumeId,
        attachment: AttachmentId,
        out: &mut Vec<Output>,
    ) {
        let attaching = Attaching {
            volume,
            attachment,
            since: self.now,
            first_probe: 0,
            next_try: self.now,
            proposed: false,
        };
        self.attaching.insert(ticket, attaching);
        self.advance_attach(ticket, out);
    }

    pub(crate) fn advance_attaching(&mut self, out: &mut Vec<Output>) {
        for ticket in self.attaching.keys().copied().collect::<Vec<_>>() {
            self.advance_attach(ticket, out);
        }
    }

    /// The record of a volume changed: perhaps it is published here now.
    pub(crate) fn attach_reviewed(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let waiting = self.attaching.iter().filter(|(_, a)| a.volume == volume);
        for ticket in waiting.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.advance_attach(ticket, out);
        }
    }

    /// A link came up: who was asked over the one before is asked again.
    pub(crate) fn probe_again(&mut self, _peer: NodeId, out: &mut Vec<Output>) {
        for attaching in self.attaching.values_mut().filter(|a| !a.proposed) {
            attaching.next_try = self.now;
        }
        self.advance_attaching(out);
    }

    fn advance_attach(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let Some(attaching) = self.attaching.get(&ticket) else {
            return;
        };
        let record = self.volumes.get(&attaching.volume).map(|v| &v.record);
        let wanted = Attachment {
            id: attaching.attachment,
            node: self.me,
        };
        if record.is_some_and(|r| r.membership.attachment == Some(wanted)) {
            return self.attach_ended(ticket, Ok(()), out);
        }
        if self.now >= attaching.since + PATIENCE {
            let why = match record {
                None => {
                    "the volume is not known here yet: is its name right, and do voters answer?"
                }
                Some(r) if r.membership.in_sync.is_empty() => {
                    "the volume is not ready: some of its copies have not been made yet"
                }
                Some(_) if attaching.proposed => {
                    "the control plane does not answer: a majority of voters must return"
                }
                Some(_) => {
                    "no certified copy of the volume answers: one of their nodes must return"
                }
            };
            return self.attach_ended(ticket, Err(why.to_owned()), out);
        }
        if attaching.proposed || self.now < attaching.next_try {
            return;
        }
        self.probe_members(ticket, out);
    }

    /// R9: asks every certified member whether it is there and whole.
    fn probe_members(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let now = self.now;
        let attaching = self.attaching.get_mut(&ticket).expect("the caller has it");
        attaching.next_try = now + AGAIN;
        let Some(state) = self.volumes.get(&attaching.volume) else {
            return;
        };
        let record = &state.record;
        attaching.first_probe = self.last_probe + 1;
        for (replica, incarnation) in &record.membership.in_sync {
            let Some(node) = record.replicas.get(replica).map(|r| r.node) else {
                continue;
            };
            self.last_probe += 1;
            let header = Header {
                volume: record.id,
                replica: *replica,
                incarnation: *incarnation,
                epoch: record.membership.epoch,
            };
            let id = ATTACH_PROBES + self.last_probe;
            let body = RequestBody::Probe { id };
            let request = ReplicaRequest { header, body };
            if node == self.me {
                self.queue.push_back(Queued::Request {
                    from: node,
                    request,
                });
            } else {
                let message = Message::Request(request);
                out.push(Output::Send { to: node, message });
            }
        }
    }

    pub(crate) fn on_attach_probed(
        &mut self,
        id: u64,
        reply: &ReplicaReply,
        out: &mut Vec<Output>,
    ) {
        let ReplyBody::Probed { gap, joining, .. } = reply.body else {
            return;
        };
        let Header {
            volume,
            replica,
            incarnation,
            ..
        } = reply.header;
        let certified = self.volumes.get(&volume).is_some_and(|state| {
            state.record.membership.in_sync.get(&replica) == Some(&incarnation) // R4
        });
        // A torn tail is no loss until another member shows so (docs/decisions/0004).
        if !certified || gap == Gap::Corrupt || joining {
            return;
        }
        self.member_heard(volume, replica, id - ATTACH_PROBES, out);
    }

    fn member_heard(
        &mut self,
        volume: VolumeId,
        _replica: ReplicaId,
        probe: u64,
        out: &mut Vec<Output>,
    ) {
        let node = self.me;
        let waiting: Vec<(Ticket, AttachmentId)> = self
            .attaching
            .iter_mut()
            .filter(|(_, a)| a.volume == volume && !a.proposed && probe >= a.first_probe)
            .map(|(ticket, a)| {
                a.proposed = true;
                (*ticket, a.attachment)
            })
            .collect();
        for (ticket, id) in waiting {
            let attachment = Attachment { id, node };
            let command = Command::Attach { volume, attachment };
            self.propose(Asker::Attach(ticket), command, out);
        }
    }

    pub(crate) fn attach_proposed(
        &mut self,
        ticket: Ticket,
        result: ProposalResult,
        out: &mut Vec<Output>,
    ) {
        let Some(attaching) = self.attaching.get_mut(&ticket) else {
            return; // answered meanwhile
        };
        let answer = match result {
            ProposalResult::Applied(Outcome::Attached(held)) if held.id != attaching.attachment => {
                Err(format!(
                    "the volume is attached to this node already, under attachment {}; detach it first",
                    held.id
                ))
            }
            ProposalResult::Applied(_) => Ok(()),
            ProposalResult::Rejected(why) => Err(why.to_string()),
            ProposalResult::Unknown => {
                // It may have been committed: the record will say, or it is proposed again.
                attaching.proposed = false;
                attaching.next_try = self.now + AGAIN;
                return;
            }
        };
        self.attach_ended(ticket, answer, out);
    }

    fn attach_ended(&mut self, ticket: Ticket, result: Result<(), String>, out: &mut Vec<Output>) {
        self.attaching.remove(&ticket);
        out.push(Output::Answered { ticket, result });
    }

    /// The device is gone, so nothing new comes; what is in flight ends first.
    pub(crate) fn begin_detach(
        &mut self,
        ticket: Ticket,
        volume: VolumeId,
        attachment: AttachmentId,
        out: &mut Vec<Output>,
    ) {
        let now = self.now;
        let detaching = self.detaching.entry(volume).or_insert_with(|| Detaching {
            tickets: Vec::new(),
            attachment,
            since: now,
            next_try: now,
            proposed: false,
        });
        if detaching.attachment != attachment {
            let result = Err(format!(
                "the volume is being detached under attachment {}; try again when that has ended",
                detaching.attachment
            ));
            return out.push(Output::Answered { ticket, result });
        }
        detaching.tickets.push(ticket);
        let state = self.volumes.get_mut(&volume);
        if let Some(running) = state.and_then(|v| v.running.as_mut())
            && running.primary.role() == lockstep_protocol::Role::Attached(attachment)
        {
            running.primary.stop();
        }
        self.advance_detach(volume, out);
    }

    pub(crate) fn advance_detaching(&mut self, out: &mut Vec<Output>) {
        for volume in self.detaching.keys().copied().collect::<Vec<_>>() {
            self.advance_detach(volume, out);
        }
    }

    fn advance_detach(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let now = self.now;
        let detaching = self.detaching.get(&volume).expect("the caller has it");
        let (attachment, since) = (detaching.attachment, detaching.since);
        if now >= since + PATIENCE {
            let why = "the control plane does not answer: a majority of voters must return";
            return self.detach_ended(volume, Err(why.to_owned()), out);
        }
        if detaching.proposed || now < detaching.next_try {
            return;
        }
        let mut drained = true;
        let role = lockstep_protocol::Role::Attached(attachment);
        self.with_primary(volume, out, |primary, _, _, pushed| {
            drained = primary.role() != role || primary.finish_stop(pushed);
        });
        if !drained && now < since + DRAIN {
            return;
        }
        let detaching = self.detaching.get_mut(&volume).expect("looked at above");
        detaching.proposed = true;
        let command = Command::Detach {
            volume,
            attachment,
            device_gone: true,
        };
        self.propose(Asker::Detach(volume), command, out);
    }

    pub(crate) fn detach_proposed(
        &mut self,
        volume: VolumeId,
        result: ProposalResult,
        out: &mut Vec<Output>,
    ) {
        let Some(detaching) = self.detaching.get_mut(&volume) else {
            return; // answered meanwhile
        };
        match result {
            ProposalResult::Applied(_) => self.detach_ended(volume, Ok(()), out),
            ProposalResult::Rejected(why) => {
                self.detach_ended(volume, Err(why.to_string()), out);
            }
            ProposalResult::Unknown => {
                detaching.proposed = false;
                detaching.next_try = self.now + AGAIN;
            }
        }
    }

    fn detach_ended(
        &mut self,
        volume: VolumeId,
        result: Result<(), String>,
        out: &mut Vec<Output>,
    ) {
        let Some(detaching) = self.detaching.remove(&volume) else {
            return;
        };
        for ticket in detaching.tickets {
            let result = result.clone();
            out.push(Output::Answered { ticket, result });
        }
        // If it is still published here, a primary that was stopped for this gives way to a new one.
        self.end_role(volume, out);
        self.review(volume, out);
    }
}
