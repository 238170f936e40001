//! The primary of a volume: it sequences writes, fans them out, counts durable acks, and answers the
//! client. One instance lives as long as its node wants the role; every opening is a new epoch (R9).

mod compare;
mod copy;
mod exchange;
mod join;
mod members;
mod promote;
mod read;
mod repair;
mod returning;
mod roll;
mod status;
mod verdict;
mod write;

use crate::Timings;
use crate::mutate::Broken;
use crate::overlap::Overlap;
use crate::pace::Pace;
use crate::slow::Slow;
use crate::view::{Expected, View};
use compare::Compare;
pub use compare::Comparison;
use copy::Copy;
use exchange::Absent;
use join::Join;
use lockstep_types::{
    AttachmentId, Epoch, EpochStart, ExtentIndex, Incarnation, Nanos, NodeId, ReplicaId, Request,
    RequestError, Response, Sequence, Stamp,
};
use lockstep_wire::{
    BeaconAnswer, BeaconVolume, Header, ReplicaReply, ReplicaRequest, ReplyBody, RequestBody,
    Sealed,
};
use members::HoldDown;
use read::Reads;
use repair::Repair;
use roll::Roll;
pub use status::PrimaryStatus;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use write::Writes;

/// Why this node is to be primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// The volume is attached here.
    Attached(AttachmentId),
    /// Nobody has it attached, and it needs work.
    Caretaker,
}

/// A change of the membership record to put to the control plane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Proposal {
    /// The next epoch, with this node as primary.
    Promote {
        expected: Expected,
        attachment: Option<AttachmentId>,
    },
    /// Members out and in.
    ChangeInSync {
        expected: Expected,
        remove: BTreeSet<ReplicaId>,
        add: BTreeMap<ReplicaId, Incarnation>,
        reason: String,
    },
    /// The caretaker's work is done.
    StepDown { expected: Expected },
    /// A replica that lost its data begins a new life.
    Reincarnate {
        replica: ReplicaId,
        from: Incarnation,
        to: Incarnation,
    },
}

/// How a proposal ended; what it changed is in the view, which comes before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProposalEnd {
    /// Committed and applied.
    Applied,
    /// Committed and refused; it will never apply.
    Refused,
    /// May still commit.
    Unknown,
}

/// What the primary wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PrimaryOut {
    /// Send to the node's replica; the own node's is reached the same way (R3).
    Send {
        node: NodeId,
        request: ReplicaRequest,
    },
    /// Put to the control plane; answered by `on_proposal_end` with this id.
    Propose { id: u64, proposal: Proposal },
    /// The only place a client's request is answered.
    Complete {
        tag: u64,
        result: Result<Response, RequestError>,
    },
    /// Send beacons for this volume now.
    Beacon,
    /// A member is far slower than its peers: `evict_slow` removes it, if the node consents.
    Slow { replica: ReplicaId },
    /// For people and tests.
    Event(PrimaryEvent),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PrimaryEvent {
    /// The epoch is open; so many records were rolled forward.
    Opened {
        epoch: Epoch,
        rolled: u64,
        took: Nanos,
    },
    /// Client I/O ends here under this epoch.
    Closed { epoch: Epoch },
    /// A member is to be removed.
    Evicting {
        replica: ReplicaId,
        why: &'static str,
    },
    /// A resync begins.
    ResyncStarted {
        replica: ReplicaId,
        cut: Stamp,
        extents: u64,
    },
    /// It goes on.
    ResyncProgress {
        replica: ReplicaId,
        done: u64,
        total: u64,
        bytes: u64,
    },
    /// It is verified.
    ResyncVerified { replica: ReplicaId, bytes: u64 },
    /// Blocks were repaired.
    Repaired {
        replica: ReplicaId,
        start: u64,
        count: u32,
    },
    /// The copies were compared with each other (R17).
    Comparison(Comparison),
    /// It waits; for whom and why.
    Waiting { reason: String },
}

