//! Storage on real hardware, whoever makes it: block devices, files and NBD exports that a job file names,
//! measured in turn. What is in use is refused, and what exists is written to only if the job says so.

mod file;
mod fio;
mod place;
mod signature;
mod table;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use lockstep_floor::report::Report;

use crate::load::{Client, Workload};
use crate::plot;
use crate::results::{Results, keep};
use file::{Job, Load, Target};
use place::{Kind, Place};

/// Options of `lockstep-bench job`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lockstep-bench job bench/job.example.toml --check\n  lockstep-bench job mine.toml --out results\n  lockstep-bench compare results-monday results-friday\n\nThe example tells all fields. What exists is never written to without 'overwrite = true'."
)]
pub struct Options {
    /// The job file, TOML.
    file: PathBuf,
    /// Keep the results here: `results.json`, `results.md`, and curves as SVG and PNG.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only say what would be measured, and whether it can be.
    #[arg(long)]
    check: bool,
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let job = Job::read(&options.file)?;
    let loads = job.loads()?;
    let places = places(&job, &loads)?;
    if options.check {
        for place in &places {
            println!(
                "{}: {} of it, {}",
                place.name,
                crate::size::text(place.bytes),
                if place.writable {
                    "written to"
                } else {
                    "only read"
                }
            );
        }
        println!(
            "{} loads, {} repeats: about {} min without filling",
            loads.len(),
            job.run.repeats,
            minutes(&job, &loads, &places)
        );
        return Ok(());
    }
    let directory = options.out.as_deref().unwrap_or(Path::new("."));
    let mut results = Results::new(directory);
    let names: Vec<String> = places.iter().map(|place| place.name.clone()).collect();
    let measured = measure(&job, &loads, places, options, &mut results);
    let text = table::render(&results, &names, &loads);
    if !results.all.is_empty() {
        println!("{text}");
    }
    measured?;
    if let Some(out) = &options.out {
        let pictures = plot::draw(&results, out)?;
        eprintln!(
            "kept in {}: results.json, results.md, and as SVG and PNG: {}",
            out.display(),
            pictures.join(", ")
        );
    }
    Ok(())
}

/// All targets of this host; everything that is wrong with any of them, at once.
fn places(job: &Job, loads: &[Load]) -> anyhow::Result<Vec<Place>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let is_here = |target: &&Target| target.host.as_deref().is_none_or(|other| other == host);
    for target in job.targets.iter().filter(|target| !is_here(target)) {
        let other = target.host.as_deref().unwrap_or_default();
        eprintln!(
            "{}: passed over, it is on {other} and this is {host}",
            target.name
        );
    }
    let here: Vec<&Target> = job.targets.iter().filter(is_here).collect();
    ensure!(
        !here.is_empty(),
        "no target is on this host, {host}; run it on those that the job names"
    );
    if here.iter().any(|target| target.nbd.is_none())
        && let Some(why) = fio::unavailable()
    {
        bail!("{why}");
    }
    let writes = loads.iter().any(|load| load.kind != file::Kind::Read);
    let (mut places, mut wrong) = (Vec::new(), Vec::new());
    for target in here {
        match Place::find(target, writes) {
            Ok(place) => places.push(place),
            Err(error) => wrong.push(format!("target '{}': {error:#}", target.name)),
        }
    }
    ensure!(
        wrong.is_empty(),
        "nothing was touched:\n  {}",
        wrong.join("\n  ")
    );
    for place in &places {
        let largest = loads
            .iter()
            .map(|load| load.block)
            .max()
            .unwrap_or_default();
        ensure!(
            u64::from(largest) <= place.bytes,
            "target '{}' is smaller than a request of {}",
            place.name,
            crate::size::text(u64::from(largest))
        );
    }
    Ok(places)
}

/// Without filling.
fn minutes(job: &Job, loads: &[Load], places: &[Place]) -> u64 {
    let each = job.run.seconds + job.run.warm + 1;
    (each * (loads.len() * places.len() * job.run.repeats) as u64).div_ceil(60)
}

fn measure(
    job: &Job,
    loads: &[Load],
    places: Vec<Place>,
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    let names: Vec<String> = places.iter().map(|place| place.name.clone()).collect();
    let mut stands = Vec::new();
    for place in places {
        let name = place.name.clone();
        let stand = Stand::new(place, job).with_context(|| format!("preparing '{name}'"))?;
        stands.push(stand);
    }
    for repeat in 1..=job.run.repeats {
        for load in loads {
            for stand in &mut stands {
                let key = format!("{}-{}", stand.place.name, load.name);
                let report = stand.measure(load, job);
                let report = report.with_context(|| format!("measuring {key}"))?;
                eprintln!(
                    "{repeat}/{} {key:<24} {:>8.0}/s {:>8.1} MB/s  p50 {:>6.0} µs  p99 {:>6.0}",
                    job.run.repeats, report.iops, report.megabytes, report.p50, report.p99
                );
                results.all.entry(key).or_default().push(report);
                if let Some(out) = &options.out {
                    results.save(out)?;
                    let text = table::render(results, &names, loads);
                    keep(out, "results.md", text.as_bytes())?;
                }
            }
        }
    }
    Ok(())
}

/// A target that stands ready.
struct Stand {
    place: Place,
    client: Option<Client>,
    /// A file that was made, and goes.
    made: Option<Made>,
}

/// Removed when dropped.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

impl Stand {
    fn new(place: Place, job: &Job) -> anyhow::Result<Self> {
        let mut stand = Self {
            place,
            client: None,
            made: None,
        };
        let bytes = stand.place.bytes;
        match &stand.place.kind {
            Kind::Nbd(export) => stand.client = Some(place::connect(export)?),
            Kind::New(path) => {
                let file = std::fs::File::create_new(path);
                file.with_context(|| format!("cannot make {}", path.display()))?;
                stand.made = Some(Made(path.clone()));
            }
            Kind::Path { .. } => (),
        }
        if !stand.place.writable {
            eprintln!(
                "{}: only read; what was never written there may read faster than what was",
                stand.place.name
            );
            return Ok(stand);
        }
        eprintln!("{}: writing all of it once", stand.place.name);
        match (&mut stand.client, &stand.place.kind) {
            (Some(client), _) => client.fill(bytes)?,
            (None, Kind::Path { path, .. } | Kind::New(path)) => {
                fio::fill(path, bytes, job.run.engine)?;
            }
            (None, Kind::Nbd(_)) => unreachable!("it has a client"),
        }
        Ok(stand)
    }

    fn measure(&mut self, load: &Load, job: &Job) -> anyhow::Result<Report> {
        match (&mut self.client, &self.place.kind) {
            (Some(client), _) => {
                // A server without FUA makes a write durable by a flush behind it.
                let flush = load.reads < 100 && !client.offers_fua();
                client.drive(&workload(load, job, self.place.bytes, flush), &[])
            }
            (None, Kind::Path { path, .. } | Kind::New(path)) => {
                fio::measure(path, self.place.bytes, load, &job.run)
            }
            (None, Kind::Nbd(_)) => unreachable!("it has a client"),
        }
    }
}

fn workload(load: &Load, job: &Job, bytes: u64, flush: bool) -> Workload {
    Workload {
        depth: load.depth,
        seconds: job.run.seconds as f64,
        warm: job.run.warm as f64,
        block: load.block,
        range: Some(bytes),
        reads: load.reads,
        sync: flush,
        fua: true,
        sequential: load.sequential,
        rate: None,
    }
}
