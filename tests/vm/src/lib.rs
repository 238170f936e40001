//! A small virtual machine with Debian's kernel, for what the kernel of a build machine may lack: ublk, the NBD
//! client, dm-crypt. It has no acceleration, so that it is slow and runs wherever QEMU does: it shows that things
//! work, not how fast.
//!
//! | job | module |
//! |---|---|
//! | Debian's kernel and its modules, fetched once | [`kernel`] |
//! | the initramfs: programs of this host with their libraries, a script | [`guest`] |
//! | its bytes | `archive` |
//! | booting it, and what came of it | [`machine`] |
#![forbid(unsafe_code)]

mod archive;
pub mod guest;
pub mod kernel;
pub mod machine;

pub use guest::Guest;
pub use kernel::{Kernel, Release};
pub use machine::Outcome;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the kernel of a build machine may lack, and what encryption needs beside it.
pub const MODULES: &[&str] = &["ublk_drv", "nbd", "dm-crypt", "loop", "xts", "aesni_intel"];
/// What tests of devices use, beside busybox.
pub const TOOLS: &[&str] = &[
    "fio",
    "mkfs.ext4",
    "e2fsck",
    "resize2fs",
    "blkdiscard",
    "blockdev",
    "dd",
    "cmp",
    "cryptsetup",
    "blkid",
    "dumpe2fs",
    "timeout",
];

/// Whether a virtual machine can be had here; says loudly why not. With `CI=true` that is a failure.
///
/// # Panics
/// In CI, if it cannot.
pub fn possible() -> bool {
    let needed = [
        "qemu-system-x86_64",
        "apt-get",
        "dpkg",
        "xz",
        "busybox",
        "ldd",
    ];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|tool| find(tool).is_none())
        .collect();
    let why = if !cfg!(target_arch = "x86_64") {
        "the kernel that it boots is one for x86-64".to_owned()
    } else if !missing.is_empty() {
        format!("not installed: {}", missing.join(", "))
    } else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "no virtual machine: {why}"
    );
    println!("SKIPPED: no virtual machine: {why}");
    false
}

/// A program of this host.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|path| path.is_file())
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Where what is fetched is kept, outside the tree.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    base.join("lockstep").join("vm")
}
