//! The real daemon, its real io_uring and its real raft log on a disk that loses its power: at every
//! flush boundary of a recorded workload, just before it and just after. Whatever was not flushed
//! was dropped, kept or torn at 512 bytes. The daemon starts again from what is left, and no
//! acknowledged write may be missing.
//!
//! `LOCKSTEP_CUTS=all` tries every boundary, otherwise so many, evenly spread; `LOCKSTEP_SEED=N`
//! repeats a workload.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crash::{History, examine, run};
use e2e::{Fleet, Setup, pool, wait_for};
use faultfs::{Cut, Recording};
use lockstep_load::Dice;
use lockstep_types::{BLOCK, VolumeId};

const CUTS: usize = 32;
const SIZE: u64 = 24 << 20;
const LANES: u32 = 4;
const OPERATIONS: u32 = 500;
/// Cuts tried side by side: most of the time a daemon waits for the lease of its predecessor.
const SIDE_BY_SIDE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_power_cut_loses_an_acknowledged_write() {
    if !netlab::is_root() {
        eprintln!("skipped: a disk that fails on request needs root");
        return;
    }
    let seed = std::env::var("LOCKSTEP_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut fleet = Fleet::stand(Setup {
        sites: &[("a", 1)],
        pool: "64MiB",
        journal: "4MiB",
        faulty: &["a1"],
        ..Setup::default()
    });
    let (history, recording) = record(&mut fleet, seed);
    let boundaries = recording.boundaries();
    let cuts = chosen(&boundaries);
    eprintln!(
        "LOCKSTEP_SEED={seed}: {} changes, {} flush boundaries, {} cuts",
        recording.len(),
        boundaries.len(),
        cuts.len()
    );
    let next = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut dice = Dice::new(seed ^ (cut.returned() as u64) << 20);
                        let tried = try_cut(&fleet, &history, &recording, *cut, &mut dice);
                        failures.extend(tried.err().map(|why| format!("{cut:?}: {why}")));
                    }
                    failures
                })
            })
            .collect();
        let joined = workers.into_iter().map(|it| it.join().expect("no panic"));
        joined.flatten().collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {} cuts:\n{}",
        failures.len(),
        cuts.len(),
        failures.join("\n")
    );
}

/// A volume of one copy on the node, and the workload on it; the daemon is gone afterwards.
fn record(fleet: &mut Fleet, seed: u64) -> (History, Recording) {
    let size = SIZE.to_string();
    let made = fleet.json(
        "a1",
        &["volume", "create", "v", "--size", &size, "--copies", "1"],
    );
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", "v", "--node", "a1"]);
    let (socket, blocks) = (fleet.socket("a1", "v"), SIZE / BLOCK as u64);
    let (history, recording) = run(
        &socket,
        fleet.disk("a1"),
        id,
        blocks,
        (LANES, OPERATIONS, seed),
    );
    let laps = pool::journal_laps(&fleet.pool_file("a1"));
    assert!(laps >= 1, "the journal never wrapped");
    fleet.kill(&["a1".into()]);
    (history, recording)
}

fn chosen(boundaries: &[Cut]) -> Vec<Cut> {
    let count = match std::env::var("LOCKSTEP_CUTS") {
        Ok(all) if all == "all" => boundaries.len(),
        Ok(count) => count.parse().expect("a number, or 'all'"),
        Err(_) => CUTS,
    };
    let count = count.min(boundaries.len());
    (0..count)
        .map(|number| boundaries[number * boundaries.len() / count])
        .collect()
}

fn try_cut(
    fleet: &Fleet,
    history: &History,
    recording: &Recording,
    cut: Cut,
    dice: &mut Dice,
) -> Result<u64, String> {
    let image = recording.image(cut, &mut || dice.below(u64::MAX));
    let mut twin = fleet.twin("a1", image);
    twin.start("a1");
    let socket = twin.socket("a1", "v");
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if twin.has_ended("a1") || std::time::Instant::now() > deadline {
            return Err(format!("the daemon does not serve: {}", twin.logs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let examined = examine(&socket, history, history.oracle(cut));
    examined.map_err(|why| format!("{why}{}", twin.logs()))
}

#[test]
fn a_cut_is_found_out_when_flushes_lie() {
    // The harness itself: with an acknowledged change taken away, it must say so.
    if !netlab::is_root() {
        eprintln!("skipped: a disk that fails on request needs root");
        return;
    }
    let mut fleet = Fleet::stand(Setup {
        sites: &[("a", 1)],
        pool: "64MiB",
        journal: "4MiB",
        faulty: &["a1"],
        ..Setup::default()
    });
    let (history, recording) = record(&mut fleet, 7);
    let boundaries = recording.boundaries();
    // The client believes to be at the end; the disk is where it was at two thirds of the way.
    let (late, early) = (
        *boundaries.last().expect("one"),
        boundaries[boundaries.len() * 2 / 3],
    );
    let mut dice = Dice::new(7);
    let image = recording.image(early, &mut || dice.below(u64::MAX));
    let mut twin = fleet.twin("a1", image);
    twin.start("a1");
    let socket = twin.socket("a1", "v");
    wait_for("the socket", PATIENCE, || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    let found = examine(&socket, &history, history.oracle(late));
    assert!(found.is_err(), "a lost tail was not noticed: {found:?}");
}
