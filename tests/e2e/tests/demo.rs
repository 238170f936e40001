//! The first command of the README.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn the_demo_loses_nothing_and_leaves_nothing() {
    let place = e2e::directory();
    let path = place.path().to_str().expect("a plain path");
    let output = e2e::lockstep(&["demo", "--json", "--seconds", "2", "--in", path]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let summary: Value =
        serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(summary["lost"], 0, "{summary}");
    for key in [
        "acknowledged",
        "verified",
        "reopen_ms",
        "changed_bytes",
        "resynced_bytes",
    ] {
        assert!(
            summary[key].as_u64().is_some_and(|value| value > 0),
            "{key}: {summary}"
        );
    }
    if e2e::device::possible() {
        assert_eq!(summary["file_whole"], true, "{summary}");
    }
    leaves_nothing(place.path());
}

#[test]
fn a_demo_that_is_told_to_end_leaves_nothing() {
    // While the cluster is made; in the middle of the load; while a site is away.
    for (after, with) in [
        ("making certificates", "-INT"),
        ("writes acknowledged", "-TERM"),
        ("killing site a", "-HUP"),
    ] {
        let place = e2e::directory();
        let mut demo = Command::new(e2e::binary())
            .args(["demo", "--json", "--seconds", "1"])
            .args(["--volume-size", "32MiB", "--pool-size", "256MiB", "--in"])
            .arg(place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let told = BufReader::new(demo.stderr.take().expect("a pipe")).lines();
        let mut said = String::new();
        let mut signalled = false;
        for line in told.map(|line| line.expect("UTF-8")) {
            if line.contains(after) && !signalled {
                e2e::fleet::signal(&demo, with);
                signalled = true;
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = demo.wait().expect("reaped");
        assert!(signalled, "no line with '{after}':\n{said}");
        assert_eq!(status.code(), Some(1), "after '{after}':\n{said}");
        assert!(said.contains("stopped by SIG"), "{said}");
        leaves_nothing(place.path());
    }
}

fn leaves_nothing(place: &Path) {
    assert!(
        !e2e::device::is_used(place),
        "mounts or loop devices are left"
    );
    assert_eq!(processes(place), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(place).expect("listed").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Processes whose command line names something in a directory.
fn processes(place: &Path) -> Vec<String> {
    let place = e2e::device::text(place);
    std::fs::read_dir("/proc")
        .expect("listed")
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(&place))
        .collect()
}
