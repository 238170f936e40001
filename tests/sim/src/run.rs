//! Runs seeds, each on a thread of its own, so that a core's failed assertion is a result like any
//! other, also in builds where a panic aborts: the hook reports it and parks the thread.

use crate::coverage::Coverage;
use crate::mutation::Mutation;
use crate::scenarios::Scenario;
use crate::trace::Trace;
use lockstep_types::Nanos;
use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Once, mpsc};

/// How a seed is run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The seed.
    pub seed: u64,
    /// Which world.
    pub scenario: &'static Scenario,
    /// What of it is left away (shrinking).
    pub less: Less,
    /// The story.
    pub words: Words,
    /// The rule that is broken on purpose.
    pub mutation: Option<Mutation>,
}

/// What a shrunk run leaves away. The default leaves nothing away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Less {
    /// At most so many client operations; 0: as drawn.
    pub operations: u32,
    /// Bit i: faults of kind i are switched off.
    pub faults_off: u32,
    /// At most one node a site.
    pub few_nodes: bool,
    /// At most one volume.
    pub one_volume: bool,
    /// No operator.
    pub no_operator: bool,
}

impl Less {
    /// The arguments that leave the same away.
    pub fn arguments(&self) -> String {
        let Self {
            operations,
            faults_off,
            few_nodes,
            one_volume,
            no_operator,
        } = *self;
        if *self == Self::default() {
            return String::new();
        }
        let bits = u8::from(few_nodes) | u8::from(one_volume) << 1 | u8::from(no_operator) << 2;
        format!(" --less {operations},{faults_off},{bits}")
    }

    /// From those arguments.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u32> = text
            .split(',')
            .map(|n| n.parse().ok())
            .collect::<Option<_>>()?;
        let [operations, faults_off, bits] = numbers[..] else {
            return None;
        };
        let bit = |i: u32| bits >> i & 1 == 1;
        Some(Self {
            operations,
            faults_off,
            few_nodes: bit(0),
            one_volume: bit(1),
            no_operator: bit(2),
        })
    }
}

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Words {
    /// The hash only.
    Quiet,
    /// Each line is printed.
    Aloud,
    /// A hash an event.
    Compare,
}

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What broke, if anything.
    pub failure: Option<Failure>,
    /// What was reached.
    pub coverage: Coverage,
    /// Simulated time.
    pub simulated: Nanos,
    /// Events.
    pub events: u64,
    /// Client operations answered.
    pub operations: u64,
    /// Of all events.
    pub hash: u64,
    /// A hash an event, when compared.
    pub steps: Vec<u64>,
}

/// What broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The invariant ("V5"), or "panic".
    pub what: String,
    /// In words.
    pub why: String,
}

impl Failure {
    /// A broken invariant.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
        }
    }
}

impl Config {
    /// The trace that its words ask for.
    pub fn trace(&self) -> Trace {
        match self.words {
            Words::Quiet => Trace::quiet(),
            Words::Aloud => Trace::aloud(),
            Words::Compare => Trace::comparing(),
        }
    }

    /// Whether its seed counts as run: whole, and with every rule kept.
    pub fn counts(&self) -> bool {
        self.less == Less::default() && self.mutation.is_none()
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let (feature, mutate) = match self.mutation {
            Some(mutation) => (
                " --features mutate",
                format!(" --mutate {}", mutation.name()),
            ),
            None => ("", String::new()),
        };
        let name = self.scenario.name;
        let less = self.less.arguments();
        format!(
            "cargo run --release -p sim{feature} -- --scenario {name}{mutate}{less} --from {} --seeds 1 --trace",
            self.seed
        )
    }
}

thread_local! {
    static REPORT: RefCell<Option<Sender<Outcome>>> = const { RefCell::new(None) };
}

/// Runs one seed to its end.
pub fn run_seed(config: Config) -> Outcome {
    install_hook();
    let (sender, receiver) = channel();
    let report = sender.clone();
    std::thread::Builder::new()
        .name("seed".into())
        .stack_size(8 << 20)
        .spawn(move || {
            REPORT.with(|slot| *slot.borrow_mut() = Some(report));
            let outcome = (config.scenario.run)(&config);
            // The receiver is there until it has one answer.
            let _ = sender.send(outcome);
        })
        .expect("a thread can be started");
    receiver
        .recv()
        .expect("a run ends with an outcome, or its panic with one")
}

/// Runs a seed twice and says where the two part, if they do.
pub fn run_twice(config: Config) -> Outcome {
    let config = Config {
        words: Words::Compare,
        ..config
    };
    let (first, second) = (run_seed(config), run_seed(config));
    if first.failure.is_some() || (first.hash == second.hash && first.steps == second.steps) {
        return first;
    }
    let at = first
        .steps
        .iter()
        .zip(&second.steps)
        .position(|(a, b)| a != b)
        .unwrap_or(first.steps.len());
    let why = format!(
        "two runs of one seed part at event {at} of {} and {}",
        first.events, second.events
    );
    Outcome {
        failure: Some(Failure::new("determinism", why)),
        ..first
    }
}

/// About one in a hundred is run twice, of every kind of world.
pub fn run_checked(config: Config) -> Outcome {
    if config.words == Words::Quiet && config.seed % 101 == 42 {
        run_twice(config)
    } else {
        run_seed(config)
    }
}

/// Runs seeds on this many threads and hands each outcome to `each`, in no order; stops when it says so.
pub fn run_many(
    configs: impl Iterator<Item = Config> + Send,
    threads: usize,
    mut each: impl FnMut(Config, Outcome) -> bool,
) {
    let configs = std::sync::Mutex::new(configs);
    let (sender, receiver) = mpsc::sync_channel(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, configs) = (sender.clone(), &configs);
            scope.spawn(move || {
                loop {
                    let next = configs
                        .lock()
                        .expect("taking the next seed does not panic")
                        .next();
                    let Some(config) = next else { return };
                    if sender.send((config, run_checked(config))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        while let Ok((config, outcome)) = receiver.recv() {
            if !each(config, outcome) {
                break;
            }
        }
        drop(receiver);
    });
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let Some(sender) = REPORT
                .try_with(|slot| slot.borrow_mut().take())
                .ok()
                .flatten()
            else {
                return default(info);
            };
            let place = info
                .location()
                .map(|l| format!(" at {}:{}", l.file(), l.line()))
                .unwrap_or_default();
            let text = info
                .payload()
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| {
                    info.payload()
                        .downcast_ref::<&str>()
                        .map(|s| (*s).to_string())
                })
                .unwrap_or_else(|| "a panic without words".into());
            let failure = Failure::new("panic", format!("{text}{place}"));
            let _ = sender.send(Outcome {
                failure: Some(failure),
                ..Outcome::default()
            });
            // Not unwound: what a broken world would still do on its way out says nothing.
            loop {
                std::thread::park();
            }
        }));
    });
}
