//! Who seeks to be primary of which volume (R9, R12): the node that has it attached, or, if nobody
//! has and it needs work, a node with a certified copy.

use crate::io::{AttachmentState, NodeEvent, Output};
use crate::node::Node;
use crate::proposals::Asker;
use crate::requests::fenced;
use lockstep_control::{Attachment, Command, Replica, Volume, policy};
use lockstep_protocol::{Primary, ReplicaView, Role, View};
use lockstep_types::{
    AttachmentId, DeviceId, Gap, Nanos, NodeId, ReplicaId, Sequence, VolumeId, millis, seconds,
};
use std::collections::BTreeSet;

/// Before the first in line takes care of a volume that needs work.
const CARE_AFTER: Nanos = millis(500);
/// Between those in line, so that they do not race.
const CARE_STEP: Nanos = seconds(2);
/// How much longer, if the record names a caretaker that cannot be reached.
const CARE_GRACE: Nanos = seconds(5);
/// How much longer, if a node that is silent has it attached: it may be back in a moment.
const CARE_ATTACHED: Nanos = seconds(10);
/// Before a step down that failed is proposed again.
const STEP_DOWN_AGAIN: Nanos = seconds(2);

/// A volume as this node knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct VolumeState {
    /// The record last told.
    pub record: Volume,
    pub running: Option<Running>,
    /// A certified replica on this node.
    pub certified: Option<(DeviceId, ReplicaId)>,
    /// It may need a caretaker.
    pub watched: bool,
    /// What the front-end was told last.
    told: Option<(AttachmentId, AttachmentState)>,
    pub told_floor: Sequence,
    /// Whether the ledger was told that writes stand in one site only.
    pub exposed: bool,
    /// When this node takes care of it, if it is still needed then.
    care_at: Option<Nanos>,
    /// No step down is proposed before then.
    step_down_at: Nanos,
    /// Whether it repairs only is not told again before then.
    tell_repair_at: Nanos,
    /// Certified replicas whose nodes say that they are lost.
    pub lost: BTreeSet<ReplicaId>,
    /// Losses of this node are not told again before then.
    pub tell_loss_at: Nanos,
}

/// A primary of this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Running {
    pub primary: Primary,
    /// Tells it from those before it.
    pub serial: u64,
    /// When its timer is due.
    pub timer_at: Nanos,
}

impl VolumeState {
    fn new(record: Volume) -> Self {
        Self {
            record,
            running: None,
            certified: None,
            watched: false,
            told: None,
            told_floor: Sequence::ZERO,
            exposed: false,
            care_at: None,
            step_down_at: 0,
            tell_repair_at: 0,
            lost: BTreeSet::new(),
            tell_loss_at: 0,
        }
    }

    /// What the front-end was told last.
    pub fn told_state(&self) -> Option<AttachmentState> {
        self.told.map(|(_, state)| state)
    }

    fn role(&self) -> Option<Role> {
        self.running.as_ref().map(|r| r.primary.role())
    }
}

impl Node {
    /// A volume's record was committed.
    pub(crate) fn on_volume(&mut self, record: Volume, out: &mut Vec<Output>) {
        let id = record.id;
        let state = self
            .volumes
            .entry(id)
            .or_insert_with(|| VolumeState::new(record.clone()));
        if record.membership.version < state.record.membership.version {
            return; // told before (V7)
        }
        let in_sync_changed = state.record.membership.in_sync != record.membership.in_sync;
        state.record = record;
        let sought = state.running.as_ref();
        let epoch = state.record.membership.epoch;
        if in_sync_changed && sought.is_some_and(|r| r.primary.epoch() == epoch) {
            out.push(Output::Event(NodeEvent::InSync {
                volume: id,
                epoch,
                members: state.record.membership.in_sync.keys().copied().collect(),
            }));
            self.note_exposure(id, out);
        }
        self.review(id, out);
        if let Some(view) = self.view_of(id) {
            self.with_primary(id, out, |primary, now, _, pushed| {
                primary.on_view(now, view, pushed);
            });
        }
        self.home_replicas(id, out);
        self.place_requests(id, out);
        self.attach_reviewed(id, out);
    }

    /// A volume is gone for good.
    pub(crate) fn on_volume_gone(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        self.end_role(volume, out);
        self.gone.insert(volume);
        self.volumes.remove(&volume);
        self.forget_homes(volume);
        self.place_requests(volume, out);
    }

