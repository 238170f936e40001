//! A load while something else goes on: a noisy neighbour, a resync; and on a pool that is not fresh.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lockstep_floor::report::Report;

use crate::cluster::Cluster;
use crate::interrupt;
use crate::load::{Client, Workload};
use crate::results::Figures;

/// How often a volume is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long a resync may take.
const PATIENCE: f64 = 300.0;

/// Drives a quiet volume while its neighbour is driven as hard as it goes.
pub fn a_neighbour(
    quiet: &mut Client,
    workload: &Workload,
    loud: &mut Client,
    noise: &Workload,
    pids: &[u32],
) -> anyhow::Result<Report> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let neighbour =
            scope.spawn(|| loud.complete(noise, Instant::now(), || over.load(Ordering::Relaxed)));
        let report = quiet.drive(workload, pids);
        over.store(true, Ordering::Relaxed);
        let noisy = neighbour.join().expect("the neighbour does not panic");
        let noisy = noisy.context("driving the neighbour")?;
        ensure!(!noisy.is_empty(), "the neighbour did nothing");
        report
    })
}

/// Drives a volume while one of its copies, whose node was away while everything was written anew, is
/// brought up to date; as long as that takes.
pub fn a_resync(
    cluster: &mut Cluster,
    client: &mut Client,
    volume: &str,
    workload: &Workload,
) -> anyhow::Result<(Report, Figures)> {
    let bytes = workload.range.unwrap_or(client.size);
    cluster.wait_until_healthy(volume)?;
    let shown = cluster.volume(volume)?;
    let primary = shown["primary"].as_str().unwrap_or_default().to_owned();
    let nodes = shown["replicas"].as_array().cloned().unwrap_or_default();
    let mut nodes = nodes.iter().filter_map(|it| it["node"].as_str());
    let node = nodes.find(|node| **node != primary);
    let node = node.context("the volume has no secondary")?.to_owned();
    let copied = |cluster: &Cluster| cluster.metric(&primary, "lockstep_resynced_bytes_total");
    let before = copied(cluster)?;
    cluster.kill(std::slice::from_ref(&node))?;
    client.fill(bytes)?;
    cluster.start_again(&[node])?;
    wait_for_resync(cluster, volume)?;
    let workload = Workload {
        seconds: PATIENCE,
        warm: 0.0,
        ..workload.clone()
    };
    let begin = Instant::now();
    let (over, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let cluster = &*cluster;
    let (driven, healthy) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let healthy = watch(cluster, volume, &ended);
            over.store(true, Ordering::Relaxed);
            healthy
        });
        let driven = client.measure(&workload, &cluster.pids, || over.load(Ordering::Relaxed));
        ended.store(true, Ordering::Relaxed);
        (driven, watch.join().expect("watching does not panic"))
    });
    let (driven, healthy) = (driven?, healthy?);
    ensure!(
        healthy,
        "volume '{volume}' was still resynced after {PATIENCE} s"
    );
    let (time, mib) = (
        begin.elapsed().as_secs_f64(),
        (copied(cluster)? - before) / f64::from(1 << 20),
    );
    let figures = Figures::from([
        ("resync takes, s".into(), time),
        ("copied, MiB".into(), mib),
    ]);
    Ok((driven.report(&workload), figures))
}

/// Until a copy is resynced: before that the load would not be beside anything.
fn wait_for_resync(cluster: &Cluster, volume: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let shown = cluster.volume(volume)?;
        let replicas = shown["replicas"].as_array();
        let resyncs = replicas.is_some_and(|all| all.iter().any(|it| !it["resync"].is_null()));
        if resyncs || shown["status"] == "healthy" {
            return Ok(());
        }
        ensure!(
            begin.elapsed().as_secs_f64() < PATIENCE,
            "no copy of volume '{volume}' is resynced: {}",
            shown["headline"]
        );
        interrupt::sleep(LOOK / 4)?;
    }
}

/// Whether the volume became healthy before the load ended.
fn watch(cluster: &Cluster, volume: &str, ended: &AtomicBool) -> anyhow::Result<bool> {
    while !ended.load(Ordering::Relaxed) {
        if cluster.volume(volume)?["status"] == "healthy" {
            return Ok(true);
        }
        interrupt::sleep(LOOK)?;
    }
    Ok(false)
}

/// Writes a volume again and again until so many bytes were written, so that what is measured next meets
/// a pool whose every place was used before.
pub fn wear(client: &mut Client, bytes: u64) -> anyhow::Result<()> {
    let passes = bytes.div_ceil(client.size);
    for pass in 1..=passes {
        eprintln!("filling the pool: pass {pass} of {passes}");
        client.fill(client.size)?;
    }
    Ok(())
}
