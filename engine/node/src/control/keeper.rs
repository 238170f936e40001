//! The leader's work on the voters: every node that answers learns; who votes is decided by
//! `lockstep_consensus::voters` and carried out here. A node whose log is new gets its new id
//! bound, and the old one barred (R20).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lockstep_consensus::voters::{Candidate, GONE_AFTER, Seat, Voter, plan};
use lockstep_consensus::{ConfState, Reconfiguration, Status};
use lockstep_control::{Command, State};
use lockstep_types::{Nanos, NodeId, NodeRole};

use super::heartbeat::When;
use super::{Control, ProposeError};

const EVERY: Duration = Duration::from_millis(500);
/// A learner may lag by so many entries when it is made a voter.
const CAUGHT_UP: u64 = 64;

/// Works until the control plane stops.
pub async fn keep_voters(control: Control) {
    let began = Instant::now();
    let mut leading_since = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_tick = Instant::now();
    loop {
        ticks.tick().await;
        // R22: silence counts only while this process itself ran.
        let slept = last_tick.elapsed() > EVERY * 4;
        last_tick = Instant::now();
        if !control.role().borrow().leading {
            leading_since = None;
            continue;
        }
        if slept {
            leading_since = None;
        }
        let since = *leading_since.get_or_insert_with(Instant::now);
        if let Err(error) = step(&control, began, since).await {
            tracing::debug!(%error, "the voters are looked after again later");
        }
    }
}

/// One look, at most one change.
async fn step(
    control: &Control,
    began: Instant,
    leading_since: Instant,
) -> Result<(), ProposeError> {
    let status = control.status().await?;
    let heard = control.inner.heard.lock().when();
    if is_news(&control.state(), &status.conf) {
        control.propose(Command::NoteVoters).await?;
    }
    if let Some(command) = binding(control, &heard, &status) {
        control.propose(command).await?;
        return Ok(());
    }
    let change = {
        let state = control.state();
        let look = Look {
            state: &state,
            status: &status,
            heard: &heard,
            began,
            leading_since,
        };
        look.learners().or_else(|| look.voters())
    };
    if let Some(change) = change {
        tracing::info!(voters = ?change.voters, learners = ?change.learners, leaving = ?change.remove, "changing the voters");
        control.inner.consensus.reconfigure(change).await?;
    }
    Ok(())
}

/// Whether others vote than an event has last said. A joint configuration is on its way to another.
fn is_news(state: &State, conf: &ConfState) -> bool {
    let voters = &state.voters;
    conf.voters_outgoing.is_empty()
        && voters.voting.iter().all(|id| voters.bound.contains_key(id))
        && !voters.voting.iter().eq(voters.told.keys())
}

/// A binding of a raft id to its node that is missing, or one that is over.
fn binding(control: &Control, heard: &BTreeMap<NodeId, When>, status: &Status) -> Option<Command> {
    let state = control.state();
    let own = (control.node(), control.raft_id());
    // The log of another generation is never let in: an older one is barred, and a newer one bars ours.
    let of_now = |when: &When| match when.generation {
        None => true,
        // Never mix two rebuilds of one generation: their logs differ, and one must be rebuilt again.
        Some(of) => (of, when.rebuilt) == (state.generation, state.rebuilt_unix_ms),
    };
    let current = heard
        .iter()
        .filter(|(_, when)| of_now(when))
        .map(|(node, when)| (*node, when.raft_id))
        .chain([own]);
    for (node, raft_id) in current {
        let known = state.nodes.contains_key(&node) && raft_id != 0;
        if known
            && !state.voters.bound.contains_key(&raft_id)
            && !state.voters.barred.contains(&raft_id)
        {
            return Some(Command::PutVoter { raft_id, node });
        }
    }
    // An id that is bound and in no configuration, while its node follows another log, is over.
    let members = members(&status.conf);
    let over = state.voters.bound.iter().find(|(raft_id, node)| {
        let replaced = heard
            .get(node)
            .is_some_and(|when| when.raft_id != **raft_id);
        replaced && !members.contains(raft_id)
    });
    over.map(|(raft_id, _)| Command::RemoveVoter { raft_id: *raft_id })
}