    /// Something that decides about roles changed for many volumes.
    pub(crate) fn review_all(&mut self, out: &mut Vec<Output>) {
        for volume in self.volumes.keys().copied().collect::<Vec<_>>() {
            self.review(volume, out);
        }
    }

    /// Begins or ends this node's role in a volume, as its record asks.
    pub(crate) fn review(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        self.find_certified(volume);
        let Some(state) = self.volumes.get(&volume) else {
            return;
        };
        let wanted = self.role_wanted(volume, state);
        if state.role() != wanted {
            self.end_role(volume, out);
            if let Some(role) = wanted {
                self.begin_role(volume, role, out);
            }
        }
    }

    /// A certified replica on this node: what says which extents all members have.
    fn find_certified(&mut self, volume: VolumeId) {
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let members = state.record.membership.in_sync.iter();
        // A suspect stands only where there is no other (R21).
        let alone = members.len() == 1;
        let here = members.filter_map(|(id, incarnation)| {
            let local = self.replicas.get(id)?;
            let meta = local.secondary.meta();
            let living = !local.secondary.is_failed()
                && meta.incarnation == *incarnation
                && (!meta.gap.excludes() || alone && meta.gap == Gap::Suspect);
            living.then_some((local.device, *id))
        });
        state.certified = here.into_iter().next();
        let Volume {
            membership,
            replicas,
            ..
        } = &state.record;
        state.lost.retain(|id| membership.in_sync.contains_key(id));
        let on_us = |id: &ReplicaId| replicas.get(id).is_some_and(|r| r.node == self.me);
        let unhealthy = replicas
            .iter()
            .any(|(id, r)| r.leaving || !membership.in_sync.contains_key(id));
        let lost_here = state.certified.is_none() && membership.in_sync.keys().any(on_us);
        state.watched = membership.attachment.is_none_or(|a| a.node != self.me)
            && !membership.in_sync.is_empty()
            && (membership.primary == Some(self.me)
                || unhealthy
                || lost_here
                || !state.lost.is_empty());
        self.beacons |= state.watched;
    }

    fn role_wanted(&self, volume: VolumeId, state: &VolumeState) -> Option<Role> {
        let record = &state.record;
        if self.stopping.is_some() {
            return state.role(); // it ends by `stop`
        }
        if record.deleting || record.membership.distrusted {
            return None;
        }
        match record.membership.attachment {
            Some(attachment) if attachment.node == self.me => {
                let role = Role::Attached(attachment.id);
                let leaving = self.detaching.contains_key(&volume);
                (!leaving || state.role() == Some(role)).then_some(role)
            }
            _ => self.cares(state).then_some(Role::Caretaker),
        }
    }

    /// Whether this node is, or now becomes, the caretaker.
    fn cares(&self, state: &VolumeState) -> bool {
        if !self.needs_work(state) {
            return false;
        }
        match state.role() {
            Some(role) => role == Role::Caretaker,
            None => state.care_at.is_some_and(|at| self.now >= at),
        }
    }

    /// A volume that this node could do something for: nobody has it attached, or whoever has is silent
    /// (R9). Attached, it waits for its node's return, and goes back to it then (R12).
    fn needs_work(&self, state: &VolumeState) -> bool {
        let membership = &state.record.membership;
        let elsewhere = |at: Attachment| at.node != self.me && self.is_silent(at.node);
        let open = membership.attachment.is_none_or(elsewhere) && !state.record.deleting;
        let there = state.certified.is_some() && !membership.distrusted;
        let work = !state.lost.is_empty()
            || state.record.replicas.iter().any(|(id, replica)| {
                let certified = membership.in_sync.contains_key(id);
                let joins = !certified && replica.ready && !replica.sealed_off;
                joins && self.is_reachable(replica.node)
                    || certified && self.is_due(&state.record, *id, replica)
            });
        open && there && work
    }

    /// Whether the node that has the volume attached is silent: what a caretaker states (R9).
    pub(crate) fn attached_is_silent(&self, volume: VolumeId) -> bool {
        let attachment = self
            .volumes
            .get(&volume)
            .and_then(|state| state.record.membership.attachment);
        attachment.is_some_and(|at| self.is_silent(at.node))
    }

