//! What a failure does to a steady load: writes go on at depth 4 while a secondary, and then a whole
//! site with one, is killed and comes back.

mod outcome;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::interrupt;
use crate::load::{Client, Workload};
use crate::picture;
use crate::results::{Machine, keep};
use crate::scratch::{Scratch, beside};
use crate::timeline::Timeline;
use outcome::{Event, Failovers, Moments, Outcome};

const VOLUME: &str = "failover";
const BLOCK: u32 = 4096;
/// Seconds of load that are not counted at the beginning.
const WARM: f64 = 1.0;
/// How often the volume is asked how far it is: a question costs processor time, which the load lacks.
const LOOK: Duration = Duration::from_millis(150);
/// How long a resync may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Options of `lockstep-bench failover`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lockstep-bench failover --dir /srv/bench --out failover\n  lockstep-bench failover --dir /srv/bench --quick\n  lockstep-bench failover --dir /srv/bench --seconds 30 --repeats 5 --out failover"
)]
pub struct Options {
    /// Where the cluster goes: a directory on the disk to be measured, which must not exist.
    #[arg(long)]
    dir: PathBuf,
    /// Keep the results here: `failover.json`, `failover.md`, and a timeline of each as SVG and PNG.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds of load before the kill, while the nodes are away, and after all copies are in sync.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often each failure is made.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Each failure once, with four seconds before, between and after.
    #[arg(long)]
    quick: bool,
    /// Writes in flight.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// MiB of the volume.
    #[arg(long, default_value_t = 256)]
    set: u64,
    /// Size of each node's pool.
    #[arg(long, default_value = "4GiB")]
    pool: String,
    /// The `lockstep` binary; the one beside this program when not given.
    #[arg(long)]
    lockstep: Option<PathBuf>,
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.depth > 0, "at least one write is in flight");
    let scratch = Scratch::new(&options.dir)?;
    let repeats = if options.quick { 1 } else { options.repeats };
    let mut bench = Bench::stand(options, scratch.path())?;
    let load = format!(
        "4 KiB random durable writes at depth {}, two copies in the site and one in the other",
        options.depth
    );
    let mut all = Failovers::new(Machine::here(scratch.path()), load);
    for repeat in 1..=repeats {
        for event in bench.events()? {
            eprintln!("{repeat}/{repeats} {}", event.event);
            let outcome = bench.strike(&event)?;
            all.outcomes.push(outcome);
            if let Some(out) = &options.out {
                save(&all, out, repeat)?;
            }
        }
    }
    println!("{}", all.render());
    if let Some(out) = &options.out {
        eprintln!(
            "kept in {}: failover.json, failover.md, and the timelines as SVG and PNG",
            out.display()
        );
    }
    Ok(())
}

/// All figures so far, and the pictures of the last one.
fn save(all: &Failovers, out: &Path, repeat: usize) -> anyhow::Result<()> {
    keep(out, "failover.json", &serde_json::to_vec(all)?)?;
    keep(out, "failover.md", all.render().as_bytes())?;
    let last = all.outcomes.last().expect("one was just measured");
    for chart in last.charts(repeat) {
        picture::save(&chart, out)?;
    }
    Ok(())
}

/// A cluster with a volume that is open and full.
struct Bench {
    cluster: Cluster,
    client: Client,
    workload: Workload,
    /// Each part of a failure lasts so long.
    part: Duration,
}

impl Bench {
    fn stand(options: &Options, directory: &Path) -> anyhow::Result<Self> {
        eprintln!("starting a cluster");
        let program = beside(options.lockstep.as_ref(), "lockstep")?;
        let cluster = Cluster::start(program, &directory.join("cluster"), &options.pool)?;
        let socket = cluster.attach(VOLUME, &format!("{}MiB", options.set), "a=2,b=1")?;
        cluster.wait_until_healthy(VOLUME)?;
        let mut client = Client::connect(&socket, VOLUME)?;
        let bytes = options.set << 20;
        client.fill(bytes)?;
        let workload = Workload {
            depth: options.depth,
            seconds: 0.0,
            warm: WARM,
            block: BLOCK,
            range: Some(bytes),
            reads: 0,
            sync: false,
            fua: false,
            sequential: false,
            rate: None,
        };
        Ok(Self {
            cluster,
            client,
            workload,
            part: Duration::from_secs(if options.quick { 4 } else { options.seconds }),
        })
    }

