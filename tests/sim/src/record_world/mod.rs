//! The membership record alone: any commands whatever, right ones and wrong ones, proposed to the
//! control state, and the rules of who may write looked at from outside after each. Here the proposers
//! are the fault: in whole worlds they seldom ask for what must be refused.

mod draw;
mod rules;

use crate::coverage::Coverage;
use crate::rng::Rng;
use crate::run::{Config, Failure, Outcome};
use crate::trace::Trace;
use crate::words;
use lockstep_control::{Command, Proposal, State};
use rules::Seen;

/// Commands of a seed.
const COMMANDS: u64 = 400;

struct RecordWorld {
    trace: Trace,
    coverage: Coverage,
    state: State,
    seen: Seen,
    index: u64,
    failure: Option<Failure>,
}

/// Runs a seed.
pub fn run(config: &Config) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let mut state = State::new();
    #[cfg(feature = "mutate")]
    if let Some(crate::mutation::Mutation::Control(mutation)) = config.mutation {
        state.mutation = Some(mutation);
    }
    let mut world = RecordWorld {
        trace: config.trace(),
        coverage: Coverage::default(),
        seen: Seen::default(),
        index: 0,
        failure: None,
        state: std::mem::take(&mut state),
    };
    for command in draw::founding() {
        world.apply(command);
    }
    world.vote([1, 3, 9]);
    let mut draw = draw::Draw::new(rng.split("commands"));
    let commands = match config.less.operations {
        0 => COMMANDS,
        n => u64::from(n),
    };
    for _ in 0..commands {
        if world.failure.is_some() {
            break;
        }
        match draw.next(&world.state) {
            draw::Step::Command(command) => world.apply(command),
            draw::Step::Voting(ids) => world.vote(ids),
        }
    }
    Outcome {
        failure: world.failure,
        coverage: world.coverage,
        simulated: world.index,
        events: world.trace.events(),
        operations: 0,
        hash: world.trace.hash(),
        steps: world.trace.steps().to_vec(),
    }
}

impl RecordWorld {
    fn vote(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.index += 1;
        self.state
            .apply_configuration(self.index, ids.into_iter().collect());
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        let before = self.state.clone();
        let proposal = Proposal {
            at_unix_ms: self.index,
            command,
        };
        let applied = self.state.apply(self.index, &proposal);
        self.trace.event(&(self.index, &proposal.command));
        let verdict = match &applied.result {
            Ok(_) => "applied".to_string(),
            Err(refused) => format!("refused: {refused}"),
        };
        if self.trace.wants_words() {
            let text = words::short(&proposal.command);
            self.trace
                .say(self.index, "record", format_args!("{text}: {verdict}"));
        }
        self.coverage.hit(match applied.result {
            Ok(_) => "record: command applied",
            Err(_) => "record: command refused",
        });
        let good = applied.result.is_ok();
        let held = self
            .seen
            .after(&before, &proposal.command, good, &self.state);
        if let Err((rule, why)) = held {
            let text = words::short(&proposal.command);
            self.failure = Some(Failure::new(rule, format!("{text}: {why}")));
        }
    }
}
