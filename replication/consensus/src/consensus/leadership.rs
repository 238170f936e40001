//! Who should lead: a data site's voter. The witness does so only until one can.

use std::collections::BTreeSet;

use lockstep_types::{Nanos, NodeId};
use raft::StateRole;
use raft_proto::eraftpb::{Message, MessageType};

use super::Consensus;
use crate::config::{ELECTION_TICKS, HAND_OVER_EVERY};

impl Consensus {
    /// Whether this is the witness and is about to refuse a pre-vote for no other reason than that
    /// its own log is newer. It then campaigns at once: when A dies, the newest committed entry may
    /// stand on W alone, and B can never win without it.
    pub(super) fn refuses_as_older(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let leader_is_near =
            raft.leader_id != raft::INVALID_ID && raft.election_elapsed < ELECTION_TICKS;
        self.config.witness
            && raft.promotable()
            && raft.state == StateRole::Follower
            && message.get_msg_type() == MessageType::MsgRequestPreVote
            && message.term > raft.term
            && !leader_is_near
            && !raft.raft_log.is_up_to_date(message.index, message.log_term)
    }

    /// A leading witness with nothing pending hands over to a data site's voter that has the whole
    /// log and reaches a quorum.
    pub(super) fn hand_over(&mut self, now: Nanos) {
        let raft = &self.raw.raft;
        if !self.config.witness || !self.is_leader() || now < self.hand_over_after {
            return;
        }
        let last = raft.raft_log.last_index();
        let pending = raft.lead_transferee.is_some()
            || self.applied.index != last
            || !self.durable.is_quiet()
            || self.tickets.has_proposals()
            || !self.conf.voters_outgoing.is_empty();
        if pending {
            return;
        }
        if let Some(heir) = self.heir(now, |id| self.directory.is_data(id)) {
            self.hand_over_after = now + HAND_OVER_EVERY;
            self.raw.transfer_leader(heir);
        }
    }

    pub(super) fn on_transfer(&mut self, to: NodeId) {
        if let Some(id) = self.directory.voter_of(to, &self.conf) {
            self.raw.transfer_leader(id);
        }
    }

    /// The disk is full: a leader that cannot apply what it commits leads no longer.
    pub(super) fn on_stalled(&mut self, token: u64) {
        if !self.durable.is_writing(token) {
            return;
        }
        self.stalled = true;
        if self.is_leader() && self.raw.raft.lead_transferee.is_none() {
            let mut others: Vec<(u64, u64)> = self.voters_in_step(0).collect();
            others.sort_by_key(|(id, matched)| (std::cmp::Reverse(*matched), *id));
            if let Some((id, _)) = others.first() {
                self.raw.transfer_leader(*id);
            }
        }
    }

    /// The voter with the whole log, among those `may` lead, that reaches the most voters, if they
    /// are a quorum.
    fn heir(&self, now: Nanos, may: impl Fn(u64) -> bool) -> Option<u64> {
        let relays = self.directory.voter_nodes(&self.conf);
        let quorum = self.conf.voters.len() / 2 + 1;
        let last = self.raw.raft.raft_log.last_index();
        let count = |id: u64| {
            self.directory
                .node(id)
                .map_or(0, |node| self.reached_from(now, node, &relays))
        };
        let heirs = self
            .voters_in_step(last)
            .filter(|(id, _)| may(*id))
            .map(|(id, _)| (count(id), id));
        heirs
            .filter(|(count, _)| *count >= quorum)
            .max_by_key(|(count, id)| (*count, std::cmp::Reverse(*id)))
            .map(|(_, id)| id)
    }

    /// How many voters a node reaches, itself included.
    fn reached_from(&self, now: Nanos, node: NodeId, voters: &BTreeSet<NodeId>) -> usize {
        voters
            .iter()
            .filter(|voter| self.reach.reaches(now, node, **voter, voters))
            .count()
    }

    /// Other voters heard of lately whose log reaches `from` at least, with how far it does.
    fn voters_in_step(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let progress = self
            .conf
            .voters
            .iter()
            .filter(|id| **id != self.identity.raft_id)
            .filter_map(move |id| {
                let progress = self.raw.raft.prs().get(*id)?;
                (progress.recent_active && progress.matched >= from)
                    .then_some((*id, progress.matched))
            });
        progress.collect::<Vec<_>>().into_iter()
    }
}
