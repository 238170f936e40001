//! What the runs reached. A counter that stays 0 is a hole in the simulator, and is printed as one.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One more.
    pub fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// So many more.
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// How many.
    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Takes in those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (what, n) in &other.counts {
            self.add(what, *n);
        }
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(what, n)| (*what, *n))
    }

    /// Those of `expected` that were never reached.
    pub fn holes(&self, expected: &[&'static str]) -> Vec<&'static str> {
        expected
            .iter()
            .filter(|what| self.get(what) == 0)
            .copied()
            .collect()
    }
}
