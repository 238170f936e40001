//! Breadth first over everything that may happen, so that the first state found broken is at the end
//! of a shortest story.

use super::{Action, Model, Scope};
use lockstep_protocol::mutate::Broken;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How far is explored.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// What may happen.
    pub scope: Scope,
    /// The rule that is broken on purpose.
    pub broken: Broken,
    /// States at most.
    pub states: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states seen.
    pub states: usize,
    /// Those of them in which a later epoch than the first has opened.
    pub reopened: usize,
    /// Steps taken, those into states seen before included.
    pub steps: u64,
    /// Of the longest of the shortest stories.
    pub depth: usize,
    /// Whether every state was looked at.
    pub emptied: bool,
    /// What broke, and the shortest story that leads to it.
    pub broken: Option<(String, Vec<Action>)>,
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Same(u64);

impl std::hash::Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are u64");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// How each state was reached first.
struct Trail(Vec<(u32, Action)>);

impl Trail {
    fn story(&self, mut at: u32) -> Vec<Action> {
        let mut story = Vec::new();
        while at != 0 {
            let (before, action) = self.0[at as usize];
            story.push(action);
            at = before;
        }
        story.reverse();
        story
    }
}

/// Explores.
pub fn explore(search: Search, mut progress: impl FnMut(&Report)) -> Report {
    let mut first = Model::new(search.scope, search.broken);
    let mut seen: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    seen.insert(first.fingerprint());
    let mut trail = Trail(vec![(0, Action::Tick)]);
    let reopened = usize::from(first.has_reopened());
    let mut frontier = VecDeque::from([(0u32, 0usize, first)]);
    let mut report = Report {
        states: 1,
        reopened,
        steps: 0,
        depth: 0,
        emptied: false,
        broken: None,
    };
    while let Some((at, depth, model)) = frontier.pop_front() {
        report.depth = report.depth.max(depth);
        for action in model.actions() {
            report.steps += 1;
            let mut next = model.clone();
            let ended = catch_unwind(AssertUnwindSafe(|| next.happen(action)));
            let why = match ended {
                Ok(()) => next.failure().map(str::to_string),
                Err(panic) => Some(format!("panic: {}", words_of(&*panic))),
            };
            if let Some(why) = why {
                let mut story = trail.story(at);
                story.push(action);
                report.broken = Some((why, story));
                return report;
            }
            if !seen.insert(next.fingerprint()) {
                continue;
            }
            report.states += 1;
            report.reopened += usize::from(next.has_reopened());
            if report.states.is_multiple_of(100_000) {
                progress(&report);
            }
            let number = trail.0.len() as u32;
            trail.0.push((at, action));
            frontier.push_back((number, depth + 1, next));
            if report.states >= search.states {
                return report;
            }
        }
    }
    report.emptied = true;
    report
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without words").to_string()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.emptied {
            true => "the frontier emptied: these are all",
            false => "the frontier did not empty",
        };
        let (states, reopened) = (self.states, self.reopened);
        let (steps, depth) = (self.steps, self.depth);
        write!(
            f,
            "{states} states, {reopened} of them with a second epoch open, {steps} steps, {depth} deep; {end}"
        )?;
        if let Some((why, story)) = &self.broken {
            write!(f, "\nbroken after {} steps: {why}", story.len())?;
            for action in story {
                write!(f, "\n  {action}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &usize| super::NAMES[*node];
        match self {
            Self::Deliver(from, to) => {
                write!(f, "a message from {} reaches {}", name(from), name(to))
            }
            Self::Disk(node) => write!(f, "the device of {} ends an operation", name(node)),
            Self::Learn(node) => write!(f, "{} learns the record", name(node)),
            Self::Commit(at) => write!(f, "proposal {at} commits or is refused"),
            Self::CommitUnheard(at) => write!(f, "proposal {at} ends, and nobody hears how"),
            Self::Write => write!(f, "the client writes"),
            Self::Read => write!(f, "the client reads"),
            Self::Tick => write!(f, "a beacon's time passes"),
            Self::Crash(node, how) => write!(f, "{} loses power ({how:?})", name(node)),
            Self::Restart(node) => write!(f, "{} is back", name(node)),
            Self::Hold(from, to) if from == to => {
                write!(f, "the device of {} is held up", name(from))
            }
            Self::Release(from, to) if from == to => {
                write!(f, "the device of {} goes on", name(from))
            }
            Self::Hold(from, to) => {
                write!(f, "what {} says to {} is held up", name(from), name(to))
            }
            Self::Release(from, to) => {
                write!(f, "what {} says to {} goes on", name(from), name(to))
            }
            Self::Cut(a, b) => write!(f, "the link {}–{} closes", name(a), name(b)),
            Self::Heal(a, b) => write!(f, "the link {}–{} stands again", name(a), name(b)),
            Self::Move(node) => write!(f, "the volume is published to {}", name(node)),
        }
    }
}
