//! Disks that fail under real daemons: errors, slowness, changed bytes, no room, under the journal,
//! the data and the raft log. The disk is a FUSE file; nothing in the daemon knows of it. Each time
//! the device or node that cannot be trusted leaves, the rest goes on, and no byte is wrong.

use std::ops::Range;
use std::time::Duration;

use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, pool, wait_for};
use faultfs::{Fault, On, Rule};
use lockstep_drive::{Load, Plan};
use lockstep_types::{BLOCK, VolumeId};

const PG: &str = "pg";
const BYTES: u64 = 16 << 20;
const EIO: Fault = Fault::Error(5);
const ENOSPC: Fault = Fault::Error(28);

/// Says so and returns if there is no root. As root nothing is skipped.
macro_rules! needs_root {
    () => {
        if !netlab::is_root() {
            eprintln!("skipped: a disk that fails on request needs root");
            return;
        }
    };
}

struct Case {
    fleet: Fleet,
    load: Load,
    /// The node whose disk fails.
    victim: &'static str,
}

impl Case {
    /// A volume in both sites, its primary on a1, under load. The victim's disk is sound so far.
    fn begin(victim: &'static str) -> Self {
        let faulty: &[&str] = match victim {
            "a1" => &["a1"],
            "b1" => &["b1"],
            _ => &["w1"],
        };
        let fleet = Fleet::stand(Setup {
            pool: "96MiB",
            journal: "8MiB",
            faulty,
            ..Setup::default()
        });
        let size = BYTES.to_string();
        let made = fleet.json(
            "a1",
            &["volume", "create", PG, "--size", &size, "--copies", "*=1"],
        );
        let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
        fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
        let plan = Plan::new(id, BYTES / BLOCK as u64, 4, 1);
        let load = Load::start(plan, &fleet.socket("a1", PG));
        let case = Self {
            fleet,
            load,
            victim,
        };
        case.goes_on("the first write");
        case.fleet.wait_until_healthy("a1", PG);
        case
    }

    fn pool_rule(&self, range: Range<u64>, on: On, fault: Fault) -> Rule {
        Rule {
            path: "pool".into(),
            range,
            on,
            fault,
        }
    }

    /// Where a structure lies in the victim's pool.
    fn area(
        &self,
        of: impl Fn(&lockstep_store::Geometry) -> lockstep_store::geometry::Area,
    ) -> Range<u64> {
        let geometry = pool::geometry(&self.fleet.pool_file(self.victim));
        let area = of(&geometry);
        area.offset..area.offset + area.length
    }

    fn set(&self, rules: Vec<Rule>) {
        self.fleet.disk(self.victim).set_rules(rules);
    }

    fn wait_until_met(&self) {
        wait_for("the fault being met", PATIENCE, || {
            (self.fleet.disk(self.victim).met() > 0).then_some(())
        });
    }

    fn goes_on(&self, what: &str) {
        assert!(
            self.load.wait_for_write(PATIENCE).is_some(),
            "{what} was not acknowledged{}",
            self.fleet.logs()
        );
    }

    fn is_certified_on(&self, expected: &str) {
        self.fleet
            .wait_for_volume("a1", PG, &format!("certified on {expected}"), |shown| {
                let replicas = shown["replicas"].as_array().expect("a list").iter();
                let certified: Vec<_> = replicas
                    .filter(|it| it["certified"] == true)
                    .map(|it| it["node"].as_str().expect("a name"))
                    .collect();
                certified == [expected]
            });
    }

    /// The device is retired, its replicas have left, the command line says so, and I/O goes on.
    fn the_device_retires(&self) {
        let survivor = if self.victim == "a1" { "b1" } else { "a1" };
        self.wait_until_met();
        self.is_certified_on(survivor);
        self.goes_on("a write without the failed device");
        wait_for("the pool being called failed", PATIENCE, || {
            let pools = self.fleet.json("a1", &["pool", "list"]);
            let pools = pools.as_array().expect("a list").iter();
            let mut failed = pools.filter(|it| it["failed"] != "");
            failed.any(|it| it["node"] == self.victim).then_some(())
        });
        let status = self.fleet.json("a1", &["status"]);
        assert_ne!(status["attention"], serde_json::json!([]), "{status:#}");
    }