/// Where a primary is on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// Not primary; asks for it at this time.
    Idle { next_try: Nanos },
    /// Asking members whether one without a gap is there (R9).
    Probing { since: Nanos },
    /// The new epoch is proposed.
    Proposing { since: Nanos },
    /// Waiting for every member's SEAL answer, or its removal (R9).
    Sealing { since: Nanos },
    /// Rolling the union forward (R11).
    Rolling(Box<Roll>),
    /// Waiting until every member has the epoch's start durable.
    Opening { base: Sequence, rolled: u64 },
    /// Serving.
    Open,
    /// Another epoch was promised somewhere: nothing completes until the record says who won.
    Fenced,
}

/// One member as the primary sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Member {
    node: NodeId,
    incarnation: Incarnation,
    /// Everything up to here is durable on it under this epoch.
    acked: Sequence,
    /// Its last acknowledged beacon was sent then, plus L.
    lease_until: Nanos,
    /// When it last answered anything.
    heard: Nanos,
    /// Extents it has reserved and that are not charged yet (R7).
    credit: u32,
    /// A Reserve is on its way.
    reserving: Option<u64>,
    /// It said no to the last one.
    full: bool,
    sealed: Option<Sealed>,
    /// Until then its last lease to an older primary has not certainly run out (R13).
    clear_at: Nanos,
    opened: bool,
    /// It must go: why.
    condemned: Option<&'static str>,
    /// It was condemned only because it was not heard: hearing it again takes that back.
    curable: bool,
}

/// A link as the primary sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Link {
    up: bool,
    /// When it last came or went.
    since: Nanos,
    /// It stood at least once since the process started.
    seen: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct PendingProposal {
    id: u64,
    since: Nanos,
    /// The replica whose joining it proposes.
    adds: Option<ReplicaId>,
    /// Not to be repeated before this time.
    retry_at: Option<Nanos>,
}

/// The primary of one volume on one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Primary {
    me: NodeId,
    role: Role,
    started: Nanos,
    timings: Timings,
    broken: Broken,
    view: View,
    phase: Phase,
    epoch: Epoch,
    members: BTreeMap<ReplicaId, Member>,
    /// Whose durable ack a write waits for (R1, R2).
    required: BTreeSet<ReplicaId>,
    /// Who is absent while the epoch is open for repair only (R9, `strict`).
    absent: Absent,
    links: BTreeMap<NodeId, Link>,
    overlap: Overlap<write::Occupant>,
    writes: Writes,
    reads: Reads,
    join: Option<Join>,
    copies: BTreeMap<u64, Copy>,
    repairs: VecDeque<Repair>,
    compare: Compare,
    slow: Slow,
    pace: Pace,
    /// Not to be joined before this time, after a failure or a soft eviction.
    hold_down: BTreeMap<ReplicaId, HoldDown>,
    /// When condemned members that may not leave are looked for again.
    look_at: Nanos,
    /// Requests that came while not open.
    held: VecDeque<(u64, Request)>,
    proposal: Option<PendingProposal>,
    next_id: u64,
    probes: BTreeSet<u64>,
    promotion_began: Nanos,
    last_step: Nanos,
    stopping: bool,
    waiting: String,
    /// Epochs opened on the members.
    history: Vec<EpochStart>,
    /// Length of the volume by its last completed Resize.
    applied_blocks: u64,
}

impl Primary {
    /// A primary that begins to seek its role at once. `started` is when this process started.
    pub fn new(
        me: NodeId,
        role: Role,
        view: View,
        started: Nanos,
        now: Nanos,
        timings: Timings,
        broken: Broken,
    ) -> Self {
        Self {
            me,
            role,
            started,
            broken,
            phase: Phase::Idle { next_try: now },
            epoch: Epoch::ZERO,
            members: BTreeMap::new(),
            required: BTreeSet::new(),
            absent: Absent::default(),
            links: BTreeMap::new(),
            overlap: Overlap::default(),
            writes: Writes::new(timings.window),
            reads: Reads::default(),
            join: None,
            copies: BTreeMap::new(),
            repairs: VecDeque::new(),
            compare: Compare::default(),
            slow: Slow::default(),
            pace: Pace::new(timings.copies),
            look_at: 0,
            hold_down: BTreeMap::new(),
            held: VecDeque::new(),
            proposal: None,
            next_id: 1,
            probes: BTreeSet::new(),
            promotion_began: now,
            last_step: now,
            stopping: false,
            waiting: String::new(),
            history: Vec::new(),
            applied_blocks: 0,
            view,
            timings,
        }
    }

