//! A verifying load on a real volume: several connections, each with one operation at a time,
//! judged by `lockstep_load`'s oracle. A failed write is unknown from then on; the load goes on
//! wherever the volume is opened next. The demo and the tests with real processes share it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_load::{Action, Generator, Operation, Oracle, Profile};
use lockstep_nbd::Flags;
use lockstep_nbd::client::{Blocking, ClientError, Options};
use lockstep_types::{BLOCK, BlockRange, VolumeId};

/// How long an answer may take unless a plan says otherwise: longer than any stall that is not a
/// failure.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(20);
/// Violations kept for the report.
const KEPT: usize = 20;

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Blocks read and compared.
    pub verified_blocks: u64,
    /// Blocks that were wrong.
    pub wrong: u64,
    /// Operations whose end is unknown.
    pub unknown: u64,
    /// The longest time without an acknowledged write while the load was running.
    pub longest_stall: Duration,
    /// The first wrong blocks, in words.
    pub violations: Vec<String>,
}

/// What a load does, and to what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The volume: its id is part of every stamp.
    pub volume: VolumeId,
    /// The shape of the load; its blocks are the volume's.
    pub profile: Profile,
    /// Connections, each with one operation at a time.
    pub lanes: u32,
    /// The same seed draws the same operations.
    pub seed: u64,
    /// How long an answer may take before the connection is given up.
    pub patience: Duration,
}

impl Plan {
    /// A mixed load.
    pub fn new(volume: VolumeId, blocks: u64, lanes: u32, seed: u64) -> Self {
        Self {
            volume,
            profile: Profile::new(blocks),
            lanes,
            seed,
            patience: ANSWER,
        }
    }
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
}

struct Shared {
    volume: VolumeId,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

struct State {
    oracle: Oracle,
    generator: Generator,
    /// Where the volume is open; none while it is nowhere.
    target: Option<PathBuf>,
    last_write: Instant,
    /// No write has been answered since the volume was opened anew: that time is told as the time
    /// to reopen, not as a stall.
    opening: bool,
    longest_stall: Duration,
    violations: Vec<String>,
    /// Blocks changed since counting began, if it did.
    changed: Option<BTreeSet<u64>>,
}

impl Load {
    /// Starts the plan's connections to the socket at `target`.
    pub fn start(plan: Plan, target: &Path) -> Self {
        let state = State {
            oracle: Oracle::new(plan.volume, plan.profile.blocks),
            generator: Generator::new(plan.seed, plan.profile),
            target: Some(target.to_owned()),
            last_write: Instant::now(),
            opening: true,
            longest_stall: Duration::ZERO,
            violations: Vec::new(),
            changed: None,
        };
        let shared = Arc::new(Shared {
            volume: plan.volume,
            patience: plan.patience,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let lanes = (0..plan.lanes)
            .map(|number| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || lane(number, &shared))
            })
            .collect();
        Self { shared, lanes }
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Seen {
        let state = self.shared.lock();
        seen(&state)
    }

    /// How long ago the last write was acknowledged.
    pub fn quiet_for(&self) -> Duration {
        self.shared.lock().last_write.elapsed()
    }

    /// The longest stall is counted anew from here.
    pub fn forget_stalls(&self) {
        self.shared.lock().longest_stall = Duration::ZERO;
    }

    /// Waits until something has been acknowledged after this call; how long that took, or none if
    /// it did not happen in `patience`.
    pub fn wait_for_write(&self, patience: Duration) -> Option<Duration> {
        let start = Instant::now();
        let before = self.shared.lock().oracle.counts().acknowledged;
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| {
                state.oracle.counts().acknowledged == before
            })
            .unwrap_or_else(PoisonError::into_inner);
        (state.oracle.counts().acknowledged > before).then(|| start.elapsed())
    }

    /// The volume is open nowhere for now; connections are given up, what was under way is unknown.
    pub fn lose_target(&self) {
        self.shared.lock().target = None;
        self.shared.changed.notify_all();
    }

    /// The volume was opened anew at `target` under a new epoch: whatever was unknown has happened
    /// or never will. Waits for the lanes to let go of the old place first.
    pub fn reopen(&self, target: &Path) {
        let mut state = self.shared.wait(|state| state.oracle.in_flight() > 0);
        state.oracle.fence();
        state.opening = true;
        state.target = Some(target.to_owned());
        self.shared.changed.notify_all();
    }

    /// From now on, remembers which blocks change.
    pub fn begin_counting_changes(&self) {
        self.shared.lock().changed = Some(BTreeSet::new());
    }

    /// How many blocks have changed since; counting ends.
    pub fn changed_blocks(&self) -> u64 {
        self.shared
            .lock()
            .changed
            .take()
            .map_or(0, |blocks| blocks.len() as u64)
    }

