//! The deterministic simulator: one seed builds a world, runs the production cores in it, injects
//! faults, and checks every invariant after every step. docs/testing.md says what that proves.
#![forbid(unsafe_code)]

/// Prints a line, and ends quietly when nobody reads any more: stories are long, and are looked at through `head`.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        if ::std::io::Write::write_fmt(
            &mut ::std::io::stdout(),
            format_args!("{}\n", format_args!($($words)*)),
        )
        .is_err()
        {
            ::std::process::exit(0);
        }
    };
}

pub mod clock;
pub mod control;
pub mod coverage;
pub mod disk;
pub mod gate;
pub mod invariants;
pub mod ledger;
pub mod model;
pub mod mutation;
pub mod net;
pub mod queue;
pub mod record_world;
pub mod rng;
pub mod run;
pub mod scenarios;
pub mod shrink;
pub mod stamp;
pub mod store_world;
pub mod summary;
pub mod trace;
pub mod words;
pub mod world;

/// Worlds make and drop small buffers all day: a seed takes a quarter less CPU with this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
