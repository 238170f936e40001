//! Encrypted volumes as kubelet asks for them, on a kernel with dm-crypt: run inside the virtual machine of
//! `tests/vm`, because the kernel of a build machine may have none.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::Cluster;
use e2e::csi::{Driver, Encryption, block, mounted};
use e2e::device::is_mounted;
use lockstep_csi::proto;
use tonic::Code;

const MIB: i64 = 1 << 20;
const FIRST: &str = "correct-horse-battery-staple-1";
const SECOND: &str = "correct-horse-battery-staple-2";
const WORDS: &[u8] = b"nobody else reads this";

fn keys(entries: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(name, key): &(&str, &str)| ((*name).to_owned(), (*key).to_owned());
    entries.iter().map(owned).collect()
}

fn refused<T>(result: Result<T, tonic::Status>, words: &str) {
    let status = result.err().expect("refused");
    assert!(status.message().contains(words), "{status}");
    for key in [FIRST, SECOND] {
        assert!(!status.message().contains(key), "a key is in an error");
    }
}

/// One volume with a file system in it, from CreateVolume to its end.
fn file_system(cluster: &Cluster, driver: &Driver) {
    let ext4 = mounted("ext4");
    let class = [("encryption", "luks2"), ("sites", "*=1")];
    let made = driver
        .create("secret", 96 * MIB, &ext4, &class)
        .expect("made");
    assert_eq!(made.volume_context["encryption"], "luks2");
    let volume = made.volume_id.as_str();
    let told = driver.publish(volume, "a1", &ext4).expect("published");
    let with = |entries: &[(&str, &str)]| Encryption {
        context: made.volume_context.clone(),
        secrets: keys(entries),
    };
    refused(
        driver.stage_with(volume, &told, &ext4, &with(&[])),
        "encryptionKey",
    );
    let first = with(&[("encryptionKey", FIRST)]);
    for _ in 0..2 {
        driver
            .stage_with(volume, &told, &ext4, &first)
            .expect("staged");
    }
    let pod = driver
        .mount_with(volume, "p", (&ext4, false), &made.volume_context)
        .expect("mounted");
    fs::write(pod.join("kept"), WORDS).expect("written");

    grow(driver, volume, &pod, &ext4);

    driver.unmount(volume, "p").expect("unmounted");
    driver.unstage(volume).expect("unstaged");
    assert!(!is_mounted(&driver.staging(volume)));
    assert_eq!(
        fs::read_dir("/dev/mapper").expect("there").count(),
        1,
        "only the control node"
    );

    rotate(cluster, driver, (volume, &told), &made.volume_context);

    // In the clear it is nobody's file system, and is not formatted.
    let plain = driver.stage(volume, &told, &ext4);
    refused(plain, "not formatted");
    driver.unstage(volume).expect("unstaged");
    let device = cluster.attach_device("secret", "a1");
    assert!(!holds(&device, WORDS), "it lies there in the clear");
    driver.unpublish(volume, "a1").expect("unpublished");
    driver.delete(volume).expect("deleted");
}

/// Another key, and the same volume under another key.
fn rotate(
    cluster: &Cluster,
    driver: &Driver,
    (volume, told): (&str, &HashMap<String, String>),
    context: &HashMap<String, String>,
) {
    let ext4 = mounted("ext4");
    let stage = |entries: &[(&str, &str)]| {
        let encryption = Encryption {
            context: context.clone(),
            secrets: keys(entries),
        };
        driver.stage_with(volume, told, &ext4, &encryption)
    };
    let (first, second) = ([("encryptionKey", FIRST)], [("encryptionKey", SECOND)]);
    // An error, and the volume as it was.
    let status = stage(&second).expect_err("a wrong key");
    assert_eq!(status.code(), Code::FailedPrecondition);
    refused(Err::<(), _>(status), "does not open volume");
    // With both at first, with the new one from then on.
    stage(&[second[0], ("encryptionKeyPrevious", FIRST)]).expect("rotated");
    driver.unstage(volume).expect("unstaged");
    refused(stage(&first), "does not open volume");
    stage(&second).expect("the new key");
    let found = fs::read(driver.staging(volume).join("kept")).expect("read");
    assert_eq!(found, WORDS);
    driver.unstage(volume).expect("unstaged");
    // A rotation that was broken off leaves the old key beside the new one; the next staging ends it.
    add_key(&cluster.attach_device("secret", "a1"), SECOND, FIRST);
    stage(&[second[0], ("encryptionKeyPrevious", FIRST)]).expect("staged");
    driver.unstage(volume).expect("unstaged");
    refused(stage(&first), "does not open volume");
    // The same key as both is the only one, and stays.
    stage(&[second[0], ("encryptionKeyPrevious", SECOND)]).expect("staged");
    driver.unstage(volume).expect("unstaged");
    stage(&second).expect("it still opens the volume");
    driver.unstage(volume).expect("unstaged");
}

