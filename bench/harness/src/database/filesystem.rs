//! A file system on a device, and a loop device on a file; both are put away however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::interrupt;

/// A tool that must succeed; what it said.
pub fn tool(command: &mut Command) -> anyhow::Result<String> {
    let words = format!("{command:?}").replace('"', "");
    let output = interrupt::output(command)?;
    ensure!(
        output.status.success(),
        "{words}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device over a file, without the page cache below it.
pub struct Loop {
    /// The device.
    pub device: PathBuf,
}

impl Loop {
    /// Over a file of so many bytes, which is made and allocated.
    pub fn over(file: &Path, mib: u64) -> anyhow::Result<Self> {
        tool(
            Command::new("fallocate")
                .args(["--length", &format!("{mib}MiB")])
                .arg(file),
        )?;
        let mut command = Command::new("losetup");
        command
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file);
        let device = tool(&mut command).context("cannot make a loop device")?;
        Ok(Self {
            device: device.into(),
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mut command = Command::new("losetup");
        let ended = command.arg("--detach").arg(&self.device).output();
        if !ended.is_ok_and(|output| output.status.success()) {
            let device = self.device.display();
            eprintln!("{device} is left; 'losetup --detach {device}' removes it");
        }
    }
}

/// A mounted ext4.
pub struct Mounted {
    place: PathBuf,
}

impl Mounted {
    /// Makes a file system on a device, and mounts it on a directory, which is made.
    pub fn ext4(device: &Path, place: &Path) -> anyhow::Result<Self> {
        // All of its tables at once: what the kernel would write later, it would write while we measure.
        let mut make = Command::new("mkfs.ext4");
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        tool(make.args(["-q", "-F", "-E", options]).arg(device))?;
        std::fs::create_dir_all(place)?;
        tool(Command::new("mount").arg(device).arg(place))?;
        Ok(Self {
            place: place.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = |lazy: &[&str]| {
            let mut command = Command::new("umount");
            let ended = command.args(lazy).arg(&self.place).output();
            ended.is_ok_and(|output| output.status.success())
        };
        // Lazily if something still holds it: what waits for a device that is gone must not hold us up.
        if !unmounted(&[]) && !unmounted(&["--lazy"]) {
            eprintln!("{} is still mounted", self.place.display());
            return;
        }
        let _ = std::fs::remove_dir(&self.place);
    }
}
