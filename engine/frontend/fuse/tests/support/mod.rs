//! What the tests with a real kernel share: whether they can run, tools, and leaving nothing.

use lockstep_fuse::Mount;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether this machine can mount FUSE and attach loop devices. If not, says so; with CI=true that
/// is a failure.
pub fn possible() -> bool {
    let user = Command::new("id").arg("-u").output().expect("id runs");
    let root = user.stdout.starts_with(b"0\n");
    let missing = ["/dev/fuse", "/dev/loop-control"]
        .into_iter()
        .find(|path| !Path::new(path).exists());
    let why = match (root, missing) {
        (true, None) => return true,
        (false, _) => "it needs root".to_owned(),
        (true, Some(path)) => format!("{path} is missing"),
    };
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "cannot run: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// Whether a tool is installed; if not, says so, and with CI=true that is a failure.
pub fn installed(tool: &str) -> bool {
    let paths = std::env::var("PATH").unwrap_or_default();
    let mut places = paths.split(':').chain(["/sbin", "/usr/sbin"]);
    if places.any(|place| Path::new(place).join(tool).is_file()) {
        return true;
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{tool} is not installed"
    );
    eprintln!("SKIPPED: {tool} is not installed");
    false
}

/// Runs a tool for at most a minute; panics with what it said unless it succeeds.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output: Output = Command::new("timeout")
        .arg("60")
        .arg(tool)
        .args(arguments)
        .output()
        .expect("timeout runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {said}\n{complained}"
    );
    said
}

/// A directory that is emptied of mounts when the test ends, however it does: first what is
/// mounted inside it, then the FUSE mount, aborted, so that nothing waits for a dead server.
pub struct Place {
    directory: tempfile::TempDir,
    /// While it lives the watchdog sleeps.
    _alive: Sender<()>,
    _alone: MutexGuard<'static, ()>,
}

/// One test at a time: a process started by one would for a moment hold the files of another, and
/// keep them from being unmounted.
static ALONE: Mutex<()> = Mutex::new(());

/// How long a test may take: a process that waits for a server that never comes cannot be killed,
/// so the connection is aborted under it.
const PATIENCE: Duration = Duration::from_secs(120);

impl Place {
    pub fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["fuse", "files"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let (alive, watch) = channel();
        let fuse = directory.path().join("fuse");
        std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("no end after {PATIENCE:?}: aborting {}", fuse.display());
                let _ = Mount::adopt(fuse).abort();
            }
        });
        Self {
            directory,
            _alive: alive,
            _alone: alone,
        }
    }

    pub fn fuse(&self) -> PathBuf {
        self.directory.path().join("fuse")
    }

    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// Whether anything is mounted here.
    pub fn is_clean(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
        let here = self.directory.path().display().to_string();
        !mounts.contains(&here) && !run("losetup", &["--list"]).contains(&here)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Mount::adopt(self.files()).abort();
        let _ = Mount::adopt(self.fuse()).abort();
    }
}
