//! `sim`: runs seeds of the deterministic simulator.
#![forbid(unsafe_code)]

use clap::Parser;
use sim::gate::{self, Effort};
use sim::ledger::{self, Ledger};
use sim::model::{self, SCOPES, Search};
use sim::mutation::{Mutation, POSSIBLE};
use sim::run::{Config, Less, Words, run_many};
use sim::say;
use sim::scenarios::{self, Scenario};
use sim::summary::Summary;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Builds a world from each seed, runs the production cores in it, and checks every invariant.
#[derive(Parser, Debug)]
#[command(name = "sim", version)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One scenario; otherwise the default mix. See --scenarios.
    #[arg(long)]
    scenario: Option<String>,
    /// Every named scenario instead of the mix, so many seeds each.
    #[arg(long)]
    named: bool,
    /// Breaks a rule (or `all`, or several with commas, one after the other) and counts the seeds until it is caught. See --mutations.
    #[arg(long, value_name = "RULE")]
    mutate: Option<String>,
    /// Writes what --mutate found into this table; rows of other rules stay.
    #[arg(long, value_name = "FILE", requires = "mutate")]
    table: Option<PathBuf>,
    /// With --mutate: gives a rule up after so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    most: u64,
    /// Lists the mutations, one a line.
    #[arg(long)]
    mutations: bool,
    /// Lists the scenarios.
    #[arg(long)]
    scenarios: bool,
    /// Explores the small model of the protocol instead, in this scope or in `all`; with --mutate, under a broken rule.
    #[arg(long, value_name = "SCOPE", conflicts_with_all = ["scenario", "named"])]
    model: Option<String>,
    /// With --model: states at most.
    #[arg(long, default_value_t = 1_000_000)]
    states: usize,
    /// Prints the story of each seed.
    #[arg(long)]
    trace: bool,
    /// Leaves things away, as a shrunk failure says.
    #[arg(long, value_name = "N,BITS,BITS")]
    less: Option<String>,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// The file that counts seeds by hash of the cores; otherwise one in the user's state folder.
    #[arg(long, value_name = "PATH")]
    ledger: Option<std::path::PathBuf>,
    /// Counts them nowhere.
    #[arg(long, conflicts_with = "ledger")]
    no_ledger: bool,
    /// Threads; each runs whole seeds.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.mutations {
        for mutation in Mutation::all() {
            let (name, rule) = (mutation.name(), mutation.rule());
            say!("{name:<36} {rule:<10} {}", mutation.about());
        }
        return ExitCode::SUCCESS;
    }
    if arguments.scenarios {
        for scenario in scenarios::ALL {
            say!("{:<28} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    if let Some(scope) = &arguments.model {
        return explore_model(arguments, scope);
    }
    let less = match &arguments.less {
        None => Less::default(),
        Some(text) => Less::parse(text)
            .ok_or("--less wants three numbers, as a shrunk failure printed them")?,
    };
    let scenario = match &arguments.scenario {
        None => None,
        Some(name) => Some(
            scenarios::find(name)
                .ok_or(format!("there is no scenario '{name}'; see --scenarios"))?,
        ),
    };
    let Some(names) = arguments.mutate.as_deref() else {
        return Ok(run_seeds(arguments, configs(arguments, scenario, less)));
    };
    let mutations = chosen(names)?;
    match mutations[..] {
        [mutation] if arguments.trace => {
            let configs = configs(arguments, scenario, less).map(move |c| Config {
                mutation: Some(mutation),
                ..c
            });
            Ok(run_seeds(arguments, configs))
        }
        _ => run_gate(arguments, scenario, &mutations),
    }
}

/// Explores the model: every state of it, or as many as are allowed.
fn explore_model(arguments: &Arguments, scope: &str) -> Result<bool, String> {
    let names: Vec<&str> = SCOPES.iter().map(|(name, ..)| *name).collect();
    let wanted = SCOPES
        .iter()
        .filter(|(name, ..)| scope == "all" || scope == *name);
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return Err(format!(
            "there is no scope '{scope}' of the model; there are: {}",
            names.join(", ")
        ));
    }
    let mutations: Vec<Option<Mutation>> = match arguments.mutate.as_deref() {
        None => vec![None],
        Some(names) => chosen(names)?.into_iter().map(Some).collect(),
    };
    let mut clean = true;
    for mutation in mutations {
        let broken = match mutation {
            None => Default::default(),
            Some(Mutation::Protocol(mutation)) => sim::mutation::broken_protocol(mutation),
            Some(_) => continue, // the model has no other core
        };
        for (name, _, scope) in &wanted {
            let search = Search {
                scope: *scope,
                broken,
                states: arguments.states,
            };
            let began = Instant::now();
            let report = model::explore(search, |so_far| eprintln!("{name}: {so_far}"));
            clean &= report.broken.is_none();
            let rule = mutation
                .map(|m| format!("{} ", m.name()))
                .unwrap_or_default();
            let seconds = began.elapsed().as_secs_f64();
            say!("{rule}{name}: {report} ({seconds:.1} s)");
        }
    }
    Ok(clean)
}