/// Lets another key open the volume, too.
fn add_key(device: &Path, key: &str, another: &str) {
    let place = Path::new("/run/keys");
    fs::create_dir_all(place).expect("a directory");
    let (old, new) = (place.join("old"), place.join("new"));
    fs::write(&old, key).expect("written");
    fs::write(&new, another).expect("written");
    let done = Command::new("cryptsetup")
        .args(["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--key-file"])
        .args([&old, device, &new])
        .status()
        .expect("cryptsetup runs");
    assert!(done.success(), "{done}");
    fs::remove_dir_all(place).expect("removed");
}

fn grow(driver: &Driver, volume: &str, pod: &Path, capability: &proto::VolumeCapability) {
    let range = || proto::CapacityRange {
        required_bytes: 192 * MIB,
        limit_bytes: 0,
    };
    let request = proto::ControllerExpandVolumeRequest {
        volume_id: volume.into(),
        capacity_range: Some(range()),
        volume_capability: Some(capability.clone()),
        ..Default::default()
    };
    driver
        .controller(async |mut it| it.controller_expand_volume(request).await)
        .expect("grown");
    let request = proto::NodeExpandVolumeRequest {
        volume_id: volume.into(),
        volume_path: pod.display().to_string(),
        capacity_range: Some(range()),
        ..Default::default()
    };
    driver
        .node(async |mut it| it.node_expand_volume(request).await)
        .expect("grown");
    fs::write(pod.join("large"), vec![7; 100 << 20]).expect("it fits now");
    fs::remove_file(pod.join("large")).expect("removed");
}

/// The same as a block device.
fn block_device(driver: &Driver) {
    let capability = block();
    let class = [("encryption", "luks2"), ("sites", "*=1")];
    let made = driver
        .create("raw", 64 * MIB, &capability, &class)
        .expect("made");
    let volume = made.volume_id.as_str();
    let told = driver
        .publish(volume, "a1", &capability)
        .expect("published");
    let encryption = Encryption {
        context: made.volume_context.clone(),
        secrets: keys(&[("encryptionKey", FIRST)]),
    };
    driver
        .stage_with(volume, &told, &capability, &encryption)
        .expect("staged");
    let target = driver
        .mount_with(volume, "raw", (&capability, false), &made.volume_context)
        .expect("published");
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&target)
        .expect("a device");
    device.write_all_at(WORDS, 1 << 20).expect("written");
    device.sync_all().expect("synced");
    drop(device);
    driver.unmount(volume, "raw").expect("unpublished");
    driver.unstage(volume).expect("unstaged");
    driver
        .stage_with(volume, &told, &capability, &encryption)
        .expect("staged");
    let target = driver
        .mount_with(volume, "raw", (&capability, false), &made.volume_context)
        .expect("published");
    assert!(holds(&target, WORDS), "what was written is not there");
    driver.unmount(volume, "raw").expect("unpublished");
    driver.unstage(volume).expect("unstaged");
    driver.unpublish(volume, "a1").expect("unpublished");
    driver.delete(volume).expect("deleted");
}

/// Whether these bytes lie anywhere on a device.
fn holds(device: &Path, bytes: &[u8]) -> bool {
    let all = fs::read(device).expect("read");
    all.windows(bytes.len()).any(|window| window == bytes)
}

fn main() {
    let begin = Instant::now();
    let say = |words: &str| println!("== {:?} {words}", begin.elapsed());
    let cluster = Cluster::up(1);
    let driver = Driver::start(&cluster.path().join("a1"), "a1");
    say("a file system");
    file_system(&cluster, &driver);
    say("a block device");
    block_device(&driver);
    say("no key in the logs");
    let logs = ["a1.log", "b1.log"].map(|log| fs::read_to_string(cluster.path().join(log)));
    let logs = logs.into_iter().flatten().collect::<String>() + &driver.said();
    assert!(!logs.is_empty());
    for key in [FIRST, SECOND] {
        assert!(!logs.contains(key), "a key is in a log");
    }
    assert!(begin.elapsed() < Duration::from_secs(600));
    drop(driver);
    cluster.down();
    say("done");
}
