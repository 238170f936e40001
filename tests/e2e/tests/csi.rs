//! The CSI driver as kubelet and the sidecars use it: on real daemons, block devices and file systems.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::csi::{Driver, block, for_one_pod, mounted};
use e2e::device::{is_mounted, possible};
use e2e::{Cluster, wait_for};
use lockstep_csi::proto;
use tonic::Code;

const MIB: i64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the I/O of a node that wakes up fenced may take to fail.
const FENCED: Duration = Duration::from_secs(5);

fn driver(cluster: &Cluster, node: &str) -> Driver {
    Driver::start(&cluster.path().join(node), node)
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("readable")
}

fn code<T>(result: Result<T, tonic::Status>) -> Code {
    result.err().expect("refused").code()
}

/// Three copies, made and mounted by CSI alone; the node dies with a pod on it; the volume is published
/// elsewhere, and what was synced is there; the old node wakes up and finds itself fenced.
#[test]
fn a_volume_outlives_its_node() {
    if !possible() {
        return;
    }
    let cluster = Cluster::up(2);
    let (mut a1, b1) = (driver(&cluster, "a1"), driver(&cluster, "b1"));
    let ext4 = mounted("ext4");
    let sites = [("sites", "a=2,b=1")];
    let made = a1.create("pvc-1", 64 * MIB, &ext4, &sites).expect("made");
    let volume = made.volume_id.as_str();
    let again = a1
        .create("pvc-1", 64 * MIB, &ext4, &sites)
        .expect("the same");
    assert_eq!(again, made);
    assert_eq!(
        code(a1.create("pvc-1", 128 * MIB, &ext4, &sites)),
        Code::AlreadyExists
    );
    assert_eq!(
        code(a1.create("pvc-1", 64 * MIB, &ext4, &[])),
        Code::AlreadyExists
    );

    let told = a1.publish(volume, "a1", &ext4).expect("published");
    assert_eq!(a1.publish(volume, "a1", &ext4).expect("again"), told);
    let elsewhere = b1.publish(volume, "b1", &ext4).expect_err("it is on a1");
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(elsewhere.message().contains("a1"), "{elsewhere}");
    for _ in 0..2 {
        a1.stage(volume, &told, &ext4).expect("staged");
    }
    let pod = a1.mount(volume, "p1", &ext4, false).expect("mounted");
    assert_eq!(a1.mount(volume, "p1", &ext4, false).expect("again"), pod);
    write(&pod.join("f"), "before ").expect("writes");
    let reader = a1.mount(volume, "p2", &ext4, true).expect("mounted");
    assert_eq!(read(&reader.join("f")), "before ");
    let refused = write(&reader.join("f"), "no").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(
        code(a1.mount(volume, "p2", &ext4, false)),
        Code::AlreadyExists
    );
    assert_eq!(code(a1.delete(volume)), Code::FailedPrecondition);

    cluster.kill("a1");
    a1.kill();
    wait_for("a1 being fenced", PATIENCE, || {
        b1.unpublish(volume, "a1").ok()
    });
    let told = wait_for("b1", PATIENCE, || b1.publish(volume, "b1", &ext4).ok());
    b1.stage(volume, &told, &ext4).expect("staged");
    let moved = b1.mount(volume, "p1", &ext4, false).expect("mounted");
    assert_eq!(read(&moved.join("f")), "before ");
    write(&moved.join("f"), "after ").expect("writes");

    let mut daemon = cluster.restart("a1");
    a1.run(&[]);
    wait_for("writes on the old node failing", PATIENCE, || {
        write(&pod.join("f"), "never ").err()
    });
    for pod in ["p1", "p2", "p1"] {
        a1.unmount(volume, pod).expect("unmounted");
    }
    for _ in 0..2 {
        a1.unstage(volume).expect("unstaged");
    }
    assert!(!pod.exists() && !is_mounted(&a1.staging(volume)));

    assert_eq!(read(&moved.join("f")), "before after ");
    b1.unmount(volume, "p1").expect("unmounted");
    b1.unstage(volume).expect("unstaged");
    for _ in 0..2 {
        b1.unpublish(volume, "b1").expect("unpublished");
        b1.delete(volume).expect("deleted");
    }
    drop((a1, b1));
    assert!(cluster.leaves_no_device());
    cluster.down();
    daemon.wait().expect("reaped");
}

