//! Forced recovery, with real processes: a quorum that is lost for good, a copy from outside the
//! in-sync set, and what becomes of the side that was overwritten.

use std::time::Duration;

use bytes::Bytes;
use e2e::Cluster;
use lockstep_nbd::client::{Blocking, Options};
use serde_json::Value;

const ANSWER: Duration = Duration::from_secs(60);
const SLOT: u64 = 1 << 20;

fn connect(cluster: &Cluster, node: &str, volume: &str) -> Blocking {
    let socket = cluster.socket(node, volume);
    e2e::wait_for("the NBD socket", ANSWER, || {
        Blocking::connect_unix(&socket, Options::new(volume), ANSWER).ok()
    })
}

fn pattern(seed: u8) -> Bytes {
    let byte = |i: usize| (i as u8).wrapping_mul(29).wrapping_add(seed);
    (0..16 * 4096).map(byte).collect::<Vec<u8>>().into()
}

fn write(client: &mut Blocking, seeds: std::ops::Range<u8>) {
    for seed in seeds {
        client
            .write(u64::from(seed) * SLOT, pattern(seed))
            .expect("written");
    }
}

fn check(client: &mut Blocking, seeds: std::ops::Range<u8>) {
    for seed in seeds {
        let read = client
            .read(u64::from(seed) * SLOT, 16 * 4096)
            .expect("read");
        assert_eq!(read, pattern(seed), "slot {seed}");
    }
}

fn replica<'a>(shown: &'a Value, node: &str) -> &'a Value {
    let replicas = shown["replicas"].as_array().expect("replicas");
    replicas
        .iter()
        .find(|replica| replica["node"] == node)
        .unwrap_or_else(|| panic!("no copy on {node}: {shown}"))
}

