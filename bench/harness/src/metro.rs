//! Two sites with distance between them: each node in a network namespace, the sites joined by links
//! whose packets a program of ours delays and loses (`tests/netlab`). Beside it, in the same
//! namespaces, the minimal replicator. The emulator's own jitter is the size of the target: the two
//! are compared, and nothing is subtracted.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Fleet, Setup};
use lockstep_floor::report::Report;
use netlab::Direction;

use crate::floor::Floor;
use crate::load::{Client, Workload};
use crate::results::{Results, keep};
use crate::scratch::{Scratch, beside};

/// Options of `lockstep-bench metro`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lockstep-bench metro --dir /srv/bench --out metro\n  lockstep-bench metro --dir /srv/bench --rtt 0,5 --depths 1,16"
)]
pub struct Options {
    /// Where the minimal replicator's files go: a directory on the disk to be measured, which must not
    /// exist.
    #[arg(long)]
    dir: PathBuf,
    /// Keep the results here, as `results.json` and `results.md`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Round trips between the sites, in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 1.0, 2.0, 5.0, 10.0])]
    rtt: Vec<f64>,
    /// Percent of packets lost, in a row of its own at 1 ms.
    #[arg(long, default_value_t = 0.01)]
    loss: f64,
    /// Requests in flight.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    depths: Vec<usize>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often everything is measured; medians are kept.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// The `lockstep-floor` binary; the one beside this program when not given.
    #[arg(long)]
    floor: Option<PathBuf>,
}

const VOLUME: &str = "metro";
const SET: u64 = 256 << 20;
/// The minimal replicator has a thread in each of four processes for each lane.
const FLOOR_MOST: usize = 64;

/// A row of the matrix.
#[derive(Clone, Copy)]
struct Distance {
    rtt_ms: f64,
    /// Percent.
    loss: f64,
}

impl Distance {
    fn name(&self) -> String {
        match self.loss {
            0.0 => format!("{} ms", self.rtt_ms),
            loss => format!("{} ms, {loss} % lost", self.rtt_ms),
        }
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        netlab::is_root(),
        "network namespaces need root: run it as root"
    );
    let floor = beside(options.floor.as_ref(), "lockstep-floor")?;
    let floor = Floor::new(floor, &options.dir)?;
    let _scratch = Scratch::new(&options.dir)?;
    let text = render(options, &measure(options, &floor)?);
    println!("{text}");
    if let Some(out) = &options.out {
        keep(out, "results.md", text.as_bytes())?;
    }
    Ok(())
}

fn measure(options: &Options, floor: &Floor) -> anyhow::Result<Results> {
    let mut bench = Bench::stand()?;
    let mut results = Results::new(&options.dir);
    for repeat in 1..=options.repeats {
        for distance in distances(options) {
            bench.set(distance);
            for depth in &options.depths {
                for (who, report) in bench.row(options, floor, *depth)? {
                    eprintln!(
                        "{repeat}/{} {:<20} {who} depth {depth:<3} {:>8.0}/s  p50 {:>6.0} µs  p99 {:>6.0}",
                        options.repeats,
                        distance.name(),
                        report.iops,
                        report.p50,
                        report.p99
                    );
                    let name = key(distance, who, *depth);
                    results.all.entry(name).or_default().push(report);
                }
                if let Some(out) = &options.out {
                    results.save(out)?;
                }
            }
        }
    }
    Ok(results)
}

/// A cluster with a volume that is open in site A, and its link to B.
struct Bench {
    fleet: Fleet,
    client: Client,
}

