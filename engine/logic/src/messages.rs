//! Which replica or primary a message, or a store's answer, belongs to.

use crate::io::{NodeEvent, Output};
use crate::node::{Node, Queued};
use crate::pool::{Access, Condition, Owner};
use lockstep_protocol::{Primary, PrimaryEvent, PrimaryOut, Secondary};
use lockstep_store::{Event, StoreError};
use lockstep_types::{DeviceId, ExtentIndex, Nanos, NodeId, ReplicaId, Stamp, VolumeId};
use lockstep_wire::{
    ExtentContent, Message, ReadPieces, ReplicaError, ReplicaReply, ReplicaRequest, ReplyBody,
    RequestBody,
};

/// Requests kept for replicas that cannot answer yet; more than probes and seals of every volume
/// never come before the answer.
const EARLY: usize = 65_536;

/// Ids of probes for publications; a primary counts its own from 1.
pub(crate) const ATTACH_PROBES: u64 = 1 << 63;

impl Node {
    /// A message from a peer.
    pub(crate) fn on_message(&mut self, from: NodeId, message: Message, out: &mut Vec<Output>) {
        match message {
            Message::Hello(_) => {} // the shell's
            Message::Beacon(beacon) => self.on_beacon(from, &beacon, out),
            Message::BeaconReply(reply) => self.on_beacon_reply(from, &reply, out),
            Message::Request(request) => {
                if let Some(request) = self.unspoiled(from, request, out) {
                    self.on_request(from, request, out);
                }
            }
            Message::Reply(reply) => self.on_reply(from, reply, out),
        }
    }

    /// A message of this node to itself: the same way as any other's (R3).
    pub(crate) fn deliver(&mut self, queued: Queued, out: &mut Vec<Output>) {
        match queued {
            Queued::Request { from, request } => self.on_request(from, request, out),
            Queued::Reply(reply) => self.on_reply(self.me, reply, out),
        }
    }

    /// Payloads are checked where they enter a node. A spoiled append is dropped, which leaves a gap
    /// that evicts the replica (R5); a spoiled copy is asked for again.
    fn unspoiled(
        &mut self,
        from: NodeId,
        request: ReplicaRequest,
        out: &mut Vec<Output>,
    ) -> Option<ReplicaRequest> {
        match &request.body {
            RequestBody::Append { record, .. } => {
                let good = record.checksums.matches(&record.payload)
                    && record.stamp.epoch == request.header.epoch;
                if !good {
                    self.spoiled += 1;
                    return None;
                }
            }
            RequestBody::Copy {
                id,
                checksums,
                payload,
                ..
            } if !checksums.matches(payload) => {
                self.spoiled += 1;
                let body = ReplyBody::CopyDone {
                    id: *id,
                    result: Err(ReplicaError::Stale),
                };
                let reply = ReplicaReply {
                    header: request.header,
                    body,
                };
                out.push(Output::Send {
                    to: from,
                    message: Message::Reply(reply),
                });
                return None;
            }
            _ => {}
        }
        Some(request)
    }

    fn on_request(&mut self, from: NodeId, request: ReplicaRequest, out: &mut Vec<Output>) {
        let replica = request.header.replica;
        match self.replicas.get(&replica) {
            Some(local) if local.answers && local.volume == request.header.volume => {
                self.with_secondary(replica, out, |secondary, now, store, replies| {
                    secondary.on_request(now, from, request, store, replies);
                });
            }
            Some(local) if local.volume == request.header.volume => self.keep_early(from, request),
            _ => match self.absence(&request.header) {
                Some(body) => self.answer_for(from, request, body, out),
                None => self.keep_early(from, request),
            },
        }
    }

    /// What is said for a replica that is not here; nothing while it may turn up.
    pub(crate) fn absence(&self, header: &lockstep_wire::Header) -> Option<ReplyBody> {
        let lost = ReplyBody::NoSuchLife { incarnation: None };
        let recorded = self
            .volumes
            .get(&header.volume)
            .and_then(|v| v.record.replicas.get(&header.replica));
        if let Some(recorded) = recorded.filter(|r| r.node == self.me) {
            return match self.pools.get(&recorded.device).map(|p| p.condition) {
                Some(Condition::Ready) => Some(lost), // R4
                Some(Condition::Recovering) => None,
                Some(Condition::Failed(_)) | None => Some(ReplyBody::Failed),
            };
        }
        let all_known = self
            .pools
            .values()
            .all(|p| p.condition != Condition::Recovering);
        all_known.then_some(lost)
    }

