//! This node's part of the control plane, on tokio: the replicated state, proposals, who answers,
//! who votes, and the feed of changes to the data plane.
//!
//! | job | module |
//! |---|---|
//! | the state as raft's machine | [`machine`] |
//! | what nodes tell each other | [`heartbeat`] |
//! | making learners and voters, on the leader | [`keeper`] |
//! | letting nodes in | [`admit`] |
//! | events about certificates | [`notes`] |
//!
//! Every node, not only the voters, follows the log as a learner: it has the whole state, and its
//! data plane is fed from its own copy.

pub mod admit;
pub mod heartbeat;
pub mod keeper;
pub mod machine;
mod notes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lockstep_consensus::electorate::{self, Generation, Standing};
use lockstep_consensus::log::{LogIdentity, genesis};
use lockstep_consensus::{Config, Refusal, Role as RaftRole, Status};
use lockstep_consensus_io::{
    ConsensusError, ConsensusHandle, FolderError, LogFolder, RaftTransport, start,
};
use lockstep_control::{
    Change, Command, Outcome, Proposal, Rejected, State, encode_proposal, encode_snapshot,
};
use lockstep_types::{ClusterId, NodeId, NodeRole, ReplicaId};
use parking_lot::{Mutex, RwLockReadGuard};
use tokio::sync::mpsc;

use crate::ending;
use crate::links::{LinkEvent, Links, Peer};
use crate::mint;
use heartbeat::{Heard, Heartbeat};
use machine::{Machine, Shared};
pub use notes::good_for;

/// What the control plane is started with.
pub struct ControlConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What it does.
    pub role: NodeRole,
    /// Where the raft log lies.
    pub raft: std::path::PathBuf,
    /// This node founds the cluster, and there is no log yet: begin one.
    pub found: bool,
}

/// What goes to the data plane, in order: the changes of a proposal before its end.
#[derive(Debug)]
pub enum Feed {
    /// A committed change.
    Change(Change),
    /// The end of a proposal of the data plane's.
    Proposed {
        /// Its.
        ticket: lockstep_logic::io::Ticket,
        /// What became of it.
        result: lockstep_logic::io::ProposalResult,
    },
}

/// This node's part of the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    raft_id: u64,
    consensus: ConsensusHandle,
    shared: Arc<Shared>,
    links: Links,
    heard: Mutex<Heard>,
    /// Set once a later generation has barred this node's log.
    barred: tokio::sync::watch::Sender<bool>,
    /// What events have said of late of certificates that were refused.
    told: Mutex<notes::Told>,
    /// When a health monitor has last asked this node.
    monitored: Mutex<Option<Instant>>,
}

/// Why a command was not carried out, or is not known to have been.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Committed, and refused by the rules; nothing changed.
    #[error("{0}")]
    Rejected(Rejected),
    /// Nothing happened.
    #[error("{0}")]
    NotDone(String),
    /// It may have happened or may yet happen.
    #[error("{0}")]
    Unknown(String),
}

impl Control {
    /// Opens the raft log and starts following it. Changes, from everything there is on, go to `feed`.
    ///
    /// # Errors
    /// The log is damaged, in use, or cannot be written.
    pub fn start(
        config: &ControlConfig,
        links: Links,
        feed: mpsc::UnboundedSender<Feed>,
    ) -> anyhow::Result<Self> {
        let mut folder = ending::wait_while(
            "the last operations on the raft log",
            || LogFolder::open(&config.raft),
            // The directory is this process's: whoever holds its log is ending.
            |error| matches!(error, FolderError::InUse { .. }),
        )?;
        let log = match folder.recover(config.cluster, config.node)? {
            Some(log) => log,
            None => {
                // R20: a voter without its log joins as a learner under a new id.
                let identity = LogIdentity {
                    cluster: config.cluster,
                    node: config.node,
                    raft_id: mint::number(),
                    incarnation: mint::number(),
                };
                let first = config.found.then(|| {
                    genesis(
                        &[identity.raft_id],
                        Bytes::from(encode_snapshot(&State::new())),
                    )
                });
                tracing::info!(
                    raft_id = identity.raft_id,
                    founding = config.found,
                    "a new raft log begins"
                );
                folder.create(identity, first.as_ref())?
            }
        };
        let raft_id = log.identity.raft_id;
        let shared = Arc::new(Shared::default());
        let machine = Machine::new(Arc::clone(&shared), feed);
        let raft = Config {
            witness: config.role == NodeRole::Witness,
            boot: mint::number(),
        };
        let consensus = start(folder, log, raft, machine, OverLinks(links.clone()))?;
        let inner = Inner {
            node: config.node,
            raft_id,
            consensus,
            shared,
            links,
            heard: Mutex::new(Heard::new(config.node)),
            barred: tokio::sync::watch::channel(false).0,
            told: Mutex::default(),
            monitored: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The id of this node's log (R20).
    pub fn raft_id(&self) -> u64 {
        self.inner.raft_id
    }

    /// The state as this node has it. Do not hold it across an await.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.shared.state.read()
    }

    /// Counts up with every change of the state.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.shared.applied.subscribe()
    }