    /// Ends the lanes, reads every block ever written from `target` and compares.
    ///
    /// # Errors
    /// The volume cannot be read.
    pub fn finish(mut self, target: &Path) -> Result<Seen, ClientError> {
        self.stop();
        self.read_back(target)
    }

    /// Ends the lanes; what is under way is waited for.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        for lane in self.lanes.drain(..) {
            lane.join().expect("a lane does not panic");
        }
    }

    /// Reads every block ever written from `target`, with whatever else is going on, and compares.
    ///
    /// # Errors
    /// The volume cannot be read.
    pub fn read_back(&self, target: &Path) -> Result<Seen, ClientError> {
        let mut client = Blocking::connect_unix(target, Options::new(""), self.shared.patience)?;
        let ranges = self.shared.lock().oracle.written(64);
        for range in ranges {
            let operation = self
                .shared
                .lock()
                .oracle
                .begin(u32::MAX, Action::Read(range));
            match client.read(range.start * BLOCK as u64, range.bytes() as u32) {
                Ok(bytes) => self.shared.lock().judge(operation, &bytes),
                Err(error) => {
                    self.shared.lock().oracle.fail(operation);
                    return Err(error);
                }
            }
        }
        let _ = client.disconnect();
        Ok(seen(&self.shared.lock()))
    }
}

impl Drop for Load {
    /// The lanes let go of the volume and end; what is under way is not waited for.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.lose_target();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.lock();
        self.changed
            .wait_while(state, |state| condition(state))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl State {
    fn judge(&mut self, operation: Operation, bytes: &[u8]) {
        if let Err(violation) = self.oracle.verify_read(operation, bytes)
            && self.violations.len() < KEPT
        {
            self.violations.push(violation.to_string());
        }
    }

    fn note_change(&mut self, action: Action) {
        if let (Some(changed), Some(range)) = (&mut self.changed, action.range()) {
            changed.extend(range.start..range.end());
        }
    }

    fn written(&mut self) {
        let now = Instant::now();
        if !std::mem::take(&mut self.opening) {
            self.longest_stall = self.longest_stall.max(now - self.last_write);
        }
        self.last_write = now;
    }
}

fn seen(state: &State) -> Seen {
    let counts = state.oracle.counts();
    Seen {
        acknowledged: counts.acknowledged,
        verified_blocks: counts.verified_blocks,
        wrong: counts.violations,
        unknown: counts.failed,
        longest_stall: state.longest_stall,
        violations: state.violations.clone(),
    }
}

fn lane(number: u32, shared: &Shared) {
    while !shared.stopping() {
        let target = {
            let state = shared.wait(|state| state.target.is_none() && !shared.stopping());
            state.target.clone()
        };
        let Some(target) = target else { return };
        match Blocking::connect_unix(&target, Options::new(""), shared.patience) {
            Ok(client) => run(number, shared, client, &target),
            Err(_) => std::thread::sleep(RECONNECT),
        }
    }
}

/// Runs operations on one connection until it breaks or the volume is elsewhere.
fn run(number: u32, shared: &Shared, mut client: Blocking, target: &Path) {
    loop {
        let operation = {
            let mut state = shared.lock();
            if shared.stopping() || state.target.as_deref() != Some(target) {
                return;
            }
            let State {
                oracle, generator, ..
            } = &mut *state;
            let action = generator.next(|range| oracle.is_busy(range));
            match action {
                Some(action) => oracle.begin(number, action),
                None => continue,
            }
        };
        let result = perform(&mut client, shared.volume, &operation);
        let mut state = shared.lock();
        let broken = match result {
            Ok(bytes) => {
                match operation.action {
                    Action::Read(_) => state.judge(operation, &bytes),
                    action => {
                        state.written();
                        state.note_change(action);
                        state.oracle.acknowledge(operation);
                    }
                }
                false
            }
            Err(error) => {
                state.oracle.fail(operation);
                !matches!(error, ClientError::Failed(_))
            }
        };
        shared.changed.notify_all();
        drop(state);
        if broken {
            return;
        }
    }
}

fn perform(
    client: &mut Blocking,
    volume: VolumeId,
    operation: &Operation,
) -> Result<Bytes, ClientError> {
    let at = |range: BlockRange| (range.start * BLOCK as u64, range.bytes() as u32);
    match operation.action {
        Action::Read(range) => {
            let (offset, length) = at(range);
            client.read(offset, length)
        }
        Action::Write(range) => client
            .write(at(range).0, operation.payload(volume))
            .map(|()| Bytes::new()),
        Action::Discard(range) => {
            let (offset, length) = at(range);
            client.trim(offset, length).map(|()| Bytes::new())
        }
        Action::Zeroes(range) => {
            let (offset, length) = at(range);
            client
                .write_zeroes(offset, length, Flags::default())
                .map(|()| Bytes::new())
        }
        Action::Flush => client.flush().map(|()| Bytes::new()),
    }
}
