//! When requests completed, and what that says of an event in between: how long nothing completed, and
//! how long it took until as much completed as before.

/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// The rate before an event is the median over windows of this length: one hiccup does not move it.
const WINDOW: u64 = 100 * MILLISECOND;
/// The full rate must hold for so many windows.
const HOLDS: usize = 5;
/// What counts as the full rate, of that before.
const FULL: f64 = 0.9;

/// Completions of one load, by time since its beginning in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Ascending.
    at: Vec<u64>,
    end: u64,
}

impl Timeline {
    /// Completions up to an end.
    pub fn new(mut at: Vec<u64>, end: u64) -> Self {
        at.sort_unstable();
        at.retain(|completed| *completed < end);
        Self { at, end }
    }

    /// Completions in each millisecond, from the beginning to the end.
    pub fn by_millisecond(&self) -> Vec<u32> {
        let mut counts = vec![0; self.end.div_ceil(MILLISECOND) as usize];
        for at in &self.at {
            counts[(at / MILLISECOND) as usize] += 1;
        }
        counts
    }

    /// The longest time without any completion that reaches into `from..to`, in nanoseconds. One that
    /// began before counts from its beginning.
    pub fn longest_stall(&self, from: u64, to: u64) -> u64 {
        let first = self.at.partition_point(|at| *at < from);
        let last = self.at.partition_point(|at| *at < to);
        let before = match first {
            0 => 0,
            n => self.at[n - 1],
        };
        let mut previous = before;
        let mut longest = 0;
        for at in &self.at[first..last] {
            longest = longest.max(at - previous);
            previous = *at;
        }
        // The one that is still going on at the end of the window.
        longest.max(to.min(self.end).saturating_sub(previous))
    }

    /// Completions a second, as a rule, in `from..to`.
    pub fn usual_rate(&self, from: u64, to: u64) -> f64 {
        let mut rates: Vec<f64> = (0..(to.saturating_sub(from)) / WINDOW)
            .map(|window| self.rate(from + window * WINDOW, 1))
            .collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }

    /// How long after `event` the rate is that of before again, in nanoseconds: from the first completion
    /// behind which it holds for half a second. None if it never does.
    pub fn full_again(&self, event: u64, usual: f64) -> Option<u64> {
        let first = self.at.partition_point(|at| *at < event);
        let span = HOLDS as u64 * WINDOW;
        // From the event itself, should nothing have changed at all.
        std::iter::once(event)
            .chain(self.at[first..].iter().copied())
            .take_while(|from| from + span <= self.end)
            .find(|from| self.rate(*from, HOLDS as u64) >= FULL * usual)
            .map(|from| from - event)
    }

    /// Completions a second in so many windows from there.
    fn rate(&self, from: u64, windows: u64) -> f64 {
        let to = from + windows * WINDOW;
        let inside =
            self.at.partition_point(|at| *at < to) - self.at.partition_point(|at| *at < from);
        inside as f64 * 1e9 / (windows * WINDOW) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1000 * MILLISECOND;

    /// One completion a millisecond for three seconds, but for a gap after the first.
    fn with_a_gap(millis: u64) -> Timeline {
        let completed = (0..3000).filter(|at| !(1000..1000 + millis).contains(at));
        Timeline::new(
            completed.map(|at| at * MILLISECOND).collect(),
            3000 * MILLISECOND,
        )
    }

    #[test]
    fn a_stall_is_as_long_as_nothing_completes() {
        let timeline = with_a_gap(400);
        let stall = timeline.longest_stall(SECOND, 3 * SECOND);
        assert_eq!(
            stall,
            401 * MILLISECOND,
            "from the last before to the first after"
        );
        let before = timeline.longest_stall(0, 900 * MILLISECOND);
        assert_eq!(before, MILLISECOND);
        // It reaches into a window that begins and ends inside it.
        let inside = timeline.longest_stall(1100 * MILLISECOND, 1200 * MILLISECOND);
        assert_eq!(inside, 201 * MILLISECOND);
    }

    #[test]
    fn a_load_that_never_goes_on_stalls_to_the_end() {
        let timeline = with_a_gap(2000);
        assert_eq!(
            timeline.longest_stall(SECOND, 3 * SECOND),
            2001 * MILLISECOND
        );
        assert_eq!(timeline.full_again(SECOND, 1000.0), None);
        assert_eq!(
            Timeline::new(Vec::new(), SECOND).longest_stall(0, SECOND),
            SECOND
        );
    }

    #[test]
    fn the_rate_is_full_when_it_holds() {
        let timeline = with_a_gap(400);
        assert_eq!(timeline.usual_rate(0, SECOND), 1000.0);
        // Nine tenths of half a second may reach 50 ms back into the gap, but begin at a completion.
        assert_eq!(timeline.full_again(SECOND, 1000.0), Some(400 * MILLISECOND));
        assert_eq!(with_a_gap(0).full_again(SECOND, 1000.0), Some(0));
    }

    #[test]
    fn every_completion_is_in_one_millisecond() {
        let counts = Timeline::new(
            vec![0, 1, MILLISECOND, 5 * MILLISECOND + 7],
            6 * MILLISECOND,
        )
        .by_millisecond();
        assert_eq!(counts, [2, 1, 0, 0, 0, 1]);
    }
}
