//! A PostgreSQL server of our own on a directory, and pgbench against it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use lockstep_floor::report::Samples;

use super::filesystem::tool;
use crate::interrupt;
use crate::results::Figures;

/// Who runs it: the server refuses root.
const USER: &str = "postgres";
/// Clients and threads of pgbench.
const CLIENTS: &str = "4";
const THREADS: &str = "2";

/// Where the programs of a PostgreSQL lie: the newest of Debian's, or one on the path.
pub fn programs() -> Option<PathBuf> {
    let has_all = |directory: &PathBuf| {
        let needed = ["initdb", "pg_ctl", "postgres", "pgbench", "psql"];
        needed.iter().all(|name| directory.join(name).exists())
    };
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter();
    let mut found: Vec<(u32, PathBuf)> = debian
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, path)| has_all(path))
        .collect();
    found.sort();
    if let Some((_, path)) = found.pop() {
        return Some(path);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(has_all)
}

/// Whether there is a user to run it.
pub fn has_user() -> bool {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    users
        .lines()
        .any(|line| line.split(':').next() == Some(USER))
}

/// Stopped when dropped.
pub struct Server {
    programs: PathBuf,
    data: PathBuf,
    /// Its socket, its log and the latencies that pgbench writes: not on what is measured.
    aside: PathBuf,
}

impl Server {
    /// Makes a database of that scale in a file system that is fresh, and starts it.
    pub fn start(directory: &Path, aside: &Path, scale: u32) -> anyhow::Result<Self> {
        let programs = programs().context("PostgreSQL's programs are missing")?;
        std::fs::create_dir_all(aside)?;
        tool(Command::new("chown").arg(USER).arg(directory).arg(aside))?;
        let server = Self {
            programs,
            data: directory.join("data"),
            aside: aside.to_owned(),
        };
        server.good(
            server
                .command("initdb")
                .args([
                    "--data-checksums",
                    "--auth=trust",
                    "--no-instructions",
                    "-D",
                ])
                .arg(&server.data),
        )?;
        let socket = aside.display();
        // Little memory, so that the disk is what is measured.
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories='{socket}' -c shared_buffers=32MB -c max_wal_size=256MB"
        );
        let mut start = server.command("pg_ctl");
        start.arg("-D").arg(&server.data).arg("-w");
        start.arg("-l").arg(aside.join("log"));
        start.args(["-o", &options, "start"]);
        server.good(&mut start)?;
        let scale = scale.to_string();
        server.good(server.command("pgbench").args(["-i", "-q", "-s", &scale]))?;
        Ok(server)
    }

    /// So many seconds of pgbench's own transactions.
    pub fn measure(&self, seconds: u64) -> anyhow::Result<Figures> {
        self.good(self.command("psql").args(["-XAqtc", "checkpoint"]))?;
        let prefix = self.aside.join("transactions");
        let mut bench = self.command("pgbench");
        bench.args([
            "-n",
            "-c",
            CLIENTS,
            "-j",
            THREADS,
            "-T",
            &seconds.to_string(),
        ]);
        bench.arg("-l").arg("--log-prefix").arg(&prefix);
        let said = self.good(&mut bench)?;
        let mut latencies = Vec::new();
        for entry in std::fs::read_dir(&self.aside)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("transactions") {
                latencies.extend(latencies_of(&std::fs::read_to_string(&path)?));
                std::fs::remove_file(&path)?;
            }
        }
        let rate = rate_of(&said).with_context(|| format!("pgbench told no rate: {said}"))?;
        let samples = Samples::new(latencies);
        let millis = |share: f64| samples.quantile(share) / 1000.0;
        Ok(Figures::from([
            ("transactions a second".into(), rate),
            ("p50, ms".into(), millis(0.5)),
            ("p99, ms".into(), millis(0.99)),
            ("p99.9, ms".into(), millis(0.999)),
        ]))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command
            .args(["-u", USER, "--"])
            .arg(self.programs.join(program))
            .env("PGHOST", &self.aside)
            .env("PGDATABASE", "postgres")
            .current_dir("/");
        command
    }

    fn good(&self, command: &mut Command) -> anyhow::Result<String> {
        let output = interrupt::output(command)?;
        let log = std::fs::read_to_string(self.aside.join("log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        ensure!(
            output.status.success(),
            "{command:?}: {}: {} {last}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let mut stop = self.command("pg_ctl");
            stop.arg("-D")
                .arg(&self.data)
                .args(["-m", "fast", "-w", "stop"]);
            // Not by `interrupt`: it is stopped also when we are asked to end.
            let ended = stop.output();
            if !ended.is_ok_and(|output| output.status.success()) {
                eprintln!("the server on {} could not be stopped", self.data.display());
            }
        }
    }
}

/// `tps = 1234.5 (without initial connection time)`.
fn rate_of(said: &str) -> Option<f64> {
    let mut lines = said.lines();
    let line = lines.find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

/// The third field of each line, µs, in nanoseconds.
fn latencies_of(log: &str) -> impl Iterator<Item = u64> + '_ {
    let micros = |line: &str| line.split(' ').nth(2)?.parse::<u64>().ok();
    log.lines().filter_map(micros).map(|micros| micros * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let said = "scaling factor: 5\nlatency average = 3.1 ms\ntps = 1289.63 (without initial connection time)\n";
        assert_eq!(rate_of(said), Some(1289.63));
        assert_eq!(rate_of("nothing"), None);
        let log = "0 1 2500 0 1700000000 1\n1 1 900 0 1700000000 2\nbad\n";
        assert_eq!(latencies_of(log).collect::<Vec<_>>(), [2_500_000, 900_000]);
    }
}
