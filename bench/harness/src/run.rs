//! The whole measurement: floors and Lockstep, interleaved, so that what moves the machine moves
//! all of them; then what needs a cluster of its own.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use lockstep_floor::report::Report;

use crate::crowd::Crowd;
use crate::database;
use crate::floor::Floor;
use crate::main_room::MainRoom;
use crate::peer;
use crate::plan::{self, Extent, Measurement, PEER, Room, What};
use crate::plot;
use crate::results::{Figures, Results};
use crate::scratch::{Scratch, beside};
use crate::table;

/// Options of `lockstep-bench run`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lockstep-bench run --dir /srv/bench --quick --out results\n  lockstep-bench run --dir /srv/bench --only ls3-w16,floor-w16\n  lockstep-bench run --dir /srv/bench --only ls3-quiet,ls3-quiet-beside,ls3-many64\n  lockstep-bench run --dir /srv/bench --full --repeats 5 --out results"
)]
pub struct Options {
    /// Where clusters and files go: a directory on the disk to be measured, which must not exist.
    #[arg(long)]
    pub dir: PathBuf,
    /// Keep the results here as `results.json` and `results.md`; what is measured is there at once, and
    /// stays if the run is ended.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds of each measurement; 3 when not given.
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds of load before each measurement of Lockstep. With a small pool (its journal is an
    /// eighth of it) long enough for the journal to go round ten times: the sustained rate.
    #[arg(long, default_value_t = 1)]
    warm: u64,
    /// Size of each node's pool.
    #[arg(long, default_value = "4GiB")]
    pub pool: String,
    /// MiB of the volumes that are used.
    #[arg(long, default_value_t = 256)]
    pub set: u64,
    /// How often everything is measured; medians are kept. 3 when not given.
    #[arg(long)]
    repeats: Option<usize>,
    /// What the targets need, once, two seconds each: under five minutes.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
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

impl Options {
    /// How often.
    pub fn repeats(&self) -> usize {
        self.repeats.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How long.
    pub fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 3 })
    }

    /// The `lockstep` binary.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        beside(self.lockstep.as_ref(), "lockstep")
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut plan = chosen(options)?;
    leave_out(&mut plan, options, peer::unavailable(), |what| {
        what.export() == Some(PEER)
    })?;
    leave_out(&mut plan, options, database::unavailable(), |what| {
        what.room() == Room::Database
    })?;
    let scratch = Scratch::new(&options.dir)?;
    let mut record = Record {
        results: Results::new(scratch.path()),
        out: options.out.clone(),
        repeats: options.repeats(),
        began: Instant::now(),
    };
    measure(options, &plan, scratch.path(), &mut record)?;
    let text = table::render(&record.results);
    println!("{text}");
    if let Some(out) = &options.out {
        crate::results::keep(out, "results.md", text.as_bytes())?;
        let pictures = plot::draw(&record.results, out)?;
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
        seconds: options.seconds(),
        warm: options.warm,
        set: options.set << 20,
    };
    if options.only.is_empty() && !options.full {
        return Ok(match options.quick {
            true => plan::quick(extent),
            false => plan::targets(extent),
        });
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

/// Takes out of the plan what this machine cannot do, and says so; an error if it was asked for by name.
fn leave_out(
    plan: &mut Vec<Measurement>,
    options: &Options,
    why: Option<String>,
    is_one: impl Fn(&What) -> bool,
) -> anyhow::Result<()> {
    let Some(why) = why else {
        return Ok(());
    };
    let ones = plan.iter().filter(|it| is_one(&it.what));
    ensure!(
        !ones.into_iter().any(|it| options.only.contains(&it.name)),
        "{why}"
    );
    if plan.iter().any(|it| is_one(&it.what)) {
        eprintln!("{why}");
    }
    plan.retain(|it| !is_one(&it.what));
    Ok(())
}

fn measure(
    options: &Options,
    plan: &[Measurement],
    directory: &Path,
    record: &mut Record,
) -> anyhow::Result<()> {
    let of = |room| -> Vec<&Measurement> {
        let here = plan.iter().filter(|it| it.what.room() == room);
        here.collect()
    };
    let main = of(Room::Main);
    if !main.is_empty() {
        let floor = beside(options.floor.as_ref(), "lockstep-floor")?;
        let floor = Floor::new(floor, directory)?;
        let mut room = MainRoom::open(options, &main, floor, directory)?;
        for repeat in 1..=options.repeats() {
            for measurement in &main {
                let (report, figures) = room.measure(measurement)?;
                record.add(repeat, &measurement.name, Some(report), figures)?;
            }
        }
    }
    let crowd = of(Room::Crowd);
    if !crowd.is_empty() {
        let directory = directory.join("crowd");
        let mut room = Crowd::start(options.program()?, &directory, &options.pool)?;
        for Measurement { name, what } in crowd {
            for repeat in 1..=options.repeats() {
                let (report, figures) = match what {
                    What::Many(count, workload) => {
                        let (report, figures) = room.many(*count, workload)?;
                        (Some(report), figures)
                    }
                    What::Idle(count) => (None, room.idle(*count)?),
                    _ => unreachable!("not of this room"),
                };
                record.add(repeat, name, report, figures)?;
            }
        }
    }
    let databases = of(Room::Database);
    if !databases.is_empty() {
        database::measure(options, &databases, &directory.join("database"), record)?;
    }
    Ok(())
}

/// What was measured so far, told and kept at once.
pub struct Record {
    results: Results,
    out: Option<PathBuf>,
    repeats: usize,
    began: Instant,
}

impl Record {
    /// Adds one repeat of a measurement.
    pub fn add(
        &mut self,
        repeat: usize,
        name: &str,
        report: Option<Report>,
        figures: Figures,
    ) -> anyhow::Result<()> {
        let seconds = self.began.elapsed().as_secs();
        let number = format!(
            "{}:{:02}  {repeat}/{}",
            seconds / 60,
            seconds % 60,
            self.repeats
        );
        if let Some(report) = report {
            eprintln!(
                "{number} {name:<16} {:>8.0}/s {:>8.1} MB/s  p50 {:>6.0}  p99 {:>6.0}  {:>6.1} core-µs  {:>5.1} KiB",
                report.iops, report.megabytes, report.p50, report.p99, report.cpu, report.written
            );
            self.results
                .all
                .entry(name.to_owned())
                .or_default()
                .push(report);
        }
        if !figures.is_empty() {
            let words = figures
                .iter()
                .map(|(what, value)| format!("{what}: {value:.2}"));
            let words: Vec<String> = words.collect();
            eprintln!("{number} {name:<16} {}", words.join("  "));
            self.results.add_figures(name, figures);
        }
        match &self.out {
            Some(out) => self.results.save(out),
            None => Ok(()),
        }
    }
}
