//! What an operator does on a working day, and what a cluster must do beside it: copies added, moved and taken
//! away under load, no voter left, a full pool, a block that decays where nobody reads, a pool on a block
//! device, and every listing read by a program.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use e2e::fleet::PATIENCE;
use e2e::{Cluster, Fleet, Setup, pool, wait_for};
use lockstep_drive::{Load, Plan};
use lockstep_nbd::IoError;
use lockstep_nbd::client::{Blocking, ClientError, Options};
use lockstep_types::{BLOCK, EXTENT, VolumeId};
use serde_json::Value;

const PG: &str = "pg";
const MIB: u64 = 1 << 20;

fn under_load(fleet: &Fleet, copies: &str) -> Load {
    let made = fleet.json(
        "a1",
        &[
            "volume", "create", PG, "--size", "16MiB", "--copies", copies,
        ],
    );
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    let plan = Plan::new(id, 16 * MIB / BLOCK as u64, 4, 1);
    let load = Load::start(plan, &fleet.socket("a1", PG));
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    fleet.wait_until_healthy("a1", PG);
    load
}

/// Nodes with a certified copy.
fn certified(shown: &Value) -> Vec<&str> {
    let replicas = shown["replicas"].as_array().expect("a list").iter();
    let replicas = replicas.filter(|it| it["certified"] == true);
    let mut nodes: Vec<&str> = replicas
        .map(|it| it["node"].as_str().expect("a name"))
        .collect();
    nodes.sort_unstable();
    nodes
}

fn stands_on(fleet: &Fleet, expected: &[&str]) {
    let what = format!("certified on {expected:?}");
    fleet.wait_for_volume("a1", PG, &what, |shown| {
        let all = shown["replicas"].as_array().map_or(0, Vec::len);
        certified(shown) == expected && all == expected.len()
    });
}

fn client(socket: &Path, volume: &str) -> Blocking {
    wait_for("the NBD socket", PATIENCE, || {
        Blocking::connect_unix(socket, Options::new(volume), PATIENCE).ok()
    })
}

#[test]
fn copies_are_added_moved_and_taken_away_under_load() {
    let fleet = Fleet::stand(Setup {
        sites: &[("a", 2), ("b", 2), ("w", 1)],
        ..Setup::default()
    });
    let load = under_load(&fleet, "a=1,b=1");
    let shown = fleet.json("a1", &["volume", "show", PG]);
    let holders: Vec<String> = certified(&shown).iter().map(|it| (*it).into()).collect();
    let [in_a, in_b] = &holders[..] else {
        panic!("{holders:?}")
    };
    let other = |name: &str| match name {
        "a1" => "a2",
        "a2" => "a1",
        "b1" => "b2",
        _ => "b1",
    };
    let (a, b) = (in_a.as_str(), other(in_b));
    load.forget_stalls();
    fleet.good(
        "a1",
        &[
            "volume",
            "move-replica",
            PG,
            "--from",
            in_b,
            "--node",
            b,
            "--wait",
        ],
    );
    stands_on(&fleet, &[a, b]);
    fleet.good(
        "a1",
        &["volume", "set-policy", PG, "--copies", "a=2,b=1", "--wait"],
    );
    let mut three = vec![a, other(a), b];
    three.sort_unstable();
    stands_on(&fleet, &three);
    // One too many by the policy, on purpose; then it may go, and one that is needed may not.
    fleet.good(
        "a1",
        &["volume", "add-replica", PG, "--node", in_b, "--wait"],
    );
    let mut four = three.clone();
    four.push(in_b);
    four.sort_unstable();
    stands_on(&fleet, &four);
    fleet.good("a1", &["volume", "remove-replica", PG, "--replica", in_b]);
    stands_on(&fleet, &three);
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    let seen = load.finish(&fleet.socket("a1", PG)).expect("it is read");
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{seen:?}");
}

