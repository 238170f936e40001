//! A cluster of separate processes on this machine, by `lockstep up`, with a volume attached.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lockstep_floor::cpu;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::interrupt;

/// How long the daemons may take to come to rest, a process to end, a volume to be healthy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stopped when dropped.
pub struct Cluster {
    program: PathBuf,
    directory: PathBuf,
    nodes: Vec<Node>,
    /// All daemons that run.
    pub pids: Vec<u32>,
    /// Daemons that were started again here, to be reaped.
    again: Vec<Child>,
}

/// What `lockstep up` keeps of a node in `cluster.toml`.
#[derive(Clone, Debug, Deserialize)]
struct Node {
    name: String,
    site: String,
    metrics_port: u16,
}

#[derive(Deserialize)]
struct Layout {
    nodes: Vec<Node>,
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
            nodes: Vec::new(),
            pids: Vec::new(),
            again: Vec::new(),
        };
        cluster.call(&["up", "--detach", "--pool-size", pool])?;
        interrupt::check()?;
        let layout = cluster.directory.join("cluster.toml");
        let text = std::fs::read_to_string(&layout)
            .with_context(|| format!("cannot read {}", layout.display()))?;
        let layout: Layout = toml::from_str(&text)
            .with_context(|| format!("{} names no nodes", layout.display()))?;
        cluster.nodes = layout.nodes;
        cluster.find_pids()?;
        Ok(cluster)
    }

    /// Creates a volume, attaches it at node a1, and gives its socket.
    pub fn attach(&self, name: &str, size: &str, copies: &str) -> anyhow::Result<PathBuf> {
        self.call(&["volume", "create", name, "--size", size, "--copies", copies])?;
        self.call(&["volume", "attach", name, "--node", "a1"])?;
        Ok(self.socket(name))
    }

    /// The NBD socket of a volume that is attached at node a1.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(format!("a1/exports/{name}.sock"))
    }

    /// Creates a volume and attaches it at node a1 as a block device, which it gives.
    pub fn attach_device(&self, name: &str, size: &str, copies: &str) -> anyhow::Result<PathBuf> {
        self.call(&["volume", "create", name, "--size", size, "--copies", copies])?;
        let attach = ["volume", "attach", name, "--node", "a1"];
        let attached = self.json(&[&attach[..], &["--front-end", "loop"]].concat())?;
        let device = attached["device"].as_str();
        device
            .map(PathBuf::from)
            .with_context(|| format!("volume '{name}' got no block device: {attached}"))
    }

    /// A volume as `lockstep volume show` has it.
    pub fn volume(&self, name: &str) -> anyhow::Result<Value> {
        self.json(&["volume", "show", name])
    }

    /// Waits until all copies of a volume are in sync.
    pub fn wait_until_healthy(&self, name: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let shown = self.volume(name)?;
            if shown["status"] == "healthy" {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "volume '{name}' is not healthy after {PATIENCE:?}: {}; the logs are in {}",
                shown["headline"],
                self.directory.display()
            );
            interrupt::sleep(Duration::from_millis(100))?;
        }
    }

    /// Waits until the daemons do next to nothing: journals are destaged, and disturb nobody.
    pub fn settle(&self) -> anyhow::Result<()> {
        const LOOK: Duration = Duration::from_millis(250);
        let begin = Instant::now();
        let mut before = self.cpu()?;
        while begin.elapsed() < PATIENCE {
            interrupt::sleep(LOOK)?;
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

    /// The nodes of a site.
    pub fn site(&self, site: &str) -> Vec<String> {
        let here = self.nodes.iter().filter(|node| node.site == site);
        here.map(|node| node.name.clone()).collect()
    }

    /// Daemons that run, by the names of their nodes.
    pub fn running(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let mut running = BTreeMap::new();
        for node in &self.nodes {
            if let Some(pid) = self.pid(&node.name)? {
                running.insert(node.name.clone(), pid);
            }
        }
        Ok(running)
    }

    /// Kills daemons at once, as a power cut would: all signals first, and then their ends.
    pub fn kill(&mut self, names: &[String]) -> anyhow::Result<()> {
        let mut killed = Vec::new();
        for name in names {
            let pid = self.pid(name)?;
            let pid = pid.with_context(|| format!("node {name} does not run"))?;
            killed.push(pid);
        }
        for pid in &killed {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            kill_process(pid.context("no process id")?, Signal::KILL)?;
        }
        let begin = Instant::now();
        while killed.iter().any(|pid| start_time(*pid).is_some()) {
            ensure!(
                begin.elapsed() < PATIENCE,
                "a killed daemon has not ended within {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.find_pids()
    }

    /// Starts daemons that were killed, as an init system would.
    pub fn start_again(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            let path = self.directory.join(format!("{name}.log"));
            let log = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let mut command = Command::new(&self.program);
            command
                .args(["daemon", "--dir"])
                .arg(self.directory.join(name))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            // Ctrl-C at the terminal is for us, and `lockstep down` stops them.
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            let child = command.spawn().context("the daemon cannot be started")?;
            let start = start_time(child.id()).unwrap_or_default();
            let text = format!("{} {start}\n", child.id());
            self.again.push(child);
            std::fs::write(self.directory.join(format!("{name}.pid")), text)?;
        }
        self.find_pids()
    }

    /// A metric of a node, summed over its labels; 0 if it was never counted.
    pub fn metric(&self, node: &str, metric: &str) -> anyhow::Result<f64> {
        let known = self.nodes.iter().find(|it| it.name == node);
        let port = known.context("no such node")?.metrics_port;
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("node {node} serves no metrics"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(sum_of(&text, metric))
    }

    fn find_pids(&mut self) -> anyhow::Result<()> {
        self.pids = self.running()?.into_values().collect();
        ensure!(
            !self.pids.is_empty(),
            "no daemon left its pid under {}",
            self.directory.display()
        );
        Ok(())
    }

    /// The process of a node; none if it does not run.
    fn pid(&self, name: &str) -> anyhow::Result<Option<u32>> {
        let path = self.directory.join(format!("{name}.pid"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(None);
        };
        // The pid, and when it started: a recycled id is not ours.
        let (pid, start) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let pid: u32 = pid
            .parse()
            .with_context(|| format!("{} holds no process id", path.display()))?;
        Ok((start_time(pid).as_deref() == Some(start)).then_some(pid))
    }

    fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let stdout = self.output(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_slice(&stdout)
            .with_context(|| format!("lockstep {} gave no JSON", arguments.join(" ")))
    }

    fn call(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.output(arguments).map(drop)
    }

    fn output(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
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
        Ok(output.stdout)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing of it was made if `up` was refused.
        if !self.directory.join("cluster.toml").exists() {
            return;
        }
        if let Err(error) = self.call(&["down"]) {
            eprintln!("the cluster could not be stopped: {error:#}");
        }
        for child in &mut self.again {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Field 22 of /proc/PID/stat; none if there is no such process, or it has ended and is not reaped.
fn start_time(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may contain anything.
    let rest = &text[text.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn sum_of(text: &str, metric: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric));
    lines
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels_only() {
        let text = "# TYPE a counter\na{x=\"1\"} 3\na{x=\"2\"} 4\na_total 100\nb 5\n";
        assert_eq!(sum_of(text, "a"), 7.0);
        assert_eq!(sum_of(text, "b"), 5.0);
        assert_eq!(sum_of(text, "c"), 0.0);
    }

    #[test]
    fn only_the_living_have_a_start_time() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX / 16), None);
    }
}
