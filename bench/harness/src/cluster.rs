//! A cluster of separate processes on this machine, by `lockstep up`, with a volume attached.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lockstep_floor::cpu;

/// How long the daemons may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stopped when dropped.
pub struct Cluster {
    program: PathBuf,
    directory: PathBuf,
    /// All daemons.
    pub pids: Vec<u32>,
}

impl Cluster {
    /// Starts a new one in `directory`.
    pub fn start(program: PathBuf, directory: &Path, pool: &str) -> anyhow::Result<Self> {
        ensure!(
            program.is_file(),
            "{} is missing; build it with 'cargo build --release'",
            program.display()
        );
        let mut cluster = Self {
            program,
            directory: directory.to_owned(),
            pids: Vec::new(),
        };
        cluster.call(&["up", "--detach", "--pool-size", pool])?;
        for file in std::fs::read_dir(&cluster.directory)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "pid") {
                let text = std::fs::read_to_string(&path)?;
                // The pid, and when it started.
                let pid = text.split(' ').next().unwrap_or_default();
                cluster.pids.push(pid.parse()?);
            }
        }
        ensure!(
            !cluster.pids.is_empty(),
            "no daemon left its pid under {}",
            cluster.directory.display()
        );
        Ok(cluster)
    }

    /// Creates a volume, attaches it at node a1, and gives its socket.
    pub fn attach(&self, name: &str, size: &str, copies: &str) -> anyhow::Result<PathBuf> {
        self.call(&["volume", "create", name, "--size", size, "--copies", copies])?;
        self.call(&["volume", "attach", name, "--node", "a1"])?;
        Ok(self.directory.join(format!("a1/exports/{name}.sock")))
    }

    /// Waits until the daemons do next to nothing: journals are destaged, and disturb nobody.
    pub fn settle(&self) -> anyhow::Result<()> {
        const LOOK: Duration = Duration::from_millis(250);
        let begin = Instant::now();
        let mut before = self.cpu()?;
        while begin.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            let now = self.cpu()?;
            if now - before < LOOK.as_nanos() as u64 / 20 {
                return Ok(());
            }
            before = now;
        }
        bail!("the daemons are still busy after {PATIENCE:?} without any load")
    }

    /// Processor time of all daemons, in nanoseconds.
    pub fn cpu(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in &self.pids {
            sum += cpu::used_by(*pid).with_context(|| format!("daemon {pid} is gone"))?;
        }
        Ok(sum)
    }

    fn call(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--dir")
            .arg(&self.directory)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        ensure!(
            output.status.success(),
            "lockstep {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.call(&["down"]) {
            eprintln!("the cluster could not be stopped: {error:#}");
        }
    }
}
