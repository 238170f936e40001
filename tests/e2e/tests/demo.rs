//! The first command of the README.

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
    assert!(
        !e2e::device::is_used(place.path()),
        "mounts or loop devices are left"
    );
    let left: Vec<_> = std::fs::read_dir(place.path()).expect("listed").collect();
    assert!(left.is_empty(), "{left:?}");
}