#[test]
fn without_any_voter_io_goes_on_and_nothing_changes() {
    let mut fleet = Fleet::stand(Setup {
        sites: &[("a", 3), ("b", 3), ("w", 1)],
        pool: "64MiB",
        journal: "8MiB",
        ..Setup::default()
    });
    let status = fleet.json("a1", &["status"]);
    let voters = status["voters"].as_array().expect("a list").iter();
    let voters: Vec<String> = voters
        .filter(|it| it["learner"] == false)
        .map(|it| it["node"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(voters.len(), 5, "{status:#}");
    let silent = |site: &str| {
        let nodes = fleet.site(site).into_iter();
        nodes
            .into_iter()
            .find(|it| !voters.contains(it))
            .expect("a site has three nodes and two voters")
    };
    let (a, b) = (silent("a"), silent("b"));
    let made = [
        "volume", "create", PG, "--size", "16MiB", "--copies", "a=1,b=1",
    ];
    fleet.good("a1", &made);
    // Wherever its copies are: they go to those that do not vote.
    for (site, to) in [("a", &a), ("b", &b)] {
        let shown = fleet.json("a1", &["volume", "show", PG]);
        let from = certified(&shown)
            .into_iter()
            .find(|it| it.starts_with(site))
            .expect("one a site");
        if from != to {
            fleet.good(
                "a1",
                &[
                    "volume",
                    "move-replica",
                    PG,
                    "--from",
                    from,
                    "--node",
                    to,
                    "--wait",
                ],
            );
        }
    }
    stands_on(&fleet, &[&a, &b]);
    let shown = fleet.json("a1", &["volume", "show", PG]);
    let id: VolumeId = shown["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", &a]);
    let plan = Plan::new(id, 16 * MIB / BLOCK as u64, 4, 2);
    let mut load = Load::start(plan, &fleet.socket(&a, PG));
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    fleet.wait_until_healthy("a1", PG);
    let before = fleet.json(&a, &["volume", "show", PG]);
    load.forget_stalls();
    fleet.kill(&voters);
    // Longer than every timeout: leases, beacons, elections.
    let acknowledged = load.seen().acknowledged;
    let began = std::time::Instant::now();
    wait_for("twenty seconds of writes", PATIENCE, || {
        (began.elapsed().as_secs() >= 20 && load.quiet_for().as_millis() < 500).then_some(())
    });
    load.stop();
    let seen = load.seen();
    assert!(seen.acknowledged > acknowledged + 100, "{seen:?}");
    assert!(
        seen.longest_stall.as_secs() < 1,
        "no voter is on the way of a write: {seen:?}"
    );
    for voter in &voters {
        fleet.start(voter);
    }
    fleet.wait_until_it_stands();
    let after = fleet.json("a1", &["volume", "show", PG]);
    assert_eq!(certified(&after), [a.as_str(), b.as_str()], "{after:#}");
    assert_eq!(after["epoch"], before["epoch"], "{after:#}");
    let seen = load.read_back(&fleet.socket(&a, PG)).expect("it is read");
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{seen:?}");
}

#[test]
fn a_full_pool_is_told_to_the_client_and_has_room_again_after_a_discard() {
    let cluster = Fleet::stand(Setup {
        pool: "96MiB",
        journal: "8MiB",
        ..Setup::default()
    });
    cluster.good("a1", &["cluster", "set", "--overprovision", "400"]);
    for name in ["one", "two"] {
        cluster.good(
            "a1",
            &[
                "volume", "create", name, "--size", "64MiB", "--copies", "*=1",
            ],
        );
        cluster.sooner_or_later("a1", &["volume", "attach", name, "--node", "a1"]);
    }
    let mut one = client(&cluster.socket("a1", "one"), "one");
    let mut two = client(&cluster.socket("a1", "two"), "two");
    let extent = Bytes::from(vec![7u8; EXTENT]);
    let fill = |client: &mut Blocking| {
        let offsets = (0..64 * MIB).step_by(EXTENT);
        offsets
            .into_iter()
            .map(|at| client.write(at, extent.clone()))
            .find(Result::is_err)
    };
    assert!(fill(&mut one).is_none(), "the first fits");
    let refused = fill(&mut two).expect("the second does not");
    assert!(
        matches!(refused, Err(ClientError::Failed(IoError::NoSpace))),
        "{refused:?}"
    );
    // What was there is there, and can be written again: its room is its own.
    one.write(0, Bytes::from(vec![9u8; BLOCK]))
        .expect("written in its place");
    let read = one.read(0, EXTENT as u32).expect("read");
    assert!(
        read[..BLOCK].iter().all(|byte| *byte == 9) && read[BLOCK..].iter().all(|byte| *byte == 7)
    );
    one.trim(0, 32 * MIB as u32).expect("discarded");
    wait_for("room", PATIENCE, || {
        two.write(63 * MIB, extent.clone()).ok()
    });
    for name in ["one", "two"] {
        cluster.wait_until_healthy("a1", name);
    }
}

/// Nobody reads the block that decays: the scrub finds it, and the other copy mends it.
#[test]
fn a_block_that_decays_where_nobody_reads_is_found_and_mended() {
    let mut fleet = Fleet::stand(Setup::default());
    let node = fleet.home("b1").join("node.toml");
    let text = std::fs::read_to_string(&node).expect("a configuration");
    std::fs::write(&node, text + "\n[data_plane]\nscrub_pass = \"10s\"\n").expect("written");
    fleet.stop_one("b1");
    fleet.start("b1");
    fleet.wait_until_it_stands();
    fleet.good(
        "a1",
        &["volume", "create", PG, "--size", "16MiB", "--copies", "*=1"],
    );
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    fleet.wait_until_healthy("a1", PG);
    let mut client = client(&fleet.socket("a1", PG), PG);
    // Whole extents go straight to their places.
    let content = |index: u64| Bytes::from([index as u8 + 1, 0xa5, 0x5a, 3].repeat(EXTENT / 4));
    for index in 0..16 {
        client
            .write(index * EXTENT as u64, content(index))
            .expect("written");
    }
    let file = fleet.pool_file("b1");
    let data = pool::geometry(&file).data;
    let disk = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .expect("opened");
    let block = |at: u64| {
        let mut bytes = vec![0; BLOCK];
        disk.read_exact_at(&mut bytes, at).expect("read");
        bytes
    };
    let wanted = &content(5)[..BLOCK];
    let mut places = (data.offset..data.offset + data.length).step_by(BLOCK);
    let place = places
        .find(|at| block(*at) == wanted)
        .expect("it lies somewhere");
    let before = fleet.metric("a1", "lockstep_blocks_repaired_total");
    disk.write_all_at(&[0xff; 16], place + 100)
        .expect("written");
    disk.sync_all().expect("synced");
    assert_ne!(block(place), wanted);
    wait_for("the repair", PATIENCE, || {
        (block(place) == wanted).then_some(())
    });
    wait_for("the repair being counted", PATIENCE, || {
        (fleet.metric("a1", "lockstep_blocks_repaired_total") > before).then_some(())
    });
    fleet.wait_until_healthy("a1", PG);
}

#[test]
fn a_pool_on_a_block_device_carries_its_volume() {
    if !e2e::device::possible() {
        eprintln!("skipped: loop devices need root");
        return;
    }
    let mut fleet = Fleet::plan(Setup::default());
    fleet.found("a1");
    fleet.make_pool("a1", &fleet.pool_file("a1"));
    fleet.start("a1");
    fleet.join("b1", "a1");
    fleet.join("w1", "a1");
    let image = fleet.path().join("device.img");
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(192 * MIB))
        .expect("made");
    let device = Loop::over(&image);
    let path = device.path.as_str();
    let create = ["pool", "create", "p0", "--path", path, "--journal", "16MiB"];
    // Somebody's file system is not overwritten without being asked.
    e2e::device::run("mkfs.ext4", &["-q", path]);
    let said = fleet.bad("b1", &create);
    assert!(said.contains("ext4"), "{said}");
    e2e::device::run("fsck.ext4", &["-f", "-n", path]);
    let mut all = create.to_vec();
    all.extend(["--overwrite", path]);
    fleet.good("b1", &all);
    fleet.start("b1");
    fleet.start("w1");
    fleet.wait_until_it_stands();
    let load = under_load(&fleet, "*=1");
    fleet.kill(&["b1".into()]);
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    fleet.start("b1");
    fleet.wait_until_healthy("a1", PG);
    let seen = load.finish(&fleet.socket("a1", PG)).expect("it is read");
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{seen:?}");
    fleet.stop();
}

