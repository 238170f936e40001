//! Makes a failing seed smaller before it is reported: fewer operations, faults, nodes, volumes.

use crate::run::{Config, Failure, Less, Words, run_seed};
use crate::world::plan::FAULT_KINDS;

/// A smaller run that still breaks the same invariant.
pub fn shrink(config: Config, failure: &Failure) -> Config {
    let mut best = Config {
        words: Words::Quiet,
        ..config
    };
    let fails = |less: Less| {
        let outcome = run_seed(Config {
            less,
            words: Words::Quiet,
            ..config
        });
        outcome.failure.is_some_and(|f| f.what == failure.what)
    };
    let mut keep = |less: Less| {
        let smaller = fails(less);
        if smaller {
            best.less = less;
        }
        smaller
    };
    let mut less = config.less;
    for change in [
        Less {
            few_nodes: true,
            ..less
        },
        Less {
            one_volume: true,
            ..less
        },
        Less {
            no_operator: true,
            ..less
        },
    ] {
        let tried = Less {
            few_nodes: less.few_nodes | change.few_nodes,
            one_volume: less.one_volume | change.one_volume,
            no_operator: less.no_operator | change.no_operator,
            ..less
        };
        if keep(tried) {
            less = tried;
        }
    }
    for kind in 0..FAULT_KINDS {
        let tried = Less {
            faults_off: less.faults_off | 1 << kind,
            ..less
        };
        if tried != less && keep(tried) {
            less = tried;
        }
    }
    for operations in [2, 5, 10, 20, 50, 100, 200] {
        let tried = Less { operations, ..less };
        if keep(tried) {
            break;
        }
    }
    Config {
        words: config.words,
        ..best
    }
}
