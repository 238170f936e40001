//! Daemons as child processes. They are told from strangers by their process id and the start time
//! the kernel gives for it, so that a recycled id is never signalled.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use super::layout::{Layout, LocalNode};

/// How long a daemon may take to stop in order.
const STOP: Duration = Duration::from_secs(15);

/// A daemon started by this process.
#[derive(Debug)]
pub struct Daemon {
    /// Its node.
    pub node: LocalNode,
    child: Child,
}

impl Daemon {
    /// Starts a node's daemon. It goes on when this process ends, and is found again by its pid
    /// file.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(layout: &Layout, node: &LocalNode) -> anyhow::Result<Self> {
        if is_running(&layout.pid_file(node)) {
            bail!(
                "node {} runs already in {}; 'lockstep down' stops it",
                node.name,
                layout.root().display()
            );
        }
        let log_path = layout.log(node);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot open {}", log_path.display()))?;
        let binary = std::env::current_exe().context("this binary's own path is unknown")?;
        let mut command = Command::new(binary);
        command
            .arg("daemon")
            .arg("--dir")
            .arg(layout.directory(node).root())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A process group of its own: Ctrl-C at the terminal goes to `up`, which stops them in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("the daemon cannot be started")?;
        let daemon = Self {
            node: node.clone(),
            child,
        };
        write_pid_file(&layout.pid_file(node), daemon.child.id())?;
        Ok(daemon)
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> anyhow::Result<Option<String>> {
        Ok(self.child.try_wait()?.map(|status| status.to_string()))
    }

    /// Sends SIGKILL without waiting, so that several end at the same moment.
    ///
    /// # Errors
    /// The system's.
    pub fn signal_kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill()?)
    }

    /// Sends SIGTERM without waiting, so that several stop side by side.
    pub fn signal_term(&self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Kills it at once, as a power cut would, and reaps it.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits; kills it when it takes too long.
    ///
    /// # Errors
    /// The system's.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal_term();
        }
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()
    }
}

/// Whether the process of a pid file lives.
pub fn is_running(pid_file: &Path) -> bool {
    living(pid_file).is_some()
}

/// Stops those daemons that live, all at once; the number of those stopped. One that does not end in
/// order is killed.
pub fn stop_all<'a>(layout: &Layout, nodes: impl Iterator<Item = &'a LocalNode> + Clone) -> usize {
    let mut living: Vec<_> = nodes
        .clone()
        .filter_map(|node| Some((node, living(&layout.pid_file(node))?)))
        .collect();
    let count = living.len();
    for (_, pid) in &living {
        let _ = rustix::process::kill_process(*pid, Signal::TERM);
    }
    let deadline = Instant::now() + STOP;
    while !living.is_empty() {
        living.retain(|(node, _)| is_running(&layout.pid_file(node)));
        if Instant::now() > deadline {
            for (_, pid) in &living {
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for node in nodes {
        let _ = std::fs::remove_file(layout.pid_file(node));
    }
    count
}

/// `PID START`, where START is the kernel's start time of the process.
fn write_pid_file(path: &Path, pid: u32) -> anyhow::Result<()> {
    let start = start_time(pid).unwrap_or_default();
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{pid} {start}")?;
    Ok(())
}

fn living(pid_file: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(pid_file).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == start).then_some(())?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Field 22 of /proc/PID/stat; none when there is no such process, or it has ended and waits to be
/// reaped.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_not_ours() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("x.pid");
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        write_pid_file(&path, child.id()).expect("written");
        assert!(is_running(&path));
        std::fs::write(&path, format!("{} 1", child.id())).expect("written");
        assert!(!is_running(&path), "another start time is another process");
        write_pid_file(&path, child.id()).expect("written");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(!is_running(&path));
    }
}
