//! The clients of attached volumes: what a kernel device and the application above it would do.

use super::client::{Habits, Kind, Outstanding, VolumeHistory};
use super::plan::Plan;
use super::step::Inward;
use super::{Event, World};
use crate::net::NodeIndex;
use crate::rng::Rng;
use lockstep_logic::io::{AttachmentState, Input, Tag};
use lockstep_types::{AttachmentId, Nanos, RequestError, Response, VolumeId};
use std::collections::BTreeMap;

/// Marks the tags of requests that were held on a device of before.
const STALE: Tag = 1 << 61;

/// All clients.
pub struct Clients {
    /// Requests answered well.
    pub answered: u64,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeClient>,
    /// Volumes so far: the number in a block tells those that are gone from those that are there.
    numbered: u64,
    sent: u64,
    limit: u64,
    rng: Rng,
    habits: Option<Habits>,
    tags: BTreeMap<Tag, VolumeId>,
}

/// The client of a volume.
pub(crate) struct VolumeClient {
    /// A short number that stands in every block.
    pub number: u64,
    pub history: VolumeHistory,
    pub habits: Habits,
    pub attached: Option<Attached>,
    /// Its only copy may have lost what was acknowledged: whatever it holds now, nobody knows better.
    pub unknown: bool,
    /// When a write of it was last acknowledged.
    pub written: Nanos,
}

/// A device that exists.
pub(crate) struct Attached {
    pub id: AttachmentId,
    pub node: NodeIndex,
    /// Counts devices, so that events of a former one come to nothing.
    pub number: u64,
    /// Blocks, as last told; none before the first opening.
    pub blocks: Option<u64>,
    pub state: AttachmentState,
    /// Requests that have not been answered.
    pub outstanding: BTreeMap<Tag, Outstanding>,
    /// When the oldest of them was sent or last answered, for the liveness check.
    pub since: Nanos,
    /// No new requests: the device is about to go.
    pub draining: bool,
    /// The process that its requests go to.
    pub served_by: Option<u64>,
}

impl VolumeClient {
    /// Whether something that was asked has not been answered.
    pub(crate) fn waits(&self) -> bool {
        let attached = self.attached.as_ref();
        attached.is_some_and(|attached| !attached.outstanding.is_empty())
    }
}

impl Clients {
    /// None yet.
    pub fn new(plan: &Plan, rng: Rng) -> Self {
        Self {
            answered: 0,
            volumes: BTreeMap::new(),
            numbered: 0,
            sent: 0,
            limit: plan.operations,
            rng,
            habits: plan.habits.clone(),
            tags: BTreeMap::new(),
        }
    }

    /// A volume exists.
    pub(super) fn add_volume(&mut self, volume: VolumeId) {
        self.numbered += 1;
        let number = self.numbered;
        let drawn = Habits::draw(&mut self.rng);
        let habits = self.habits.clone().unwrap_or(drawn);
        self.volumes.insert(
            volume,
            VolumeClient {
                number,
                history: VolumeHistory::default(),
                habits,
                attached: None,
                unknown: false,
                written: 0,
            },
        );
    }

    /// A volume is deleted: nothing is asked of it any more, and nothing expected.
    pub(super) fn end_volume(&mut self, volume: VolumeId) {
        self.volumes.remove(&volume);
        self.tags.retain(|_, whose| *whose != volume);
    }

    /// From now on nothing is known of what the volume holds.
    pub(super) fn believe_nothing_of(&mut self, volume: VolumeId) {
        if let Some(client) = self.volumes.get_mut(&volume) {
            client.unknown = true;
        }
    }

    /// Clients may ask for so much more, and no more than that.
    pub(super) fn allow(&mut self, more: u64) {
        self.limit = self.sent + more;
    }

    /// Clients ask for nothing more for now.
    pub(crate) fn hush(&mut self) {
        self.limit = self.sent;
    }

    /// They ask as much as they like again.
    pub(crate) fn speak(&mut self) {
        self.limit = u64::MAX;
    }

