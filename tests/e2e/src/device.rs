//! Block devices and file systems on them: for tests as root, on hosts with FUSE and loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Cluster, wait_for};
use std::time::Duration;

/// Whether block devices can be made here. As root on a host that lacks something this fails: a test
/// that is skipped there proves nothing.
pub fn possible() -> bool {
    let user = Command::new("id").arg("-u").output().expect("id runs");
    if !user.stdout.starts_with(b"0\n") {
        eprintln!("SKIPPED: block devices need root");
        return false;
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        assert!(Path::new(path).exists(), "{path} is missing on this host");
    }
    true
}

/// Runs a tool for at most two minutes; it must succeed. What it said.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["--kill-after=5", "120", tool])
        .args(arguments)
        .output()
        .expect("timeout runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A mounted file system, unmounted when it is dropped, even one that fails.
pub struct Mounted {
    place: tempfile::TempDir,
}

impl Mounted {
    /// Mounts a device on a fresh directory.
    pub fn new(device: &Path, options: &str) -> Self {
        let place = tempfile::Builder::new()
            .prefix("lockstep-mount-")
            .tempdir()
            .expect("a directory");
        let mounted = Self { place };
        let (device, target) = (text(device), text(mounted.path()));
        run("mount", &["-o", options, &device, &target]);
        mounted
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Unmounts in order.
    pub fn unmount(self) {
        run("umount", &[&text(self.path())]);
    }

    /// Takes it out of the tree, whatever its device says.
    pub fn give_up(self) {}
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(self.path()) {
            // Lazily: what waits for a device that is gone must not hold up the test.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

/// Whether something is mounted there.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
    let path = text(path);
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(path.as_str()))
}

/// Whether anything is mounted below a directory, or a loop device lies on a file there.
pub fn is_used(directory: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
    let here = text(directory);
    mounts.contains(&here) || run("losetup", &["--list", "--raw"]).contains(&here)
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

impl Cluster {
    /// Attaches a volume to a node as a block device; the device.
    pub fn attach_device(&self, volume: &str, node: &str) -> PathBuf {
        let device = wait_for("the block device", Duration::from_secs(30), || {
            let attached = self.json(&[
                "volume",
                "attach",
                volume,
                "--node",
                node,
                "--front-end",
                "loop",
            ]);
            attached["device"].as_str().map(PathBuf::from)
        });
        assert!(device.exists(), "{}", device.display());
        device
    }

    /// Whether nothing of this cluster is mounted and none of its loop devices is left.
    pub fn leaves_no_device(&self) -> bool {
        !is_used(self.path())
    }

    /// Kills a node as the end of its host would: its daemon and the keeper of its devices.
    pub fn kill_host(&self, node: &str) {
        let socket = self.path().join(node).join("keeper.sock");
        let keeper = lockstep_keeper::Keeper::connect(&socket).and_then(|keeper| {
            keeper
                .pid()
                .map_err(|source| lockstep_keeper::KeeperError::Gone {
                    path: socket.clone(),
                    source,
                })
        });
        self.kill(node);
        if let Ok(pid) = keeper {
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(killed.expect("kill runs").success());
        }
    }
}
