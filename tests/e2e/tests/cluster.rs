//! A whole cluster of real processes: founded, used, killed, back with its data.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use e2e::Cluster;
use lockstep_nbd::client::{Blocking, Options};

const ANSWER: Duration = Duration::from_secs(30);

fn connect(cluster: &Cluster, node: &str, volume: &str) -> Blocking {
    let socket = cluster.socket(node, volume);
    e2e::wait_for("the NBD socket", ANSWER, || {
        Blocking::connect_unix(&socket, Options::new(volume), ANSWER).ok()
    })
}

fn pattern(seed: u8, length: usize) -> Bytes {
    (0..length)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect::<Vec<u8>>()
        .into()
}

#[test]
fn data_outlives_kill_9_and_down_and_up() {
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "pg", "--size", "64MiB", "--copies", "*=1",
    ]);
    cluster.good(&["volume", "attach", "pg", "--node", "a1"]);
    let mut client = connect(&cluster, "a1", "pg");
    for step in 0..8u8 {
        client
            .write(u64::from(step) * 300 * 4096, pattern(step, 70 * 4096))
            .expect("written");
    }
    drop(client);
    cluster.kill("a1");
    let mut daemon = cluster.restart("a1");
    let mut client = connect(&cluster, "a1", "pg");
    for step in 0..8u8 {
        let read = client
            .read(u64::from(step) * 300 * 4096, 70 * 4096)
            .expect("read");
        assert_eq!(read, pattern(step, 70 * 4096), "after kill -9, step {step}");
    }
    drop(client);
    cluster.down();
    daemon.wait().expect("reaped");
    cluster.start(1);
    cluster.wait_until_healthy("pg");
    let mut client = connect(&cluster, "a1", "pg");
    for step in 0..8u8 {
        let read = client
            .read(u64::from(step) * 300 * 4096, 70 * 4096)
            .expect("read");
        assert_eq!(
            read,
            pattern(step, 70 * 4096),
            "after down and up, step {step}"
        );
    }
}

#[test]
fn a_node_that_was_removed_is_not_started_again() {
    let cluster = Cluster::up(2);
    let removed = cluster.json(&["node", "remove", "b2"]);
    assert_eq!(removed["removed"], "b2", "{removed:#}");
    assert!(!cluster.path().join("b2.pid").exists(), "it is stopped");
    cluster.down();
    cluster.start(2);
    let status = cluster.json(&["status"]);
    assert_eq!(status["nodes"], 4, "{status:#}");
    assert_eq!(status["attention"], serde_json::json!([]), "{status:#}");
}

#[test]
fn bad_input_is_refused_in_words() {
    let cluster = Cluster::up(1);
    let long = "x".repeat(300);
    for (arguments, expected) in [
        (
            &[
                "volume", "create", "v", "--size", "64MiB", "--copies", "c=1",
            ][..],
            "site",
        ),
        (
            &["volume", "create", "v", "--size", "64MiB", "--copies", "3"][..],
            "copies",
        ),
        (
            &[
                "volume", "create", "../v", "--size", "64MiB", "--copies", "2",
            ][..],
            "../v",
        ),
        (
            &["volume", "create", "", "--size", "64MiB", "--copies", "2"][..],
            "name",
        ),
        (
            &[
                "volume", "create", &long, "--size", "64MiB", "--copies", "2",
            ][..],
            "300 characters",
        ),
        (
            &["volume", "create", "v", "--size", "0", "--copies", "2"][..],
            "0 bytes",
        ),
        (
            &["volume", "create", "v", "--size", "4097", "--copies", "2"][..],
            "4096",
        ),
        (
            &["volume", "create", "v", "--size", "1TiB", "--copies", "2"][..],
            "too full",
        ),
        (&["volume", "show", "nothing"][..], "nothing"),
    ] {
        let said = cluster.bad(arguments);
        assert!(said.contains(expected), "{arguments:?} said: {said}");
    }
    cluster.good(&[
        "volume", "create", "pg", "--size", "16MiB", "--copies", "*=1",
    ]);
    let said = cluster.bad(&[
        "volume", "create", "pg", "--size", "32MiB", "--copies", "*=1",
    ]);
    assert!(said.contains("taken"), "{said}");
    cluster.good(&["volume", "attach", "pg", "--node", "a1"]);
    let said = cluster.bad(&["volume", "attach", "pg", "--node", "b1"]);
    assert!(said.contains("attached to node 'a1'"), "{said}");
    let said = cluster.bad(&["volume", "delete", "pg"]);
    assert!(said.contains("attached"), "{said}");
    cluster.good(&["volume", "detach", "pg"]);
    cluster.good(&["volume", "delete", "pg"]);
}

