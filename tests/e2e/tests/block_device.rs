//! Volumes as block devices: file systems on them, and what a killed daemon, a dying site and a
//! publication elsewhere do to who uses them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::device::{Mounted, possible, run, text};
use e2e::{Cluster, wait_for};

/// O_DIRECT.
const DIRECT: i32 = 0o40000;
const PATIENCE: Duration = Duration::from_secs(60);

fn cluster_with(volume: &str, size: &str) -> Cluster {
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", volume, "--size", size, "--copies", "*=1",
    ]);
    cluster
}

/// A block at an address that direct I/O takes.
#[repr(align(4096))]
struct Block([u8; 4096]);

fn direct(device: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(DIRECT)
        .open(device)
        .expect("the device opens")
}

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| {
            (i as u8)
                .wrapping_mul(31)
                .wrapping_add((i >> 9) as u8 ^ seed)
        })
        .collect()
}

#[test]
fn a_killed_daemon_costs_its_device_a_pause_and_no_error() {
    if !possible() {
        return;
    }
    let cluster = cluster_with("fio", "64MiB");
    let device = cluster.attach_device("fio", "a1");
    let mut load = Command::new("timeout")
        .args([
            "--kill-after=5",
            "120",
            "fio",
            "--name=load",
            "--rw=randwrite",
        ])
        .args(["--bs=4k", "--iodepth=16", "--ioengine=libaio", "--direct=1"])
        .args([
            "--size=48M",
            "--loops=4",
            "--verify=crc32c",
            "--verify_fatal=1",
        ])
        .arg("--verify_state_save=0")
        .arg(format!("--filename={}", device.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio runs");
    let mut daemons = Vec::new();
    let written = |cluster: &Cluster| {
        let shown = cluster.json(&["volume", "show", "fio"]);
        shown["epoch"].clone()
    };
    let mut epoch = written(&cluster);
    for _ in 0..2 {
        assert!(load.try_wait().expect("asked").is_none(), "fio still runs");
        cluster.kill("a1");
        daemons.push(cluster.restart("a1"));
        // It is open again under the same attachment, in a new epoch (R12).
        wait_for("the volume being open again", PATIENCE, || {
            let shown = cluster.run(&["volume", "show", "fio", "-o", "json"]);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
            let open = shown["primary"] == "a1" && shown["epoch"] != epoch;
            open.then(|| epoch = shown["epoch"].clone())
        });
    }
    let output = load.wait_with_output().expect("fio ends");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    cluster.good(&["volume", "detach", "fio"]);
    assert!(cluster.leaves_no_device());
    assert!(!device.exists(), "the link is gone with the device");
    cluster.down();
    for mut daemon in daemons {
        daemon.wait().expect("reaped");
    }
}

#[test]
fn a_killed_keeper_is_followed_by_one_that_has_every_device() {
    if !possible() {
        return;
    }
    let cluster = cluster_with("kept", "64MiB");
    let device = cluster.attach_device("kept", "a1");
    // Written and closed: a device that nobody uses must outlive the keeper, too.
    let block = Block([7; 4096]);
    direct(&device).write_all_at(&block.0, 0).expect("written");
    let socket = cluster.path().join("a1").join("keeper.sock");
    let keeper = || lockstep_keeper::Keeper::connect(&socket).ok();
    let first = keeper().expect("listens").pid().expect("known");
    run("kill", &["-KILL", &first.to_string()]);
    wait_for("another keeper having the device", PATIENCE, || {
        let next = keeper()?;
        let entries = next.list().ok()?;
        (next.pid().ok()? != first && entries.len() == 1 && entries[0].descriptors.len() == 2)
            .then_some(())
    });
    // Now only that keeper stands between the device and an error.
    let file = direct(&device);
    cluster.kill("a1");
    let mut daemon = cluster.restart("a1");
    let mut read = Block([0; 4096]);
    file.write_all_at(&Block([8; 4096]).0, 4096)
        .expect("written");
    file.read_exact_at(&mut read.0, 0).expect("read");
    assert_eq!(read.0, block.0);
    drop(file);
    cluster.good(&["volume", "detach", "kept"]);
    assert!(cluster.leaves_no_device());
    cluster.down();
    daemon.wait().expect("reaped");
}

#[test]
fn file_systems_follow_their_volume_to_the_other_site() {
    if !possible() {
        return;
    }
    for (kind, make, options) in [
        ("ext4", "mkfs.ext4", "errors=remount-ro"),
        ("xfs", "mkfs.xfs", "nouuid"),
    ] {
        let cluster = cluster_with(kind, "320MiB");
        let device = cluster.attach_device(kind, "a1");
        run(make, &["-q", &text(&device)]);
        let mounted = Mounted::new(&device, options);
        let kept = content(7, 20 << 20);
        let mut file = File::create(mounted.path().join("kept")).expect("a file");
        file.write_all(&kept).expect("written");
        file.sync_all().expect("synced");
        drop(file);
        // Not synced, so that the journal has something open when the site dies.
        std::fs::write(mounted.path().join("unsynced"), content(9, 1 << 20)).expect("written");
        cluster.kill_host("a1");
        mounted.give_up();
        wait_for("the volume being detached", PATIENCE, || {
            let detached = cluster.run(&["volume", "detach", kind]);
            detached.status.success().then_some(())
        });
        let device = wait_for("the device in the other site", PATIENCE, || {
            let attached = cluster.run(&[
                "volume",
                "attach",
                kind,
                "--node",
                "b1",
                "--front-end",
                "loop",
                "-o",
                "json",
            ]);
            let attached: serde_json::Value = serde_json::from_slice(&attached.stdout).ok()?;
            attached["device"].as_str().map(std::path::PathBuf::from)
        });
        // Mounting replays the file system's journal; checking comes after, and finds nothing.
        let mounted = Mounted::new(&device, options);
        let found = std::fs::read(mounted.path().join("kept")).expect("the file");
        assert!(found == kept, "{kind}: the synced file has other bytes");
        mounted.unmount();
        match kind {
            "ext4" => run("e2fsck", &["-fn", &text(&device)]),
            _ => run("xfs_repair", &["-n", &text(&device)]),
        };
        cluster.good(&["volume", "detach", kind]);
    }
}

#[test]
fn a_device_whose_volume_was_published_elsewhere_fails_for_good() {
    if !possible() {
        return;
    }
    let cluster = cluster_with("moved", "16MiB");
    let device = cluster.attach_device("moved", "a1");
    let file = direct(&device);
    let mut block = Box::new(Block([1; 4096]));
    file.write_at(&block.0, 0).expect("written");
    cluster.kill("a1");
    // A write that the dead daemon cannot answer waits; it must never come to be.
    let late = std::thread::spawn(move || {
        let written = file.write_at(&Box::new(Block([2; 4096])).0, 0);
        (file, written)
    });
    wait_for("the volume being detached", PATIENCE, || {
        let detached = cluster.run(&["volume", "detach", "moved"]);
        detached.status.success().then_some(())
    });
    wait_for("the volume in the other site", PATIENCE, || {
        let attached = cluster.run(&["volume", "attach", "moved", "--node", "b1"]);
        attached.status.success().then_some(())
    });
    assert!(!late.is_finished(), "it waits for the daemon");
    let mut daemon = cluster.restart("a1");
    let (file, written) = late.join().expect("no panic");
    let error = written.expect_err("R12: it must not be carried out");
    assert_eq!(error.raw_os_error(), Some(5), "EIO");
    assert!(
        file.read_at(&mut block.0, 0).is_err(),
        "and nothing after it"
    );
    drop(file);
    wait_for("the device being gone", PATIENCE, || {
        (!device.exists()).then_some(())
    });
    let device = cluster.attach_device("moved", "b1");
    direct(&device).read_at(&mut block.0, 0).expect("read");
    assert!(
        block.0.iter().all(|byte| *byte == 1),
        "the late write is not there"
    );
    cluster.good(&["volume", "detach", "moved"]);
    cluster.down();
    daemon.wait().expect("reaped");
}

#[test]
fn a_device_in_use_is_not_detached_and_grows_with_its_volume() {
    if !possible() {
        return;
    }
    let cluster = cluster_with("grows", "64MiB");
    let device = cluster.attach_device("grows", "a1");
    assert_eq!(cluster.attach_device("grows", "a1"), device, "the same one");
    run("mkfs.ext4", &["-q", &text(&device)]);
    let mounted = Mounted::new(&device, "discard");
    let said = cluster.bad(&["volume", "detach", "grows"]);
    assert!(said.contains("in use"), "{said}");
    std::fs::write(mounted.path().join("file"), content(3, 4 << 20)).expect("still written");
    cluster.good(&["volume", "resize", "grows", "--size", "128MiB"]);
    wait_for("the device having grown", PATIENCE, || {
        let size = File::open(&device).and_then(|mut file| file.seek(SeekFrom::End(0)));
        (size.expect("a size") == 128 << 20).then_some(())
    });
    mounted.unmount();
    run("e2fsck", &["-fp", &text(&device)]);
    run("resize2fs", &[&text(&device)]);
    let mounted = Mounted::new(&device, "discard");
    std::fs::write(mounted.path().join("large"), content(4, 80 << 20)).expect("it fits now");
    let mut found = Vec::new();
    File::open(mounted.path().join("file"))
        .and_then(|mut file| file.read_to_end(&mut found))
        .expect("read");
    assert!(found == content(3, 4 << 20));
    std::fs::remove_file(mounted.path().join("large")).expect("removed");
    run("fstrim", &[&text(mounted.path())]);
    mounted.unmount();
    run("e2fsck", &["-fn", &text(&device)]);
    cluster.good(&["volume", "detach", "grows"]);
    assert!(cluster.leaves_no_device());
}

#[test]
fn down_leaves_no_device_and_up_gives_one_again() {
    if !possible() {
        return;
    }
    let cluster = cluster_with("stays", "16MiB");
    let device = cluster.attach_device("stays", "a1");
    direct(&device)
        .write_at(&Box::new(Block([5; 4096])).0, 4096)
        .expect("written");
    cluster.down();
    assert!(cluster.leaves_no_device());
    cluster.start(1);
    let device = cluster.attach_device("stays", "a1");
    let mut block = Box::new(Block([0; 4096]));
    direct(&device).read_at(&mut block.0, 4096).expect("read");
    assert!(block.0.iter().all(|byte| *byte == 5));
}
