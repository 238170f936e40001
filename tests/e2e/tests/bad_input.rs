//! What operators and disks do wrong, beyond names and numbers (those are in `cluster.rs`): each
//! with a clear error and a non-zero exit, and nothing lost.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, pool, wait_for};
use lockstep_drive::{Load, Plan};
use lockstep_types::{BLOCK, VolumeId};

const PG: &str = "pg";
const BYTES: u64 = 12 << 20;
const MIB: u64 = 1 << 20;

fn tool(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is needed: {error}"));
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A volume in both sites under load, attached on a1.
fn under_load(setup: Setup) -> (Fleet, Load) {
    let fleet = Fleet::stand(setup);
    let size = BYTES.to_string();
    let made = fleet.json(
        "a1",
        &["volume", "create", PG, "--size", &size, "--copies", "*=1"],
    );
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    let plan = Plan::new(id, BYTES / BLOCK as u64, 4, 1);
    let load = Load::start(plan, &fleet.socket("a1", PG));
    goes_on(&fleet, &load);
    fleet.wait_until_healthy("a1", PG);
    (fleet, load)
}

fn goes_on(fleet: &Fleet, load: &Load) {
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
}

/// b1's copy has left, so that healthy means from now on that it is back.
fn a1_goes_on_alone(fleet: &Fleet, load: &Load) {
    fleet.wait_for_volume("a1", PG, "held by a1 alone", |shown| {
        let mut replicas = shown["replicas"].as_array().expect("a list").iter();
        !replicas.any(|it| it["node"] == "b1" && it["certified"] == true)
    });
    goes_on(fleet, load);
}

/// Each copy is read back from its own disk.
fn ends_well(fleet: &Fleet, mut load: Load) {
    load.stop();
    let seen = load.seen();
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{:#?}", seen.violations);
    for node in ["a1", "b1"] {
        read_back(fleet, &load, node);
    }
}

fn read_back(fleet: &Fleet, load: &Load, node: &str) {
    fleet.sooner_or_later(node, &["volume", "detach", PG]);
    fleet.sooner_or_later(node, &["volume", "attach", PG, "--node", node]);
    let socket = fleet.socket(node, PG);
    let seen = wait_for("a read-back", PATIENCE, || load.read_back(&socket).ok());
    assert_eq!(seen.wrong, 0, "on {node}: {:#?}", seen.violations);
    assert!(seen.verified_blocks > 0);
}

#[test]
fn a_device_that_holds_something_is_refused_by_what_it_holds() {
    let fleet = Fleet::plan(Setup::default());
    let other = Fleet::plan(Setup::default());
    for fleet in [&fleet, &other] {
        fleet.found("a1");
    }
    let file = |name: &str| {
        let path = fleet.path().join(name);
        let made = std::fs::File::create(&path).expect("made");
        made.set_len(320 * MIB).expect("long enough");
        path
    };
    let (ext4, xfs, table) = (file("ext4"), file("xfs"), file("table"));
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    tool("mkfs.ext4", &["-q", "-F", &text(&ext4)]);
    tool("mkfs.xfs", &["-q", &text(&xfs)]);
    let mut sector = [0; 512];
    // One Linux partition from sector 2048 on, and the signature.
    sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = OpenOptions::new().write(true).open(&table).expect("opened");
    disk.write_all_at(&sector, 0).expect("written");
    let foreign = other.pool_file("a1");
    other.make_pool("a1", &foreign);
    for (path, expected) in [
        (&ext4, "ext4"),
        (&xfs, "xfs"),
        (&table, "partition table"),
        (&foreign, "a Lockstep pool (cluster "),
    ] {
        let before = checksum(path);
        let arguments = ["pool", "create", "p0", "--path", &text(path)];
        let said = fleet.bad("a1", &arguments);
        assert!(
            said.contains(expected) && said.contains("--overwrite"),
            "{}: {said}",
            path.display()
        );
        assert_eq!(checksum(path), before, "{} was changed", path.display());
    }
}

fn checksum(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn two_daemons_on_one_pool_or_directory_are_refused() {
    let (mut fleet, load) = under_load(Setup::default());
    // A second daemon in the directory.
    let output = fleet.run("b1", &["daemon"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("another daemon runs in"), "{said}");
    // A second directory that names the same pool.
    let copy = fleet.path().join("copy");
    tool(
        "cp",
        &[
            "-a",
            fleet.home("b1").to_str().expect("plain"),
            copy.to_str().expect("plain"),
        ],
    );
    let _ = std::fs::remove_file(copy.join("raft/lock"));
    let output = e2e::bounded()
        .args(["--dir", copy.to_str().expect("plain"), "daemon"])
        .output()
        .expect("the binary runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("in use by another process"), "{said}");
    assert!(!fleet.has_ended("b1"));
    goes_on(&fleet, &load);
    ends_well(&fleet, load);
}

#[test]
fn a_detach_in_use_fences_whoever_used_it() {
    let (fleet, load) = under_load(Setup::default());
    load.lose_target();
    let socket = fleet.socket("a1", PG);
    let options = lockstep_nbd::client::Options::new(PG);
    let mut user = lockstep_nbd::client::Blocking::connect_unix(&socket, options, PATIENCE)
        .expect("connected");
    user.read(0, 4096).expect("read");
    let said = fleet.bad("a1", &["volume", "detach", PG]);
    assert!(
        said.contains("in use") && said.contains("--force"),
        "{said}"
    );
    user.read(0, 4096).expect("nothing has changed");
    fleet.good("a1", &["volume", "detach", PG, "--force"]);
    // R12: nothing of the ended attachment is carried out any more.
    let write = user.write(0, bytes::Bytes::from(vec![0x77; 4096]));
    assert!(write.is_err(), "{write:?}");
    fleet.sooner_or_later("b1", &["volume", "attach", PG, "--node", "b1"]);
    load.reopen(&fleet.socket("b1", PG));
    goes_on(&fleet, &load);
    let mut load = load;
    load.stop();
    let seen = load.seen();
    assert_eq!(seen.wrong, 0, "{:#?}", seen.violations);
    for node in ["a1", "b1"] {
        read_back(&fleet, &load, node);
    }
}

#[test]
fn a_voter_that_comes_back_with_an_empty_disk_is_a_new_one() {
    let (mut fleet, load) = under_load(Setup::default());
    for name in ["w1", "b1"] {
        let id = |fleet: &Fleet| {
            let status = fleet.try_json("a1", &["status"])?;
            let voters = status["voters"].as_array()?.clone();
            let mine = voters.into_iter().find(|it| it["node"] == name)?;
            (mine["learner"] == false).then(|| mine["raft_id"].as_u64().expect("a number"))
        };
        let before = id(&fleet).expect("it votes");
        fleet.kill(&[name.into()]);
        std::fs::remove_dir_all(fleet.home(name).join("raft")).expect("removed");
        fleet.start(name);
        // R20: not under the id whose promises it has forgotten.
        let after = wait_for("another voter", 2 * PATIENCE, || {
            id(&fleet).filter(|after| *after != before)
        });
        assert_ne!(before, after);
        fleet.wait_until_it_stands();
        fleet.wait_until_healthy("a1", PG);
        goes_on(&fleet, &load);
    }
    ends_well(&fleet, load);
}

#[test]
fn a_clock_that_jumps_an_hour_changes_nothing() {
    let machines = std::fs::read_dir("/usr/lib").expect("a Debian machine");
    let places = machines.map(|it| {
        it.expect("listed")
            .path()
            .join("faketime/libfaketimeMT.so.1")
    });
    let library = places
        .filter(|library| library.exists())
        .last()
        .expect("the Debian package faketime is needed");
    let offset = e2e::directory();
    let file = offset.path().join("offset");
    std::fs::write(&file, "+0\n").expect("written");
    let environment = vec![
        ("LD_PRELOAD".into(), library.into()),
        ("FAKETIME_TIMESTAMP_FILE".into(), file.clone().into()),
        ("FAKETIME_NO_CACHE".into(), "1".into()),
        // The wall clock jumps; the others never do.
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ];
    let (fleet, load) = under_load(Setup {
        environment,
        ..Setup::default()
    });
    for jump in ["+1h", "-1h", "+0"] {
        load.forget_stalls();
        std::fs::write(&file, format!("{jump}\n")).expect("written");
        let said = says_what_time_it_is(&fleet);
        let hours = match jump {
            "+1h" => 1,
            "-1h" => -1,
            _ => 0,
        };
        assert!((said - hours * 3600).abs() < 600, "{jump}: {said} s ahead");
        // What is promised is that nothing happens, for longer than leases and elections take.
        std::thread::sleep(Duration::from_secs(6));
        goes_on(&fleet, &load);
        let stall = load.seen().longest_stall;
        assert!(
            stall < Duration::from_secs(1),
            "{jump}: {stall:?}{}",
            fleet.logs()
        );
        let shown = fleet.json("a1", &["volume", "show", PG]);
        assert_eq!(shown["status"], "healthy", "{jump}: {shown:#}");
    }
    ends_well(&fleet, load);
}

/// How many seconds the control plane's clock is ahead of ours, by the event of something that is done now.
fn says_what_time_it_is(fleet: &Fleet) -> i64 {
    fleet.good(
        "a1",
        &[
            "volume", "create", "clock", "--size", "4MiB", "--copies", "*=1",
        ],
    );
    fleet.good("a1", &["volume", "delete", "clock"]);
    let events = fleet.good("a1", &["events", "-o", "json"]);
    let last = events.lines().last().expect("one object a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let theirs = last["at_unix_ms"].as_i64().expect("a time") / 1000;
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    theirs - ours.expect("after 1970").as_secs() as i64
}

/// What may happen to the bytes of a structure.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Zeroed,
    Flipped,
}

/// Every structure of a pool and where it lies; what takes the pool with it comes last.
fn structures(file: &Path) -> Vec<(&'static str, std::ops::Range<u64>)> {
    let geometry = pool::geometry(file);
    let block = BLOCK as u64;
    let area = |area: lockstep_store::geometry::Area| area.offset..area.offset + area.length;
    vec![
        ("the first superblock", 0..block),
        ("the second superblock", block..2 * block),
        ("the anchors", area(geometry.anchors)),
        ("the replica table", area(geometry.replicas)),
        ("the directory", area(geometry.directory)),
        ("the delta log", area(geometry.delta)),
        ("the map pages", area(geometry.map)),
        ("the checksum pages", area(geometry.checksums)),
        ("the ring", area(geometry.ring)),
        ("the data", area(geometry.data)),
        ("both superblocks", 0..2 * block),
    ]
}

/// Every structure of a pool, zeroed and with flipped bits, while its node is away and the other
/// copy goes on. The copy comes back as it should be, or the pool is left out and said to be.
#[test]
fn a_damaged_pool_is_repaired_or_left_out_and_never_believed() {
    let (mut fleet, load) = under_load(Setup {
        pool: "64MiB",
        journal: "4MiB",
        ..Setup::default()
    });
    let file = fleet.pool_file("b1");
    for (name, range) in structures(&file) {
        for damage in [Damage::Zeroed, Damage::Flipped] {
            fleet.kill(&["b1".into()]);
            a1_goes_on_alone(&fleet, &load);
            let kept = std::fs::read(&file).expect("read");
            let disk = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&file)
                .expect("opened");
            harm(&disk, range.clone(), damage);
            drop(disk);
            let how = comes_back(&mut fleet);
            eprintln!("{name}, {damage:?}: {how}");
            if name == "the replica table" {
                // R4: a copy made anew in a blank table would own what the last one left.
                assert_ne!(
                    how, "healthy",
                    "{damage:?}: what it described is still there"
                );
            }
            goes_on(&fleet, &load);
            if how != "healthy" {
                // The operator puts the disk's content back: an old one, which is resynced.
                fleet.kill(&["b1".into()]);
                std::fs::write(&file, &kept).expect("written");
                fleet.start("b1");
                fleet.wait_until_healthy("a1", PG);
            }
            assert_eq!(
                load.seen().wrong,
                0,
                "{name}, {damage:?}: {:#?}",
                load.seen().violations
            );
        }
    }
    fleet.kill(&["b1".into()]);
    a1_goes_on_alone(&fleet, &load);
    let kept = std::fs::read(&file).expect("read");
    for (what, length) in [("truncated to half", 32 * MIB), ("truncated to nothing", 0)] {
        std::fs::write(&file, &kept[..length as usize]).expect("written");
        let how = comes_back(&mut fleet);
        eprintln!("{what}: {how}");
        assert_ne!(how, "healthy", "{what}");
        fleet.kill(&["b1".into()]);
    }
    std::fs::write(&file, &kept).expect("written");
    fleet.start("b1");
    fleet.wait_until_healthy("a1", PG);
    ends_well(&fleet, load);
}

fn harm(disk: &std::fs::File, range: std::ops::Range<u64>, damage: Damage) {
    for offset in range.step_by(BLOCK) {
        let mut page = [0; BLOCK];
        disk.read_exact_at(&mut page, offset).expect("read");
        match damage {
            Damage::Zeroed => page.fill(0),
            Damage::Flipped => page[(offset / 7 % 4096) as usize] ^= 0x10,
        }
        disk.write_all_at(&page, offset).expect("written");
    }
    disk.sync_all().expect("flushed");
}

/// Starts b1, and waits until its copy is healthy, its pool is said to be failed or left out, or its
/// daemon has ended with a reason.
fn comes_back(fleet: &mut Fleet) -> &'static str {
    let said_before = fleet.said("b1").len();
    fleet.start("b1");
    wait_for(
        "b1's copy being healthy, or its pool left out",
        PATIENCE,
        || {
            if fleet.has_ended("b1") {
                fleet.wait_for_end("b1");
                return Some("the daemon refused");
            }
            let said = fleet
                .said("b1")
                .split_off(said_before.min(fleet.said("b1").len()));
            if said.contains("a pool is left out") {
                return Some("left out");
            }
            let shown = fleet.try_json("a1", &["volume", "show", PG])?;
            if shown["status"] == "healthy" {
                return Some("healthy");
            }
            let pools = fleet.try_json("a1", &["pool", "list"])?;
            let mut pools = pools.as_array()?.iter();
            pools
                .any(|it| it["node"] == "b1" && it["failed"] != "")
                .then_some("failed")
        },
    )
}

/// A superblock that says to be of another version, and a ring whose batches do: refused by name.
#[test]
fn a_journal_of_another_version_is_refused() {
    let (mut fleet, load) = under_load(Setup::default());
    let file = fleet.pool_file("b1");
    let superblocks = |file: &Path| {
        let disk = OpenOptions::new().read(true).write(true).open(file);
        let disk = disk.expect("opened");
        for copy in [0, BLOCK as u64] {
            let mut page = [0; BLOCK];
            disk.read_exact_at(&mut page, copy).expect("read");
            pool::set_version(&mut page, 2);
            disk.write_all_at(&page, copy).expect("written");
        }
    };
    let batches = |file: &Path| assert!(pool::set_version_of_batches(file, 2) > 0);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>); 2] = [
        ("superblock is refused: its version 2", &superblocks),
        ("journal batch header is refused: its version 2", &batches),
    ];
    for (expected, change) in changes {
        fleet.kill(&["b1".into()]);
        a1_goes_on_alone(&fleet, &load);
        let kept = std::fs::read(&file).expect("read");
        change(&file);
        let said_before = fleet.said("b1").len();
        fleet.start("b1");
        wait_for("a pool that is refused by its version", PATIENCE, || {
            let said = fleet.said("b1");
            said.get(said_before..)?.contains(expected).then_some(())
        });
        goes_on(&fleet, &load);
        fleet.kill(&["b1".into()]);
        std::fs::write(&file, kept).expect("written");
        fleet.start("b1");
        fleet.wait_until_healthy("a1", PG);
    }
    ends_well(&fleet, load);
}
