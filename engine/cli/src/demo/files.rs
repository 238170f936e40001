//! With root: ext4 on a volume's block device, and a file that is carried to the other site.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Bytes of the file.
const LENGTH: usize = 8 << 20;

/// A mounted file system with the file on it.
pub struct Files {
    mount: PathBuf,
    kept: Vec<u8>,
}

/// Why there is no file system in this demo; none if there is one.
pub fn unavailable() -> Option<String> {
    lockstep_fuse::unavailable().or_else(|| {
        ["mkfs.ext4", "mount", "umount"]
            .into_iter()
            .find(|tool| program(tool).is_none())
            .map(|tool| format!("{tool} is not installed"))
    })
}

impl Files {
    /// Makes a file system on a device, mounts it at `mount`, which is made, and writes the file.
    ///
    /// # Errors
    /// A tool fails.
    pub fn create(device: &Path, mount: PathBuf, seed: u64) -> anyhow::Result<Self> {
        run("mkfs.ext4", &["-q", "-E", "nodiscard", path(device)?])?;
        let kept = content(seed);
        let files = Self { mount, kept };
        files.mount(device)?;
        std::fs::write(files.file(), &files.kept)?;
        std::fs::File::open(files.file())?.sync_all()?;
        Ok(files)
    }

    /// Mounts a device that holds the file system.
    ///
    /// # Errors
    /// A tool fails.
    pub fn mount(&self, device: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.mount)?;
        run("mount", &["-t", "ext4", path(device)?, path(&self.mount)?])
    }

    /// Whether the file has the bytes it was given.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_whole(&self) -> anyhow::Result<bool> {
        Ok(std::fs::read(self.file())? == self.kept)
    }

    /// Unmounts in order.
    ///
    /// # Errors
    /// A tool fails.
    pub fn unmount(&self) -> anyhow::Result<()> {
        run("umount", &[path(&self.mount)?])
    }

    /// Takes the file system out of the tree, whatever its device says.
    pub fn give_up(&self) {
        if let Ok(mount) = path(&self.mount) {
            // Not mounted any more: nothing to do.
            let _ = run("umount", &["-l", mount]);
        }
    }

    fn file(&self) -> PathBuf {
        self.mount.join("file")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn content(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(LENGTH);
    while bytes.len() < LENGTH {
        // xorshift: no two blocks alike is all that is asked of it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A program of the system's; those for root are not on every PATH.
fn program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

fn run(tool: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let program = program(tool).with_context(|| format!("{tool} is not installed"))?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{tool} cannot be run"))?;
    if !output.status.success() {
        bail!(
            "{tool} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_depends_on_the_seed_and_repeats_nowhere() {
        let bytes = content(1);
        assert_eq!(bytes.len(), LENGTH);
        assert!(bytes != content(3));
        let blocks: std::collections::BTreeSet<&[u8]> = bytes.chunks(4096).collect();
        assert_eq!(blocks.len(), LENGTH / 4096);
    }
}
