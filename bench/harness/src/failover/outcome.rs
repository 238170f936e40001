//! What a failure did to a load: figures from its timeline, as a table and as pictures.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::results::{Machine, VERSION};
use crate::timeline::{MILLISECOND, Timeline};
use crate::timeline_plot::TimelineChart;

/// Milliseconds that a point of the whole picture stands for.
const STEP: usize = 50;
/// The same of the close-up.
const FINE: usize = 5;
/// Milliseconds that the close-up shows before the kill, and at least after it.
const CLOSE: (usize, usize) = (200, 1000);

/// All that one run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failovers {
    /// See [`VERSION`].
    pub version: u32,
    /// Where.
    pub machine: Machine,
    /// What load there was.
    pub load: String,
    /// One after the other.
    pub outcomes: Vec<Outcome>,
}

/// When things happened, in nanoseconds since the load began.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Moments {
    /// The load was as usual from here on.
    pub warm: u64,
    /// The signals were sent.
    pub killed: u64,
    /// The daemons were started again.
    pub back: u64,
    /// A copy was first seen to be resynced, or to be in sync already.
    pub resync: u64,
    /// All copies were in sync.
    pub healthy: u64,
}

/// What one failure did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What was killed, in words.
    pub event: String,
    /// The same, where files are named.
    pub name: String,
    /// The nodes.
    pub nodes: Vec<String>,
    /// When what happened.
    pub moments: Moments,
    /// Writes a second before the kill.
    pub usual_rate: f64,
    /// Longest time without a completion before the kill, in milliseconds: what else the machine does.
    pub stall_before_ms: f64,
    /// The same from the kill on, until the nodes came back.
    pub stall_ms: f64,
    /// Seconds from the kill until the rate was that of before.
    pub full_rate_s: Option<f64>,
    /// Longest time without a completion from the return of the nodes on.
    pub stall_back_ms: f64,
    /// Rate while copies were brought up to date, of that before the kill; none if it took no time.
    pub rate_in_resync: Option<f64>,
    /// Seconds from all copies being in sync until the rate was that of before the kill.
    pub full_rate_back_s: Option<f64>,
    /// Seconds from the return of the nodes until the first sign of a resync.
    pub resync_begins_s: f64,
    /// Seconds from there until all copies were in sync.
    pub resync_s: f64,
    /// Bytes that had to be copied.
    pub resync_bytes: u64,
    /// Bytes written while the nodes were away.
    pub written_meanwhile: u64,
    /// Completions in each millisecond of the load.
    pub completions: Vec<u32>,
}

/// What was struck.
pub struct Event {
    /// See [`Outcome`].
    pub event: String,
    /// See [`Outcome`].
    pub name: &'static str,
    /// See [`Outcome`].
    pub nodes: Vec<String>,
}

impl Outcome {
    /// Figures from a timeline.
    pub fn new(
        event: &Event,
        moments: Moments,
        timeline: &Timeline,
        end: u64,
        resync_bytes: u64,
        block: u32,
    ) -> Self {
        let Moments {
            warm,
            killed,
            back,
            resync,
            healthy,
        } = moments;
        let usual = timeline.usual_rate(warm, killed);
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let completions = timeline.by_millisecond();
        let index = |nanos: u64| ((nanos / MILLISECOND) as usize).min(completions.len());
        let done = |from: u64, to: u64| -> u64 {
            let counts = &completions[index(from)..index(to).max(index(from))];
            counts.iter().map(|count| u64::from(*count)).sum()
        };
        let written_meanwhile = done(killed, back) * u64::from(block);
        let took = seconds(healthy.saturating_sub(resync));
        let in_resync = done(resync, healthy) as f64;
        let rate_in_resync = (took > 0.0 && usual > 0.0).then(|| in_resync / took / usual);
        Self {
            event: event.event.clone(),
            name: event.name.to_owned(),
            nodes: event.nodes.clone(),
            moments,
            usual_rate: usual,
            stall_before_ms: millis(timeline.longest_stall(warm, killed)),
            stall_ms: millis(timeline.longest_stall(killed, back)),
            full_rate_s: timeline.full_again(killed, usual).map(seconds),
            stall_back_ms: millis(timeline.longest_stall(back, end)),
            rate_in_resync,
            full_rate_back_s: timeline.full_again(healthy, usual).map(seconds),
            resync_begins_s: seconds(resync.saturating_sub(back)),
            resync_s: took,
            resync_bytes,
            written_meanwhile,
            completions,
        }
    }