/// A loop device, gone when it is dropped.
struct Loop {
    path: String,
}

impl Loop {
    fn over(image: &Path) -> Self {
        let image = image.to_str().expect("plain");
        let path = e2e::device::run("losetup", &["--find", "--show", "--direct-io=on", image]);
        Self {
            path: path.trim().into(),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.path]).status();
    }
}

#[test]
fn every_listing_can_be_read_by_a_program() {
    let cluster = Cluster::up(1);
    cluster.good(&["volume", "create", PG, "--size", "16MiB", "--copies", "*=1"]);
    cluster.good(&["volume", "attach", PG, "--node", "a1"]);
    cluster.wait_until_healthy(PG);
    let lists: [&[&str]; 5] = [
        &["volume", "list"],
        &["node", "list"],
        &["site", "list"],
        &["pool", "list"],
        &["cluster", "ledger"],
    ];
    for list in lists {
        assert!(cluster.json(list).is_array(), "{list:?} gives a list");
        assert!(
            !cluster.good(list).trim_start().starts_with('['),
            "{list:?} is for people"
        );
    }
    // What may be followed is one object a line.
    let events = cluster.good(&["events", "-o", "json"]);
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert!(event["text"].is_string(), "{line}");
    }
    let shown: [&[&str]; 5] = [
        &["status"],
        &["volume", "show", PG],
        &["volume", "explain", PG],
        &["node", "show", "a1"],
        &["explain", "volume", PG],
    ];
    for one in shown {
        assert!(cluster.json(one).is_object(), "{one:?} gives one thing");
    }
    cluster.good(&["node", "cordon", "b1"]);
    assert_eq!(cluster.json(&["node", "show", "b1"])["cordoned"], true);
    cluster.good(&["node", "uncordon", "b1"]);
    assert_eq!(cluster.json(&["node", "show", "b1"])["cordoned"], false);
    for shell in ["bash", "zsh", "fish"] {
        let script = cluster.good(&["completions", shell]);
        assert!(
            script.contains("lockstep") && script.len() > 1000,
            "{shell}"
        );
    }
}