    /// An answer with this tag belongs to the volume.
    pub(super) fn expect(&mut self, tag: Tag, volume: VolumeId) {
        self.tags.insert(tag, volume);
    }

    pub(super) fn client(&mut self, volume: VolumeId) -> &mut VolumeClient {
        self.volumes
            .get_mut(&volume)
            .expect("volumes are added when they are created")
    }
}

impl World {
    /// A device appears on a node.
    pub(super) fn device_appears(&mut self, node: NodeIndex, volume: VolumeId, id: AttachmentId) {
        self.nodes[node].devices.insert(volume, id);
        let (now, number) = (self.now(), self.clients.sent + self.step);
        let attached = Attached {
            id,
            node,
            number,
            blocks: None,
            state: AttachmentState::Suspended,
            outstanding: BTreeMap::new(),
            since: now,
            draining: false,
            served_by: None,
        };
        self.coverage.hit("client: device appeared");
        self.clients.client(volume).attached = Some(attached);
        self.queue.after(
            self.plan.think_at(now),
            Event::Client {
                volume,
                attachment: number,
            },
        );
    }

    /// A device is gone with its machine, or was taken away: what was asked through it is unknown.
    pub(super) fn device_gone(&mut self, volume: VolumeId, id: AttachmentId) {
        let Some(client) = self.clients.volumes.get_mut(&volume) else {
            return;
        };
        if client
            .attached
            .as_ref()
            .is_none_or(|attached| attached.id != id)
        {
            return;
        }
        let attached = client.attached.take().expect("looked at above");
        for request in attached.outstanding.values() {
            client.history.fails(request);
        }
    }

    pub(super) fn on_client(&mut self, volume: VolumeId, number: u64) {
        let step = self.step;
        let now = self.now();
        let clients = &mut self.clients;
        let limit = clients.limit;
        let Some(client) = clients.volumes.get_mut(&volume) else {
            return;
        };
        let Some(attached) = client
            .attached
            .as_mut()
            .filter(|attached| attached.number == number)
        else {
            return;
        };
        let wait = clients.rng.about(self.plan.think_at(now));
        self.queue.after(
            wait,
            Event::Client {
                volume,
                attachment: number,
            },
        );
        let Some(blocks) = attached.blocks else {
            return;
        };
        let fenced = attached.state == AttachmentState::Fenced;
        if fenced
            || attached.draining
            || attached.outstanding.len() >= client.habits.depth
            || clients.sent >= limit
        {
            return;
        }
        clients.sent += 1;
        let (kind, range, value) = client.habits.next(&mut clients.rng, blocks, clients.sent);
        let request = Outstanding {
            start: step,
            kind,
            range,
            value,
        };
        client.history.starts(&request);
        let tag = clients.sent;
        if attached.outstanding.is_empty() {
            attached.since = now;
        }
        let input = Input::Client {
            volume,
            attachment: attached.id,
            tag,
            request: request.request(client.number),
        };
        attached.outstanding.insert(tag, request);
        clients.tags.insert(tag, volume);
        let (node, served_by) = (attached.node, attached.served_by);
        // A daemon that came up meanwhile is given it with all that was not answered, once it has the device.
        if served_by == self.boot_of(node) {
            self.deliver(node, Inward::Data(input));
        }
    }

    fn boot_of(&self, node: NodeIndex) -> Option<u64> {
        let process = self.nodes[node].process.as_ref();
        process.map(|process| process.boot)
    }

    /// The kernel reissues what was not answered before the daemon ended (R12).
    pub(super) fn reissue(&mut self, volume: VolumeId) {
        let client = self.clients.client(volume);
        let Some(node) = client.attached.as_ref().map(|attached| attached.node) else {
            return;
        };
        let boot = self.boot_of(node);
        let client = self.clients.client(volume);
        let Some(attached) = &mut client.attached else {
            return;
        };
        attached.served_by = boot;
        let inputs: Vec<Input> = attached
            .outstanding
            .iter()
            .map(|(tag, request)| Input::Client {
                volume,
                attachment: attached.id,
                tag: *tag,
                request: request.request(client.number),
            })
            .collect();
        for input in inputs {
            self.coverage.hit("client: request reissued");
            self.deliver(node, Inward::Data(input));
        }
    }

