//! The mutation gate: a rule is broken on purpose, and seeds are run until something notices. The
//! table of how many that took is docs/mutations.md, which this writes.

use crate::ledger::CORES;
use crate::mutation::Mutation;
use crate::run::{Config, Failure, run_many, run_seed};
use crate::scenarios::{self, Scenario};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How hard a mutation is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The first seed.
    pub from: u64,
    /// Seeds at most.
    pub seeds: u64,
    /// Time at most.
    pub most: Duration,
    /// Threads.
    pub threads: usize,
}

/// What came of one mutation.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub mutation: Mutation,
    /// Runs made.
    pub runs: u64,
    /// The run that noticed, and what it noticed.
    pub caught: Option<(Config, Failure)>,
}

/// Runs seeds under a broken rule until one fails that holds with the rule unbroken.
pub fn run(mutation: Mutation, scenario: Option<&'static Scenario>, effort: Effort) -> Verdict {
    let began = Instant::now();
    let mut verdict = Verdict {
        mutation,
        runs: 0,
        caught: None,
    };
    let configs = scenarios::for_mutation(mutation, scenario, effort.from, effort.seeds);
    run_many(configs, effort.threads, |config, outcome| {
        verdict.runs += 1;
        let Some(failure) = outcome.failure else {
            return began.elapsed() < effort.most;
        };
        // Only what the unbroken rule keeps shows that the broken one was noticed.
        let unbroken = Config {
            mutation: None,
            ..config
        };
        if run_seed(unbroken).failure.is_some() {
            return began.elapsed() < effort.most;
        }
        verdict.caught = Some((config, failure));
        false
    });
    verdict
}

impl Verdict {
    /// For the terminal.
    pub fn line(&self) -> String {
        let name = self.mutation.name();
        let runs = self.runs;
        match &self.caught {
            Some((config, failure)) => {
                let why: String = failure.why.chars().take(110).collect();
                format!(
                    "{name:<36} caught after {runs:>5} seeds: {} ({} {}, {why})",
                    failure.what, config.scenario.name, config.seed
                )
            }
            None => format!("{name:<36} NOT CAUGHT in {runs} seeds: a hole in the simulator"),
        }
    }

    fn row(&self) -> String {
        let (name, rule, runs) = (self.mutation.name(), self.mutation.rule(), self.runs);
        match &self.caught {
            Some((config, failure)) => {
                let scenario = config.scenario.name;
                format!(
                    "| `{name}` | {rule} | {runs} | `{scenario}` | {} | {CORES} |",
                    failure.what
                )
            }
            None => format!("| `{name}` | {rule} | **not in {runs}** | | | {CORES} |"),
        }
    }
}

const HEAD: &str = "\
# Mutations: every rule broken on purpose

Written by the simulator; do not edit. Each row is a switch that breaks one rule at run time (feature
`mutate`), the rule it breaks (safety.md, store.md), the seeds it took until a run failed that holds with
the rule unbroken, the scenario that failed, the invariant or panic that noticed, and the hash of the cores'
sources on which it did, or `older` if that was not written down. Refresh one row, or all of them, with

```
cargo run --release -p sim --features mutate -- --mutate RULE --table docs/mutations.md
cargo run --release -p sim --features mutate -- --mutate all --seeds 10000 --table docs/mutations.md
```

Replay what caught one: `--mutate RULE --scenario SCENARIO --trace --from SEED --seeds 1`.

Two switches break what the simulator does in the shell's place, and no line of the product: `shell-R23NoClaim`
(its disks) and `shell-R20VoterReborn` (its nodes). The product's claim is covered by
`a_claimed_file_is_refused_to_others` in engine/ring/tests/disk.rs and
`the_claim_ends_with_the_disk_though_a_child_shares_its_descriptor` in engine/ring/src/disk.rs. The new id of a
voter without its log is minted in engine/node/src/control/mod.rs, which no unit test reaches; that the core
refuses a known id from another node is covered in replication/consensus/src/directory.rs, and joining under a
new one in replication/consensus/tests/cluster.rs.

Three rules have no switch. S7 and S11 are about frozen layers, of which there are none yet: every volume is one
head. S12: front-ends advertise blocks of 4096 bytes and refuse a request that is not aligned to them, so that there
is nothing to read, modify and write (engine/frontend/nbd/tests/interop.rs); none runs in the simulator.

";

const COLUMNS: &str = "\
| mutation | rule | seeds | scenario | noticed by | cores |
|---|---|---|---|---|---|
";

/// What stands for the cores of a row that does not say.
const OLDER: &str = "older";

const COLUMNS_PER_ROW: usize = 6;

/// Seeds that count as few.
const SOON: u64 = 200;

/// How many seeds a row says that it took, if it was caught.
fn seeds_of(row: &str) -> Option<u64> {
    row.split('|').nth(3)?.trim().parse().ok()
}

/// Puts verdicts into the table; rows of mutations that were not run stay as they are, those of
/// mutations that no longer exist go.
///
/// # Errors
/// If the file cannot be read or written.
pub fn write_table(path: &Path, verdicts: &[Verdict]) -> std::io::Result<()> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut rows: BTreeMap<String, String> = old
        .lines()
        .filter_map(|line| {
            let name = line.strip_prefix("| `")?.split('`').next()?;
            let says = line.matches('|').count() == COLUMNS_PER_ROW + 1;
            let row = match says {
                true => line.to_string(),
                false => format!("{line} {OLDER} |"),
            };
            Some((name.to_string(), row))
        })
        .collect();
    for verdict in verdicts {
        rows.insert(verdict.mutation.name(), verdict.row());
    }
    let mut table = COLUMNS.to_string();
    let (mut caught, mut soon, mut current) = (0, 0, 0);
    for mutation in Mutation::all() {
        let (name, rule) = (mutation.name(), mutation.rule());
        let unknown = format!("| `{name}` | {rule} | not run yet | | | |");
        let row = rows.get(&name).unwrap_or(&unknown);
        let _ = writeln!(table, "{row}");
        if let Some(seeds) = seeds_of(row) {
            caught += 1;
            soon += u32::from(seeds <= SOON);
            current += u32::from(row.contains(CORES));
        }
    }
    let all = Mutation::all().len();
    let text = format!(
        "{HEAD}Cores when this was last written: `{CORES}`; rows taken on them: {current} of {all}.\n\n{table}\n\
         Caught: {caught} of {all}; within {SOON} seeds: {soon}.\n"
    );
    std::fs::write(path, text)
}