    /// With its disk sound again and its daemon restarted, the node's copy is compared whole and returns.
    fn returns_with_a_sound_disk(&mut self) {
        self.set(Vec::new());
        wait_for("the failure being kept", PATIENCE, || {
            self.is_failure_kept().then_some(())
        });
        self.fleet.kill(&[self.victim.into()]);
        self.fleet.start(self.victim);
        self.fleet.wait_until_it_stands();
        self.fleet.wait_until_healthy("a1", PG);
        assert!(!self.is_failure_kept(), "its copy says so itself");
        self.goes_on("a write with all copies");
    }

    fn is_failure_kept(&self) -> bool {
        let place = self.fleet.home(self.victim).join("pools");
        let files = std::fs::read_dir(place).expect("a data directory has pools");
        let mut names = files.map(|file| file.expect("a file").file_name());
        names.any(|name| name.to_string_lossy().ends_with(".failed"))
    }

    /// Nothing was wrong, and no copy is: each is read back from its own disk.
    fn ends_well(mut self) {
        self.load.stop();
        let seen = self.load.seen();
        assert_eq!(seen.wrong, 0, "{:#?}", seen.violations);
        for node in ["a1", "b1"] {
            self.fleet.sooner_or_later(node, &["volume", "detach", PG]);
            self.fleet
                .sooner_or_later(node, &["volume", "attach", PG, "--node", node]);
            let socket = self.fleet.socket(node, PG);
            let seen = wait_for("a read-back", PATIENCE, || {
                self.load.read_back(&socket).ok()
            });
            assert_eq!(seen.wrong, 0, "on {node}: {:#?}", seen.violations);
            assert!(seen.verified_blocks > 0);
        }
    }

    fn no_error_reached_the_application(&self) {
        let seen = self.load.seen();
        assert_eq!(seen.unknown, 0, "{seen:?}{}", self.fleet.logs());
    }
}

