//! Latencies into figures, figures onto the screen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// "replicate", "raw" and how.
    pub what: String,
    /// Requests in flight.
    pub depth: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Requests completed in that time; with several files, per file.
    pub requests: u64,
    /// Per second.
    pub iops: f64,
    /// MB (10^6 bytes) per second.
    pub megabytes: f64,
    /// Latencies in µs.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// See `p50`.
    pub max: f64,
    /// Processor time per request in core-µs.
    pub cpu: f64,
    /// Whose processor time that is.
    pub cpu_of: String,
    /// KiB written to disks per request by the same processes.
    pub written: f64,
    /// CPUs the processes were bound to, in the order of `--pin`; empty: anywhere.
    pub pinned: Vec<usize>,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
}

/// Latencies of all lanes in nanoseconds.
pub struct Samples(Vec<u64>);

impl Samples {
    /// Sorts them.
    pub fn new(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        Self(nanos)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The value that a share of them does not exceed, in µs; 0 without samples.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0
            .get(rank.saturating_sub(1))
            .map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    }
}

/// What [`Report::new`] cannot find out itself.
pub struct Run {
    /// See [`Report`].
    pub what: String,
    /// See [`Report`].
    pub depth: usize,
    /// Measured time.
    pub time: Duration,
    /// Bytes of a request.
    pub bytes: usize,
    /// Files written side by side: throughput is given per file.
    pub files: u64,
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Whose.
    pub cpu_of: &'static str,
    /// Bytes written by them.
    pub written: u64,
    /// See [`Report`].
    pub pinned: Vec<usize>,
}

impl Report {
    /// Figures from samples.
    pub fn new(run: Run, samples: &Samples) -> Self {
        let seconds = run.time.as_secs_f64();
        let requests = samples.count() / run.files;
        let iops = requests as f64 / seconds;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            what: run.what,
            depth: run.depth,
            seconds,
            requests,
            iops,
            megabytes: iops * run.bytes as f64 / 1e6,
            p50: samples.quantile(0.5),
            p99: samples.quantile(0.99),
            p999: samples.quantile(0.999),
            max: samples.quantile(1.0),
            cpu: run.cpu_nanos as f64 / 1000.0 / samples.count().max(1) as f64,
            written: run.written as f64 / 1024.0 / samples.count().max(1) as f64,
            cpu_of: run.cpu_of.to_owned(),
            pinned: run.pinned,
            cpus: crate::cpu::count(),
            kernel: kernel.trim().to_owned(),
        }
    }

    /// To standard output.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("{}, depth {}, {:.1} s", self.what, self.depth, self.seconds);
        println!("  {:>9.0} IOPS   {:>8.1} MB/s", self.iops, self.megabytes);
        println!(
            "  p50 {:.0} µs   p99 {:.0}   p99.9 {:.0}   max {:.0}",
            self.p50, self.p99, self.p999, self.max
        );
        println!(
            "  {:.1} core-µs and {:.1} KiB written a request ({})",
            self.cpu, self.written, self.cpu_of
        );
        match &self.pinned[..] {
            [] => println!("  {} CPUs, not pinned, kernel {}", self.cpus, self.kernel),
            pinned => println!(
                "  {} CPUs, pinned {pinned:?}, kernel {}",
                self.cpus, self.kernel
            ),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact() {
        let samples = Samples::new((1..=1000).rev().map(|n| n * 1000).collect());
        assert_eq!(samples.quantile(0.5), 500.0);
        assert_eq!(samples.quantile(0.99), 990.0);
        assert_eq!(samples.quantile(0.999), 999.0);
        assert_eq!(samples.quantile(1.0), 1000.0);
        assert_eq!(Samples::new(Vec::new()).quantile(0.5), 0.0);
    }
}
