//! csi-sanity, the conformance test of the CSI specification's own project, against the real driver. It is a
//! Go program that `tests/run sanity` builds; without it nothing is proved here, and that is said.

use std::process::Command;

use e2e::Cluster;
use e2e::csi::Driver;
use e2e::device::{possible, text};

/// Specs that run with what the driver offers today: fewer would mean that an offer went away unnoticed.
const SPECS: usize = 70;

#[test]
fn the_specification_s_own_test_passes() {
    let Some(program) = std::env::var_os("LOCKSTEP_CSI_SANITY") else {
        eprintln!("SKIPPED: csi-sanity is not there; 'tests/run sanity' builds it with Go");
        return;
    };
    if !possible() {
        return;
    }
    let cluster = Cluster::up(2);
    let driver = Driver::start(&cluster.path().join("a1"), "a1");
    let output = Command::new("timeout")
        .args(["--kill-after=10", "600"])
        .arg(program)
        .arg(format!("--csi.endpoint=unix://{}", text(&driver.socket())))
        .arg(format!("--csi.mountdir={}", text(&driver.path("mount"))))
        .arg(format!("--csi.stagingdir={}", text(&driver.path("stage"))))
        .args([
            "--csi.testvolumesize=33554432",
            "--csi.testvolumeexpandsize=67108864",
        ])
        .arg("--ginkgo.no-color")
        .output()
        .expect("timeout runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("[FAIL]"))
        .collect();
    assert!(
        output.status.success(),
        "{}: {failed:#?}\n{said}\n{}",
        output.status,
        driver.said()
    );
    // "Ran 70 of 103 Specs in 29.703 seconds"
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran "));
    let ran = ran.and_then(|rest| rest.split(' ').next()?.parse().ok());
    let ran: usize = ran.unwrap_or_else(|| panic!("how many ran is not said: {said}"));
    assert!(ran >= SPECS, "only {ran} specs ran");
    println!("csi-sanity: {ran} specs passed");
    drop(driver);
    assert!(cluster.leaves_no_device());
    cluster.down();
}
