//! Job files as a buyer meets them: what is wrong is said in words, with an exit code, before anything is
//! touched; what is right is measured.

use std::path::Path;
use std::process::{Command, Output};

fn bench(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockstep-bench"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("starts")
}

fn job(text: &str, more: &[&str]) -> (Output, tempfile::TempDir) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    std::fs::write(directory.path().join("job.toml"), text).expect("room");
    let output = bench(&[&["job", "job.toml"], more].concat(), directory.path());
    (output, directory)
}

fn refused(text: &str) -> String {
    let (output, _directory) = job(text, &[]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_fio() -> bool {
    let has = Command::new("fio").arg("--version").output().is_ok();
    if !has {
        eprintln!("SKIPPED: fio is not installed");
    }
    has
}

const LOAD: &str = "[[workload]]\nkind = \"write\"\ndepth = [1, 4]\n[[workload]]\nkind = \"mixed\"\nblock = \"16KiB\"\n[[workload]]\nkind = \"log\"\n";

#[test]
fn an_unknown_field_is_refused_with_its_place() {
    let said = refused("[[target]]\nname = \"a\"\nfile = \"x\"\noverwriet = true\n");
    assert!(
        said.contains("job.toml") && said.contains("overwriet"),
        "{said}"
    );
    assert!(said.contains("expected one of"), "{said}");
}

#[test]
fn without_fio_it_says_how_to_get_it() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let text = format!("[[target]]\nname = \"a\"\nfile = \"x\"\nsize = \"8MiB\"\n{LOAD}");
    std::fs::write(directory.path().join("job.toml"), text).expect("room");
    let output = Command::new(env!("CARGO_BIN_EXE_lockstep-bench"))
        .args(["job", "job.toml"])
        .current_dir(directory.path())
        .env("PATH", directory.path())
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("apt install fio"), "{said}");
}

#[test]
fn what_exists_stays_as_it_is() {
    if !has_fio() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("precious");
    std::fs::write(&path, vec![7; 1 << 20]).expect("room");
    let text = format!("[[target]]\nname = \"a\"\nfile = \"precious\"\n{LOAD}");
    std::fs::write(directory.path().join("job.toml"), text).expect("room");
    let output = bench(&["job", "job.toml"], directory.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("overwrite = true") && said.contains("nothing was touched"),
        "{said}"
    );
    assert_eq!(std::fs::read(&path).expect("there"), vec![7; 1 << 20]);
}

#[test]
fn a_file_is_measured_and_removed() {
    if !has_fio() {
        return;
    }
    // libaio: a sandbox may forbid io_uring.
    let text = format!(
        "[run]\nseconds = 1\nwarm = 0\nrepeats = 1\nengine = \"libaio\"\n[[target]]\nname = \"disk\"\nfile = \"made\"\nsize = \"16MiB\"\n[[target]]\nname = \"far\"\nhost = \"elsewhere.invalid\"\ndevice = \"/dev/none\"\n{LOAD}"
    );
    let (output, directory) = job(&text, &["--out", "results"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("far: passed over"), "{said}");
    assert!(!directory.path().join("made").exists());
    let kept = std::fs::read(directory.path().join("results/results.json")).expect("kept");
    let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
    for load in ["disk-w1", "disk-w4", "disk-16km1", "disk-log1"] {
        let report = &kept["all"][load][0];
        assert!(report["requests"].as_u64().expect("measured") > 0, "{load}");
        assert!(report["p50"].as_f64() <= report["max"].as_f64(), "{load}");
    }
    let table = std::fs::read_to_string(directory.path().join("results/results.md"));
    assert!(table.expect("kept").contains("| w4 | disk |"));
    assert!(directory.path().join("results/4k-write-p50.svg").exists());
}
