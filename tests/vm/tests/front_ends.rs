//! ublk, the kernel's NBD client and dm-crypt under a real kernel that has them: a device from its making to its end,
//! its daemon killed under load, its volume published elsewhere meanwhile; LUKS2 above it.
//!
//! `LOCKSTEP_VM_RESTARTS`: how often a daemon is killed under load, 3 by default.

use std::time::Duration;

use e2e::binary;
use vm::{Guest, Kernel, Release, possible};

const COMMON: &str = include_str!("../guest/common.sh");
const DEVICE: &str = include_str!("../guest/device.sh");
const LUKS: &str = include_str!("../guest/luks.sh");

fn restarts() -> u32 {
    std::env::var("LOCKSTEP_VM_RESTARTS").map_or(3, |text| text.parse().expect("a number"))
}

/// Runs a script on a machine with daemons of ours.
fn run(release: Release, settings: &str, script: &str, patience: Duration) {
    let kernel = Kernel::fetch(release).expect("Debian's kernel");
    println!("kernel {}", kernel.version());
    let outcome = Guest::new(kernel, format!("{settings}\n{COMMON}\n{script}"))
        .with_tools(vm::TOOLS)
        .expect("the tools are installed")
        .with_program(binary(), "lockstep")
        .with_modules(vm::MODULES)
        .with_disk(4 << 30)
        .with_memory(2048)
        .run(patience)
        .expect("a machine");
    outcome.expect_success();
    let said = outcome
        .console
        .lines()
        .filter(|line| line.starts_with("== "));
    said.for_each(|line| println!("{line}"));
    println!("the machine ran for {:?}", outcome.took);
}

/// `asked`: "device" for the best that there is.
fn device(release: Release, asked: &str, front_end: &str, grows: bool) {
    if !possible() {
        return;
    }
    let grows = if grows { "yes" } else { "no" };
    let restarts = restarts();
    let settings = format!("front_end={front_end} asked={asked} grows={grows} restarts={restarts}");
    let patience = Duration::from_secs(300 + 45 * u64::from(restarts));
    run(release, &settings, DEVICE, patience);
}

#[test]
fn a_device_of_the_kernels_nbd_client() {
    device(Release::Stable, "device", "kernel-nbd", true);
}

/// Debian 13's kernel cannot resize a ublk device in use: 6.16 and later can.
#[test]
fn a_ublk_device() {
    device(Release::Stable, "ublk", "ublk", false);
}

#[test]
fn a_ublk_device_that_grows() {
    device(Release::Newest, "device", "ublk", true);
}

#[test]
fn a_device_of_the_newest_kernels_nbd_client() {
    device(Release::Newest, "kernel-nbd", "kernel-nbd", true);
}

#[test]
fn a_loop_device_over_fuse() {
    device(Release::Stable, "loop", "loop", true);
}

#[test]
fn luks2_above_a_device() {
    if !possible() {
        return;
    }
    let patience = Duration::from_secs(300);
    run(Release::Stable, "front_end=kernel-nbd", LUKS, patience);
}

/// The CSI driver's part of it, by the example `encrypted` of `e2e`.
#[test]
fn encrypted_volumes_as_kubelet_asks_for_them() {
    if !possible() {
        return;
    }
    let beside = |name: &str| binary().with_file_name(name);
    let example = beside("examples").join("encrypted");
    assert!(
        example.exists(),
        "cargo build --release -p e2e --example encrypted"
    );
    let script = "export DM_DISABLE_UDEV=1 LOCKSTEP_BINARY=/bin/lockstep RUST_BACKTRACE=1
        mkdir -p /run/cryptsetup
        encrypted || { tail -n 40 /var/tmp/lockstep-csi-*/log; dmesg | tail -n 20; exit 1; }";
    let kernel = Kernel::fetch(Release::Stable).expect("Debian's kernel");
    let outcome = Guest::new(kernel, script)
        .with_tools(vm::TOOLS)
        .expect("the tools are installed")
        .with_program(binary(), "lockstep")
        .with_program(beside("lockstep-csi"), "lockstep-csi")
        .with_program(example, "encrypted")
        .with_modules(vm::MODULES)
        .with_disk(4 << 30)
        .with_memory(2048)
        .run(Duration::from_secs(600))
        .expect("a machine");
    outcome.expect_success();
    println!("the machine ran for {:?}", outcome.took);
}