    fn answer_for(
        &mut self,
        to: NodeId,
        request: ReplicaRequest,
        body: ReplyBody,
        out: &mut Vec<Output>,
    ) {
        let reply = ReplicaReply {
            header: request.header,
            body,
        };
        self.send_reply(to, reply, out);
    }

    pub(crate) fn send_reply(&mut self, to: NodeId, reply: ReplicaReply, out: &mut Vec<Output>) {
        if to == self.me {
            self.queue.push_back(Queued::Reply(reply));
        } else {
            let message = Message::Reply(reply);
            out.push(Output::Send { to, message });
        }
    }

    fn keep_early(&mut self, from: NodeId, request: ReplicaRequest) {
        if self.early.len() < EARLY {
            self.early.push_back((from, request));
        }
    }

    /// More is known of the replicas here: what waited for that is looked at again, in order.
    pub(crate) fn answer_early(&mut self) {
        for (from, request) in self.early.drain(..) {
            self.queue.push_back(Queued::Request { from, request });
        }
    }

    fn on_reply(&mut self, from: NodeId, reply: ReplicaReply, out: &mut Vec<Output>) {
        if let ReplyBody::Probed { id, .. } = reply.body
            && id >= ATTACH_PROBES
        {
            return self.on_attach_probed(id, &reply, out);
        }
        let volume = reply.header.volume;
        if self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.running.is_none())
        {
            return self.on_loss(from, &reply);
        }
        self.with_primary(volume, out, |primary, now, present, pushed| {
            primary.on_reply(now, from, reply, present, pushed);
        });
    }

    /// Something for the secondary of a replica here; its answers go on their way.
    pub(crate) fn with_secondary(
        &mut self,
        replica: ReplicaId,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Secondary, Nanos, &mut Access<'_>, &mut Vec<(NodeId, ReplicaReply)>),
    ) {
        let Some(local) = self.replicas.get_mut(&replica) else {
            return;
        };
        let pool = self
            .pools
            .get_mut(&local.device)
            .expect("a replica here is on a pool here");
        let before = local.secondary.meta().promised;
        let lost_before = local.secondary.lost_writes();
        let mut replies = std::mem::take(&mut self.scratch.replies);
        let mut access = pool.access(replica, self.now);
        act(&mut local.secondary, self.now, &mut access, &mut replies);
        let (promised, volume) = (local.secondary.meta().promised, local.volume);
        if local.secondary.lost_writes() > lost_before {
            out.push(Output::Event(NodeEvent::DeviceLostWrite {
                device: local.device,
                volume,
                replica,
            }));
        }
        for (to, reply) in replies.drain(..) {
            self.send_reply(to, reply, out);
        }
        self.scratch.replies = replies;
        if promised > before
            && let Some(running) = self
                .volumes
                .get_mut(&volume)
                .and_then(|v| v.running.as_mut())
        {
            // R13: a local lease is never waited for, so it ends with the promise, at once.
            running.primary.on_local_promise(promised);
            self.tell_attachment(volume, out);
        }
    }

    /// Something for the primary of a volume here; what it wants goes on its way.
    pub(crate) fn with_primary(
        &mut self,
        volume: VolumeId,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Primary, Nanos, &dyn Fn(ExtentIndex) -> bool, &mut Vec<PrimaryOut>),
    ) {
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(running) = state.running.as_mut() else {
            return;
        };
        let certified = state
            .certified
            .and_then(|(device, replica)| Some((&self.pools.get(&device)?.store, replica)));
        let present = |index: ExtentIndex| {
            certified.is_some_and(|(store, replica)| store.is_present(replica, index))
        };
        let mut pushed = std::mem::take(&mut self.scratch.primary);
        act(&mut running.primary, self.now, &present, &mut pushed);
        let serial = running.serial;
        self.after_primary(volume, serial, &mut pushed, out);
        self.scratch.primary = pushed;
        self.tell_attachment(volume, out);
    }

    /// Carries out what a primary wants.
    pub(crate) fn after_primary(
        &mut self,
        volume: VolumeId,
        serial: u64,
        pushed: &mut Vec<PrimaryOut>,
        out: &mut Vec<Output>,
    ) {
        for pushed in pushed.drain(..) {
            match pushed {
                PrimaryOut::Send { node, request } if node == self.me => {
                    let from = self.me;
                    self.queue.push_back(Queued::Request { from, request });
                }
                PrimaryOut::Send { node, request } => {
                    let message = Message::Request(request);
                    out.push(Output::Send { to: node, message });
                }
                PrimaryOut::Propose { id, proposal } => {
                    self.propose_for_primary(volume, serial, id, proposal, out);
                }
                PrimaryOut::Complete { tag, result } => out.push(Output::Complete { tag, result }),
                PrimaryOut::Beacon => {
                    self.beacons_due.insert(volume);
                }
                PrimaryOut::Slow { replica } => self.on_slow(volume, replica, out),
                PrimaryOut::Event(event) => {
                    let opened = matches!(event, PrimaryEvent::Opened { .. });
                    out.push(Output::Event(crate::events::of_volume(volume, event)));
                    if opened {
                        self.note_exposure(volume, out);
                    }
                }
            }
        }
    }

    /// Records of one replica became durable, those of a batch together: one ack tells of them all.
    pub(crate) fn records_durable(
        &mut self,
        durable: &mut Vec<(ReplicaId, Stamp)>,
        out: &mut Vec<Output>,
    ) {
        let Some((replica, _)) = durable.first().copied() else {
            return;
        };
        self.with_secondary(replica, out, |secondary, now, store, replies| {
            let stamps = durable.drain(..).map(|(_, stamp)| stamp);
            secondary.on_durable(now, stamps, store, replies);
        });
        durable.clear(); // if the replica is gone
    }

    /// A store has something to say.
    pub(crate) fn on_store_event(&mut self, device: DeviceId, event: Event, out: &mut Vec<Output>) {
        match event {
            Event::Recovered(recovery) => self.pool_recovered(device, recovery, out),
            Event::Durable { replica, stamp } => {
                self.records_durable(&mut vec![(replica, stamp)], out);
            }
            Event::Copied { tag, result } => {
                let result = result.map_err(|error| replica_error(&error));
                self.answer_secondary(device, tag, out, |secondary, _, _, replies| {
                    secondary.on_copied(tag, result, replies);
                });
            }
            Event::Done { tag, result } => self.on_done(device, tag, result, out),
            Event::Read { tag, result } => {
                let result = result
                    .map(|data| ReadPieces {
                        pieces: data.pieces,
                        checksums: data.checksums,
                    })
                    .map_err(|error| replica_error(&error));
                self.answer_secondary(device, tag, out, |secondary, _, _, replies| {
                    secondary.on_read(tag, result, replies);
                });
            }
            Event::RecordRead { tag, result } => {
                self.answer_secondary(device, tag, out, |secondary, _, _, replies| {
                    secondary.on_record(tag, result.ok(), replies);
                });
            }
            Event::ExtentSums { tag, result } => {
                let newest = result.as_ref().map(|sums| sums.newest).unwrap_or_default();
                let result = result
                    .map(|sums| ExtentContent {
                        present: sums.present,
                        checksums: sums.checksums,
                    })
                    .map_err(|error| replica_error(&error));
                self.answer_secondary(device, tag, out, |secondary, _, _, replies| {
                    secondary.on_sums(tag, newest, result, replies);
                });
            }
            Event::Corrupt { replica, range } => {
                self.with_secondary(replica, out, |secondary, _, _, replies| {
                    secondary.on_corrupt(range, replies);
                });
            }
            Event::DeviceFailed { errno, what } => self.pool_failed(device, errno, what, out),
        }
    }

    fn answer_secondary(
        &mut self,
        device: DeviceId,
        tag: u64,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Secondary, Nanos, &mut Access<'_>, &mut Vec<(NodeId, ReplicaReply)>),
    ) {
        let pool = self.pools.get_mut(&device).expect("its store spoke");
        match pool.owner_of(tag) {
            Owner::Replica(replica) => self.with_secondary(replica, out, act),
            other => unreachable!("{other:?} asks for no data"),
        }
    }

    fn on_done(
        &mut self,
        device: DeviceId,
        tag: u64,
        result: Result<(), StoreError>,
        out: &mut Vec<Output>,
    ) {
        let pool = self.pools.get_mut(&device).expect("its store spoke");
        match pool.owner_of(tag) {
            Owner::Replica(replica) => {
                let ok = result.is_ok();
                self.with_secondary(replica, out, |secondary, now, store, replies| {
                    secondary.on_done(now, tag, ok, store, replies);
                });
            }
            Owner::Created(replica) => self.replica_created(device, replica, result, out),
            Owner::Deleted(replica) => self.replica_deleted(replica, result, out),
            Owner::GapNoted(replica) => self.gap_noted(replica, result, out),
        }
    }
}

fn replica_error(error: &StoreError) -> ReplicaError {
    match error {
        StoreError::Corrupt(range) => ReplicaError::Corrupt(*range),
        StoreError::Stale => ReplicaError::Stale,
        StoreError::Full { .. } => ReplicaError::Full,
        StoreError::Device(_)
        | StoreError::NoReplica(_)
        | StoreError::Exists(_)
        | StoreError::Gone(_) => ReplicaError::Device,
    }
}