#[test]
fn an_error_when_the_secondarys_journal_is_written() {
    needs_root!();
    let mut case = Case::begin("b1");
    let ring = case.area(|geometry| geometry.ring);
    case.set(vec![case.pool_rule(ring, On::Write, EIO)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

#[test]
fn an_error_when_the_primarys_journal_is_written() {
    needs_root!();
    let mut case = Case::begin("a1");
    let ring = case.area(|geometry| geometry.ring);
    case.set(vec![case.pool_rule(ring, On::Write, EIO)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

#[test]
fn an_error_when_data_is_written() {
    needs_root!();
    let mut case = Case::begin("b1");
    let data = case.area(|geometry| geometry.data);
    case.set(vec![case.pool_rule(data, On::Write, EIO)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

#[test]
fn an_error_when_data_is_flushed() {
    needs_root!();
    let mut case = Case::begin("b1");
    case.set(vec![case.pool_rule(0..u64::MAX, On::Sync, EIO)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

#[test]
fn an_error_when_data_is_read() {
    needs_root!();
    let case = Case::begin("a1");
    let data = case.area(|geometry| geometry.data);
    case.set(vec![case.pool_rule(data, On::Read, EIO)]);
    case.wait_until_met();
    // Served by the other copy, and the block here is written anew.
    case.goes_on("a write while reads fail");
    wait_for("a repaired block", PATIENCE, || {
        (case.fleet.metric("a1", "lockstep_blocks_repaired_total") > 0.0).then_some(())
    });
    case.no_error_reached_the_application();
    case.set(Vec::new());
    case.fleet.wait_until_healthy("a1", PG);
    case.ends_well();
}

#[test]
fn flipped_bytes_in_the_data() {
    needs_root!();
    let case = Case::begin("a1");
    let data = case.area(|geometry| geometry.data);
    // One byte of every 64 KiB of what the pool may have used.
    wait_for("a repaired block", PATIENCE, || {
        for offset in (data.start..data.end).step_by(64 << 10) {
            case.fleet.disk("a1").flip("pool", offset + 777, 0x20);
        }
        case.goes_on("a write over changed bytes");
        (case.fleet.metric("a1", "lockstep_blocks_repaired_total") > 0.0).then_some(())
    });
    case.no_error_reached_the_application();
    case.ends_well();
}

#[test]
fn flipped_bytes_in_the_journal() {
    needs_root!();
    let mut case = Case::begin("b1");
    case.fleet.kill(&["b1".into()]);
    case.is_certified_on("a1");
    let ring = case.area(|geometry| geometry.ring);
    for offset in ring.step_by(BLOCK) {
        case.fleet.disk("b1").flip("pool", offset + 99, 0x01);
    }
    case.fleet.start("b1");
    case.fleet.wait_until_healthy("a1", PG);
    case.goes_on("a write with all copies");
    case.no_error_reached_the_application();
    case.ends_well();
}

#[test]
fn a_slow_disk_is_a_dead_one() {
    needs_root!();
    let case = Case::begin("b1");
    case.load.forget_stalls();
    // Over the hard limit of 2 s for the oldest unacknowledged write.
    let slow = Fault::Slow(Duration::from_millis(2500));
    case.set(vec![case.pool_rule(0..u64::MAX, On::Write, slow)]);
    case.is_certified_on("a1");
    case.goes_on("a write without the slow copy");
    let stall = case.load.seen().longest_stall;
    eprintln!("stall {stall:?}");
    assert!(stall < Duration::from_millis(3500), "{stall:?}");
    case.no_error_reached_the_application();
    case.set(Vec::new());
    case.fleet.wait_until_healthy("a1", PG);
    case.ends_well();
}

#[test]
fn no_room_under_the_journal() {
    needs_root!();
    let mut case = Case::begin("b1");
    let ring = case.area(|geometry| geometry.ring);
    case.set(vec![case.pool_rule(ring, On::Write, ENOSPC)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

#[test]
fn no_room_under_the_data() {
    needs_root!();
    let mut case = Case::begin("b1");
    let data = case.area(|geometry| geometry.data);
    case.set(vec![case.pool_rule(data, On::Write, ENOSPC)]);
    case.the_device_retires();
    case.no_error_reached_the_application();
    case.returns_with_a_sound_disk();
    case.ends_well();
}

/// The control plane is kept busy, so that logs are written: each attach commits something.
fn commit_something(case: &Case, number: u32) {
    let (asked, copies) = match case.victim {
        "a1" => ("b1", "b=1"),
        _ => ("a1", "a=1"),
    };
    let name = format!("v{number}");
    case.fleet.sooner_or_later(
        asked,
        &[
            "volume", "create", &name, "--size", "4MiB", "--copies", copies,
        ],
    );
    case.fleet
        .sooner_or_later(asked, &["volume", "delete", &name]);
}

/// R19: a data node goes on without its log, as a member of whatever it was one of; a witness has
/// nothing left to do and ends. Both end with an error, are refused by a disk that still fails, and
/// come back with a sound one.
fn the_raft_log_fails(victim: &'static str, on: On) {
    let mut case = Case::begin(victim);
    case.load.forget_stalls();
    case.set(vec![Rule::everywhere("raft", on, EIO)]);
    commit_something(&case, 1);
    if victim == "w1" {
        let ended = case.fleet.wait_for_end(victim);
        assert!(!ended.success(), "{ended}");
    } else {
        goes_on_without_its_log(&mut case, victim);
        let ended = case.fleet.stop_one(victim);
        assert!(!ended.success(), "it was stopped without its log: {ended}");
    }
    let said = case.fleet.said(victim);
    assert!(said.contains("the raft log failed"), "{said}");
    case.goes_on("a write without the node");
    case.fleet.start(victim);
    let ended = case.fleet.wait_for_end(victim);
    assert!(!ended.success(), "the disk still fails: {ended}");
    // The log was not written past the failure: the disk sound again, it is a log as any other.
    case.set(Vec::new());
    case.fleet.start(victim);
    case.fleet.wait_until_it_stands();
    case.fleet.wait_until_healthy("a1", PG);
    commit_something(&case, 2);
    case.no_error_reached_the_application();
    case.ends_well();
}

fn goes_on_without_its_log(case: &mut Case, victim: &str) {
    wait_for("a daemon that tells of its log", PATIENCE, || {
        let said = case.fleet.said(victim);
        said.contains("the raft log failed").then_some(())
    });
    // Longer than leases, elections and the hard rule take: nobody leaves, nothing stalls.
    std::thread::sleep(Duration::from_secs(8));
    case.goes_on("a write beside a failed log");
    let stall = case.load.seen().longest_stall;
    assert!(stall < Duration::from_secs(2), "{stall:?}");
    let asked = if victim == "a1" { "b1" } else { "a1" };
    let status = case.fleet.good(asked, &["status"]);
    let told = format!(
        "node '{victim}' (site {}) serves its copies without its raft log",
        &victim[..1]
    );
    assert!(status.contains(&told), "{status}");
    let shown = case.fleet.json(asked, &["volume", "show", PG]);
    let mut replicas = shown["replicas"].as_array().expect("a list").iter();
    assert!(
        replicas.all(|it| it["certified"] == true),
        "a copy has left: {shown:#}"
    );
}

#[test]
fn an_error_when_the_raft_log_is_written() {
    needs_root!();
    the_raft_log_fails("b1", On::Write);
}

/// The primary's node: what a client writes through it goes on, and the volume can be taken from it.
#[test]
fn an_error_when_the_primarys_raft_log_is_flushed() {
    needs_root!();
    let mut case = Case::begin("a1");
    case.load.forget_stalls();
    case.set(vec![Rule::everywhere("raft", On::Sync, EIO)]);
    commit_something(&case, 1);
    goes_on_without_its_log(&mut case, "a1");
    case.no_error_reached_the_application();
    case.load.lose_target();
    case.fleet
        .sooner_or_later("b1", &["volume", "detach", PG, "--force"]);
    case.fleet
        .sooner_or_later("b1", &["volume", "attach", PG, "--node", "b1"]);
    case.load.reopen(&case.fleet.socket("b1", PG));
    case.goes_on("a write elsewhere");
    let ended = case.fleet.stop_one("a1");
    assert!(!ended.success(), "it was stopped without its log: {ended}");
    case.set(Vec::new());
    case.fleet.start("a1");
    case.fleet.wait_until_it_stands();
    case.fleet.wait_until_healthy("b1", PG);
    case.ends_well();
}

#[test]
fn an_error_when_the_witnesss_raft_log_is_flushed() {
    needs_root!();
    the_raft_log_fails("w1", On::Sync);
}

#[test]
fn an_error_when_the_raft_log_is_read() {
    needs_root!();
    let mut case = Case::begin("b1");
    case.fleet.kill(&["b1".into()]);
    case.set(vec![Rule::everywhere("raft", On::Read, EIO)]);
    case.fleet.start("b1");
    let ended = case.fleet.wait_for_end("b1");
    assert!(!ended.success(), "{ended}");
    let said = case.fleet.said("b1");
    assert!(
        said.contains("cannot read") && said.contains("raft"),
        "{said}"
    );
    case.goes_on("a write without the node");
    case.set(Vec::new());
    case.fleet.start("b1");
    case.fleet.wait_until_it_stands();
    case.fleet.wait_until_healthy("a1", PG);
    case.no_error_reached_the_application();
    case.ends_well();
}

#[test]
fn no_room_under_the_raft_log() {
    needs_root!();
    let case = Case::begin("b1");
    case.set(vec![Rule::everywhere("raft", On::Write, ENOSPC)]);
    commit_something(&case, 1);
    case.wait_until_met();
    case.goes_on("a write while a log is full");
    let said = case.fleet.said("b1");
    assert!(said.contains("waits for free space"), "{said}");
    // Freed, it goes on by itself.
    case.set(Vec::new());
    commit_something(&case, 2);
    case.fleet.wait_until_it_stands();
    case.no_error_reached_the_application();
    case.ends_well();
}