    /// The whole, and the moment of the kill from near.
    pub fn charts(&self, number: usize) -> [TimelineChart; 2] {
        let milli = |nanos: u64| nanos as f64 / 1e6;
        let marks = vec![
            (milli(self.moments.killed), "killed"),
            (milli(self.moments.back), "started again"),
            (milli(self.moments.healthy), "all copies in sync"),
        ];
        let killed = milli(self.moments.killed) as usize;
        let whole = TimelineChart {
            file: format!("failover-{}-{number}", self.name),
            title: format!("{}: writes around it", self.event),
            counts: self.completions.clone(),
            step: STEP,
            from: 0,
            to: self.completions.len(),
            zero: milli(self.moments.killed),
            marks: marks.clone(),
        };
        let after = CLOSE.1.max(self.stall_ms as usize * 2);
        let near = TimelineChart {
            file: format!("failover-{}-{number}-near", self.name),
            title: format!("{}: from near", self.event),
            counts: self.completions.clone(),
            step: FINE,
            from: killed.saturating_sub(CLOSE.0),
            to: (killed + after).min(self.completions.len()),
            zero: milli(self.moments.killed),
            marks,
        };
        [whole, near]
    }
}

impl Failovers {
    /// None yet.
    pub fn new(machine: Machine, load: String) -> Self {
        Self {
            version: VERSION,
            machine,
            load,
            outcomes: Vec::new(),
        }
    }

    /// As Markdown.
    pub fn render(&self) -> String {
        let mut text = format!(
            "Stalls are the longest times without any completion, of {}. The full rate is nine tenths of that \
             before the kill, held for half a second; a dash: not reached.\n\n\
             | what | writes/s before | stall before, ms | stall at the kill, ms | full rate after, s \
             | stall at the return, ms | resync begins after, s | resync takes, s | rate meanwhile \
             | full rate after that, s \
             | copied, MiB | written meanwhile, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            self.load
        );
        let seconds = |value: Option<f64>| value.map_or_else(|| "–".into(), |s| format!("{s:.2}"));
        let share =
            |value: Option<f64>| value.map_or_else(|| "–".into(), |it| format!("{it:.2} ×"));
        for it in &self.outcomes {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {:.2} | {:.2} | {} | {} | {:.1} | {:.1} |",
                it.event,
                it.usual_rate,
                it.stall_before_ms,
                it.stall_ms,
                seconds(it.full_rate_s),
                it.stall_back_ms,
                it.resync_begins_s,
                it.resync_s,
                share(it.rate_in_resync),
                seconds(it.full_rate_back_s),
                mib(it.resync_bytes),
                mib(it.written_meanwhile),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = MILLISECOND;

    fn outcome() -> Outcome {
        let event = Event {
            event: "kill -9 of node a2".into(),
            name: "secondary",
            nodes: vec!["a2".into()],
        };
        let moments = Moments {
            warm: 0,
            killed: 1000 * MS,
            back: 3000 * MS,
            resync: 3200 * MS,
            healthy: 3700 * MS,
        };
        // Two a millisecond, none for 300 ms behind the kill.
        let at = (0..10_000)
            .map(|n| n * MS / 2)
            .filter(|at| !(1000 * MS..1300 * MS).contains(at));
        let timeline = Timeline::new(at.collect(), 5000 * MS);
        Outcome::new(&event, moments, &timeline, 5000 * MS, 1 << 20, 4096)
    }

    #[test]
    fn figures_follow_from_the_timeline() {
        let it = outcome();
        assert_eq!(it.usual_rate, 2000.0);
        assert_eq!(it.stall_before_ms, 0.5);
        assert_eq!(it.stall_ms, 300.5);
        assert_eq!(it.full_rate_s, Some(0.3));
        assert_eq!(it.stall_back_ms, 0.5);
        assert_eq!(it.rate_in_resync, Some(1.0));
        assert_eq!(it.full_rate_back_s, Some(0.0));
        assert_eq!(it.resync_begins_s, 0.2);
        assert_eq!(it.resync_s, 0.5);
        assert_eq!(it.written_meanwhile, 1700 * 2 * 4096);
    }

    #[test]
    fn the_table_and_the_pictures_show_them() {
        let machine = Machine::default();
        let mut all = Failovers::new(machine, "4k writes".into());
        all.outcomes.push(outcome());
        let text = all.render();
        let row = "| kill -9 of node a2 | 2000 | 0 | 300 | 0.30 | 0 | 0.20 | 0.50 | 1.00 × | 0.00 | 1.0 | 13.3 |";
        assert!(text.contains(row), "{text}");
        let [whole, near] = outcome().charts(1);
        assert_eq!((whole.from, whole.to), (0, 5000));
        assert_eq!((near.from, near.to, near.step), (800, 2000, FINE));
    }
}
