//! The whole measurement: floors and Lockstep, interleaved, so that what moves the machine moves
//! all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::floor::Floor;
use crate::load::Client;
use crate::plan::{self, Extent, Measurement, VOLUMES, What};
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
    let plan = chosen(options)?;
    std::fs::create_dir_all(&options.dir)?;
    let scratch = Scratch(options.dir.clone());
    let results = measure(options, &plan, &scratch.0)?;
    let text = table::render(&results);
    println!("{text}");
    if let Some(out) = &options.out {
        std::fs::write(out.join("results.md"), &text)?;
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
    let mut clients = BTreeMap::new();
    for (volume, copies) in VOLUMES {
        let uses = |it: &Measurement| matches!(it.what, What::Lockstep(its, _) if its == volume);
        if plan.iter().any(uses) {
            let size = format!("{}MiB", options.set);
            let socket = cluster.attach(volume, &size, copies)?;
            let mut client = Client::connect(&socket, volume)?;
            client.fill(options.set << 20)?;
            clients.insert(volume, client);
        }
    }
    let mut results = Results::new(directory);
    for repeat in 1..=options.repeats {
        for Measurement { name, what } in plan {
            cluster.settle()?;
            let report = match what {
                What::Floor(arguments) => floor.measure(arguments, options.seconds)?,
                What::Lockstep(volume, workload) => clients
                    .get_mut(volume)
                    .expect("made above")
                    .drive(workload, &cluster.pids)
                    .with_context(|| format!("measuring {name}"))?,
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

/// Removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
