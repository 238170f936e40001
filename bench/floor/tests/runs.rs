//! Both modes run, answer in JSON, and leave what they wrote in the files.

use std::path::Path;
use std::process::Command;

fn floor(arguments: &[&str], directory: &Path) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lockstep-floor"))
        .args(arguments)
        .args(["--seconds", "1", "--size", "4", "--json", "--dir"])
        .arg(directory)
        .output()
        .expect("starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

#[test]
fn three_copies_are_the_same_after_replicating_at_depth() {
    let directory = scratch();
    let result = floor(
        &["replicate", "--depth", "4", "--checksums"],
        directory.path(),
    );
    assert!(result["requests"].as_u64().expect("a number") > 0);
    assert!(result["cpu"].as_f64().expect("a number") > 0.0);
    assert!(result["p50"].as_f64() <= result["p99"].as_f64());
    let read = |index: usize| {
        let path = directory.path().join(format!("lockstep-floor-{index}.dat"));
        std::fs::read(path).expect("reads")
    };
    let first = read(0);
    assert_ne!(first, vec![0x5a; 4 << 20], "something was written");
    // Lanes may write the same block at once, in another order on each copy: all other blocks
    // are equal, and lanes rarely meet.
    let differing = |other: Vec<u8>| {
        first
            .chunks(4096)
            .zip(other.chunks(4096))
            .filter(|(a, b)| a != b)
            .count()
    };
    let blocks = first.len() / 4096;
    assert!(differing(read(1)) < blocks / 4 && differing(read(2)) < blocks / 4);
}

#[test]
fn front_end_hop_and_tls_change_nothing_in_what_is_stored() {
    let directory = scratch();
    let arguments = ["replicate", "--unix", "--tls", "--checksums"];
    let result = floor(&arguments, directory.path());
    assert!(result["requests"].as_u64().expect("a number") > 0);
    let copy = |index: usize| {
        let path = directory.path().join(format!("lockstep-floor-{index}.dat"));
        std::fs::read(path).expect("reads")
    };
    assert!(copy(0) == copy(1) && copy(0) == copy(2));
    assert_ne!(copy(0), vec![0x5a; 4 << 20], "something was written");
    let left = std::fs::read_dir(directory.path()).expect("lists").count();
    assert_eq!(left, 3, "socket and certificate are gone, the copies stay");
}

#[test]
fn one_lane_leaves_identical_copies() {
    let directory = scratch();
    floor(&["replicate"], directory.path());
    let read = |index: usize| {
        let path = directory.path().join(format!("lockstep-floor-{index}.dat"));
        std::fs::read(path).expect("reads")
    };
    assert!(read(0) == read(1) && read(0) == read(2));
}

#[test]
fn raw_reads_and_writes() {
    let directory = scratch();
    for arguments in [
        &["raw", "--depth", "8"][..],
        &["raw", "--files", "3", "--depth", "2", "--no-sync"],
        &["raw", "--read", "--block", "1048576", "--sequential"],
    ] {
        let result = floor(arguments, directory.path());
        assert!(
            result["iops"].as_f64().expect("a number") > 0.0,
            "{arguments:?}"
        );
        let reads = arguments.contains(&"--read");
        let written = result["written"].as_f64().expect("a number");
        assert_eq!(
            written > 3.0,
            !reads,
            "{arguments:?} wrote {written} KiB a request"
        );
    }
}
