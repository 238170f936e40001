//! Slow is a kind of dead: the soft rule. A member whose 99th percentile of write latency stands far
//! above its peers' for three windows running is proposed for removal, within limits (safety.md).

use lockstep_types::{Nanos, ReplicaId, millis, seconds};
use std::collections::BTreeMap;

/// One window of observation.
const WINDOW: Nanos = seconds(30);
/// Windows running before a member is called slow.
const STRIKES: u32 = 3;
/// Samples in a window below which nothing is said.
const ENOUGH: u64 = 100;

/// Latencies of the members, on the write path itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Slow {
    window_ends: Nanos,
    members: BTreeMap<ReplicaId, Latencies>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Latencies {
    /// Samples by the power of two of their microseconds.
    buckets: [u64; 32],
    strikes: u32,
}

impl Slow {
    /// A member acknowledged a write after so long.
    pub fn observe(&mut self, replica: ReplicaId, latency: Nanos) {
        let micros = latency / 1000;
        let bucket = (64 - micros.leading_zeros()).min(31) as usize;
        self.members.entry(replica).or_default().buckets[bucket] += 1;
    }

    /// Forgets a member.
    pub fn forget(&mut self, replica: ReplicaId) {
        self.members.remove(&replica);
    }

    /// At the end of a window: who has been slow for three of them.
    pub fn judge(&mut self, now: Nanos) -> Option<ReplicaId> {
        if self.window_ends == 0 {
            self.window_ends = now + WINDOW;
        }
        if now < self.window_ends {
            return None;
        }
        self.window_ends = now + WINDOW;
        let p99: Vec<(ReplicaId, Nanos)> = self
            .members
            .iter()
            .filter_map(|(id, l)| l.p99().map(|p| (*id, p)))
            .collect();
        let mut verdict = None;
        for (id, own) in &p99 {
            let mut peers: Vec<Nanos> = p99
                .iter()
                .filter(|(other, _)| other != id)
                .map(|(_, p)| *p)
                .collect();
            peers.sort_unstable();
            let Some(median) = peers.get(peers.len() / 2) else {
                continue;
            };
            let member = self.members.get_mut(id).expect("listed above");
            if *own > (5 * median).max(millis(50)) {
                member.strikes += 1;
                if member.strikes >= STRIKES {
                    verdict = Some(*id);
                }
            } else {
                member.strikes = 0;
            }
        }
        for member in self.members.values_mut() {
            member.buckets = [0; 32];
        }
        verdict
    }
}

impl Latencies {
    /// Upper bound of the bucket of the 99th percentile.
    fn p99(&self) -> Option<Nanos> {
        let total: u64 = self.buckets.iter().sum();
        if total < ENOUGH {
            return None;
        }
        let mut left = total / 100;
        for (power, count) in self.buckets.iter().enumerate().rev() {
            if *count > left {
                return Some((1u64 << power) * 1000);
            }
            left -= count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_windows_make_a_member_slow() {
        let mut slow = Slow::default();
        let ids: Vec<_> = (1..=3).map(ReplicaId::from_u128).collect();
        let mut now = 0;
        assert_eq!(slow.judge(now), None);
        for window in 1..=3 {
            for _ in 0..200 {
                slow.observe(ids[0], millis(1));
                slow.observe(ids[1], millis(1));
                slow.observe(ids[2], millis(400));
            }
            now += WINDOW;
            assert_eq!(slow.judge(now), (window == 3).then_some(ids[2]));
        }
    }

    #[test]
    fn all_slow_is_the_load() {
        let mut slow = Slow::default();
        let ids: Vec<_> = (1..=3).map(ReplicaId::from_u128).collect();
        let mut now = 0;
        slow.judge(now);
        for _ in 0..6 {
            for id in &ids {
                (0..200).for_each(|_| slow.observe(*id, millis(300)));
            }
            now += WINDOW;
            assert_eq!(slow.judge(now), None);
        }
    }
}
