//! What runs on every change: seeds of the default mix, and every named scenario. Each seed that fails fails
//! the test, and prints the command that replays it.

use sim::run::{Config, Less, Words, run_many};
use sim::scenarios::{self, Scenario};
use sim::shrink::shrink;
use sim::summary::Summary;

/// Seeds of the default mix.
const MIX: u64 = 2000;
/// Seeds of each named scenario.
const NAMED: u64 = 50;

fn all_hold(configs: impl Iterator<Item = Config> + Send) -> Summary {
    let mut broken = Vec::new();
    let mut summary = Summary::start();
    run_many(configs, 2, |config, outcome| {
        summary.add(&config, &outcome);
        if let Some(failure) = outcome.failure {
            // The first one is made smaller; the others can be, by the command.
            let smaller = match broken.is_empty() {
                true => shrink(config, &failure),
                false => config,
            };
            broken.push(format!(
                "seed {} of {}: {}: {}\n  {}",
                config.seed,
                config.scenario.name,
                failure.what,
                failure.why,
                smaller.command()
            ));
        }
        true
    });
    println!("{}", summary.report());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    summary
}

fn config(seed: u64, scenario: &'static Scenario) -> Config {
    Config {
        seed,
        scenario,
        less: Less::default(),
        words: Words::Quiet,
        mutation: None,
    }
}

/// And it reaches what it is there for.
#[test]
fn the_default_mix_holds() {
    let summary = all_hold((1..=MIX).map(|seed| config(seed, scenarios::of_seed(seed))));
    let holes = summary.holes();
    assert!(holes.is_empty(), "never reached: {}", holes.join(", "));
}

#[test]
fn every_named_scenario_holds() {
    all_hold((1..=NAMED).flat_map(|seed| {
        let scenarios = scenarios::ALL.iter();
        scenarios.map(move |scenario| config(seed, scenario))
    }));
}