/// The old node is paused with pages that are not written yet; the volume moves; the old node wakes into a fenced
/// world: what it still had is written nowhere, its device fails at once, and everything can be unmounted.
#[test]
fn a_paused_node_wakes_fenced_and_writes_nothing() {
    if !possible() {
        return;
    }
    let cluster = Cluster::up(1);
    let (a1, b1) = (driver(&cluster, "a1"), driver(&cluster, "b1"));
    let ext4 = mounted("ext4");
    let made = a1.create("pvc-2", 32 * MIB, &ext4, &[("sites", "*=1")]);
    let made = made.expect("made");
    let volume = made.volume_id.as_str();
    let told = a1.publish(volume, "a1", &ext4).expect("published");
    a1.stage(volume, &told, &ext4).expect("staged");
    let pod = a1.mount(volume, "p1", &ext4, false).expect("mounted");
    write(&pod.join("f"), "synced ").expect("writes");
    let mut open = OpenOptions::new()
        .append(true)
        .open(pod.join("f"))
        .expect("opens");
    cluster.signal("a1", "-STOP");
    open.write_all(b"dirty").expect("into the page cache");

    wait_for("a1 being fenced", PATIENCE, || {
        b1.unpublish(volume, "a1").ok()
    });
    let told = wait_for("b1", PATIENCE, || b1.publish(volume, "b1", &ext4).ok());
    b1.stage(volume, &told, &ext4).expect("staged");
    let moved = b1.mount(volume, "p1", &ext4, false).expect("mounted");
    write(&moved.join("f"), "moved ").expect("writes");

    cluster.signal("a1", "-CONT");
    let woken = Instant::now();
    open.sync_all().expect_err("it is fenced");
    let failed = woken.elapsed();
    assert!(failed < FENCED, "its I/O hung for {failed:?}");
    drop(open);
    wait_for("the old node letting go", PATIENCE, || {
        a1.unmount(volume, "p1")
            .and_then(|()| a1.unstage(volume))
            .ok()
    });
    assert!(!is_mounted(&a1.staging(volume)));
    assert_eq!(read(&moved.join("f")), "synced moved ");
    b1.unmount(volume, "p1").expect("unmounted");
    b1.unstage(volume).expect("unstaged");
    b1.unpublish(volume, "b1").expect("unpublished");
    b1.delete(volume).expect("deleted");
    drop((a1, b1));
    assert!(cluster.leaves_no_device());
    cluster.down();
}

/// A mkfs that kills the driver in the middle of its work.
fn deadly_mkfs(directory: &Path) -> String {
    let script = directory.join("mkfs.ext4");
    let text = "#!/bin/sh\nfor device; do :; done\n\
        dd if=/dev/urandom of=\"$device\" bs=64k count=4 seek=8 conv=notrunc,fsync 2>/dev/null\n\
        kill -9 $PPID\n";
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("set");
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", directory.display())
}

#[test]
fn what_is_there_is_never_formatted_but_what_we_began_is_finished() {
    if !possible() {
        return;
    }
    let cluster = Cluster::up(1);
    let mut a1 = driver(&cluster, "a1");
    let (ext4, raw) = (mounted("ext4"), block());
    // Somebody's data that nobody recognises.
    let made = a1.create("raw", 32 * MIB, &raw, &[]).expect("made");
    let volume = made.volume_id.as_str();
    let told = a1.publish(volume, "a1", &raw).expect("published");
    a1.stage(volume, &told, &raw).expect("staged");
    let device = a1.mount(volume, "p1", &raw, false).expect("shown");
    let content = vec![0x5a; 64 << 10];
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .expect("opens");
    open.write_all_at(&content, MIB as u64).expect("writes");
    open.sync_all().expect("durable");
    drop(open);
    a1.unmount(volume, "p1").expect("taken back");
    let refused = a1.stage(volume, &told, &ext4).expect_err("it holds data");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let device = a1.mount(volume, "p1", &raw, true).expect("shown");
    let open = OpenOptions::new().read(true).open(&device).expect("opens");
    let mut found = vec![0; content.len()];
    open.read_exact_at(&mut found, MIB as u64).expect("reads");
    assert!(found == content, "it was touched");
    drop(open);
    a1.unmount(volume, "p1").expect("taken back");
    a1.unstage(volume).expect("unstaged");

    // A file system that we were making.
    let made = a1.create("fresh", 32 * MIB, &ext4, &[]).expect("made");
    let volume = made.volume_id.as_str();
    let told = a1.publish(volume, "a1", &ext4).expect("published");
    let tools = tempfile::tempdir().expect("a directory");
    a1.kill();
    a1.run(&[("PATH", &deadly_mkfs(tools.path()))]);
    a1.stage(volume, &told, &ext4)
        .expect_err("the driver is dead");
    a1.wait_for_end();
    a1.run(&[]);
    a1.stage(volume, &told, &ext4).expect("finished");
    let pod = a1.mount(volume, "p1", &ext4, false).expect("mounted");
    write(&pod.join("f"), "mine").expect("writes");
    a1.unmount(volume, "p1").expect("unmounted");
    a1.unstage(volume).expect("unstaged");
    // Its superblocks are gone: what is left is somebody's data all the same.
    a1.stage(volume, &told, &raw).expect("staged");
    let device = a1.mount(volume, "p1", &raw, false).expect("shown");
    let open = OpenOptions::new().write(true).open(&device).expect("opens");
    open.write_all_at(&vec![0; 64 << 10], 0).expect("writes");
    open.sync_all().expect("durable");
    drop(open);
    a1.unmount(volume, "p1").expect("taken back");
    let refused = a1.stage(volume, &told, &ext4).expect_err("it held data");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    a1.unstage(volume).expect("unstaged");
    drop(a1);
    cluster.good(&["volume", "detach", "raw"]);
    cluster.good(&["volume", "detach", "fresh"]);
    cluster.down();
}

