//! What the end-to-end tests share: the real binary, run as a user runs it, and clusters of real
//! processes that are gone when a test ends, however it ends.
#![forbid(unsafe_code)]

pub mod csi;
pub mod device;
pub mod fleet;
pub mod pool;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use fleet::{Fleet, Setup};

/// The binary under test: `LOCKSTEP_BINARY`, or what this build's profile has made beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LOCKSTEP_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test knows its own path");
    let target = own
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/PROFILE/deps");
    let binary = target.join("lockstep");
    assert!(
        binary.exists(),
        "{} is missing: cargo build --release -p lockstep-cli",
        binary.display()
    );
    binary
}

/// The binary for a command that comes to an end: one that hangs is a failed test, with a name, and not a
/// run of tests that never ends.
pub fn bounded() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "300"]).arg(binary());
    command
}

/// Runs the binary to its end.
pub fn lockstep(arguments: &[&str]) -> Output {
    bounded().args(arguments).output().expect("the binary runs")
}

/// A directory on a disk: pools need direct I/O, which /tmp in memory does not have.
pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("lockstep-e2e-")
        .tempdir_in("/var/tmp")
        .expect("a directory")
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A cluster of `lockstep up`, stopped when it is dropped.
pub struct Cluster {
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Two sites of so many nodes and a witness.
    pub fn up(nodes_per_site: u32) -> Self {
        let cluster = Self {
            directory: directory(),
        };
        cluster.start(nodes_per_site);
        cluster
    }

    /// Brings it up (again).
    pub fn start(&self, nodes_per_site: u32) {
        let number = nodes_per_site.to_string();
        self.good(&[
            "up",
            "--detach",
            "--nodes-per-site",
            &number,
            "--pool-size",
            "512MiB",
        ]);
    }

    /// Stops it in order.
    pub fn down(&self) {
        self.good(&["down"]);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The NBD socket of a volume on a node.
    pub fn socket(&self, node: &str, volume: &str) -> PathBuf {
        self.path()
            .join(node)
            .join("exports")
            .join(format!("{volume}.sock"))
    }

    /// Kills a node's daemon at once.
    pub fn kill(&self, node: &str) {
        let text =
            std::fs::read_to_string(self.path().join(format!("{node}.pid"))).expect("a pid file");
        let pid = text.split_whitespace().next().expect("a pid").to_owned();
        let killed = Command::new("kill")
            .args(["-9", &pid])
            .status()
            .expect("kill runs");
        assert!(killed.success());
        self.await_end(node);
    }

    /// Waits for the end of a node's daemon that was told to.
    pub fn await_end(&self, node: &str) {
        let text =
            std::fs::read_to_string(self.path().join(format!("{node}.pid"))).expect("a pid file");
        let pid = text.split_whitespace().next().expect("a pid").to_owned();
        wait_for("the process's end", Duration::from_secs(30), || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }

    /// Sends a signal to a node's daemon.
    pub fn signal(&self, node: &str, which: &str) {
        let text =
            std::fs::read_to_string(self.path().join(format!("{node}.pid"))).expect("a pid file");
        let pid = text.split_whitespace().next().expect("a pid");
        let sent = Command::new("kill").args([which, pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Starts a node's daemon again.
    pub fn restart(&self, node: &str) -> std::process::Child {
        self.restart_with(node, &binary())
    }

    /// As [`Self::restart`], of another binary.
    pub fn restart_with(&self, node: &str, program: &Path) -> std::process::Child {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .open(self.path().join(format!("{node}.log")))
            .expect("a log");
        let child = Command::new(program)
            .args(["daemon", "--dir"])
            .arg(self.path().join(node))
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        let pid = child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let rest = &stat[stat.rfind(')').expect("a name") + 2..];
        let start = rest.split(' ').nth(19).expect("a start time");
        std::fs::write(
            self.path().join(format!("{node}.pid")),
            format!("{pid} {start}\n"),
        )
        .expect("written");
        child
    }

    /// Runs a command on the cluster.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let directory = self.path().to_str().expect("a plain path");
        let mut all = vec!["--dir", directory];
        all.extend_from_slice(arguments);
        lockstep(&all)
    }

    /// Runs a command that must succeed; its standard output.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "lockstep {arguments:?} failed: {}{}",
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that must succeed; its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend_from_slice(&["-o", "json"]);
        serde_json::from_str(&self.good(&all)).expect("JSON")
    }

    /// Runs a command that must fail; what it says.
    pub fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "lockstep {arguments:?} succeeded");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Waits until a volume is healthy.
    pub fn wait_until_healthy(&self, volume: &str) {
        wait_for(
            &format!("volume {volume} being healthy"),
            Duration::from_secs(60),
            || {
                let shown = self.json(&["volume", "show", volume]);
                (shown["status"] == "healthy").then_some(())
            },
        );
    }

    /// The last lines of each node's log.
    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(5).collect();
                text.push_str(&format!("\n== {}\n", path.display()));
                lines
                    .iter()
                    .rev()
                    .for_each(|line| text.push_str(&format!("{line}\n")));
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}