    /// Every half second: caretakers begin, and end when their work is done.
    pub(crate) fn review_caretakers(&mut self, out: &mut Vec<Output>) {
        self.forgive_silence();
        if self.stopping.is_some() {
            return;
        }
        let watched = self
            .volumes
            .iter()
            .filter(|(_, v)| v.watched)
            .map(|(id, _)| *id);
        for volume in watched.collect::<Vec<_>>() {
            self.tell_loss(volume, out);
            self.line_up(volume);
            self.review(volume, out);
            self.step_down(volume, out);
        }
    }

    /// Sets the time at which this node's turn comes, or takes it back.
    fn line_up(&mut self, volume: VolumeId) {
        let state = &self.volumes[&volume];
        let membership = &state.record.membership;
        let other = membership.primary.filter(|node| *node != self.me);
        let cared_for = membership.caretaker && other.is_some_and(|node| self.is_reachable(node));
        let wanted = self.needs_work(state) && !cared_for;
        let grace = if membership.attachment.is_some() {
            CARE_ATTACHED
        } else if membership.caretaker && other.is_some() {
            CARE_GRACE
        } else {
            0
        };
        let wait = CARE_AFTER + grace + CARE_STEP * self.rank(state) + self.deference(state);
        let now = self.now;
        let state = self.volumes.get_mut(&volume).expect("looked at above");
        state.care_at = match (wanted, state.care_at) {
            (false, _) => None,
            (true, None) => Some(now + wait),
            (true, at) => at,
        };
    }

    /// How many reachable nodes with a certified copy come before this one.
    fn rank(&self, state: &VolumeState) -> u64 {
        let record = &state.record;
        let nodes = record
            .membership
            .in_sync
            .keys()
            .filter_map(|id| record.replicas.get(id).map(|r| r.node));
        nodes
            .take_while(|node| *node != self.me)
            .filter(|node| self.is_reachable(*node))
            .count() as u64
    }

    /// Where the sites of a volume that nobody has open do not see each other, the preferred one decides:
    /// the others wait as long as a lease and a little more.
    fn deference(&self, state: &VolumeState) -> Nanos {
        let Some(preferred) = &state.record.policy.preferred_site else {
            return 0;
        };
        let is_there = |node: &NodeId| self.members.get(node).is_some_and(|n| n.site == *preferred);
        let members = state.record.membership.in_sync.keys();
        let mut nodes = members.filter_map(|id| state.record.replicas.get(id).map(|r| r.node));
        let waits = !is_there(&self.me) && nodes.any(|node| is_there(&node));
        if waits {
            self.timings.lease + seconds(2)
        } else {
            0
        }
    }

    /// Gives the caretaker's role back once nothing is left to do.
    fn step_down(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let me = self.me;
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let done = state.role() == Some(Role::Caretaker)
            && state
                .running
                .as_ref()
                .is_some_and(|r| r.primary.work_is_done());
        if done {
            state.care_at = None;
            self.end_role(volume, out);
        }
        let state = self.volumes.get_mut(&volume).expect("looked at above");
        let membership = &state.record.membership;
        let held = membership.primary == Some(me) && membership.caretaker;
        let due = self.now >= state.step_down_at && state.running.is_none();
        if held && due && state.care_at.is_none() {
            state.step_down_at = Nanos::MAX;
            let expected = membership.expected();
            let command = Command::StepDown {
                volume,
                expected,
                node: me,
            };
            self.propose(Asker::StepDown(volume), command, out);
        }
    }

    /// Has the record say whether the epoch is open for repair only, so that others can explain it.
    pub(crate) fn tell_repair(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let (now, node) = (self.now, self.me);
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let is = state
            .running
            .as_ref()
            .and_then(|r| r.primary.repair_state());
        let membership = &state.record.membership;
        let Some(repair_only) = is.filter(|is| *is != membership.repair_only) else {
            return;
        };
        if now < state.tell_repair_at {
            return;
        }
        state.tell_repair_at = now + STEP_DOWN_AGAIN;
        let command = Command::SetRepairOnly {
            volume,
            expected: membership.expected(),
            node,
            repair_only,
        };
        self.propose(Asker::Ledger, command, out);
    }

    pub(crate) fn step_down_proposed(&mut self, volume: VolumeId) {
        if let Some(state) = self.volumes.get_mut(&volume) {
            state.step_down_at = self.now + STEP_DOWN_AGAIN;
        }
    }