#[test]
fn the_usual_tools_work() {
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "tools", "--size", "64MiB", "--copies", "*=1",
    ]);
    cluster.good(&["volume", "attach", "tools", "--node", "a1"]);
    drop(connect(&cluster, "a1", "tools"));
    let uri = format!(
        "nbd+unix:///tools?socket={}",
        cluster.socket("a1", "tools").display()
    );
    // Nothing was written: the whole volume is a hole, and says so.
    let map = |uri: &str| {
        let output = Command::new("nbdinfo")
            .args(["--map", "--json", uri])
            .output();
        let output = output.expect("nbdinfo runs");
        assert!(output.status.success(), "{output:?}");
        let runs: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let field = |run: &serde_json::Value, name: &str| run[name].as_u64().expect("a number");
        let runs = runs.iter().map(|run| {
            (
                field(run, "offset"),
                field(run, "length"),
                field(run, "type"),
            )
        });
        runs.collect::<Vec<_>>()
    };
    const HOLE: u64 = 3;
    const DATA: u64 = 0;
    assert_eq!(map(&uri), [(0, 64 << 20, HOLE)]);
    let mut client = connect(&cluster, "a1", "tools");
    client.write(1 << 20, pattern(1, 8192)).expect("written");
    drop(client);
    let expected = [
        (0, 1 << 20, HOLE),
        (1 << 20, 8192, DATA),
        ((1 << 20) + 8192, (63 << 20) - 8192, HOLE),
    ];
    assert_eq!(map(&uri), expected);
    let file = cluster.path().join("image");
    std::fs::write(&file, pattern(3, 32 << 20)).expect("written");
    let back = cluster.path().join("back");
    let converted = cluster.path().join("converted");
    let plain = |path: &std::path::Path| path.to_str().expect("plain").to_owned();
    let (file, back, converted) = (&plain(&file), &plain(&back), &plain(&converted));
    let fio_uri = format!("--uri={uri}");
    let runs: [(&str, Vec<&str>); 7] = [
        ("nbdinfo", vec![&uri]),
        (
            "qemu-io",
            vec![
                "-f",
                "raw",
                "-c",
                "write -P 7 0 1M",
                "-c",
                "read -P 7 0 1M",
                "-c",
                "flush",
                &uri,
            ],
        ),
        (
            "qemu-img",
            vec!["convert", "-n", "-f", "raw", "-O", "raw", file, &uri],
        ),
        (
            "qemu-img",
            vec!["compare", "-f", "raw", "-F", "raw", file, &uri],
        ),
        ("nbdcopy", vec![&uri, back]),
        (
            "qemu-img",
            vec!["convert", "-f", "raw", "-O", "raw", &uri, converted],
        ),
        (
            "fio",
            vec![
                "--name=v",
                "--ioengine=nbd",
                &fio_uri,
                "--rw=randwrite",
                "--bs=4k",
                "--size=16M",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_state_save=0",
            ],
        ),
    ];
    for (tool, arguments) in runs {
        let output = Command::new("timeout")
            .arg("120")
            .arg(tool)
            .args(&arguments)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{tool} {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for (tool, out) in [("nbdcopy", back), ("qemu-img", converted)] {
        let copied = std::fs::read(out).expect("read");
        assert_eq!(copied.len(), 64 << 20);
        assert_eq!(
            copied[..32 << 20],
            pattern(3, 32 << 20)[..],
            "what {tool} took out is what qemu-img put in"
        );
    }
}
