//! Many volumes on one node: what they cost while nobody uses them, and how they share when all are
//! used at once. They have a cluster of their own, so that one attached volume is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use lockstep_floor::cpu;
use lockstep_floor::report::{Report, Run, Samples};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cluster::Cluster;
use crate::interrupt;
use crate::load::{Client, Workload, used_by};
use crate::results::Figures;

/// Bytes of each volume: many must fit, and each must be more than one extent.
const SIZE: u64 = 8 << 20;
/// How many are attached at the same time.
const AT_ONCE: usize = 4;
/// How long the processor time of idle daemons is counted.
const IDLE: Duration = Duration::from_secs(10);
/// What a target reads.
pub const BUSIEST: &str = "processor of the busiest node, % of a core";

/// Volumes that are attached to node a1, each with a connection.
pub struct Crowd {
    cluster: Cluster,
    clients: Vec<Client>,
    /// Volumes whose blocks have all been written.
    full: usize,
}

impl Crowd {
    /// A cluster without volumes.
    pub fn start(program: PathBuf, directory: &Path, pool: &str) -> anyhow::Result<Self> {
        // A socket each, and the usual limit is 1,024.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )
        .context("cannot raise the number of open files")?;
        Ok(Self {
            cluster: Cluster::start(program, directory, pool)?,
            clients: Vec::new(),
            full: 0,
        })
    }

    /// What the daemons use with so many volumes attached and connected, and no request.
    pub fn idle(&mut self, count: usize) -> anyhow::Result<Figures> {
        self.grow(count)?;
        self.cluster.settle()?;
        let before = self.used()?;
        let begin = Instant::now();
        interrupt::sleep(IDLE)?;
        let (time, after) = (begin.elapsed().as_secs_f64(), self.used()?);
        let share = |name: &String| (after[name].0 - before[name].0) as f64 / 1e7 / time;
        let shares = || after.keys().map(share);
        let resident = || after.values().map(|it| it.1 as f64 / 1024.0);
        Ok(Figures::from([
            (BUSIEST.into(), shares().fold(0.0, f64::max)),
            (
                "processor of all nodes, % of a core".into(),
                shares().sum::<f64>(),
            ),
            (
                "memory of the largest node, MiB".into(),
                resident().fold(0.0, f64::max),
            ),
            ("memory of all nodes, MiB".into(), resident().sum()),
        ]))
    }

    /// So many volumes driven at once; all of them together, and how they share.
    pub fn many(&mut self, count: usize, workload: &Workload) -> anyhow::Result<(Report, Figures)> {
        self.grow(count)?;
        for client in self.clients.iter_mut().take(count).skip(self.full) {
            client.fill(SIZE)?;
        }
        self.full = self.full.max(count);
        self.cluster.settle()?;
        let pids = &self.cluster.pids;
        let clients = &mut self.clients[..count];
        let (driven, used, time) = std::thread::scope(|scope| {
            let lanes: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| client.measure(workload, &[], || false)))
                .collect();
            // A signal that comes meanwhile ends the lanes too.
            let _ = interrupt::sleep(Duration::from_secs_f64(workload.warm));
            let (before, begin) = (used_by(pids), Instant::now());
            let _ = interrupt::sleep(Duration::from_secs_f64(workload.seconds));
            let (after, time) = (used_by(pids), begin.elapsed());
            let driven: anyhow::Result<Vec<_>> = lanes
                .into_iter()
                .map(|lane| lane.join().expect("a lane does not panic"))
                .collect();
            (driven, before.and_then(|before| Ok((before, after?))), time)
        });
        let (driven, (before, after)) = (driven?, used?);
        let rates: Vec<f64> = driven
            .iter()
            .map(|it| it.samples.len() as f64 / it.time.as_secs_f64())
            .collect();
        let samples = driven.into_iter().flat_map(|it| it.samples).collect();
        let run = Run {
            what: format!(
                "NBD {} B random durable writes on {count} volumes at once",
                workload.block
            ),
            depth: workload.depth * count,
            time,
            bytes: workload.block as usize,
            files: 1,
            cpu_nanos: after.0 - before.0,
            written: after.1 - before.1,
            cpu_of: "all daemons; not the clients",
            pinned: Vec::new(),
        };
        Ok((Report::new(run, &Samples::new(samples)), shared(&rates)))
    }

    /// Attaches until there are so many.
    fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        let size = format!("{}MiB", SIZE >> 20);
        let more = count.saturating_sub(self.clients.len());
        if more > 8 {
            eprintln!("attaching {more} volumes more");
        }
        let first = self.clients.len();
        let next = AtomicUsize::new(first);
        let cluster = &self.cluster;
        // Each attachment is two processes and two decisions of the cluster: mostly waiting.
        let attach = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                interrupt::check()?;
                cluster.attach(&name(number), &size, "a=2,b=1")?;
                if (number + 1).is_multiple_of(100) {
                    eprintln!("{} volumes are attached", number + 1);
                }
            }
        };
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(attach)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("attaching does not panic"))
        })?;
        for number in first..count {
            let name = name(number);
            let socket = self.cluster.socket(&name);
            self.clients.push(Client::connect(&socket, &name)?);
        }
        Ok(())
    }

    /// Processor time in nanoseconds and KiB of memory, by node.
    fn used(&self) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
        let mut used = BTreeMap::new();
        for (name, pid) in self.cluster.running()? {
            let time = cpu::used_by(pid).with_context(|| format!("node {name} is gone"))?;
            used.insert(name, (time, resident(pid)?));
        }
        Ok(used)
    }
}

fn name(number: usize) -> String {
    format!("crowd{number}")
}

/// KiB of memory that a process has.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.with_context(|| format!("{path} does not tell the memory"))
}

/// How evenly the volumes were served.
fn shared(rates: &[f64]) -> Figures {
    let fastest = rates.iter().copied().fold(0.0, f64::max);
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = if fastest > 0.0 {
        slowest / fastest
    } else {
        0.0
    };
    Figures::from([
        ("slowest volume, IOPS".into(), slowest),
        ("fastest volume, IOPS".into(), fastest),
        ("slowest / fastest".into(), ratio),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_the_slowest_against_the_fastest() {
        let figures = shared(&[200.0, 100.0, 400.0]);
        assert_eq!(figures["slowest / fastest"], 0.25);
        assert_eq!(figures["slowest volume, IOPS"], 100.0);
        assert_eq!(shared(&[0.0, 0.0])["slowest / fastest"], 0.0);
    }

    #[test]
    fn we_take_memory() {
        assert!(resident(std::process::id()).expect("our own") > 100);
        assert!(resident(u32::MAX / 16).is_err());
    }
}