    /// A request that was held on a device of before: a write of it must fail, whatever is there now
    /// (R12), and a read may succeed only under the newest epoch (R13).
    pub(crate) fn issue_stale(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        attachment: AttachmentId,
        kind: Kind,
    ) {
        let held = Outstanding {
            start: self.step,
            kind,
            range: lockstep_types::BlockRange::new(0, 1),
            value: u64::MAX,
        };
        let request = held.request(self.clients.client(volume).number);
        let tag = STALE | (self.step << 1) | u64::from(kind == Kind::Read);
        self.held_requests.insert(tag, volume);
        let input = Input::Client {
            volume,
            attachment,
            tag,
            request,
        };
        self.deliver(node, Inward::Data(input));
    }

    fn held_answered(&mut self, node: NodeIndex, volume: VolumeId, tag: Tag, good: bool) {
        let word = if good { "done" } else { "refused" };
        self.say_node(node, format_args!("request held by the kernel: {word}"));
        if !good {
            return;
        }
        if tag & 1 == 0 {
            return self.fail("R12", "a write held on an earlier device was carried out");
        }
        self.check_epoch_of_answer(node, volume);
    }

    /// V3, for whoever is answered.
    fn check_epoch_of_answer(&mut self, node: NodeIndex, volume: VolumeId) {
        if let Err(why) = self.checks.epoch_of_answer(node, volume) {
            self.fail("V3", format!("{}: {why}", self.name(node)));
        }
    }

    pub(super) fn client_answered(
        &mut self,
        node: NodeIndex,
        tag: Tag,
        result: Result<Response, RequestError>,
    ) {
        let (now, step) = (self.now(), self.step);
        if let Some(volume) = self.held_requests.remove(&tag) {
            return self.held_answered(node, volume, tag, result.is_ok());
        }
        let Some(volume) = self.clients.tags.remove(&tag) else {
            return self.stray_answer(node, tag);
        };
        let client = self
            .clients
            .volumes
            .get_mut(&volume)
            .expect("tags name volumes");
        let attached = client
            .attached
            .as_mut()
            .filter(|attached| attached.node == node);
        let Some(attached) = attached else {
            // Another node has the volume by now: under an older epoch nobody is answered well (V3).
            if result.is_ok() {
                self.check_epoch_of_answer(node, volume);
            }
            return self.stray_answer(node, tag);
        };
        let Some(request) = attached.outstanding.remove(&tag) else {
            return self.stray_answer(node, tag);
        };
        attached.since = now;
        let (number, id) = (client.number, attached.id);
        match result {
            Ok(response) => {
                self.clients.answered += 1;
                let unknown = client.unknown;
                let verdict = client.history.ends(&request, step, number, &response);
                let verdict = if unknown { Ok(()) } else { verdict };
                self.say_node(node, format_args!("client #{tag} answered"));
                self.coverage.hit(match request.kind {
                    Kind::Read => "client: read",
                    Kind::Write => "client: write",
                    Kind::Discard => "client: discard",
                    Kind::Zeroes => "client: write zeroes",
                });
                if let Err(why) = verdict {
                    return self.fail(
                        "V5",
                        format!("volume {volume:?}, {}: {why}", self.name(node)),
                    );
                }
                if request.kind != Kind::Read {
                    self.clients.client(volume).written = now;
                }
                if request.kind != Kind::Read && self.is_scripted() {
                    self.acks.push(now);
                }
                self.acknowledged(node, volume, id, request.kind != Kind::Read);
            }
            Err(error) => {
                client.history.fails(&request);
                self.say_node(node, format_args!("client #{tag} failed: {error}"));
                self.request_failed(node, volume, id, error);
            }
        }
    }

    fn stray_answer(&mut self, node: NodeIndex, tag: Tag) {
        // A device that was taken away may still be answered; twice is never right.
        self.say_node(
            node,
            format_args!("answer to request #{tag}, whose device is gone"),
        );
    }