impl Bench {
    fn stand() -> anyhow::Result<Self> {
        let fleet = Fleet::stand(Setup {
            sites: &[("a", 2), ("b", 1), ("w", 1)],
            pool: "2GiB",
            journal: "256MiB",
            lab: Some("metro"),
            ..Setup::default()
        });
        let size = format!("{}MiB", SET >> 20);
        let copies = ["--size", &size, "--copies", "a=2,b=1"];
        fleet.good("a1", &[&["volume", "create", VOLUME], &copies[..]].concat());
        fleet.sooner_or_later("a1", &["volume", "attach", VOLUME, "--node", "a1"]);
        fleet.wait_until_healthy("a1", VOLUME);
        let mut client = Client::connect(&fleet.socket("a1", VOLUME), VOLUME)?;
        client.fill(SET)?;
        Ok(Self { fleet, client })
    }

    fn set(&self, distance: Distance) {
        let link = self.fleet.lab().link("a", "b");
        let one_way = Duration::from_secs_f64(distance.rtt_ms / 2000.0);
        link.set_delay(Direction::Both, one_way);
        link.set_loss(Direction::Both, distance.loss / 100.0);
    }

    /// The minimal replicator and Lockstep, one after the other.
    fn row(
        &mut self,
        options: &Options,
        floor: &Floor,
        depth: usize,
    ) -> anyhow::Result<Vec<(&'static str, Report)>> {
        let mut row = Vec::new();
        if depth <= FLOOR_MOST {
            let arguments = format!(
                "replicate --unix --tls --checksums --depth {depth} --inside {}",
                self.places()
            );
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            row.push(("floor", floor.measure(&arguments, options.seconds)?));
        }
        let workload = Workload {
            depth,
            seconds: options.seconds as f64,
            warm: 1.0,
            block: 4096,
            range: Some(SET),
            reads: 0,
            sync: false,
            fua: false,
            sequential: false,
            rate: None,
        };
        let names = self.fleet.names();
        let pids: Vec<u32> = names.iter().map(|name| self.fleet.pid(name)).collect();
        let report = self.client.drive(&workload, &pids);
        row.push(("ls3", report.context("with distance between the sites")?));
        Ok(row)
    }

    /// Where the minimal replicator's three run: beside the daemons that hold the copies.
    fn places(&self) -> String {
        let places = ["a1", "a2", "b1"].map(|name| {
            let node = self.fleet.lab_node(name);
            format!("{}={}", node.namespace(), node.address())
        });
        places.join(",")
    }
}

fn distances(options: &Options) -> Vec<Distance> {
    let mut rows: Vec<Distance> = options
        .rtt
        .iter()
        .map(|rtt_ms| Distance {
            rtt_ms: *rtt_ms,
            loss: 0.0,
        })
        .collect();
    if options.loss > 0.0 {
        rows.push(Distance {
            rtt_ms: 1.0,
            loss: options.loss,
        });
    }
    rows
}

fn key(distance: Distance, who: &str, depth: usize) -> String {
    format!("{}: {who}-w{depth}", distance.name())
}

fn render(options: &Options, results: &Results) -> String {
    let mut text = String::from(
        "4 KiB durable writes on two copies in one site and one in the other; p50 in µs.\n\n| round trip | depth | floor IOPS | Lockstep IOPS | floor p50 | Lockstep p50 | p50 ratio | Lockstep p99.9 |\n|---|---|---|---|---|---|---|---|\n",
    );
    for distance in distances(options) {
        for depth in &options.depths {
            let median = |who: &str, figure: fn(&Report) -> f64| {
                let reports = results.all.get(&key(distance, who, *depth))?;
                let mut values: Vec<f64> = reports.iter().map(figure).collect();
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).copied()
            };
            let word = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
            };
            let (floor, own) = (median("floor", |r| r.p50), median("ls3", |r| r.p50));
            let ratio = floor.zip(own).map(|(floor, own)| own / floor);
            let _ = writeln!(
                text,
                "| {} | {depth} | {} | {} | {} | {} | {} | {} |",
                distance.name(),
                word(median("floor", |r| r.iops), 0),
                word(median("ls3", |r| r.iops), 0),
                word(floor, 0),
                word(own, 0),
                word(ratio, 2),
                word(median("ls3", |r| r.p999), 0),
            );
        }
    }
    text
}
