//! What happened, for people: a bounded ring in the state. Nothing is decided by it.

use lockstep_types::{NodeId, VolumeId};
use std::collections::VecDeque;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// As asked for.
    Info,
    /// Redundancy is less than asked for, or someone waits.
    Warning,
    /// An operator overrode a rule.
    Forced,
}

/// Something that a committed command did.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Event {
    /// The entry.
    pub index: u64,
    /// The proposer's clock.
    pub at_unix_ms: u64,
    /// How much it matters.
    pub severity: Severity,
    /// The volume, if one is meant.
    pub volume: Option<VolumeId>,
    /// The node, if one is meant.
    pub node: Option<NodeId>,
    /// In words.
    pub text: String,
}

/// Events, oldest first; the oldest go when the ring is full.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Events {
    pub(crate) ring: VecDeque<Event>,
    pub(crate) limit: usize,
    pub(crate) forgotten: u64,
}

impl Events {
    /// The last thousand of everything.
    pub(crate) fn recent() -> Self {
        Self {
            ring: VecDeque::new(),
            limit: 1024,
            forgotten: 0,
        }
    }

    /// Forced recoveries.
    pub(crate) fn audit() -> Self {
        Self {
            ring: VecDeque::new(),
            limit: 512,
            forgotten: 0,
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        if self.ring.len() == self.limit {
            self.ring.pop_front();
            self.forgotten += 1;
        }
        self.ring.push_back(event);
    }

    /// Those of entries after `index`, oldest first.
    pub fn after(&self, index: u64) -> impl Iterator<Item = &Event> {
        self.ring.iter().filter(move |event| event.index > index)
    }

    /// All that are kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.ring.iter()
    }

    /// How many were pushed out.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
