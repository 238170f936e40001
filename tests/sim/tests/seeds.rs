//! What runs on every change: seeds of the default mix, and every named scenario. Each seed that fails fails
//! the test, and prints the command that replays it.

use sim::run::{Config, Less, Words, run_many};
use sim::scenarios::{self, Scenario};
use sim::summary::Summary;

/// Seeds of the default mix.
const MIX: u64 = 2000;
/// Seeds of each named scenario.
const NAMED: u64 = 50;
/// Seeds of those that take seconds each.
const LONG: u64 = 3;
/// They take seconds each.
const LONG_ONES: [&str; 22] = [
    "behind-the-floor",
    "blank-device",
    "blank-device-alone",
    "comes-back-in-silence",
    "comes-back-with-its-own-tail",
    "dies-sealed",
    "dies-while-rolled-to",
    "diskless-primary-cut-off",
    "discard-while-away",
    "full-on-one",
    "joined-and-alone",
    "lagging-joiner",
    "late-acks",
    "late-appends",
    "late-seals",
    "read-again-elsewhere",
    "read-before-its-end",
    "resync-under-writes",
    "seal-during-flush",
    "spoiled-appends",
    "stopped-primary",
    "two-crashes-in-one-reconcile",
];

fn all_hold(configs: impl Iterator<Item = Config> + Send) {
    let mut broken = Vec::new();
    let mut summary = Summary::start();
    run_many(configs, 2, |config, outcome| {
        summary.add(&config, &outcome);
        if let Some(failure) = outcome.failure {
            broken.push(format!(
                "seed {} of {}: {}: {}\n  {}",
                config.seed,
                config.scenario.name,
                failure.what,
                failure.why,
                config.command()
            ));
        }
        true
    });
    println!("{}", summary.report());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
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

/// What was never reached is printed with the rest.
#[test]
fn the_default_mix_holds() {
    all_hold((1..=MIX).map(|seed| config(seed, scenarios::of_seed(seed))));
}

#[test]
fn every_named_scenario_holds() {
    all_hold((1..=NAMED).flat_map(|seed| {
        let due = move |scenario: &&Scenario| {
            let long = LONG_ONES.contains(&scenario.name);
            seed <= LONG || !long
        };
        let due = scenarios::ALL.iter().filter(due);
        due.map(move |scenario| config(seed, scenario))
    }));
}
