//! The floors, measured by `lockstep-floor` in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use lockstep_floor::report::Report;

use crate::interrupt;

/// Where the program lies, and where its files go.
pub struct Floor {
    program: PathBuf,
    directory: PathBuf,
}

impl Floor {
    /// The `lockstep-floor` beside this program, or the one named.
    pub fn new(program: PathBuf, directory: &Path) -> anyhow::Result<Self> {
        ensure!(
            program.is_file(),
            "{} is missing; build it with 'cargo build --release -p lockstep-floor'",
            program.display()
        );
        let directory = directory.to_owned();
        Ok(Self { program, directory })
    }

    /// Runs it with these arguments.
    pub fn measure(&self, arguments: &[String], seconds: u64) -> anyhow::Result<Report> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .args(["--json", "--seconds", &seconds.to_string(), "--dir"])
            .arg(&self.directory);
        let output = interrupt::output(&mut command)?;
        ensure!(
            output.status.success(),
            "lockstep-floor {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).context("lockstep-floor's JSON")
    }
}
