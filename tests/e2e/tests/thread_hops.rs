//! A write stays on one thread of each node: between socket, journal and front-end nothing is handed to
//! another, and no disk request is punted to a kernel worker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup};
use lockstep_nbd::client::{Blocking, Options};
use lockstep_types::BLOCK;

const PG: &str = "pg";
/// One after the other, so that a hop of each would be a wakeup of each.
const WRITES: u64 = 3000;
/// Every hop is a wakeup, in one of three nodes at least; what is below is other work that came just then.
const MOST_PER_WRITE: f64 = 0.25;

/// How often the threads of all daemons went to sleep, by name: once for each wakeup.
fn wakeups(fleet: &Fleet) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for node in fleet.up() {
        let tasks = format!("/proc/{}/task", fleet.pid(&node));
        for task in std::fs::read_dir(tasks).expect("it runs") {
            let task = task.expect("an entry").path();
            // A thread may end while it is looked at.
            let (Ok(name), Ok(status)) = (
                std::fs::read_to_string(task.join("comm")),
                std::fs::read_to_string(task.join("status")),
            ) else {
                continue;
            };
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count: u64 = line.expect("a line").trim().parse().expect("a number");
            let kind = name.trim().split('-').next().unwrap_or_default();
            *all.entry(kind.to_owned()).or_default() += count;
        }
    }
    all
}

/// Wakeups a second of every kind of thread while `act` runs, and how long that took.
fn rates(fleet: &Fleet, act: impl FnOnce()) -> (BTreeMap<String, f64>, Duration) {
    let (before, begin) = (wakeups(fleet), Instant::now());
    act();
    let (time, after) = (begin.elapsed(), wakeups(fleet));
    let rate = |(kind, count): (String, u64)| {
        let old = before.get(&kind).copied().unwrap_or_default();
        (kind, count.saturating_sub(old) as f64 / time.as_secs_f64())
    };
    (after.into_iter().map(rate).collect(), time)
}

#[test]
fn only_the_rings_work_for_a_write() {
    let fleet = Fleet::stand(Setup {
        sites: &[("a", 2), ("b", 1), ("w", 1)],
        ..Setup::default()
    });
    let size = ["--size", "16MiB", "--copies", "a=2,b=1"];
    fleet.json("a1", &[&["volume", "create", PG][..], &size].concat());
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    fleet.wait_until_healthy("a1", PG);
    let socket = fleet.socket("a1", PG);
    let mut client = Blocking::connect_unix(&socket, Options::new(PG), PATIENCE).expect("serves");
    let mut write = |count: u64| {
        for number in 0..count {
            let at = number % 1024 * BLOCK as u64;
            let bytes = Bytes::from(vec![number as u8; BLOCK]);
            client.write(at, bytes).expect("a healthy volume takes it");
        }
    };
    write(200); // reservations are there
    let (idle, _) = rates(&fleet, || std::thread::sleep(Duration::from_secs(3)));
    let (busy, time) = rates(&fleet, || write(WRITES));
    let writes = WRITES as f64 / time.as_secs_f64();
    let per_write = |kind: &str| {
        let rate = |of: &BTreeMap<String, f64>| of.get(kind).copied().unwrap_or_default();
        (rate(&busy) - rate(&idle)) / writes
    };
    assert!(
        per_write("ring") >= 3.0,
        "the rings of three nodes work for each write: {busy:?}, idle {idle:?}"
    );
    for kind in busy.keys().filter(|kind| *kind != "ring") {
        assert!(
            per_write(kind) < MOST_PER_WRITE,
            "'{kind}' woke {:.2} times a write: {busy:?}, idle {idle:?}",
            per_write(kind)
        );
    }
}
