//! The node: what an input concerns, and settling until nothing is left to do without the world.

use crate::attach::{Attaching, Detaching};
use crate::io::{Input, NodeEvent, Output, Tag, Ticket};
use crate::links::Link;
use crate::pool::{Condition, Pool};
use crate::proposals::Proposals;
use crate::replicas::{Jobs, Local};
use crate::slow::SlowNodes;
use crate::stop::Stopping;
use crate::volumes::VolumeState;
use lockstep_control::{Change, Node as Member, Tombstone};
use lockstep_protocol::mutate::Broken;
use lockstep_protocol::{PrimaryOut, Timings};
use lockstep_store::{Event, OpenOptions};
use lockstep_types::{AttachmentId, DeviceId, Nanos, NodeId, ReplicaId, Request, Stamp, VolumeId};
use lockstep_wire::{ReplicaReply, ReplicaRequest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a node is made of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeConfig {
    /// Its id.
    pub node: NodeId,
    /// When this process started.
    pub started: Nanos,
    /// Its pools, claimed by the shell (R23), and how each is opened.
    pub devices: Vec<(DeviceId, OpenOptions)>,
    /// Those whose device failed in an earlier life: what is on them is suspect until it has been
    /// compared (R24).
    pub failed_before: BTreeSet<DeviceId>,
    /// Time spans of the protocol.
    pub timings: Timings,
    /// The rule of the protocol broken on purpose, if any.
    pub broken: Broken,
}

/// One node's data plane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub(crate) me: NodeId,
    pub(crate) started: Nanos,
    pub(crate) timings: Timings,
    pub(crate) broken: Broken,
    pub(crate) now: Nanos,
    pub(crate) pools: BTreeMap<DeviceId, Pool>,
    pub(crate) replicas: BTreeMap<ReplicaId, Local>,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeState>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) links: BTreeMap<NodeId, Link>,
    /// When it was last made sure that silence counts only while this node ran.
    pub(crate) silence_seen: Nanos,
    pub(crate) tombstones: BTreeMap<ReplicaId, Tombstone>,
    pub(crate) jobs: Jobs,
    pub(crate) proposals: Proposals,
    pub(crate) attaching: BTreeMap<Ticket, Attaching>,
    pub(crate) detaching: BTreeMap<VolumeId, Detaching>,
    /// Requests for volumes whose record has not been told yet.
    pub(crate) unplaced: BTreeMap<VolumeId, Vec<(AttachmentId, Tag, Request)>>,
    /// Volumes that are gone for good: their ids never return (R18).
    pub(crate) gone: BTreeSet<VolumeId>,
    /// What goes from here to here, in order.
    pub(crate) queue: VecDeque<Queued>,
    /// Requests that came before their replica could answer.
    pub(crate) early: VecDeque<(NodeId, ReplicaRequest)>,
    pub(crate) beacons_due: BTreeSet<VolumeId>,
    pub(crate) slow: SlowNodes,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) last_serial: u64,
    pub(crate) last_probe: u64,
    /// Payloads from peers that did not match their checksums.
    pub(crate) spoiled: u64,
    /// When whatever waits for time to pass was last looked after.
    ticked: Nanos,
    /// The earliest timer of a primary; [`Nanos::MAX`] where there is none.
    pub(crate) primaries_at: Nanos,
    beacon_at: Nanos,
    /// Some volume is open here or watched, or was when this was last looked at.
    pub(crate) beacons: bool,
    pub(crate) scratch: Scratch,
}

/// Kept between steps for their room only.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Scratch {
    pub replies: Vec<(NodeId, ReplicaReply)>,
    pub primary: Vec<PrimaryOut>,
    store: lockstep_store::Outputs,
    durable: Vec<(ReplicaId, Stamp)>,
}

/// What a part of this node says to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Queued {
    Request {
        from: NodeId,
        request: ReplicaRequest,
    },
    Reply(ReplicaReply),
}