    /// The committed membership changed.
    pub fn on_view(&mut self, now: Nanos, view: View, out: &mut Vec<PrimaryOut>) {
        assert!(
            view.version >= self.view.version,
            "the control state never goes back (V7)"
        );
        self.forgive_gap(now);
        self.view = view;
        self.after_view(now, out);
        self.advance(now, out);
    }

    /// A link came or went.
    pub fn on_link(&mut self, now: Nanos, node: NodeId, up: bool, out: &mut Vec<PrimaryOut>) {
        self.forgive_gap(now);
        let link = self.links.entry(node).or_default();
        link.up = up;
        link.since = now;
        link.seen |= up;
        if up {
            self.resend_to(now, node, out);
        } else {
            self.link_lost(now, node, out);
        }
        self.advance(now, out);
    }

    /// A client's request; answered exactly once, now or later.
    pub fn on_client(
        &mut self,
        now: Nanos,
        tag: u64,
        request: Request,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.forgive_gap(now);
        if self.serves() && !self.stopping && self.held.is_empty() {
            self.handle_request(now, tag, request, present, out);
        } else {
            self.held.push_back((tag, request));
        }
    }

    /// An answer of a replica.
    pub fn on_reply(
        &mut self,
        now: Nanos,
        from: NodeId,
        reply: ReplicaReply,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.forgive_gap(now);
        let ReplicaReply { header, body } = reply;
        if let ReplyBody::Probed {
            id,
            promised,
            gap,
            joining,
        } = body
        {
            return self.on_probed(now, header, id, promised, gap, joining, out);
        }
        if header.epoch != self.epoch {
            return;
        }
        let Some(member) = self.members.get_mut(&header.replica) else {
            return;
        };
        if member.node != from {
            return;
        }
        if member.incarnation != header.incarnation
            && !self
                .broken
                .is(crate::mutate::Mutation::R4IncarnationNotChecked)
        {
            // Another life is no member (R4), whatever it answers.
            self.condemn(now, header.replica, "it lost its data", out);
            return self.advance(now, out);
        }
        member.heard = now;
        self.on_member_reply(now, header.replica, body, out);
        self.pardon(now, header.replica);
        self.advance(now, out);
        self.pump(now, present, out);
    }

    /// A replica answered the beacon sent at `sent`.
    pub fn on_beacon_answer(
        &mut self,
        now: Nanos,
        sent: Nanos,
        answer: &BeaconAnswer,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.forgive_gap(now);
        if answer.header.epoch != self.epoch {
            return;
        }
        self.note_beacon(now, sent, answer, out);
        self.advance(now, out);
        self.pump(now, present, out);
    }

    /// A proposal ended.
    pub fn on_proposal_end(
        &mut self,
        now: Nanos,
        id: u64,
        end: ProposalEnd,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.forgive_gap(now);
        if self.proposal.as_ref().is_none_or(|p| p.id != id) {
            return;
        }
        self.proposal_ended(now, end, out);
        self.advance(now, out);
    }

    /// This node's own replica promised an epoch: a higher one than ours ends us at once, for a local
    /// lease is never waited for (R13).
    pub fn on_local_promise(&mut self, epoch: Epoch) {
        let ignored = self
            .broken
            .is(crate::mutate::Mutation::R13LocalPromiseIgnored);
        if epoch > self.epoch && self.epoch != Epoch::ZERO && self.is_ours() && !ignored {
            self.fence();
        }
    }

    /// Time passed. Called at `next_timer`, and after anything that took long.
    pub fn on_timer(
        &mut self,
        now: Nanos,
        present: &dyn Fn(ExtentIndex) -> bool,
        out: &mut Vec<PrimaryOut>,
    ) {
        self.forgive_gap(now);
        self.advance(now, out);
        self.pump(now, present, out);
    }

