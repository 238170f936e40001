//! Directories that are made for a measurement and go with it, and programs that lie beside this one.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a directory that must not exist.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        ensure!(
            !path.exists(),
            "{} exists; name a directory that is to be made and removed",
            path.display()
        );
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// The program that was named, or the one of this name beside our own.
///
/// # Errors
/// The system does not tell where our own lies.
pub fn beside(given: Option<&PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name(name)),
    }
}
