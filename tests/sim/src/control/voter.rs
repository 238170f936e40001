//! One raft log, which votes or learns: the real consensus over a simulated log, and the state built from what it commits.

use super::folder::Folder;
use lockstep_consensus::log::{self, DiskOp, LogIdentity, RecoveredLog};
use lockstep_consensus::{Config, Consensus, Input, Member, Output, Snapshot};
use lockstep_control::State;
use lockstep_types::{ClusterId, Nanos, NodeId, NodeRole};
use std::collections::VecDeque;

/// The log of a running process; it votes or learns.
pub struct Voter {
    /// The core.
    pub consensus: Consensus,
    /// What the committed commands built.
    pub state: State,
    /// The disk operations under way, and the token of their list.
    persisting: Option<(u64, VecDeque<DiskOp>)>,
}

/// Why a node has no voter.
#[derive(Clone, PartialEq, Debug)]
pub enum Start {
    /// There is no log: it needs a new id (R20).
    NoLog,
    /// The log cannot be trusted: likewise.
    Corrupt(String),
}

impl Voter {
    /// Founds a log in an empty folder.
    pub fn found(folder: &mut Folder, identity: LogIdentity, genesis: Option<&Snapshot>) {
        assert!(folder.is_empty(), "a log is founded once");
        for op in log::create(identity, genesis) {
            folder.carry_out(&op);
        }
    }

    /// Starts from what the folder holds.
    ///
    /// # Errors
    /// If there is no log that may be used.
    pub fn start(
        now: Nanos,
        folder: &mut Folder,
        cluster: ClusterId,
        node: NodeId,
        config: Config,
        out: &mut Vec<Output>,
    ) -> Result<(Self, bool), Start> {
        let (segments, snapshots) = folder.files();
        let recovered: RecoveredLog = match log::recover(cluster, node, &segments, &snapshots) {
            Ok(Some(recovered)) => recovered,
            Ok(None) => return Err(Start::NoLog),
            Err(corrupt) => return Err(Start::Corrupt(corrupt.to_string())),
        };
        for op in &recovered.cleanup {
            folder.carry_out(op);
        }
        let torn = recovered.torn.is_some();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let consensus = Consensus::new(now, config, recovered, &logger, out)
            .expect("a recovered log is one raft takes");
        Ok((
            Self {
                consensus,
                state: State::new(),
                persisting: None,
            },
            torn,
        ))
    }

    /// Takes a list of operations to carry out.
    pub fn persist(&mut self, token: u64, ops: Vec<DiskOp>) {
        assert!(self.persisting.is_none(), "one list at a time");
        self.persisting = Some((token, ops.into()));
    }

    /// The operation under way.
    pub fn op_under_way(&self) -> Option<&DiskOp> {
        self.persisting.as_ref().and_then(|(_, ops)| ops.front())
    }

    /// The operation under way is done; gives the token once all of its list are.
    pub fn op_done(&mut self, folder: &mut Folder) -> Option<u64> {
        let (token, ops) = self.persisting.as_mut().expect("an operation is under way");
        if let Some(op) = ops.pop_front() {
            folder.carry_out(&op);
        }
        let done = ops.is_empty().then_some(*token);
        if done.is_some() {
            self.persisting = None;
        }
        done
    }

    /// Who votes, as the state says it.
    pub fn members(&self) -> Input {
        let witness = |node: &NodeId| {
            self.state
                .nodes
                .get(node)
                .is_some_and(|n| n.role == NodeRole::Witness)
        };
        let member = |(raft_id, node): (&u64, &NodeId)| Member {
            raft_id: *raft_id,
            node: *node,
            witness: witness(node),
        };
        Input::Members(self.state.voters.bound.iter().map(member).collect())
    }
}
