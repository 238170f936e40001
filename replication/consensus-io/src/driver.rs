//! The task that steps consensus: the only place where its clock is read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_consensus::log::RecoveredLog;
use lockstep_consensus::{Config, Consensus, Input, Member, Output, Refusal, Role, StateMachine};
use lockstep_types::{Nanos, NodeId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::folder::{FolderError, LogFolder};
use crate::handle::{Answer, Applied, ConsensusError, ConsensusHandle, Request};
use crate::logger::tracing_logger;
use crate::writer::{Report, Writer};

/// Requests and frames that may wait.
const QUEUE: usize = 1024;

/// The way out. The way in is [`ConsensusHandle::deliver`].
pub trait RaftTransport: Send + 'static {
    /// Sends a frame over the link to `to`, or loses it. Must not block.
    fn send(&self, to: NodeId, frame: Bytes);
}

/// Starts a voter or learner from its recovered log, on the current tokio runtime. The state machine
/// is restored from the log before this returns; commands behind the snapshot follow as they are
/// found committed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start<M, T>(
    folder: LogFolder,
    log: RecoveredLog,
    config: Config,
    machine: M,
    transport: T,
) -> Result<ConsensusHandle, ConsensusError>
where
    M: StateMachine + Send + 'static,
    T: RaftTransport,
{
    let (requests_in, requests) = mpsc::channel(QUEUE);
    let (frames_in, frames) = mpsc::channel(QUEUE);
    let (reports_in, reports) = mpsc::unbounded_channel();
    let (role, role_out) = watch::channel(Role::default());
    let (stopped, stopped_out) = watch::channel(None);
    let began = Instant::now();
    let refuse = |reason: String| ConsensusError::Stopped { reason };
    let mut outputs = Vec::new();
    let consensus = Consensus::new(0, config, log, &tracing_logger(), &mut outputs)
        .map_err(|error| refuse(format!("its log cannot be used: {error}")))?;
    let writer = Writer::spawn(folder, reports_in)
        .map_err(|error| refuse(format!("its log's thread cannot be started: {error}")))?;
    let mut driver = Driver {
        began,
        consensus,
        machine,
        members: Vec::new(),
        transport,
        writer,
        role,
        next_ticket: 1,
        waiting: BTreeMap::new(),
    };
    driver.carry_out(outputs);
    tokio::spawn(driver.run(requests, frames, reports, stopped));
    Ok(ConsensusHandle {
        requests: requests_in,
        frames: frames_in,
        role: role_out,
        stopped: stopped_out,
    })
}

