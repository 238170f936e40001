//! What the rest of the node calls.

use bytes::Bytes;
use lockstep_consensus::{Reconfiguration, Refusal, Role, Status};
use lockstep_types::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

/// A command that took effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Where it stands in the log.
    pub index: u64,
    /// What the state machine said.
    pub answer: Vec<u8>,
}

/// Why something asked of consensus did not happen, or is not known to have happened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConsensusError {
    /// It came to nothing, or ([`Refusal::OutcomeUnknown`]) nobody knows.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// The leader's node, as far as it is known.
        leader: Option<NodeId>,
    },
    /// This node's voter has stopped.
    #[error("this node's part of the control plane has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, ConsensusError>>;

/// What the driver is asked.
pub(crate) enum Request {
    Propose(Bytes, Answer<Applied>),
    Reconfigure(Reconfiguration, Answer<u64>),
    Read(Answer<u64>),
    Status(Answer<Status>),
    Link(NodeId, bool),
    TransferLeader(NodeId),
    Stop(oneshot::Sender<()>),
}

/// A running voter or learner. Clones speak to the same one.
#[derive(Clone, Debug)]
pub struct ConsensusHandle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) frames: mpsc::Sender<(NodeId, Bytes)>,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) stopped: watch::Receiver<Option<String>>,
}

impl ConsensusHandle {
    /// Puts a command into the log and waits until this node has applied it.
    ///
    /// On a follower the command goes to the leader. After [`Refusal::OutcomeUnknown`] it may have
    /// taken effect or may yet: commands are to be compare-and-set.
    pub async fn propose(&self, command: Bytes) -> Result<Applied, ConsensusError> {
        self.ask(|answer| Request::Propose(command, answer)).await
    }

    /// Changes who votes and who learns; on the leader only. Returns the index of the change.
    pub async fn reconfigure(&self, change: Reconfiguration) -> Result<u64, ConsensusError> {
        self.ask(|answer| Request::Reconfigure(change, answer))
            .await
    }

    /// Waits until this node's state machine contains every command that had been acknowledged
    /// anywhere when this was called. Returns the index it had to reach.
    pub async fn read_index(&self) -> Result<u64, ConsensusError> {
        self.ask(Request::Read).await
    }

    /// What people may want to know.
    pub async fn status(&self) -> Result<Status, ConsensusError> {
        self.ask(Request::Status).await
    }

    /// Hands leadership to this node's voter, if this one leads.
    pub async fn transfer_leader(&self, to: NodeId) {
        // A voter that has stopped leads no longer.
        let _ = self.requests.send(Request::TransferLeader(to)).await;
    }

    /// Tells of a link that came up, proved in both directions, or went down.
    pub async fn set_link(&self, node: NodeId, up: bool) {
        let _ = self.requests.send(Request::Link(node, up)).await;
    }

    /// Hands in a frame that arrived over the link from `from`. When too many wait already it is
    /// dropped, as the network might have done; says whether it was taken.
    pub fn deliver(&self, from: NodeId, frame: Bytes) -> bool {
        self.frames.try_send((from, frame)).is_ok()
    }

    /// Who leads, now and whenever that changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Waits until the voter has stopped, and says why: it was told to, or its disk failed.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().expect("it was waited for"),
            Err(_) => "its task has ended".to_owned(),
        }
    }

    /// Stops the voter and waits until its folder is free.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.requests.send(Request::Stop(answer)).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<T, ConsensusError> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(request(answer)).await.is_ok()
            && let Ok(result) = answered.await
        {
            return result;
        }
        Err(ConsensusError::Stopped {
            reason: self.stopped().await,
        })
    }
}
