//! The whole measurement: floors and Lockstep, interleaved, so that what moves the machine moves
//! all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lockstep_floor::report::Report;

use crate::cluster::Cluster;
use crate::floor::Floor;
use crate::load::{Client, Workload};
use crate::peer::{self, Quorum};
use crate::plan::{self, Extent, Measurement, PEER, VOLUMES, What};
use crate::plot;
use crate::results::Results;
use crate::table;

/// Options of `lockstep-bench run`.
#[derive(clap::Args)]
pub struct Options {
    /// Where clusters and files go: a directory on the disk to be measured, which must not exist.
    #[arg(long)]
    dir: PathBuf,
    /// Keep the results here as `results.json` and `results.md`; what is measured is there at once, and
    /// stays if the run is ended.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Seconds of load before each measurement of Lockstep. With a small pool (its journal is an
    /// eighth of it) long enough for the journal to go round ten times: the sustained rate.
    #[arg(long, default_value_t = 1)]
    warm: u64,
    /// Size of each node's pool.
    #[arg(long, default_value = "4GiB")]
    pool: String,
    /// MiB of the volumes that are used.
    #[arg(long, default_value_t = 256)]
    set: u64,
    /// How often everything is measured; medians are kept.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Every size, kind and depth, not only what the targets ask for.
    #[arg(long)]
    full: bool,
    /// Only these measurements, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The `lockstep` binary; the one beside this program when not given.
    #[arg(long)]
    lockstep: Option<PathBuf>,
    /// The `lockstep-floor` binary; the one beside this program when not given.
    #[arg(long)]
    floor: Option<PathBuf>,
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        !options.dir.exists(),
        "{} exists; name a directory that is to be made and removed",
        options.dir.display()
    );
    let mut plan = chosen(options)?;
    if let Some(why) = peer::unavailable() {
        let asked = |it: &Measurement| options.only.contains(&it.name);
        let wanted = plan.iter().any(|it| is_of_peer(it) && asked(it));
        ensure!(!wanted, "{why}");
        eprintln!("{why}");
        plan.retain(|it| !is_of_peer(it));
    }
    std::fs::create_dir_all(&options.dir)?;
    let scratch = Scratch(options.dir.clone());
    let results = measure(options, &plan, &scratch.0)?;
    let text = table::render(&results);
    println!("{text}");
    if let Some(out) = &options.out {
        std::fs::write(out.join("results.md"), &text)?;
        let pictures = plot::draw(&results, out)?;
        eprintln!(
            "kept in {}: results.json, results.md, and as SVG and PNG: {}",
            out.display(),
            pictures.join(", ")
        );
    }
    Ok(())
}

/// What is to be measured.
fn chosen(options: &Options) -> anyhow::Result<Vec<Measurement>> {
    let extent = Extent {
        seconds: options.seconds,
        warm: options.warm,
        set: options.set << 20,
    };
    if options.only.is_empty() && !options.full {
        return Ok(plan::targets(extent));
    }
    let mut plan = plan::full(extent);
    for name in &options.only {
        ensure!(
            plan.iter().any(|known| known.name == *name),
            "no measurement is called '{name}'; there are: {}",
            plan.iter()
                .map(|known| known.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    plan.retain(|known| options.only.is_empty() || options.only.contains(&known.name));
    Ok(plan)
}

fn measure(options: &Options, plan: &[Measurement], directory: &Path) -> anyhow::Result<Results> {
    let beside = |given: &Option<PathBuf>, name: &str| match given {
        Some(path) => Ok(path.clone()),
        None => std::env::current_exe().map(|own| own.with_file_name(name)),
    };
    let floor = Floor::new(beside(&options.floor, "lockstep-floor")?, directory)?;
    let lockstep = beside(&options.lockstep, "lockstep")?;
    let cluster = Cluster::start(lockstep, &directory.join("cluster"), &options.pool)?;
    let bytes = options.set << 20;
    let mut clients = BTreeMap::new();
    for (volume, copies) in VOLUMES {
        if plan.iter().any(|it| it.what.export() == Some(volume)) {
            let size = format!("{}MiB", options.set);
            let socket = cluster.attach(volume, &size, copies)?;
            clients.insert(volume, Client::connect(&socket, volume)?);
        }
    }
    // Beside the others from the beginning: it costs nothing while it is not asked.
    let quorum = match plan.iter().any(is_of_peer) {
        true => Some(Quorum::start(&directory.join(PEER), bytes)?),
        false => None,
    };
    if let Some(quorum) = &quorum {
        clients.insert(PEER, Client::connect(&quorum.socket, "")?);
    }
    for client in clients.values_mut() {
        client.fill(bytes)?;
    }
    let peers = quorum.as_ref().map(Quorum::pids).unwrap_or_default();
    let mut results = Results::new(directory);
    for repeat in 1..=options.repeats {
        for Measurement { name, what } in plan {
            cluster.settle()?;
            let report = match what {
                What::Floor(arguments) => floor.measure(arguments, options.seconds)?,
                What::Lockstep(export, workload) => {
                    drive(&mut clients, export, name, workload, &cluster.pids)?
                }
                What::Peer(workload) => drive(&mut clients, PEER, name, workload, &peers)?,
            };
            eprintln!(
                "{repeat}/{} {name:<14} {:>8.0}/s {:>8.1} MB/s  p50 {:>6.0}  p99 {:>6.0}  {:>6.1} core-µs  {:>5.1} KiB",
                options.repeats,
                report.iops,
                report.megabytes,
                report.p50,
                report.p99,
                report.cpu,
                report.written
            );
            results.all.entry(name.clone()).or_default().push(report);
            if let Some(out) = &options.out {
                results.save(out)?;
            }
        }
    }
    Ok(results)
}

fn is_of_peer(measurement: &Measurement) -> bool {
    measurement.what.export() == Some(PEER)
}

fn drive(
    clients: &mut BTreeMap<&str, Client>,
    export: &str,
    name: &str,
    workload: &Workload,
    pids: &[u32],
) -> anyhow::Result<Report> {
    let client = clients.get_mut(export).expect("every export has a client");
    let report = client.drive(workload, pids);
    report.with_context(|| format!("measuring {name}"))
}

/// Removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
