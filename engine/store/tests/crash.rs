//! Random lives of a tiny pool, with crashes at any moment, against the model.
//!
//! `SEED=n` repeats one life; `SEEDS=n` and `FROM=n` choose how many and from which on.

mod common;

use common::driver::{Driver, Seen};
use lockstep_store::mutate::Broken;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_lives_keep_what_was_acknowledged() {
    if let Some(seed) = number("SEED") {
        let seen = Driver::new(seed, number("ACTIONS").unwrap_or(2500), Broken::default()).run();
        println!("{seen:?}");
        return;
    }
    let from = number("FROM").unwrap_or(1);
    let mut all = Seen::default();
    for seed in from..from + number("SEEDS").unwrap_or(40) {
        let life = std::panic::catch_unwind(|| {
            Driver::new(seed, number("ACTIONS").unwrap_or(2500), Broken::default()).run()
        });
        match life {
            Ok(seen) => all.add(&seen),
            Err(why) => {
                eprintln!("seed {seed} fails");
                std::panic::resume_unwind(why);
            }
        }
    }
    println!("{all:?}");
}