    fn begin_role(&mut self, volume: VolumeId, role: Role, out: &mut Vec<Output>) {
        let Some(view) = self.view_of(volume) else {
            return;
        };
        self.last_serial += 1;
        let primary = Primary::new(
            self.me,
            role,
            view,
            self.started,
            self.now,
            self.timings.clone(),
            self.broken,
        );
        let serial = self.last_serial;
        let state = self.volumes.get_mut(&volume).expect("it has a view");
        state.running = Some(Running {
            primary,
            serial,
            timer_at: self.now,
        });
        self.primaries_at = self.now;
        self.beacons = true;
        let links: Vec<(NodeId, bool)> = self
            .links
            .iter()
            .map(|(peer, link)| (*peer, link.up))
            .collect();
        self.with_primary(volume, out, |primary, now, present, pushed| {
            for (peer, up) in links {
                primary.on_link(now, peer, true, pushed);
                if !up {
                    primary.on_link(now, peer, false, pushed);
                }
            }
            primary.on_timer(now, present, pushed);
        });
    }

    /// Ends this node's role, cleanly if nothing is in flight: the lease is given back then (R13).
    /// Requests that were not answered fail: they came through an attachment that is over (R12).
    pub(crate) fn end_role(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(mut running) = state.running.take() else {
            return;
        };
        let told = state.told.take();
        state.exposed = false;
        let open = running.primary.is_open();
        let epoch = running.primary.epoch();
        let mut pushed = std::mem::take(&mut self.scratch.primary);
        running.primary.stop();
        running.primary.finish_stop(&mut pushed);
        self.after_primary(volume, running.serial, &mut pushed, out);
        self.scratch.primary = pushed;
        for (tag, _) in running.primary.take_unanswered() {
            fenced(tag, out);
        }
        if open {
            out.push(Output::Event(NodeEvent::Closed { volume, epoch }));
        }
        if let Some((attachment, _)) = told {
            out.push(Output::Attachment {
                volume,
                attachment,
                state: AttachmentState::Fenced,
            });
        }
    }

    /// Tells the front-end what became of the volume attached here, if anything did.
    pub(crate) fn tell_attachment(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let Some(state) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(Running { primary, .. }) = &state.running else {
            return;
        };
        let Role::Attached(attachment) = primary.role() else {
            return;
        };
        let is = if primary.is_open() {
            let blocks = primary.blocks();
            AttachmentState::Open { blocks }
        } else {
            AttachmentState::Suspended
        };
        if state.told != Some((attachment, is)) {
            state.told = Some((attachment, is));
            out.push(Output::Attachment {
                volume,
                attachment,
                state: is,
            });
        }
    }

    /// Whether a copy that is marked may go: its volume holds without it, or whoever marked it accepts
    /// fewer. Until then it is a copy like any other.
    fn is_due(&self, record: &Volume, id: ReplicaId, replica: &Replica) -> bool {
        let holds = || policy::holds_without(record, &self.members, id);
        replica.leaving && (replica.even_below_policy || holds())
    }

    fn view_of(&self, volume: VolumeId) -> Option<View> {
        let record = &self.volumes.get(&volume)?.record;
        let site = |node| self.members.get(&node).map(|node| node.site.clone());
        Some(view_of(
            record,
            |node| site(node).unwrap_or_default(),
            |id, replica| self.is_due(record, id, replica),
            policy::kept_sites(record, &self.members),
        ))
    }
}

/// The record as the protocol needs it. A replica that a forced promotion overwrote is none: it is
/// kept, and neither read nor written. `due` says whether one that is marked may go, and
/// `kept` which sites must not be left without a copy.
pub fn view_of(
    record: &Volume,
    site: impl Fn(NodeId) -> String,
    due: impl Fn(ReplicaId, &Replica) -> bool,
    kept: BTreeSet<String>,
) -> View {
    let membership = &record.membership;
    let replicas = record.replicas.iter().filter(|(_, r)| !r.sealed_off);
    let replicas = replicas.map(|(id, replica)| {
        let view = ReplicaView {
            node: replica.node,
            site: site(replica.node),
            incarnation: replica.incarnation,
            ready: replica.ready,
            leaving: due(*id, replica),
        };
        (*id, view)
    });
    View {
        volume: record.id,
        lineage: record.lineage,
        blocks: record.blocks,
        epoch: membership.epoch,
        version: membership.version,
        primary: membership.primary,
        caretaker: membership.caretaker,
        attachment: membership.attachment.map(|a| (a.id, a.node)),
        in_sync: membership.in_sync.clone(),
        replicas: replicas.collect(),
        kept,
        distrusted: membership.distrusted,
    }
}