fn members(conf: &ConfState) -> BTreeSet<u64> {
    [
        &conf.voters,
        &conf.voters_outgoing,
        &conf.learners,
        &conf.learners_next,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

struct Look<'a> {
    state: &'a State,
    status: &'a Status,
    heard: &'a BTreeMap<NodeId, When>,
    began: Instant,
    leading_since: Instant,
}

impl Look<'_> {
    /// Nodes that are to learn, and learners that are to go: replaced logs, removed nodes.
    fn learners(&self) -> Option<Reconfiguration> {
        let conf = &self.status.conf;
        let present = members(conf);
        let mut change = Reconfiguration::default();
        for (node, when) in self.heard {
            let bound = self.state.voters.bound.get(&when.raft_id) == Some(node);
            if bound && !present.contains(&when.raft_id) {
                change.learners.insert(when.raft_id);
            }
        }
        for learner in &conf.learners {
            let node = self.state.voters.bound.get(learner);
            let gone = node.is_none_or(|node| !self.state.nodes.contains_key(node));
            let replaced = node
                .and_then(|node| self.heard.get(node))
                .is_some_and(|when| when.raft_id != *learner);
            if gone || replaced {
                change.remove.insert(*learner);
            }
        }
        (change != Reconfiguration::default()).then_some(change)
    }

    /// The joint change that the rules of the voters ask for, if the new ones have caught up.
    fn voters(&self) -> Option<Reconfiguration> {
        let conf = &self.status.conf;
        if !conf.voters_outgoing.is_empty() {
            return None;
        }
        let voters: Vec<Voter> = conf
            .voters
            .iter()
            .filter_map(|raft_id| self.voter(*raft_id))
            .collect();
        // One whose node is not known yet cannot be judged.
        if voters.len() != conf.voters.len() {
            return None;
        }
        let candidates: Vec<Candidate> = self
            .state
            .nodes
            .keys()
            .filter_map(|node| self.candidate(*node))
            .collect();
        let planned = plan(self.now(), &voters, &candidates, Some(self.status.raft_id))?;
        let mut change = Reconfiguration::default();
        for node in &planned.add {
            let raft_id = self.heard.get(node)?.raft_id;
            if !self.has_caught_up(raft_id) {
                return None;
            }
            change.voters.insert(raft_id);
        }
        for raft_id in &planned.remove {
            // Its log is intact as far as anybody knows: it goes on learning.
            change.learners.insert(*raft_id);
        }
        Some(change)
    }

    fn voter(&self, raft_id: u64) -> Option<Voter> {
        let node = *self.state.voters.bound.get(&raft_id)?;
        let last_seen = match self.heard.get(&node) {
            // A cordoned node's voter is replaced as if it were gone, so that the node can be removed.
            _ if self.is_cordoned(node) => self.now().saturating_sub(GONE_AFTER),
            _ if raft_id == self.status.raft_id => self.now(),
            Some(when) if when.raft_id == raft_id => self.at(when.last.max(self.leading_since)),
            // Its node follows another log: this voter is gone for good.
            Some(_) => self.now().saturating_sub(GONE_AFTER),
            None => self.at(self.leading_since),
        };
        Some(Voter {
            raft_id,
            node,
            seat: self.seat(node)?,
            last_seen,
        })
    }

    fn candidate(&self, node: NodeId) -> Option<Candidate> {
        let when = self.heard.get(&node)?;
        (!self.is_cordoned(node) && self.state.voters.bound.get(&when.raft_id) == Some(&node))
            .then_some(Candidate {
                node,
                seat: self.seat(node)?,
                last_seen: self.at(when.last),
                steady_since: self.at(when.since),
            })
    }

    fn is_cordoned(&self, node: NodeId) -> bool {
        let node = self.state.nodes.get(&node);
        node.is_some_and(|node| node.cordoned)
    }

    fn seat(&self, node: NodeId) -> Option<Seat> {
        let node = self.state.nodes.get(&node)?;
        if node.role == NodeRole::Witness {
            return Some(Seat::W);
        }
        let sites = self.state.data_sites();
        match sites.iter().position(|site| *site == node.site)? {
            0 => Some(Seat::A),
            1 => Some(Seat::B),
            _ => None,
        }
    }

    fn has_caught_up(&self, raft_id: u64) -> bool {
        self.status
            .progress
            .iter()
            .any(|p| p.raft_id == raft_id && p.active && p.matched + CAUGHT_UP >= self.status.last)
    }

    /// Instants as nanoseconds, with room below for what is long gone.
    fn at(&self, instant: Instant) -> Nanos {
        const ROOM: Nanos = 2 * GONE_AFTER;
        let since = instant.saturating_duration_since(self.began);
        ROOM + u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - ROOM)
    }

    fn now(&self) -> Nanos {
        self.at(Instant::now())
    }
}