#[test]
fn a_node_says_whether_it_lives_and_is_ready() {
    let mut fleet = Fleet::stand(Setup::default());
    assert_eq!(health(&fleet, "b1", "/livez").0, 200);
    wait_for("b1 being ready", PATIENCE, || {
        (health(&fleet, "b1", "/readyz").0 == 200).then_some(())
    });
    let (code, text) = health(&fleet, "b1", "/metrics");
    assert!(code == 200 && text.contains("lockstep_"), "{text}");
    assert_eq!(health(&fleet, "b1", "/").0, 404);
    // Alone it has no quorum, and lives all the same: to kill it would help nobody.
    fleet.kill(&["a1".into(), "w1".into(), "b1".into()]);
    fleet.start("b1");
    wait_for("b1 living", PATIENCE, || {
        TcpStream::connect(fleet.metrics_address("b1")).ok()
    });
    assert_eq!(health(&fleet, "b1", "/livez").0, 200);
}

#[test]
fn a_scrape_says_what_clients_see_and_what_the_cluster_holds() {
    let mut fleet = Fleet::stand(Setup::default());
    let mut load = under_load(&fleet, "2");
    let all = wait_for("writes being counted", PATIENCE, || {
        let all = scrape(&fleet, &["a1", "b1", "w1"]);
        let count = "lockstep_volume_request_seconds_count{volume=\"pg\",op=\"write\"}";
        // That it is open comes with a heartbeat.
        let open = sample(&all, "lockstep_volume_open{volume=\"pg\"}")? == 1.0;
        (open && sample(&all, count)? > 0.0).then_some(all)
    });
    let is = |name: &str, value: f64| assert_eq!(sample(&all, name), Some(value), "{name}\n{all}");
    is("lockstep_cluster_node_answers{node=\"b1\",site=\"b\"}", 1.0);
    is("lockstep_volume_copies_wanted{volume=\"pg\"}", 2.0);
    is("lockstep_volume_copies_certified{volume=\"pg\"}", 2.0);
    is("lockstep_volume_single_site{volume=\"pg\"}", 0.0);
    is("lockstep_link_up{peer=\"b1\",peer_site=\"b\"}", 1.0);
    is(
        "lockstep_volume_request_errors_total{volume=\"pg\",op=\"write\"}",
        0.0,
    );
    let round_trip = "lockstep_link_round_trip_seconds{peer=\"b1\",peer_site=\"b\"}";
    assert!(sample(&all, round_trip).is_some_and(|s| s > 0.0 && s < 1.0));
    // As a histogram has to be: what is within a bound is within the next.
    let within = |le: &str| {
        let name = format!(
            "lockstep_volume_request_seconds_bucket{{volume=\"pg\",op=\"write\",le=\"{le}\"}}"
        );
        sample(&all, &name).expect("a bucket")
    };
    assert!(within("0.0001") <= within("0.01") && within("0.01") <= within("+Inf"));

    fleet.kill(&["b1".into()]);
    wait_for("the loss being told", PATIENCE, || {
        let all = scrape(&fleet, &["a1", "w1"]);
        let alone = sample(&all, "lockstep_volume_single_site{volume=\"pg\"}")? == 1.0;
        let copies = sample(&all, "lockstep_volume_copies_certified{volume=\"pg\"}")?;
        let silent = sample(
            &all,
            "lockstep_cluster_node_answers{node=\"b1\",site=\"b\"}",
        )? == 0.0;
        (alone && silent && copies == 1.0).then_some(())
    });
    load.stop();
}

/// What these nodes tell Prometheus.
fn scrape(fleet: &Fleet, nodes: &[&str]) -> String {
    let page = |node: &&str| health(fleet, node, "/metrics").1;
    nodes.iter().map(page).collect()
}

/// The sample of this name and these labels, if there is one.
fn sample(scraped: &str, name: &str) -> Option<f64> {
    let value = scraped
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.trim().parse().expect("a number"))
}

/// What a node's health page answers, by plain HTTP.
fn health(fleet: &Fleet, node: &str, page: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(fleet.metrics_address(node)).expect("it listens");
    let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status"), text)
}
