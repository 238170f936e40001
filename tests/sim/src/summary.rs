//! What many seeds came to, for people.

use crate::coverage::Coverage;
use crate::run::{Config, Outcome};
use lockstep_types::SECOND;
use std::fmt::Write;
use std::time::Instant;

/// What the default mix must reach; a counter that stays 0 is a hole.
pub const EXPECTED: &[&str] = &[
    "client: corrupt",
    "client: device appeared",
    "client: device fenced",
    "client: device open",
    "client: device suspended",
    "client: discard",
    "client: fenced",
    "client: no space",
    "client: read",
    "client: request reissued",
    "client: write",
    "client: write zeroes",
    "compare: a pass ended",
    "compare: extents compared",
    "control: command applied",
    "control: command refused",
    "control: cordoned node spared",
    "control: leader elected",
    "control: new log bound",
    "control: old log released",
    "control: proposal given up",
    "control: proposal refused or unknown",
    "control: reconfigured",
    "control: snapshot taken",
    "control: voters being replaced",
    "control: voters replaced",
    "disk: late write of a killed process",
    "disk: operation on a dead device",
    "fault: clocks drift",
    "fault: device failed for a while",
    "fault: device failed for good",
    "fault: device swapped",
    "fault: floor update lost",
    "fault: join interrupted twice",
    "fault: link between two sites cut",
    "fault: lost write",
    "fault: misdirected write",
    "fault: one node isolated",
    "fault: one-way loss",
    "fault: pause longer than a lease",
    "fault: power loss",
    "fault: process killed",
    "fault: process paused",
    "fault: raft log failed",
    "fault: raft log lost",
    "fault: raft log of the witness lost",
    "fault: random cuts",
    "fault: rot",
    "fault: rot under cold blocks",
    "fault: site isolated",
    "fault: site power loss",
    "fault: slow device",
    "fault: slow for long",
    "fault: unreadable sector",
    "fault: whole cluster power loss",
    "it is far slower than its peers",
    "it lost its data",
    "it missed its beacons",
    "its device failed",
    "its link is down",
    "its oldest write is overdue",
    "liveness: a node stays dead",
    "liveness: a volume waits for lost copies",
    "liveness: everything served",
    "log: append interrupted",
    "log: torn tail dropped",
    "net: connected",
    "net: link lost",
    "net: link replaced",
    "node: other event",
    "node: pool failed",
    "node: pool recovered",
    "node: pool recovered corrupt",
    "node: pool that failed noted as suspect",
    "operator: attach beside an old device",
    "operator: attach beside an old device with requests held",
    "operator: attach refused",
    "operator: attached",
    "operator: copy added",
    "operator: copy moved",
    "operator: copy removed",
    "operator: detached by force",
    "operator: detached cleanly",
    "operator: device of a deleted volume taken away",
    "operator: node cordoned",
    "operator: node uncordoned",
    "operator: placement refused",
    "operator: pod moves",
    "operator: policy changed",
    "operator: publication of a lost device ended",
    "operator: volume deleted",
    "operator: volume given up",
    "operator: volume grows",
    "operator: volume made in place of a deleted one",
    "power cut: sector of garbage",
    "power cut: write dropped",
    "power cut: write kept",
    "power cut: write torn",
    "quiescence: copies compared",
    "reached: SEAL during a flush",
    "repair: blocks repaired",
    "resync: progress",
    "resync: started",
    "resync: verified",
    "scrub: everything repaired",
    "scrub: found and repaired",
    "store: copied",
    "store: corrupt read refused",
    "store: corruption reported",
    "store: device failed",
    "store: full",
    "store: journal corrupt",
    "store: killed",
    "store: overwrite read back",
    "store: payload imitates the journal",
    "store: power cut",
    "store: record rolled forward",
    "store: recovered",
    "store: replica gapped",
    "store: replica torn",
    "store: tail voided",
    "store: torn batch dropped",
    "volume: closed",
    "volume: evicting",
    "volume: in-sync set changed",
    "volume: opened",
    "volume: opened after rolling a tail",
    "volume: waiting",
];

