//! The lease, as its granter remembers it.

use crate::Timings;
use lockstep_types::Nanos;

/// When a replica last let a remote primary believe that it may serve.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    last: Option<Nanos>,
}

impl Grant {
    /// After a start: what was granted before is forgotten, so it counts as granted now (R13).
    pub fn at_start(now: Nanos) -> Self {
        Self { last: Some(now) }
    }

    /// A replica that never existed before has granted nothing.
    pub fn never() -> Self {
        Self { last: None }
    }

    /// A beacon of a remote primary was granted.
    pub fn granted(&mut self, now: Nanos) {
        self.last = Some(now);
    }

    /// The primary gave its lease up.
    pub fn released(&mut self) {
        self.last = None;
    }

    /// How long until the last grant has certainly run out.
    pub fn clear_in(&self, now: Nanos, timings: &Timings) -> Nanos {
        self.last
            .map_or(0, |last| (last + timings.clear_after()).saturating_sub(now))
    }
}
