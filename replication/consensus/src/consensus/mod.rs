//! One voter or learner: raft driven step by step, with no clock, disk or network of its own.

mod durable;
mod leadership;
mod messages;
mod proposals;

use std::collections::BTreeMap;

use lockstep_types::{Nanos, NodeId};
use raft::{RawNode, SnapshotStatus, StateRole};
use raft_proto::eraftpb::ConfState;

use crate::config::{
    self, Config, ELECTION_TICKS, HEARTBEAT_TICKS, MARK_AFTER, MAX_INFLIGHT, MAX_MESSAGE,
    MAX_UNCOMMITTED, TICK,
};
use crate::directory::Directory;
use crate::io::{Input, Output, Progress, Refusal, Role, Status};
use crate::log::{LogIdentity, LogWriter, Position, RecoveredLog};
use crate::mirror::Mirror;
use crate::relay::{GOSSIP_EVERY, Reach};
use crate::tickets::{Author, Tickets};
use durable::Durable;

/// A replica of the control plane's log.
///
/// Calling contract: hand it every input through [`step`](Self::step), carry out the outputs in
/// order, and step it with [`Input::Timer`] when [`next_timer`](Self::next_timer) comes. A panic
/// inside raft means that this log has lost what it promised; the process must end.
pub struct Consensus {
    identity: LogIdentity,
    config: Config,
    raw: RawNode<Mirror>,
    writer: LogWriter,
    durable: Durable,
    directory: Directory,
    reach: Reach,
    tickets: Tickets,
    /// The configuration in effect.
    conf: ConfState,
    applied: Position,
    /// A snapshot of the state machine that has been asked for, and what it will stand for.
    asked: Option<(Position, ConfState)>,
    /// Followers that have been sent a snapshot, and when it is given up.
    snapshots_under_way: BTreeMap<u64, Nanos>,
    role: Role,
    next_tick: Nanos,
    next_gossip: Nanos,
    hand_over_after: Nanos,
    /// When the log has been quiet for long enough to say that all of it has been flushed.
    mark_at: Option<Nanos>,
    /// The disk is full; the shell keeps trying.
    stalled: bool,
    refused_frames: u64,
}

impl Consensus {
    /// A replica that goes on from its recovered log. The shell has carried out the log's cleanup.
    ///
    /// The first outputs, [`Output::ApplySnapshot`] among them, are pushed at once: the state machine
    /// starts from nothing and is rebuilt from snapshot and log.
    pub fn new(
        now: Nanos,
        config: Config,
        log: RecoveredLog,
        logger: &slog::Logger,
        out: &mut Vec<Output>,
    ) -> Result<Self, raft::Error> {
        let identity = log.identity;
        let mirror = Mirror::new(&log);
        let metadata = mirror.snapshot().get_metadata();
        let applied = Position {
            index: metadata.index,
            term: metadata.term,
        };
        let conf = metadata.get_conf_state().clone();
        if applied.index > 0 {
            out.push(Output::ApplySnapshot {
                index: applied.index,
                data: mirror.snapshot().data.clone(),
            });
        }
        let raw = RawNode::new(
            &raft_config(identity, config, applied.index),
            mirror,
            logger,
        )?;
        let mut consensus = Self {
            identity,
            config,
            raw,
            writer: log.writer,
            durable: Durable::default(),
            directory: Directory::default(),
            reach: Reach::new(identity.node),
            tickets: Tickets::new(Author {
                raft_id: identity.raft_id,
                boot: config.boot,
            }),
            conf,
            applied,
            asked: None,
            snapshots_under_way: BTreeMap::new(),
            role: Role::default(),
            next_tick: now + TICK,
            next_gossip: now,
            hand_over_after: now,
            mark_at: Some(now + MARK_AFTER),
            stalled: false,
            refused_frames: 0,
        };
        consensus.settle(now, out);
        Ok(consensus)
    }

    /// When [`Input::Timer`] is due.
    pub fn next_timer(&self) -> Nanos {
        self.next_tick
    }