    /// What is to be killed: where the copies lie is known only now.
    fn events(&self) -> anyhow::Result<Vec<Event>> {
        let shown = self.cluster.volume(VOLUME)?;
        let primary = shown["primary"].as_str().unwrap_or_default().to_owned();
        let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
        let places = || {
            replicas
                .iter()
                .filter_map(|it| Some((it["node"].as_str()?, it["site"].as_str()?)))
        };
        let home = places().find(|(node, _)| *node == primary);
        let (_, home) = home.context("the volume has no primary")?;
        let (near, _) = places()
            .find(|(node, site)| *node != primary && *site == home)
            .context("no secondary lies in the site of the primary")?;
        let (_, far) = places()
            .find(|(_, site)| *site != home)
            .context("no secondary lies in the other site")?;
        Ok(vec![
            Event {
                event: format!("kill -9 of node {near}, which holds a secondary"),
                name: "secondary",
                nodes: vec![near.to_owned()],
            },
            Event {
                event: format!("kill -9 of all of site {far}, which holds a secondary"),
                name: "site",
                nodes: self.cluster.site(far),
            },
        ])
    }

    /// Makes a failure happen under the load.
    fn strike(&mut self, event: &Event) -> anyhow::Result<Outcome> {
        self.cluster.wait_until_healthy(VOLUME)?;
        self.cluster.settle()?;
        let Self {
            cluster,
            client,
            workload,
            part,
        } = self;
        let part = *part;
        let primary = cluster.volume(VOLUME)?["primary"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let copied = |cluster: &Cluster| cluster.metric(&primary, "lockstep_resynced_bytes_total");
        let before = copied(cluster)?;
        let start = Instant::now();
        let over = AtomicBool::new(false);
        let (moments, completed) = std::thread::scope(|scope| {
            let load =
                scope.spawn(|| client.complete(workload, start, || over.load(Ordering::Relaxed)));
            let moments = happen(cluster, event, start, part, &|| load.is_finished());
            // Whether it went well or not: the load must not go on.
            over.store(true, Ordering::Relaxed);
            let completed = load.join().expect("the load does not panic");
            (moments, completed)
        });
        // What stopped the load explains what failed beside it.
        let completed = completed.with_context(|| format!("writing through {}", event.event))?;
        let moments = moments?;
        let end = moments.healthy + part.as_nanos() as u64;
        let bytes = (copied(cluster)? - before) as u64;
        let timeline = Timeline::new(completed, end);
        let outcome = Outcome::new(event, moments, &timeline, end, bytes, BLOCK);
        eprintln!(
            "  stall {:.0} ms, at the return {:.0} ms; {:.1} MiB resynced in {:.1} s",
            outcome.stall_ms,
            outcome.stall_back_ms,
            bytes as f64 / f64::from(1 << 20),
            outcome.resync_s
        );
        Ok(outcome)
    }
}

/// Lets the load run, kills, waits, starts again, and waits until all is as before. `ended` tells whether
/// the load has ended by itself, which it does only by an error.
fn happen(
    cluster: &mut Cluster,
    event: &Event,
    start: Instant,
    part: Duration,
    ended: &dyn Fn() -> bool,
) -> anyhow::Result<Moments> {
    let now = || start.elapsed().as_nanos() as u64;
    let warm = (WARM * 1e9) as u64;
    interrupt::sleep(Duration::from_nanos(warm) + part)?;
    let killed = now();
    cluster.kill(&event.nodes)?;
    eprintln!("  killed");
    interrupt::sleep(part)?;
    let back = now();
    cluster.start_again(&event.nodes)?;
    eprintln!("  started again");
    let mut resync = None;
    let healthy = loop {
        ensure!(!ended(), "the load ended");
        let shown = cluster.volume(VOLUME)?;
        let at = now();
        let replicas = shown["replicas"].as_array();
        let resyncs = |it: &serde_json::Value| !it["resync"].is_null();
        if resync.is_none() && replicas.is_some_and(|all| all.iter().any(resyncs)) {
            resync = Some(at);
        }
        if shown["status"] == "healthy" {
            break at;
        }
        ensure!(
            at - back < PATIENCE.as_nanos() as u64,
            "not all copies are in sync {PATIENCE:?} after {} came back: {}",
            event.nodes.join(", "),
            shown["headline"]
        );
        interrupt::sleep(LOOK)?;
    };
    eprintln!("  all copies in sync");
    interrupt::sleep(part)?;
    Ok(Moments {
        warm,
        killed,
        back,
        resync: resync.unwrap_or(healthy),
        healthy,
    })
}