    /// When `on_timer` is due again: soon while anything is under way, seldom while it rests, and never
    /// so seldom that the time between would count as a gap (R22).
    pub fn next_timer(&self, now: Nanos) -> Nanos {
        let retry = self.timings.retry;
        now + if self.is_quiet() { retry } else { retry / 4 }
    }

    /// Open, every member certified and reachable, and nothing asked for, moved or proposed: only the
    /// silence of a member, which takes longer, can begin something by itself.
    fn is_quiet(&self) -> bool {
        let reachable =
            |m: &Member| m.node == self.me || self.links.get(&m.node).is_some_and(|link| link.up);
        self.phase == Phase::Open
            && !self.stopping
            && self.proposal.is_none()
            && self.join.is_none()
            && self.held.is_empty()
            && self.writes.is_idle()
            && self.reads.is_idle()
            && self.copies.is_empty()
            && self.repairs.is_empty()
            && self.compare.is_resting()
            && self.absent.replicas.is_empty()
            && self.required.iter().eq(self.view.in_sync.keys())
            && self
                .members
                .values()
                .all(|m| m.condemned.is_none() && reachable(m))
    }

    /// Clean end: accepts nothing new; `is_stopped` says when all is answered.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing is in flight any more after `stop`. The lease is then given up.
    pub fn finish_stop(&mut self, out: &mut Vec<PrimaryOut>) -> bool {
        let idle = self.writes.is_idle() && self.reads.is_idle() && self.proposal.is_none();
        let done = self.stopping && (idle || self.phase != Phase::Open);
        if done && self.phase == Phase::Open {
            for replica in self.required.clone() {
                self.send(replica, RequestBody::Release, out);
            }
            self.phase = Phase::Fenced;
        }
        done
    }

    /// Takes every request that has not been answered, oldest first, to be carried into the next
    /// epoch under the same attachment, or failed (R12).
    pub fn take_unanswered(&mut self) -> Vec<(u64, Request)> {
        let mut all = self.writes.take_unanswered();
        all.extend(self.reads.take_unanswered());
        all.extend(self.held.drain(..));
        all
    }

    /// The beacon entry for a node, one a member there.
    pub fn beacons_for(&self, node: NodeId) -> impl Iterator<Item = BeaconVolume> + '_ {
        let open = self.phase == Phase::Open;
        let floor = self.floor();
        // One that was condemned for its silence is asked on: where it may not be removed, being heard
        // again is the only way back.
        let asked = |m: &Member| m.condemned.is_none() || m.curable;
        self.members
            .iter()
            .filter(move |(_, m)| open && m.node == node && asked(m))
            .map(move |(id, _)| BeaconVolume {
                header: self.header(*id),
                floor,
            })
    }

    /// Nodes that hold members.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.members.values().map(|m| m.node).collect()
    }

    /// The committed record says that the epoch is ours.
    fn is_ours(&self) -> bool {
        self.epoch != Epoch::ZERO
            && self.view.epoch == self.epoch
            && self.view.primary == Some(self.me)
    }

    fn header(&self, replica: ReplicaId) -> Header {
        let incarnation = self
            .members
            .get(&replica)
            .map(|m| m.incarnation)
            .or_else(|| self.view.replicas.get(&replica).map(|r| r.incarnation))
            .unwrap_or_default();
        Header {
            volume: self.view.volume,
            replica,
            incarnation,
            epoch: self.epoch,
        }
    }

    fn send(&self, replica: ReplicaId, body: RequestBody, out: &mut Vec<PrimaryOut>) {
        let node = self
            .members
            .get(&replica)
            .map(|m| m.node)
            .or_else(|| self.view.node_of(replica));
        if let Some(node) = node {
            out.push(PrimaryOut::Send {
                node,
                request: ReplicaRequest {
                    header: self.header(replica),
                    body,
                },
            });
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn link_up(&self, node: NodeId) -> bool {
        node == self.me || self.links.get(&node).is_some_and(|l| l.up)
    }

    fn wait(&mut self, reason: String, out: &mut Vec<PrimaryOut>) {
        if self.waiting != reason {
            self.waiting.clone_from(&reason);
            out.push(PrimaryOut::Event(PrimaryEvent::Waiting { reason }));
        }
    }
}
