//! Every time span and bound of the protocol, in one place.

use lockstep_types::{DRIFT_PER_CENT, Nanos, millis, seconds};

/// Time spans and bounds. The defaults are those of safety.md.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Timings {
    /// Between two beacons to a node.
    pub beacon: Nanos,
    /// L: how long an acknowledged beacon is good for, from its sending (R13).
    pub lease: Nanos,
    /// The oldest unacknowledged write of a member before it is evicted.
    pub write_age: Nanos,
    /// Beacons missed before a member is evicted.
    pub beacons_missed: u64,
    /// From a closed link to the eviction, if no new hello comes.
    pub link_grace: Nanos,
    /// No answer to SEAL for so long is "unreachable".
    pub seal_silence: Nanos,
    /// The same for peers never seen since this process started.
    pub start_grace: Nanos,
    /// A copy gives up its place in the overlap order after this (R16).
    pub copy_hold: Nanos,
    /// Before anything that failed is tried again.
    pub retry: Nanos,
    /// Bytes of records above the floor, at most.
    pub window: u64,
    /// Extents asked for at a time (R7).
    pub reserve_step: u32,
    /// Extents in work at a time during a resync, at most.
    pub copies: usize,
    /// A pool is read whole once in this time, and what does not match its checksum repaired.
    pub scrub_pass: Nanos,
    /// A volume's copies are compared with each other once in this time (R17); 0: never.
    pub compare_pass: Nanos,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            beacon: millis(500),
            lease: seconds(3),
            write_age: seconds(2),
            beacons_missed: 3,
            link_grace: millis(500),
            seal_silence: seconds(3),
            start_grace: seconds(30),
            copy_hold: millis(100),
            retry: millis(200),
            window: 1 << 20,
            reserve_step: 64,
            copies: 4,
            scrub_pass: seconds(7 * 24 * 3600),
            compare_pass: seconds(7 * 24 * 3600),
        }
    }
}

impl Timings {
    /// How long after a grant the lease has certainly run out on the primary's clock, measured on
    /// the granter's: L(1+d)/(1−d) (R13).
    pub fn clear_after(&self) -> Nanos {
        self.lease * (100 + DRIFT_PER_CENT) / (100 - DRIFT_PER_CENT) + 1
    }
}