    /// Takes one input and pushes what it leads to.
    pub fn step(&mut self, now: Nanos, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Timer => self.on_timer(now, out),
            Input::Frame { from, frame } => self.on_frame(now, from, frame, out),
            Input::Link { node, up } => self.on_link(now, node, up, out),
            Input::Members(members) => self.directory.set(members),
            Input::Propose { ticket, data } => self.on_propose(now, ticket, data, out),
            Input::Reconfigure { ticket, change } => self.on_reconfigure(now, ticket, change, out),
            Input::Read { ticket } => self.on_read(now, ticket),
            Input::Persisted { token } => self.on_persisted(now, token, out),
            Input::PersistStalled { token } => self.on_stalled(token),
            Input::Snapshot { index, data } => self.on_snapshot(index, data),
            Input::TransferLeader { to } => self.on_transfer(to),
        }
        self.settle(now, out);
    }

    /// What people may want to know.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let mut progress: Vec<Progress> = Vec::new();
        if raft.state == StateRole::Leader {
            let own = |id: u64| id == self.identity.raft_id;
            progress.extend(raft.prs().iter().map(|(id, progress)| Progress {
                raft_id: *id,
                matched: progress.matched,
                active: own(*id) || progress.recent_active,
            }));
            progress.sort_by_key(|progress| progress.raft_id);
        }
        Status {
            raft_id: self.identity.raft_id,
            role: self.role,
            committed: raft.raft_log.committed,
            applied: self.applied.index,
            last: raft.raft_log.last_index(),
            conf: self.conf.clone(),
            progress,
            refused_frames: self.refused_frames,
        }
    }

    /// Whose log this is.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn on_timer(&mut self, now: Nanos, out: &mut Vec<Output>) {
        if now >= self.next_tick {
            self.raw.tick();
            // R22: a gap in which this process did not run is one tick, not many.
            let late = now - self.next_tick > TICK;
            self.next_tick = if late { now } else { self.next_tick } + TICK;
        }
        if now >= self.next_gossip {
            self.gossip(out);
            self.next_gossip = now + GOSSIP_EVERY;
        }
        for ticket in self.tickets.expire(now) {
            self.refuse(ticket, Refusal::OutcomeUnknown, out);
        }
        for ticket in self.tickets.unanswered_reads(now) {
            self.raw.read_index(self.tickets.mark(ticket).to_vec());
        }
        self.give_up_snapshots(now);
        self.hand_over(now);
        if self.mark_at.is_some_and(|at| now >= at) {
            self.mark_at = None;
            self.durable.mark();
        }
    }

    /// A follower that was sent a snapshot takes nothing else until it answers; if the snapshot got
    /// lost it never does.
    fn give_up_snapshots(&mut self, now: Nanos) {
        let late: Vec<u64> = self
            .snapshots_under_way
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.snapshots_under_way.remove(&id);
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    fn refuse(&self, ticket: u64, reason: Refusal, out: &mut Vec<Output>) {
        out.push(Output::Refused {
            ticket,
            reason,
            leader: self.directory.node(self.raw.raft.leader_id),
        });
    }

    /// Tells of a change of leader, term or role.
    fn note_role(&mut self, out: &mut Vec<Output>) {
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        // A learner never campaigns, so raft lets it believe in a leader that is long gone.
        let heard = leading || raft.election_elapsed < 2 * ELECTION_TICKS;
        let leader_id = if heard {
            raft.leader_id
        } else {
            raft::INVALID_ID
        };
        let role = Role {
            term: raft.term,
            leader_id,
            leader: self.directory.node(leader_id),
            leading,
        };
        if role != self.role {
            self.role = role;
            out.push(Output::Role(role));
        }
    }

    fn is_voter(&self) -> bool {
        let id = self.identity.raft_id;
        self.conf.voters.contains(&id) || self.conf.voters_outgoing.contains(&id)
    }

    fn is_relay(&self, node: NodeId) -> bool {
        self.directory.voter_nodes(&self.conf).contains(&node)
    }
}

fn raft_config(identity: LogIdentity, config: Config, applied: u64) -> raft::Config {
    let campaign = config::campaign_ticks(identity.raft_id, config.witness);
    raft::Config {
        id: identity.raft_id,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        // A range of one value: raft's dice always show the same.
        min_election_tick: campaign,
        max_election_tick: campaign + 1,
        applied,
        max_size_per_msg: MAX_MESSAGE,
        max_inflight_msgs: MAX_INFLIGHT,
        max_uncommitted_size: MAX_UNCOMMITTED,
        check_quorum: true,
        pre_vote: true,
        ..raft::Config::default()
    }
}