    /// Waits until this node has applied everything that had been acknowledged anywhere before.
    ///
    /// # Errors
    /// The control plane has no majority.
    pub async fn catch_up(&self) -> Result<(), ProposeError> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            match self.inner.consensus.read_index().await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Puts a command to the control plane once.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let at_unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let bytes = encode_proposal(&Proposal {
            at_unix_ms,
            command,
        });
        let applied = self.inner.consensus.propose(bytes.into()).await?;
        self.inner
            .shared
            .take_outcome(applied.index)
            .ok_or_else(|| {
                ProposeError::Unknown("the outcome was overtaken by too many others".into())
            })?
            .map_err(ProposeError::Rejected)
    }

    /// As [`Self::propose`], trying again while certainly nothing happened, for at most 10 s.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose_patiently(&self, command: Command) -> Result<Outcome, ProposeError> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            match self.propose(command.clone()).await {
                Err(ProposeError::NotDone(why)) => {
                    if tokio::time::Instant::now() > deadline {
                        return Err(ProposeError::NotDone(why));
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                end => return end,
            }
        }
    }

    /// Who leads, now and whenever that changes.
    pub fn role(&self) -> tokio::sync::watch::Receiver<RaftRole> {
        self.inner.consensus.role()
    }

    /// The voters as consensus sees them.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn status(&self) -> Result<Status, ProposeError> {
        Ok(self.inner.consensus.status().await?)
    }

    /// Nodes heard from of late, this one among them.
    pub fn answering(&self) -> BTreeSet<NodeId> {
        self.inner.heard.lock().answering()
    }

    /// By which nodes that answer each node is heard.
    pub fn heard_by(&self) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        self.inner.heard.lock().heard_by()
    }

    /// A health monitor asks this node: the others are to know, so that of several one acts.
    pub fn note_monitor(&self) {
        *self.inner.monitored.lock() = Some(Instant::now());
    }

    /// Whether one has asked of late.
    pub fn is_monitored(&self) -> bool {
        let last = *self.inner.monitored.lock();
        last.is_some_and(|at| at.elapsed() < heartbeat::MONITOR_GONE)
    }

    /// Nodes that run, and go on without their raft log; why.
    pub fn without_log(&self) -> BTreeMap<NodeId, String> {
        self.inner.heard.lock().without_log()
    }

    /// The last heartbeat of each node that answers.
    pub fn heartbeats(&self) -> BTreeMap<NodeId, Heartbeat> {
        self.inner.heard.lock().heartbeats()
    }

    /// Whether a node was ever heard here: it has its certificate.
    pub fn was_heard(&self, node: NodeId) -> bool {
        self.inner.heard.lock().last_of(node).is_some()
    }

    /// The last sequence that a copy was heard to hold, however long ago; for people only.
    pub fn last_heard_of(&self, node: NodeId, replica: ReplicaId) -> Option<u64> {
        let heard = self.inner.heard.lock();
        let name = replica.to_string();
        let mut beats = heard.last_of(node)?.replicas.iter();
        Some(beats.find(|beat| beat.replica == name)?.last_sequence)
    }

    /// Tells every node what this one has to say, and notes it here too. `peers` are those that its data plane
    /// hears; while that does not say, nothing is told of whom it hears.
    pub fn beat(&self, mut heartbeat: Heartbeat, peers: Option<Vec<NodeId>>) {
        heartbeat.raft_id = self.raft_id();
        heartbeat.generation = self.generation();
        heartbeat.rebuilt = self.state().rebuilt_unix_ms;
        heartbeat.barred = self.outdated_logs();
        if let Some(peers) = peers {
            let mut hears = self.answering();
            hears.extend(peers);
            heartbeat.hears = hears.iter().map(NodeId::to_string).collect();
        }
        heartbeat.monitored = self.is_monitored();
        let heartbeat = &heartbeat;
        let body = Bytes::from(serde_json::to_vec(heartbeat).expect("a heartbeat is plain data"));
        self.inner.links.broadcast(&body);
        self.inner.heard.lock().note(self.node(), heartbeat.clone());
    }

    /// Tells every node that this one goes on without its log.
    pub fn beat_without_log(&self, why: &str) {
        let heartbeat = Heartbeat {
            without_log: Some(why.to_owned()),
            ..Heartbeat::default()
        };
        let body = Bytes::from(serde_json::to_vec(&heartbeat).expect("a heartbeat is plain data"));
        self.inner.links.broadcast(&body);
        self.inner.heard.lock().note(self.node(), heartbeat);
    }

    /// The cluster generation, once there is a state.
    fn generation(&self) -> Option<u32> {
        let state = self.state();
        state.cluster.is_some().then_some(state.generation)
    }

    /// Logs of nodes that answer which were left behind by a forced rebuild. One that was bound to
    /// its node in this generation only lags.
    fn outdated_logs(&self) -> Vec<u64> {
        let heard = self.inner.heard.lock().when();
        let state = self.state();
        if state.cluster.is_none() {
            return Vec::new();
        }
        let heard = heard.iter();
        let heard = heard.map(|(node, when)| (*node, when.raft_id, when.generation));
        electorate::left_behind(state.generation, &state.voters.bound, heard)
    }

    /// A node says which logs its generation has barred.
    fn note_barred(&self, from: NodeId, heartbeat: &Heartbeat) {
        let made = |number, rebuilt| Generation { number, rebuilt };
        let theirs = heartbeat
            .generation
            .map(|number| made(number, heartbeat.rebuilt));
        let rebuilt = self.state().rebuilt_unix_ms;
        let ours = self.generation().map(|number| made(number, rebuilt));
        let barred = &heartbeat.barred;
        match electorate::standing(self.raft_id(), ours, theirs, barred) {
            Standing::Good => {}
            Standing::RebuiltTwice => tracing::error!(
                peer = %from, generation = heartbeat.generation,
                "the control plane was rebuilt twice, here and there: rebuild it once more on the side that is to stay"
            ),
            Standing::Barred => {
                if !self.inner.barred.send_replace(true) {
                    tracing::error!(
                        by = %from, generation = heartbeat.generation,
                        "the control plane was rebuilt by force: this node's log is barred and set aside"
                    );
                }
            }
        }
    }

    /// Waits until a later generation has barred this node's log.
    pub async fn barred(&self) {
        let mut barred = self.inner.barred.subscribe();
        // The sender lives as long as this.
        let _ = barred.wait_for(|barred| *barred).await;
    }

    /// Waits until consensus has stopped by itself, and says why.
    pub async fn stopped(&self) -> String {
        self.inner.consensus.stopped().await
    }

    /// Stops consensus and frees the log.
    pub async fn stop(&self) {
        self.inner.consensus.stop().await;
        self.inner.links.close();
    }

    /// Takes what the links tell, until they end.
    pub async fn follow_links(self, mut events: mpsc::Receiver<LinkEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                LinkEvent::Up(node) => self.inner.consensus.set_link(node, true).await,
                LinkEvent::Down(node) => {
                    self.inner.heard.lock().forget(node);
                    self.inner.consensus.set_link(node, false).await;
                }
                LinkEvent::Consensus { from, frame } => {
                    if !self.inner.consensus.deliver(from, frame) {
                        metrics::counter!("lockstep_consensus_frames_dropped_total").increment(1);
                    }
                }
                LinkEvent::Message { from, body } => match serde_json::from_slice(&body) {
                    Ok(heartbeat) => {
                        self.note_barred(from, &heartbeat);
                        self.inner.heard.lock().note(from, heartbeat);
                    }
                    Err(error) => {
                        tracing::warn!(peer = %from, %error, "a message between nodes was not understood")
                    }
                },
            }
        }
    }

    /// Keeps the links pointed at the nodes of the state; at `known` while there is no state yet.
    pub async fn follow_members(self, known: Vec<Peer>) {
        let mut applied = self.watch();
        loop {
            applied.borrow_and_update();
            let (peers, removed): (Vec<Peer>, _) = {
                let state = self.state();
                let peers = if state.nodes.contains_key(&self.node()) {
                    state
                        .nodes
                        .values()
                        .filter(|node| node.id != self.node())
                        .map(peer_of)
                        .collect()
                } else {
                    known.clone()
                };
                (peers, state.removed.clone())
            };
            self.inner.links.set_peers(peers);
            self.inner.links.bar(removed).await;
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}

fn peer_of(node: &lockstep_control::Node) -> Peer {
    let role = match node.role {
        NodeRole::Data => lockstep_net::Role::DataNode,
        NodeRole::Witness => lockstep_net::Role::Witness,
    };
    Peer {
        node: node.id,
        role,
        address: node.control_address.clone(),
    }
}

/// Consensus's way out.
struct OverLinks(Links);

impl RaftTransport for OverLinks {
    fn send(&self, to: NodeId, frame: Bytes) {
        self.0.send_consensus(to, frame);
    }
}

impl From<ConsensusError> for ProposeError {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::Refused {
                reason: Refusal::OutcomeUnknown,
                ..
            } => Self::Unknown(error.to_string()),
            ConsensusError::Refused { .. } => Self::NotDone(error.to_string()),
            ConsensusError::Stopped { .. } => Self::Unknown(error.to_string()),
        }
    }
}