struct Driver<M, T> {
    began: Instant,
    consensus: Consensus,
    machine: M,
    /// What consensus was last told of them.
    members: Vec<Member>,
    transport: T,
    writer: Writer,
    role: watch::Sender<Role>,
    next_ticket: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// Who waits for an attempt.
enum Waiting {
    Propose(Answer<Applied>),
    Index(Answer<u64>),
}

/// Why the task ends.
enum End {
    Told(Option<oneshot::Sender<()>>),
    Failed(FolderError),
}

impl<M: StateMachine, T: RaftTransport> Driver<M, T> {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut frames: mpsc::Receiver<(NodeId, Bytes)>,
        mut reports: mpsc::UnboundedReceiver<Report>,
        stopped: watch::Sender<Option<String>>,
    ) {
        let end = loop {
            let due = self.began + Duration::from_nanos(self.consensus.next_timer());
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Stop(answer)) => break End::Told(Some(answer)),
                    Some(request) => self.on_request(request),
                    None => break End::Told(None),
                },
                Some((from, frame)) = frames.recv() => self.step(Input::Frame { from, frame }),
                Some(report) = reports.recv() => match report {
                    Report::Persisted(token) => self.step(Input::Persisted { token }),
                    Report::Stalled(token) => self.step(Input::PersistStalled { token }),
                    Report::Failed(error) => break End::Failed(error),
                },
                () = tokio::time::sleep_until(due.into()) => {
                    // R22: what has arrived is heard before anyone's silence is counted.
                    for _ in 0..QUEUE {
                        let Ok((from, frame)) = frames.try_recv() else { break };
                        self.step(Input::Frame { from, frame });
                    }
                    self.step(Input::Timer);
                }
            }
        };
        // Nobody may wait for what will not come, and the folder is free once the thread has ended.
        let writer = self.writer;
        let joined = tokio::task::spawn_blocking(|| writer.join()).await;
        joined.expect("the log writer does not panic");
        self.role.send_replace(Role::default());
        let reason = match &end {
            End::Told(_) => "it was told to".to_owned(),
            End::Failed(error) => {
                tracing::error!(%error, "the raft log failed; this node votes no longer until it is restarted");
                error.to_string()
            }
        };
        stopped.send_replace(Some(reason));
        if let End::Told(Some(answer)) = end {
            let _ = answer.send(());
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Propose(data, answer) => {
                let ticket = self.ticket(Waiting::Propose(answer));
                self.step(Input::Propose { ticket, data });
            }
            Request::Reconfigure(change, answer) => {
                let ticket = self.ticket(Waiting::Index(answer));
                self.step(Input::Reconfigure { ticket, change });
            }
            Request::Read(answer) => {
                let ticket = self.ticket(Waiting::Index(answer));
                self.step(Input::Read { ticket });
            }
            Request::Status(answer) => {
                let _ = answer.send(Ok(self.consensus.status()));
            }
            Request::Link(node, up) => self.step(Input::Link { node, up }),
            Request::TransferLeader(to) => self.step(Input::TransferLeader { to }),
            Request::Stop(_) => unreachable!("the loop has taken it"),
        }
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.consensus.step(self.now(), input, &mut outputs);
        self.carry_out(outputs);
    }

    /// Carries out outputs in order, and those that follow from them behind.
    fn carry_out(&mut self, mut outputs: Vec<Output>) {
        while !outputs.is_empty() {
            let mut more = Vec::new();
            let mut changed = false;
            for output in outputs {
                changed |= matches!(output, Output::Apply { .. } | Output::ApplySnapshot { .. });
                self.carry_out_one(output, &mut more);
            }
            let members = if changed {
                self.machine.members()
            } else {
                self.members.clone()
            };
            if members != self.members {
                self.members.clone_from(&members);
                self.consensus
                    .step(self.now(), Input::Members(members), &mut more);
            }
            outputs = more;
        }
    }

    fn carry_out_one(&mut self, output: Output, more: &mut Vec<Output>) {
        match output {
            Output::Send { to, frame } => self.transport.send(to, frame),
            Output::Persist { token, ops } => self.writer.write(token, ops),
            Output::Apply {
                index,
                data,
                ticket,
                ..
            } => {
                let answer = self.machine.apply(index, &data);
                self.settle_proposal(ticket, Applied { index, answer });
            }
            Output::ApplySnapshot { data, .. } => self.machine.restore(&data),
            Output::TakeSnapshot { index } => {
                let data = self.machine.snapshot();
                self.consensus
                    .step(self.now(), Input::Snapshot { index, data }, more);
            }
            Output::Reconfigured {
                index,
                conf,
                ticket,
            } => {
                let voting = conf
                    .voters
                    .iter()
                    .chain(&conf.voters_outgoing)
                    .copied()
                    .collect();
                self.machine.reconfigured(index, &voting);
                tracing::info!(index, voters = ?conf.voters, learners = ?conf.learners, "the voters have changed");
                self.settle_index(ticket, index);
            }
            Output::ReadReady { ticket, index } => self.settle_index(Some(ticket), index),
            Output::Refused {
                ticket,
                reason,
                leader,
            } => self.refuse(ticket, reason, leader),
            Output::Role(role) => {
                tracing::info!(
                    term = role.term,
                    leader = role.leader_id,
                    leading = role.leading,
                    "raft"
                );
                self.role.send_replace(role);
            }
        }
    }

    fn ticket(&mut self, waiting: Waiting) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// Whoever asked may have gone; then nobody is told.
    fn settle_proposal(&mut self, ticket: Option<u64>, applied: Applied) {
        if let Some(Waiting::Propose(answer)) =
            ticket.and_then(|ticket| self.waiting.remove(&ticket))
        {
            let _ = answer.send(Ok(applied));
        }
    }

    fn settle_index(&mut self, ticket: Option<u64>, index: u64) {
        if let Some(Waiting::Index(answer)) = ticket.and_then(|ticket| self.waiting.remove(&ticket))
        {
            let _ = answer.send(Ok(index));
        }
    }

    fn refuse(&mut self, ticket: u64, reason: Refusal, leader: Option<NodeId>) {
        let error = ConsensusError::Refused { reason, leader };
        match self.waiting.remove(&ticket) {
            Some(Waiting::Propose(answer)) => drop(answer.send(Err(error))),
            Some(Waiting::Index(answer)) => drop(answer.send(Err(error))),
            None => {}
        }
    }

    fn now(&self) -> Nanos {
        Nanos::try_from(self.began.elapsed().as_nanos())
            .expect("five hundred years have not passed")
    }
}