/// Counters that the mix need not reach, and why.
pub const EXEMPT: &[(&str, &str)] = &[
    (
        "operator: control plane rebuilt",
        "`rebuilt-from-a-stale-log` alone: a person's mistake",
    ),
    ("operator: promoted by force", "likewise"),
    ("control: barred log set aside", "likewise"),
    (
        "store: copy refused",
        "rare: the extent is written between the drawing of a copy and its arrival",
    ),
    (
        "node: pool recovered with a torn batch",
        "one world in a thousand: what tears is mostly the header; `torn-and-alone` and others tear payloads",
    ),
    (
        "client: not open",
        "a request waits until its volume is open",
    ),
    (
        "compare: copies differ",
        "a lost write mostly meets the journal; scenarios of lost writes meet the data",
    ),
    ("compare: lost write found", "likewise"),
    (
        "compare: lost write counted by its node",
        "follows `lost write found`, unless the node is away",
    ),
    ("disk: lying flush", "over budget"),
    (
        "disk: read saw a write in flight",
        "the store reads nothing that it is writing",
    ),
    (
        "log: creation interrupted",
        "a segment lasts for longer than most seeds",
    ),
    (
        "log: page cache lost",
        "rare: a kill in an append, and the power before the next",
    ),
    (
        "operator: attached too late",
        "rare: a pause between the question and the answer",
    ),
    ("over budget: a liar stood alone", "over budget"),
    (
        "power cut: write lost that was called durable",
        "over budget",
    ),
    ("record: command applied", "scenario `record`"),
    ("record: command refused", "scenario `record`"),
    ("script: append spoiled", "named scenarios"),
    (
        "script: exchanged for an incomplete copy",
        "named scenarios",
    ),
    ("script: last batch torn", "named scenarios"),
    ("script: died after a seal", "named scenarios"),
    ("script: died after an acknowledgement", "named scenarios"),
    ("script: died rolling a tail", "named scenarios"),
    ("script: held request issued", "named scenarios"),
    ("script: older blocks put back", "named scenarios"),
    (
        "store: last batch lost beyond the mark",
        "scripts of the store",
    ),
    ("store: payload forges a header", "named scenarios"),
    ("store: power cut at a step", "named scenarios"),
    ("store: replica lost", "named scenarios"),
    ("store: void under a read", "named scenarios"),
];

/// Sums over outcomes.
#[derive(Debug)]
pub struct Summary {
    started: Instant,
    /// CPU seconds that this process had used by then.
    used: f64,
    seeds: u64,
    failed: u64,
    events: u64,
    operations: u64,
    simulated: u128,
    coverage: Coverage,
}

impl Summary {
    /// Begins to count.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            used: cpu_seconds().unwrap_or(0.0),
            seeds: 0,
            failed: 0,
            events: 0,
            operations: 0,
            simulated: 0,
            coverage: Coverage::default(),
        }
    }

    /// One more seed.
    pub fn add(&mut self, _config: &Config, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.failure.is_some());
        self.events += outcome.events;
        self.operations += outcome.operations;
        self.simulated += u128::from(outcome.simulated);
        self.coverage.merge(&outcome.coverage);
    }

    /// What was reached.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// What the mix must reach and these runs did not.
    pub fn holes(&self) -> Vec<&'static str> {
        self.coverage.holes(EXPECTED)
    }

    /// One line.
    pub fn progress(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        format!(
            "{} seeds ({:.1}/s), {} failed, {} client operations, {:.1} simulated hours",
            self.seeds,
            self.seeds as f64 / seconds,
            self.failed,
            self.operations,
            self.hours()
        )
    }

    /// The end.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (what, n) in self.coverage.iter() {
            let _ = writeln!(text, "  {what:<48} {n:>12}");
        }
        for hole in self.holes() {
            let _ = writeln!(text, "  {hole:<48}         HOLE: never reached");
        }
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let cpu = cpu_seconds().map_or(seconds, |now| now - self.used);
        let _ = write!(
            text,
            "{} seeds, {} failed, {:.1} simulated hours, {} events, {} client operations ({:.0} a CPU second), {seconds:.0} s",
            self.seeds,
            self.failed,
            self.hours(),
            self.events,
            self.operations,
            self.operations as f64 / cpu.max(0.001),
        );
        text
    }

    fn hours(&self) -> f64 {
        (self.simulated / u128::from(SECOND)) as f64 / 3600.0
    }
}

/// CPU time of this process so far: the sum of user and system ticks of /proc/self/stat.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}