/// A command on one node's own daemon or directory.
fn on(cluster: &Cluster, node: &str, arguments: &[&str]) -> std::process::Output {
    let directory = cluster.path().join(node);
    let mut all = vec!["--dir", directory.to_str().expect("a plain path")];
    all.extend_from_slice(arguments);
    e2e::lockstep(&all)
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_for_status(cluster: &Cluster, node: &str, what: &str, done: impl Fn(&Value) -> bool) {
    e2e::wait_for(what, ANSWER, || {
        let output = on(cluster, node, &["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        done(&status).then_some(())
    });
}

#[test]
fn a_site_and_the_witness_are_gone_for_good() {
    let cluster = Cluster::up(2);
    cluster.good(&[
        "volume", "create", "pg", "--size", "64MiB", "--copies", "a=1,b=2",
    ]);
    cluster.good(&[
        "volume", "create", "idle", "--size", "16MiB", "--copies", "*=1",
    ]);
    let held_in_a = {
        let shown = cluster.json(&["volume", "show", "pg"]);
        let replicas = shown["replicas"].as_array().expect("replicas").clone();
        let in_a = replicas.iter().find(|replica| replica["site"] == "a");
        in_a.expect("one")["node"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    cluster.good(&["volume", "attach", "pg", "--node", &held_in_a]);
    let mut client = connect(&cluster, &held_in_a, "pg");
    write(&mut client, 0..12);
    drop(client);

    // While there is a majority nothing is rebuilt, nor under a daemon that runs.
    let refused = said(&on(&cluster, "b1", &["recover", "rebuild-quorum"]));
    assert!(refused.contains("another daemon runs"), "{refused}");
    cluster.kill("b1");
    let refused = said(&on(
        &cluster,
        "b1",
        &["recover", "rebuild-quorum", "--confirm", "local"],
    ));
    assert!(refused.contains("knows a leader"), "{refused}");
    let mut daemons = vec![cluster.restart("b1")];
    wait_for_status(&cluster, "b1", "b1's return", |status| {
        status["quorum"] == true
    });
    // A copy that is being resynced when the others die is a mixture, and no choice.
    cluster.wait_until_healthy("pg");

    for node in ["a1", "a2", "w"] {
        cluster.kill(node);
    }
    wait_for_status(&cluster, "b2", "the loss of the quorum", |status| {
        status["quorum"] == false
    });
    let name = {
        let output = on(&cluster, "b2", &["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["cluster"].as_str().expect("a name").to_owned()
    };
    cluster.kill("b1");
    let refused = said(&on(
        &cluster,
        "b1",
        &["recover", "rebuild-quorum", "--confirm", "another"],
    ));
    assert!(refused.contains("nothing was done"), "{refused}");
    let done = on(
        &cluster,
        "b1",
        &[
            "recover",
            "rebuild-quorum",
            "--confirm",
            &name,
            "--operator",
            "mallory",
            "-o",
            "json",
        ],
    );
    assert!(done.status.success(), "{}", said(&done));
    let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(done["generation"], 1);
    daemons.push(cluster.restart("b1"));
    wait_for_status(&cluster, "b1", "b1 leading alone", |status| {
        status["quorum"] == true && status["leader"] == "b1" && status["generation"] == 1
    });
    // b2 hears of it, sets its log aside, and follows.
    wait_for_status(&cluster, "b2", "b2 following", |status| {
        status["leader"] == "b1" && status["generation"] == 1
    });

    // Nothing opens before it is promoted by hand, whatever the record says.
    let shown = cluster.json(&["volume", "show", "pg"]);
    assert_eq!(shown["status"], "distrusted", "{shown}");
    let refused = cluster.bad(&["volume", "attach", "pg", "--node", "b1"]);
    assert!(refused.contains("promote-replica"), "{refused}");

    let listed = cluster.json(&["recover", "candidates", "pg"]);
    let candidates = listed["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.len(), 2, "{listed}");
    for candidate in candidates {
        assert_eq!(
            (&candidate["newest"], &candidate["behind"]),
            (&true.into(), &0.into()),
            "{listed}"
        );
        assert!(
            candidate["history"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        );
    }
    let refused = cluster.bad(&["recover", "promote-replica", "pg"]);
    assert!(refused.contains("--confirm pg"), "{refused}");
    cluster.good(&["recover", "promote-replica", "pg", "--confirm", "pg"]);
    cluster.good(&["volume", "attach", "pg", "--node", "b1"]);
    let mut client = connect(&cluster, "b1", "pg");
    check(&mut client, 0..12);
    write(&mut client, 12..16);

    // The other site returns with its old logs: barred, it joins anew; its copy stays sealed.
    for node in ["a1", "a2", "w"] {
        daemons.push(cluster.restart(node));
    }
    for node in ["a1", "a2", "w"] {
        wait_for_status(&cluster, node, "the old side joining", |status| {
            status["generation"] == 1 && status["quorum"] == true
        });
    }
    let shown = cluster.json(&["volume", "show", "pg"]);
    assert_eq!(replica(&shown, &held_in_a)["sealed_off"], true, "{shown}");
    check(&mut client, 0..16);
    let refused = cluster.bad(&[
        "recover",
        "discard",
        "pg",
        "--replica",
        "b2",
        "--confirm",
        "pg",
    ]);
    assert!(refused.contains("not overwritten"), "{refused}");
    cluster.good(&[
        "recover",
        "discard",
        "pg",
        "--replica",
        &held_in_a,
        "--confirm",
        "pg",
        "--operator",
        "trudy",
    ]);
    e2e::wait_for("a new copy in a", ANSWER, || {
        cluster
            .run(&["volume", "add-replica", "pg"])
            .status
            .success()
            .then_some(())
    });
    cluster.wait_until_healthy("pg");
    check(&mut client, 0..16);
    drop(client);

    let texts = cluster.good(&["events", "--audit"]);
    for part in [
        "mallory rebuilt the control plane",
        "promoted by force",
        "trudy discarded the overwritten copy",
    ] {
        assert!(texts.contains(part), "{part}: {texts}");
    }
    cluster.down();
    for mut daemon in daemons {
        daemon.wait().expect("reaped");
    }
}

#[test]
fn a_copy_from_outside_the_in_sync_set_is_promoted_by_hand() {
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "v", "--size", "16MiB", "--copies", "*=1",
    ]);
    cluster.good(&["volume", "attach", "v", "--node", "a1"]);
    let mut client = connect(&cluster, "a1", "v");
    write(&mut client, 0..4);
    cluster.kill("b1");
    // These stand on a1 only, once b1 has left.
    write(&mut client, 4..8);
    drop(client);
    let refused = cluster.bad(&["recover", "promote-replica", "v", "--confirm", "v"]);
    assert!(
        refused.contains("certified copy can be reached"),
        "{refused}"
    );
    // The witness has heard how far a1 was.
    e2e::wait_for("a1's last word", ANSWER, || {
        let output = on(&cluster, "w", &["volume", "show", "v", "-o", "json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        let text = replica(&shown, "a1")["text"].as_str()?.to_owned();
        text.ends_with(":8").then_some(())
    });
    cluster.kill("a1");
    let mut daemons = vec![cluster.restart("b1")];
    wait_for_status(&cluster, "w", "b1 and w being a majority", |status| {
        status["quorum"] == true && status["nodes_answering"] == 2
    });
    let refused = cluster.bad(&["volume", "attach", "v", "--node", "b1"]);
    assert!(refused.contains("attached to node 'a1'"), "{refused}");

    let listed = e2e::wait_for("b1's answer", ANSWER, || {
        let output = on(&cluster, "w", &["recover", "candidates", "v", "-o", "json"]);
        let listed: Value = serde_json::from_slice(&output.stdout).ok()?;
        (listed["candidates"].as_array()?.len() == 1).then_some(listed)
    });
    let candidate = &listed["candidates"][0];
    assert_eq!(candidate["node"], "b1", "{listed}");
    assert_eq!(candidate["behind"], 4, "{listed}");
    assert!(
        candidate["since_unix_ms"]
            .as_u64()
            .is_some_and(|since| since > 0),
        "{listed}"
    );
    assert_eq!(listed["unreachable"][0]["node"], "a1", "{listed}");
    cluster.good(&["recover", "promote-replica", "v", "--confirm", "v"]);
    cluster.good(&["volume", "attach", "v", "--node", "b1"]);
    let mut client = connect(&cluster, "b1", "v");
    check(&mut client, 0..4);
    let lost = client.read(4 * SLOT, 16 * 4096).expect("read");
    assert!(
        lost.iter().all(|byte| *byte == 0),
        "what only a1 had is not here"
    );
    write(&mut client, 8..12);

    daemons.push(cluster.restart("a1"));
    e2e::wait_for("a1's copy being sealed", ANSWER, || {
        let output = on(&cluster, "a1", &["volume", "show", "v", "-o", "json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        (replica(&shown, "a1")["sealed_off"] == true).then_some(())
    });
    check(&mut client, 8..12);
    // A node that has just started has yet to hear the others.
    e2e::wait_for("the way out being explained", ANSWER, || {
        let explained = cluster.good(&["volume", "explain", "v"]);
        explained
            .contains("recover discard v --replica a1")
            .then_some(())
    });
    cluster.good(&[
        "recover",
        "discard",
        "v",
        "--replica",
        "a1",
        "--confirm",
        "v",
    ]);
    e2e::wait_for("a new copy in a", ANSWER, || {
        cluster
            .run(&["volume", "add-replica", "v"])
            .status
            .success()
            .then_some(())
    });
    cluster.wait_until_healthy("v");
    check(&mut client, 0..4);
    check(&mut client, 8..12);
    drop(client);
    cluster.down();
    for mut daemon in daemons {
        daemon.wait().expect("reaped");
    }
}
