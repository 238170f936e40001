//! The control state as raft's state machine.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_consensus::{Member, StateMachine};
use lockstep_control::{
    Change, Outcome, Rejected, State, decode_proposal, decode_snapshot, encode_snapshot,
};
use lockstep_types::NodeRole;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};

use super::Feed;

/// Outcomes kept for their proposers.
const OUTCOMES: usize = 4096;

/// What the rest of the node sees of the machine.
pub struct Shared {
    /// The state.
    pub state: RwLock<State>,
    /// Counts up with every change.
    pub applied: watch::Sender<u64>,
    outcomes: Mutex<VecDeque<(u64, Result<Outcome, Rejected>)>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            applied: watch::channel(0).0,
            outcomes: Mutex::default(),
        }
    }
}

impl Shared {
    /// What became of the entry at `index`; once.
    pub fn take_outcome(&self, index: u64) -> Option<Result<Outcome, Rejected>> {
        let mut outcomes = self.outcomes.lock();
        let at = outcomes.iter().rposition(|(held, _)| *held == index)?;
        outcomes.remove(at).map(|(_, outcome)| outcome)
    }
}

/// Applies committed commands. Changes go to the data plane in log order.
pub struct Machine {
    shared: Arc<Shared>,
    feed: mpsc::UnboundedSender<Feed>,
}

impl Machine {
    /// Before the first entry.
    pub fn new(shared: Arc<Shared>, feed: mpsc::UnboundedSender<Feed>) -> Self {
        Self { shared, feed }
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            // Without a data plane (a witness, or at the end) nobody listens.
            let _ = self.feed.send(Feed::Change(change));
        }
        self.shared.applied.send_modify(|count| *count += 1);
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let proposal = match decode_proposal(command) {
            Ok(proposal) => proposal,
            // A command this build does not know was committed: to skip it would let this node's
            // state differ from all others'.
            Err(error) => panic!("entry {index} cannot be applied by this build: {error}"),
        };
        let applied = self.shared.state.write().apply(index, &proposal);
        if let Err(rejected) = &applied.result {
            tracing::debug!(index, code = rejected.code(), %rejected, "a command was refused");
        }
        {
            let mut outcomes = self.shared.outcomes.lock();
            if outcomes.len() == OUTCOMES {
                outcomes.pop_front();
            }
            outcomes.push_back((index, applied.result));
        }
        self.tell(applied.changes);
        Vec::new()
    }

    fn reconfigured(&mut self, index: u64, voting: &BTreeSet<u64>) {
        self.shared
            .state
            .write()
            .apply_configuration(index, voting.clone());
        self.tell([]);
    }

    fn snapshot(&self) -> Bytes {
        encode_snapshot(&self.shared.state.read()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        let state = match decode_snapshot(snapshot) {
            Ok(state) => state,
            Err(error) => {
                panic!("the snapshot of the control state cannot be read by this build: {error}")
            }
        };
        let changes = {
            let mut held = self.shared.state.write();
            let mut changes = vanished(&held, &state);
            changes.extend(state.everything());
            *held = state;
            changes
        };
        self.tell(changes);
    }

    fn members(&self) -> Vec<Member> {
        let state = self.shared.state.read();
        let bound = state.voters.bound.iter().map(|(raft_id, node)| Member {
            raft_id: *raft_id,
            node: *node,
            witness: state
                .nodes
                .get(node)
                .is_some_and(|node| node.role == NodeRole::Witness),
        });
        bound.collect()
    }
}

/// What is in `old` and no longer in `new`, which replaces it.
fn vanished(old: &State, new: &State) -> Vec<Change> {
    let mut gone = Vec::new();
    gone.extend(
        old.nodes
            .keys()
            .filter(|id| !new.nodes.contains_key(id))
            .map(|id| Change::NodeGone(*id)),
    );
    gone.extend(
        old.pools
            .keys()
            .filter(|id| !new.pools.contains_key(id))
            .map(|id| Change::PoolGone(*id)),
    );
    gone.extend(
        old.volumes
            .keys()
            .filter(|id| !new.volumes.contains_key(id))
            .map(|id| Change::VolumeGone(*id)),
    );
    let new_tombstones: BTreeSet<_> = new
        .tombstones
        .values()
        .map(|t| (t.replica, t.incarnation))
        .collect();
    gone.extend(
        old.tombstones
            .values()
            .filter(|t| !new_tombstones.contains(&(t.replica, t.incarnation)))
            .map(|t| Change::TombstoneGone {
                volume: t.volume,
                replica: t.replica,
                incarnation: t.incarnation,
            }),
    );
    gone.extend(
        old.voters
            .bound
            .keys()
            .filter(|id| !new.voters.bound.contains_key(id))
            .map(|raft_id| Change::VoterGone { raft_id: *raft_id }),
    );
    gone
}