fn bytes_at(driver: &Driver, volume: &str, path: &Path) -> i64 {
    let request = proto::NodeGetVolumeStatsRequest {
        volume_id: volume.into(),
        volume_path: path.display().to_string(),
        ..proto::NodeGetVolumeStatsRequest::default()
    };
    let reply = driver.node(async |mut it| it.node_get_volume_stats(request).await);
    reply.expect("measured").usage[0].total
}

fn grow(driver: &Driver, volume: &str, bytes: i64, at: &Path) {
    let range = proto::CapacityRange {
        required_bytes: bytes,
        limit_bytes: 0,
    };
    let request = proto::ControllerExpandVolumeRequest {
        volume_id: volume.into(),
        capacity_range: Some(range),
        ..proto::ControllerExpandVolumeRequest::default()
    };
    let reply = driver.controller(async |mut it| it.controller_expand_volume(request).await);
    assert_eq!(reply.expect("grown").capacity_bytes, bytes);
    let request = proto::NodeExpandVolumeRequest {
        volume_id: volume.into(),
        volume_path: at.display().to_string(),
        capacity_range: Some(range),
        ..proto::NodeExpandVolumeRequest::default()
    };
    let reply = driver.node(async |mut it| it.node_expand_volume(request).await);
    assert_eq!(reply.expect("grown").capacity_bytes, bytes);
}

/// Whether this process has CAP_SYS_RESOURCE, number 24, which the kernel asks of whoever grows a mounted ext4.
fn may_grow_ext4() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = u64::from_str_radix(line.expect("a line").trim(), 16).expect("hexadecimal");
    set >> 24 & 1 == 1
}

#[test]
fn volumes_grow_while_pods_use_them_and_one_pod_is_one() {
    if !possible() {
        return;
    }
    let cluster = Cluster::up(1);
    let a1 = driver(&cluster, "a1");
    let sizes = [("ext4", 64 * MIB, 128 * MIB), ("xfs", 300 * MIB, 320 * MIB)];
    for (filesystem, from, to) in sizes {
        if filesystem == "ext4" && !may_grow_ext4() {
            eprintln!("SKIPPED: ext4 grows while mounted with CAP_SYS_RESOURCE only");
            continue;
        }
        let capability = for_one_pod(mounted(filesystem));
        let made = a1.create(filesystem, MIB, &capability, &[("replicas", "1")]);
        let made = made.expect("made");
        let volume = made.volume_id.as_str();
        let told = a1.publish(volume, "a1", &capability).expect("published");
        a1.stage(volume, &told, &capability).expect("staged");
        let pod = a1.mount(volume, "p1", &capability, false).expect("mounted");
        let second = a1.mount(volume, "p2", &capability, false);
        assert_eq!(code(second), Code::FailedPrecondition, "one pod at a time");
        write(&pod.join("f"), "before").expect("writes");
        grow(&a1, volume, from, &pod);
        let before = bytes_at(&a1, volume, &pod);
        grow(&a1, volume, to, &pod);
        let after = bytes_at(&a1, volume, &pod);
        assert!(
            after > before + (to - from) / 2,
            "{filesystem}: {before} → {after}"
        );
        assert_eq!(read(&pod.join("f")), "before");
        a1.unmount(volume, "p1").expect("unmounted");
        a1.unstage(volume).expect("unstaged");
        a1.unpublish(volume, "a1").expect("unpublished");
        a1.delete(volume).expect("deleted");
    }
    drop(a1);
    assert!(cluster.leaves_no_device());
    cluster.down();
}