/// The mutations of a list of names.
fn chosen(names: &str) -> Result<Vec<Mutation>, String> {
    if !POSSIBLE {
        return Err("this build breaks no rules: build with --features mutate".into());
    }
    let all = Mutation::all();
    if names == "all" {
        return Ok(all);
    }
    let find = |name: &str| {
        all.iter()
            .copied()
            .find(|m| m.name() == name)
            .ok_or(format!("there is no mutation '{name}'; see --mutations"))
    };
    names.split(',').map(find).collect()
}

fn run_gate(
    arguments: &Arguments,
    scenario: Option<&'static Scenario>,
    mutations: &[Mutation],
) -> Result<bool, String> {
    let effort = Effort {
        from: arguments.from,
        seeds: arguments.seeds,
        most: Duration::from_secs(arguments.most),
        threads: arguments.threads,
    };
    let mut caught = 0;
    for mutation in mutations {
        let verdict = gate::run(*mutation, scenario, effort);
        say!("{}", verdict.line());
        caught += usize::from(verdict.caught.is_some());
        if let Some(table) = &arguments.table {
            gate::write_table(table, &[verdict])
                .map_err(|error| format!("{}: {error}", table.display()))?;
        }
    }
    say!("{caught} of {} mutations caught", mutations.len());
    Ok(caught == mutations.len())
}

fn configs(
    arguments: &Arguments,
    scenario: Option<&'static Scenario>,
    less: Less,
) -> impl Iterator<Item = Config> + Send + use<> {
    let words = if arguments.trace {
        Words::Aloud
    } else {
        Words::Quiet
    };
    let seeds = arguments.from..arguments.from + arguments.seeds;
    let named = arguments.named;
    seeds.flat_map(move |seed| {
        let of_seed: Vec<&'static Scenario> = match scenario {
            Some(one) => vec![one],
            None if named => scenarios::ALL.iter().collect(),
            None => vec![scenarios::of_seed(seed)],
        };
        of_seed.into_iter().map(move |scenario| Config {
            seed,
            scenario,
            less,
            words,
            mutation: None,
        })
    })
}

fn run_seeds(arguments: &Arguments, configs: impl Iterator<Item = Config> + Send) -> bool {
    let threads = if arguments.trace {
        1
    } else {
        arguments.threads
    };
    let mut summary = Summary::start();
    let mut book = ledger_of(arguments);
    let mut told = Instant::now();
    let mut clean = true;
    run_many(configs, threads, |config, outcome| {
        summary.add(&config, &outcome);
        if let Some(book) = book.as_mut().filter(|_| config.counts()) {
            let mixed = arguments.scenario.is_none() && !arguments.named;
            let scenario = if mixed { "mix" } else { config.scenario.name };
            book.add(scenario, config.seed, outcome.failure.is_none());
        }
        if told.elapsed() > Duration::from_secs(5) && !arguments.trace {
            told = Instant::now();
            eprintln!("{}", summary.progress());
            let _ = book.as_mut().map(write_down);
        }
        let Some(failure) = outcome.failure else {
            return true;
        };
        clean = false;
        say!(
            "seed {} of {} failed: {}: {}",
            config.seed,
            config.scenario.name,
            failure.what,
            failure.why
        );
        say!("  replay: {}", config.command());
        if !arguments.keep_going && config.less == Less::default() && !arguments.trace {
            let smaller = sim::shrink::shrink(config, &failure);
            if smaller.less != config.less {
                say!("  smaller: {}", smaller.command());
            }
        }
        arguments.keep_going
    });
    say!("{}", summary.report());
    if let Some(words) = book.as_mut().and_then(write_down) {
        say!("{words}");
    }
    clean
}

/// The ledger that the seeds are counted in, if they are.
fn ledger_of(arguments: &Arguments) -> Option<Ledger> {
    if arguments.no_ledger || arguments.trace {
        return None;
    }
    let path = arguments.ledger.clone().or_else(ledger::usual_path)?;
    Some(Ledger::new(path))
}

fn write_down(book: &mut Ledger) -> Option<String> {
    match book.write() {
        Ok(words) => Some(words),
        Err(error) => {
            eprintln!(
                "the ledger of seeds cannot be written: {error}; --ledger names another file"
            );
            None
        }
    }
}
