//! Which seeds ran against which cores: a small text file outside the tree, one line a scenario and hash
//! of the cores' sources. A seed counts once, however often it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

/// The hash of the cores in this build.
pub const CORES: &str = env!("SIM_CORES");

/// Seeds that ran and are not in the file yet.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    ran: BTreeMap<String, Runs>,
}

/// Seeds of one scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs {
    passed: Ranges,
    failed: Ranges,
}

/// Numbers, kept as ranges: each start with its end, inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(BTreeMap<u64, u64>);

/// Where the ledger is kept if nothing else was asked for: the user's state folder.
pub fn usual_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("lockstep/sim-ledger"))
}

impl Ledger {
    /// A ledger in that file; it need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            ran: BTreeMap::new(),
        }
    }

    /// A seed ran.
    pub fn add(&mut self, scenario: &str, seed: u64, passed: bool) {
        let runs = self.ran.entry(scenario.to_owned()).or_default();
        let ranges = match passed {
            true => &mut runs.passed,
            false => &mut runs.failed,
        };
        ranges.add(seed, seed);
    }

    /// Merges what ran into the file, and says what stands there for these cores.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn write(&mut self) -> io::Result<String> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&self.path)?;
        file.lock()?; // several simulators may run side by side
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut all = parse(&text);
        let here = all.entry(CORES.to_owned()).or_default();
        for (scenario, runs) in std::mem::take(&mut self.ran) {
            let known = here.entry(scenario).or_default();
            known.passed.merge(&runs.passed);
            known.failed.merge(&runs.failed);
        }
        let summary = self.summary(here);
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(print(&all).as_bytes())?;
        Ok(summary)
    }

    fn summary(&self, here: &BTreeMap<String, Runs>) -> String {
        let passed: u64 = here.values().map(|runs| runs.passed.count()).sum();
        let failed: u64 = here.values().map(|runs| runs.failed.count()).sum();
        let each: Vec<String> = here
            .iter()
            .map(|(scenario, runs)| format!("{scenario} {}", runs.passed.count()))
            .collect();
        format!(
            "ledger of cores {CORES}: {passed} seeds passed, {failed} failed ({}); {}",
            each.join(", "),
            self.path.display()
        )
    }
}

type Lines = BTreeMap<String, BTreeMap<String, Runs>>;

/// Lines that are not understood are dropped: a ledger is a convenience, not a proof.
fn parse(text: &str) -> Lines {
    let mut all = Lines::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [cores, scenario, passed, failed] = words[..] else {
            continue;
        };
        let of = |word: &str, name: &str| word.strip_prefix(name).and_then(Ranges::parse);
        if let (Some(passed), Some(failed)) = (of(passed, "passed="), of(failed, "failed=")) {
            let runs = Runs { passed, failed };
            let of_cores = all.entry(cores.to_owned()).or_default();
            of_cores.insert(scenario.to_owned(), runs);
        }
    }
    all
}

fn print(all: &Lines) -> String {
    let mut text = String::new();
    for (cores, scenarios) in all {
        for (scenario, runs) in scenarios {
            let (passed, failed) = (runs.passed.print(), runs.failed.print());
            let _ = writeln!(text, "{cores} {scenario} passed={passed} failed={failed}");
        }
    }
    text
}

impl Ranges {
    fn add(&mut self, mut first: u64, mut last: u64) {
        let touching: BTreeSet<u64> = self
            .0
            .range(..=last.saturating_add(1))
            .filter(|(_, end)| end.saturating_add(1) >= first)
            .map(|(start, _)| *start)
            .collect();
        for start in touching {
            let end = self.0.remove(&start).expect("listed above");
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    fn merge(&mut self, other: &Self) {
        for (first, last) in &other.0 {
            self.add(*first, *last);
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    fn print(&self) -> String {
        let range = |(first, last): (&u64, &u64)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        self.0.iter().map(range).collect::<Vec<_>>().join(",")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut ranges = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            if first > last {
                return None;
            }
            ranges.add(first, last);
        }
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_counts_once_and_ranges_join() {
        let mut ranges = Ranges::default();
        for seed in [5, 1, 2, 9, 3, 5, 4, 11, 10] {
            ranges.add(seed, seed);
        }
        assert_eq!(ranges.print(), "1-5,9-11");
        assert_eq!(ranges.count(), 8);
        ranges.add(4, 12);
        assert_eq!(ranges.print(), "1-12");
        assert_eq!(Ranges::parse("1-12"), Some(ranges));
        assert_eq!(Ranges::parse("7-3"), None);
    }

    #[test]
    fn the_file_keeps_what_other_runs_and_other_cores_wrote() {
        let folder = std::env::temp_dir().join(format!("sim-ledger-{}", std::process::id()));
        let path = folder.join("deep/ledger");
        let mut first = Ledger::new(path.clone());
        (1..=20).for_each(|seed| first.add("world", seed, seed != 7));
        first.write().expect("a temporary folder can be written");
        let old = fs::read_to_string(&path).expect("it was written");
        fs::write(
            &path,
            format!("{old}0123 world passed=1-4 failed=\nnonsense\n"),
        )
        .expect("as above");
        let mut second = Ledger::new(path.clone());
        (15..=30).for_each(|seed| second.add("world", seed, true));
        second.add("store", 8, true);
        let summary = second.write().expect("as above");
        let text = fs::read_to_string(&path).expect("as above");
        fs::remove_dir_all(&folder).expect("as above");
        assert!(summary.contains("30 seeds passed, 1 failed"), "{summary}");
        assert!(text.contains("0123 world passed=1-4 failed=\n"), "{text}");
        assert!(text.contains("world passed=1-6,8-30 failed=7\n"), "{text}");
    }
}
