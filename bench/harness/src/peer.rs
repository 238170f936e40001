//! A peer that any Debian machine has: QEMU's quorum driver over three exports of `qemu-nbd`, each a
//! file of its own that is written with O_DIRECT and O_DSYNC, so that what is acknowledged is durable
//! three times, as it is with us. It has no TLS and no checksums.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What is run.
const PROGRAM: &str = "qemu-nbd";
/// How many copies it keeps.
const COPIES: usize = 3;
/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ended when dropped.
pub struct Quorum {
    servers: Vec<Child>,
    /// Where the quorum is served.
    pub socket: PathBuf,
}

/// Why it cannot be measured here; none if it can.
pub fn unavailable() -> Option<String> {
    let found = Command::new(PROGRAM)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => None,
        _ => Some(format!(
            "{PROGRAM} is not installed (Debian: qemu-utils): no peer is measured"
        )),
    }
}

impl Quorum {
    /// Three files of so many bytes in `directory`, which is made, and the quorum over them.
    ///
    /// # Errors
    /// A server does not listen.
    pub fn start(directory: &Path, bytes: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut quorum = Self {
            servers: Vec::new(),
            socket: directory.join("quorum.sock"),
        };
        let mut options = "driver=quorum,vote-threshold=2,read-pattern=fifo".to_owned();
        for copy in 0..COPIES {
            let file = directory.join(format!("copy{copy}.img"));
            std::fs::File::create_new(&file)?.set_len(bytes)?;
            let socket = directory.join(format!("copy{copy}.sock"));
            let file = text(&file)?;
            quorum.serve(&socket, &["--format=raw", "--cache=directsync", file])?;
            options.push_str(&format!(
                ",children.{copy}.driver=nbd,children.{copy}.server.type=unix,children.{copy}.server.path={}",
                text(&socket)?
            ));
        }
        let socket = quorum.socket.clone();
        quorum.serve(&socket, &["--cache=none", "--image-opts", &options])?;
        Ok(quorum)
    }

    /// All of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Child::id).collect()
    }

    fn serve(&mut self, socket: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        let child = Command::new(PROGRAM)
            .args(["--persistent", "--shared=1", "--socket"])
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        self.servers.push(child);
        let began = Instant::now();
        while !socket.exists() {
            let server = self.servers.last_mut().expect("just pushed");
            if let Some(status) = server.try_wait()? {
                bail!("{PROGRAM} {} ended: {status}", arguments.join(" "));
            }
            if began.elapsed() > PATIENCE {
                bail!("{PROGRAM} does not listen at {}", socket.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Quorum {
    fn drop(&mut self) {
        // The front first: its backends' connections end with it.
        for server in self.servers.iter_mut().rev() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    // A comma would end an option of QEMU's.
    text.filter(|text| !text.contains(','))
        .with_context(|| format!("{} cannot be given to {PROGRAM}", path.display()))
}
