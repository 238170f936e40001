//! Where the demo's cluster lies: a fresh directory on a disk, removed at the end.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lockstep_node::mint;

/// A directory that is removed when it is dropped.
pub struct Place {
    path: PathBuf,
    keep: bool,
}

impl Place {
    /// A fresh one, within `within` or the first usual place that is on a disk.
    ///
    /// # Errors
    /// None can be made.
    pub fn new(within: Option<&Path>, keep: bool) -> anyhow::Result<Self> {
        let usual = [
            PathBuf::from("/var/tmp"),
            std::env::temp_dir(),
            std::env::current_dir().unwrap_or_default(),
        ];
        let candidates: Vec<PathBuf> =
            within.map_or_else(|| usual.to_vec(), |path| vec![path.to_owned()]);
        for candidate in &candidates {
            if takes_direct_io(candidate) {
                let path = candidate.join(format!("lockstep-demo-{:08x}", mint::number() as u32));
                std::fs::create_dir(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                return Ok(Self { path, keep });
            }
        }
        let tried: Vec<String> = candidates
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "none of {} is a writable directory on a disk with direct I/O; name one with --in",
            tried.join(", ")
        );
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Whether a file there can be opened past the page cache: not in memory (tmpfs).
fn takes_direct_io(directory: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
    let path = directory.join(format!(".lockstep-probe-{:016x}", mint::number()));
    let opened = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(&path);
    let _ = std::fs::remove_file(&path);
    opened.is_ok()
}