    fn request_failed(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        id: AttachmentId,
        error: RequestError,
    ) {
        match error {
            RequestError::NoSpace => self.coverage.hit("client: no space"),
            RequestError::Fenced => {
                self.coverage.hit("client: fenced");
                let record = self
                    .committed
                    .state
                    .volumes
                    .get(&volume)
                    .and_then(|v| v.membership.attachment);
                if record.is_some_and(|attachment| attachment.id == id) {
                    self.fail(
                        "R12",
                        format!(
                            "{}: request of the recorded attachment of {volume:?} fenced",
                            self.name(node)
                        ),
                    );
                }
            }
            RequestError::Corrupt => {
                self.coverage.hit("client: corrupt");
                if !self.may_be_corrupt(node, volume) {
                    self.fail(
                        "atlas",
                        format!(
                            "{}: {volume:?} lost a block although a good copy is left",
                            self.name(node)
                        ),
                    );
                }
            }
            RequestError::Invalid => self.fail(
                "client",
                format!("{}: a good request was called invalid", self.name(node)),
            ),
            RequestError::NotOpen => {
                self.coverage.hit("client: not open");
            }
        }
    }

    /// Whether the atlas allows a block of the volume to be lost: when the only certified copy there
    /// was, as far as the primary has heard, is on the device that rots, or on one that fails for a while.
    fn may_be_corrupt(&self, primary: NodeIndex, volume: VolumeId) -> bool {
        if self.plan.over_budget {
            return true;
        }
        let Some(record) = self.committed.state.volumes.get(&volume) else {
            return true;
        };
        // It may be cut off from the voters, and not know of a copy that was certified (world seed 801255).
        if !self.has_heard_all(primary) {
            return true;
        }
        let victim = self.nodes[self.plan.victim].id;
        let others = record
            .membership
            .in_sync
            .keys()
            .filter(|id| record.replicas.get(id).is_some_and(|r| r.node != victim));
        let reachable = others.filter(|id| {
            let node = record
                .replicas
                .get(id)
                .map(|replica| self.index_of(replica.node));
            let works = |node: NodeIndex| {
                let mut disks = self.nodes[node].disks.iter();
                disks.all(|disk| disk.shaky_until <= self.now())
            };
            node.is_some_and(|node| self.nodes[node].runs() && works(node))
        });
        reachable.count() == 0
    }

    fn has_heard_all(&self, node: NodeIndex) -> bool {
        let last = self.committed.state.applied;
        let process = self.nodes[node].process.as_ref();
        let voter = process.and_then(|process| process.voter.as_ref());
        voter.is_some_and(|voter| voter.state.applied >= last)
    }

    pub(super) fn attachment_changed(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        id: AttachmentId,
        state: AttachmentState,
    ) {
        self.say_node(
            node,
            format_args!("attachment {id:?} of {volume:?} is {state:?}"),
        );
        let Some(client) = self.clients.volumes.get_mut(&volume) else {
            return;
        };
        let Some(attached) = client
            .attached
            .as_mut()
            .filter(|attached| attached.id == id && attached.node == node)
        else {
            return;
        };
        match state {
            AttachmentState::Open { blocks } => {
                self.coverage.hit("client: device open");
                if attached.blocks.is_some_and(|before| blocks < before) {
                    return self.fail("R8", format!("{volume:?} shrank"));
                }
                attached.blocks = Some(blocks);
            }
            AttachmentState::Suspended => self.coverage.hit("client: device suspended"),
            AttachmentState::Fenced => self.coverage.hit("client: device fenced"),
        }
        let client = self.clients.client(volume);
        if let Some(attached) = client.attached.as_mut() {
            attached.state = state;
        }
    }
}

impl World {
    /// Clients may ask for so much more a volume.
    pub(super) fn clients_go_on(&mut self, more: u64) {
        let volumes = self.clients.volumes.len() as u64;
        self.clients.allow(more * volumes);
    }
}
