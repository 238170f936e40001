//! The thread that writes the log: flushes block, and nothing else may wait for them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_consensus::log::DiskOp;
use tokio::sync::mpsc::UnboundedSender;

use crate::folder::{FolderError, LogFolder};

/// How often a write is tried again while the file system is full.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What became of a batch. At most one is under way, so that the channel needs no bound.
#[derive(Debug)]
pub(crate) enum Report {
    /// All its ops are durable.
    Persisted(u64),
    /// The file system is full; it is tried again.
    Stalled(u64),
    /// The log cannot be relied on any longer.
    Failed(FolderError),
}

/// The thread. It ends, and the folder's lock with it, when this is dropped and its batch is done.
pub(crate) struct Writer {
    jobs: Option<Sender<(u64, Vec<DiskOp>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn spawn(
        folder: LogFolder,
        reports: UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let (jobs, receiver) = channel();
        let run = move || write_all(folder, &receiver, &reports);
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(run)?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Has a batch written; a report will say what became of it.
    pub(crate) fn write(&self, token: u64, ops: Vec<DiskOp>) {
        // The thread may have ended after a failure; its report is on the way.
        let _ = self
            .jobs
            .as_ref()
            .expect("jobs are taken only at the end")
            .send((token, ops));
    }

    /// Waits until the thread has ended and the folder is free.
    pub(crate) fn join(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the log writer does not panic");
        }
    }
}

fn write_all(
    mut folder: LogFolder,
    jobs: &Receiver<(u64, Vec<DiskOp>)>,
    reports: &UnboundedSender<Report>,
) {
    while let Ok((token, ops)) = jobs.recv() {
        let mut stalled = false;
        let report = loop {
            match folder.carry_out(&ops) {
                Ok(()) => break Report::Persisted(token),
                Err(FolderError::Full { path }) => {
                    if !stalled {
                        tracing::error!(path = %path.display(), "the raft log waits for free space");
                        let _ = reports.send(Report::Stalled(token));
                        stalled = true;
                    }
                }
                Err(error) => break Report::Failed(error),
            }
            if jobs.recv_timeout(TRY_AGAIN) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        };
        let failed = matches!(report, Report::Failed(_));
        if reports.send(report).is_err() || failed {
            return;
        }
    }
}