impl Node {
    /// A node that has not read anything yet; [`Node::start`] begins recovery of its pools.
    pub fn new(config: NodeConfig, now: Nanos) -> Self {
        let NodeConfig {
            node,
            started,
            devices,
            failed_before,
            timings,
            broken,
        } = config;
        let pools = devices.into_iter().map(|(device, options)| {
            let failed = failed_before.contains(&device);
            (device, Pool::new(options, failed))
        });
        Self {
            me: node,
            started,
            broken,
            now,
            pools: pools.collect(),
            replicas: BTreeMap::new(),
            volumes: BTreeMap::new(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            silence_seen: now,
            tombstones: BTreeMap::new(),
            jobs: Jobs::default(),
            proposals: Proposals::default(),
            attaching: BTreeMap::new(),
            detaching: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            gone: BTreeSet::new(),
            queue: VecDeque::new(),
            early: VecDeque::new(),
            beacons_due: BTreeSet::new(),
            slow: SlowNodes::default(),
            stopping: None,
            last_serial: 0,
            last_probe: 0,
            spoiled: 0,
            ticked: now,
            primaries_at: Nanos::MAX,
            beacon_at: now,
            beacons: false,
            scratch: Scratch::default(),
            timings,
        }
    }

    /// Begins the recovery of every pool; `NodeEvent::PoolReady` tells of its end.
    pub fn start(&mut self, now: Nanos, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        for pool in self.pools.values_mut() {
            pool.store.start(now, &mut pool.outputs);
        }
        self.settle(out);
    }

    /// Takes one input; `out` is what is to be done, in order.
    pub fn step(&mut self, now: Nanos, input: Input, out: &mut Vec<Output>) {
        self.take(now, input, out);
        self.commit(now, out);
    }

    /// As [`Node::step`], but what the stores owe to the disk waits for [`Node::commit`]: whoever has
    /// several inputs at one moment hands in all of them first, so that one batch holds their records.
    pub fn take(&mut self, now: Nanos, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        for pool in self.pools.values_mut() {
            pool.store.hold();
        }
        match input {
            Input::Timer => self.on_timer(out),
            Input::Disk {
                device,
                token,
                result,
            } => {
                let pool = self
                    .pools
                    .get_mut(&device)
                    .expect("only our own devices are driven for us");
                pool.store
                    .disk_done(self.now, token, result, &mut pool.outputs);
            }
            Input::LinkUp { peer, boot: _ } => self.on_link_up(peer, out),
            Input::LinkDown { peer } => self.on_link_down(peer, out),
            Input::Message { from, message } => self.on_message(from, message, out),
            Input::Change(change) => self.on_change(change, out),
            Input::Proposed { ticket, result } => self.on_proposed(ticket, result, out),
            Input::Client {
                volume,
                attachment,
                tag,
                request,
            } => self.on_client(volume, attachment, tag, request, out),
            Input::Attach {
                ticket,
                volume,
                attachment,
            } => self.begin_attach(ticket, volume, attachment, out),
            Input::Detach {
                ticket,
                volume,
                attachment,
            } => self.begin_detach(ticket, volume, attachment, out),
            Input::Stop => self.begin_stop(out),
        }
        self.settle(out);
    }

    /// Ends a run of [`Node::take`].
    pub fn commit(&mut self, now: Nanos, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        for pool in self.pools.values_mut() {
            pool.store.release(self.now, &mut pool.outputs);
        }
        self.settle(out);
    }

    /// When `Input::Timer` is due; [`Nanos::MAX`] if nothing waits for time to pass.
    pub fn next_timer(&self) -> Nanos {
        let stores = self
            .pools
            .values()
            .filter_map(|pool| pool.store.next_timer())
            .min();
        let beacon = if self.beacons {
            self.beacon_at
        } else {
            Nanos::MAX
        };
        stores.unwrap_or(Nanos::MAX).min(self.tick_at()).min(beacon)
    }

    /// Soon while something is under way, or else when a primary's timer is due.
    fn tick_at(&self) -> Nanos {
        let under_way = self.jobs.any()
            || !self.attaching.is_empty()
            || !self.detaching.is_empty()
            || !self.proposals.is_empty()
            || self.stopping.is_some();
        let soon = self.ticked + self.timings.retry / 4;
        if under_way {
            soon
        } else {
            self.primaries_at.max(soon)
        }
    }

    fn on_timer(&mut self, out: &mut Vec<Output>) {
        let now = self.now;
        for pool in self.pools.values_mut() {
            if pool.store.next_timer().is_some_and(|at| now >= at) {
                pool.store.timer(now, &mut pool.outputs);
            }
        }
        if now >= self.tick_at() {
            self.ticked = now;
            self.tick(out);
        }
        if now >= self.beacon_at {
            self.beacon_at = now + self.timings.beacon;
            self.review_caretakers(out);
            self.send_beacons(out);
            let wanted = |v: &VolumeState| v.running.is_some() || v.watched;
            self.beacons = self.volumes.values().any(wanted);
        }
    }

    /// Whatever waits for time to pass, every 50 ms while anything does.
    fn tick(&mut self, out: &mut Vec<Output>) {
        self.proposals_overdue(out);
        let now = self.now;
        let due = |v: &VolumeState| v.running.as_ref().is_some_and(|r| now >= r.timer_at);
        let running = self.volumes.iter().filter(|(_, v)| due(v));
        let running = running.map(|(id, _)| *id);
        for volume in running.collect::<Vec<_>>() {
            self.with_primary(volume, out, |primary, now, present, pushed| {
                primary.on_timer(now, present, pushed);
            });
            self.tell_repair(volume, out);
            let state = self.volumes.get_mut(&volume);
            if let Some(running) = state.and_then(|v| v.running.as_mut()) {
                running.timer_at = running.primary.next_timer(now);
            }
        }
        let primaries = self.volumes.values().filter_map(|v| v.running.as_ref());
        self.primaries_at = primaries.map(|r| r.timer_at).min().unwrap_or(Nanos::MAX);
        self.advance_attaching(out);
        self.advance_detaching(out);
        self.settle_replicas(out);
    }

    fn on_change(&mut self, change: Change, out: &mut Vec<Output>) {
        match change {
            Change::Node(node) => {
                self.members.insert(node.id, node);
            }
            Change::Volume(volume) => self.on_volume(*volume, out),
            Change::VolumeGone(volume) => self.on_volume_gone(volume, out),
            Change::Tombstone(tombstone) => self.on_tombstone(tombstone, out),
            Change::TombstoneGone { replica, .. } => {
                self.tombstones.remove(&replica);
                self.jobs.unsettled.remove(&replica);
            }
            Change::NodeGone(node) => {
                self.members.remove(&node);
            }
            Change::Cluster { .. }
            | Change::Pool(_)
            | Change::PoolGone(_)
            | Change::Voter { .. }
            | Change::VoterGone { .. } => {}
        }
    }

    /// Until everything that can be done here is done.
    pub(crate) fn settle(&mut self, out: &mut Vec<Output>) {
        loop {
            if let Some(queued) = self.queue.pop_front() {
                self.deliver(queued, out);
            } else if let Some(device) = self.device_with_outputs() {
                self.drain_store(device, out);
            } else if let Some(volume) = self.beacons_due.pop_first() {
                self.send_beacons_of(volume, out);
            } else if !self.advance_stop(out) {
                return;
            }
        }
    }

    fn device_with_outputs(&self) -> Option<DeviceId> {
        let mut full = self.pools.iter().filter(|(_, p)| !p.outputs.is_empty());
        full.next().map(|(device, _)| *device)
    }

    fn drain_store(&mut self, device: DeviceId, out: &mut Vec<Output>) {
        let mut outputs = std::mem::take(&mut self.scratch.store);
        let pool = self.pools.get_mut(&device).expect("the caller found it");
        std::mem::swap(&mut outputs, &mut pool.outputs);
        let mut durable = std::mem::take(&mut self.scratch.durable);
        for output in outputs.drain(..) {
            if let lockstep_store::Output::Event(Event::Durable { replica, stamp }) = output {
                if durable.last().is_some_and(|(before, _)| *before != replica) {
                    self.records_durable(&mut durable, out);
                }
                durable.push((replica, stamp));
                continue;
            }
            self.records_durable(&mut durable, out);
            match output {
                lockstep_store::Output::Disk(op) => out.push(Output::Disk { device, op }),
                lockstep_store::Output::Event(event) => self.on_store_event(device, event, out),
            }
        }
        self.records_durable(&mut durable, out);
        self.scratch.durable = durable;
        self.scratch.store = outputs;
    }

    /// A pool's device failed: its replicas never acknowledge again, and say so.
    pub(crate) fn pool_failed(
        &mut self,
        device: DeviceId,
        errno: i32,
        what: &str,
        out: &mut Vec<Output>,
    ) {
        let pool = self.pools.get_mut(&device).expect("its store spoke");
        pool.condition = Condition::Failed(errno);
        out.push(Output::Event(NodeEvent::PoolFailed {
            device,
            errno,
            what: what.to_owned(),
        }));
        let there: Vec<ReplicaId> = self
            .replicas
            .iter()
            .filter(|(_, local)| local.device == device)
            .map(|(id, _)| *id)
            .collect();
        for replica in there {
            self.with_secondary(replica, out, |secondary, _, _, replies| {
                secondary.fail(replies);
            });
        }
        self.answer_early();
        self.review_all(out);
    }
}
