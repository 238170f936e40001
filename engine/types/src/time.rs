//! Time as the cores see it: nanoseconds of CLOCK_BOOTTIME, handed in by the shell.

/// Nanoseconds since the machine's boot, or a length of time.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Clocks of two nodes drift apart by at most this many per cent (R13).
pub const DRIFT_PER_CENT: u64 = 1;

/// Whole seconds.
pub const fn seconds(n: u64) -> Nanos {
    n * SECOND
}

/// Whole milliseconds.
pub const fn millis(n: u64) -> Nanos {
    n * 1_000_000
}
