//! Booting a guest in QEMU, without acceleration, and what came of it.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Guest;
use crate::guest::ENDED;

/// How a machine ended.
#[derive(Debug)]
pub struct Outcome {
    /// The script's exit code; none if the machine ended before its script.
    pub code: Option<i32>,
    /// All that it said.
    pub console: String,
    /// How long it ran.
    pub took: Duration,
}

impl Outcome {
    /// Panics, with the console, unless the script ended well.
    ///
    /// # Panics
    /// If it did not.
    pub fn expect_success(&self) {
        assert_eq!(
            self.code,
            Some(0),
            "the machine's script failed:\n{}",
            self.console
        );
    }
}

impl Guest {
    /// Boots it, and waits for its end; after `patience` it is ended.
    ///
    /// # Errors
    /// It could not be put together, or QEMU not be started.
    pub fn run(self, patience: Duration) -> anyhow::Result<Outcome> {
        let work = tempfile::Builder::new()
            .prefix("lockstep-vm-")
            .tempdir_in("/var/tmp")?;
        let initramfs = work.path().join("initramfs");
        fs::write(&initramfs, self.archive()?)?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
        ])
        .arg(format!("{}M", self.memory()))
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .arg("-kernel")
        .arg(self.kernel().image())
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        if let Some(disk) = self.disk(work.path())? {
            let disk = disk.display();
            qemu.args([
                "-drive",
                &format!("file={disk},format=raw,if=virtio,cache=unsafe"),
            ]);
        }
        let started = Instant::now();
        let mut machine = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64 cannot be started")?;
        let mut said = machine.stdout.take().context("it is piped")?;
        let console = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = said.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        while machine.try_wait()?.is_none() {
            if started.elapsed() > patience {
                machine.kill()?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut console = console.join().expect("the reader does not panic");
        if let Some(mut errors) = machine.stderr.take() {
            errors.read_to_string(&mut console)?;
        }
        Ok(Outcome {
            code: exit_code(&console),
            console,
            took: started.elapsed(),
        })
    }
}

fn exit_code(console: &str) -> Option<i32> {
    let line = console
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix(ENDED))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_exit_code_is_the_last_that_was_said() {
        let ended = |code: &str| format!("boot\r\n{ENDED} {code}\r\n[ 1.0] reboot: Power down\r\n");
        assert_eq!(exit_code(&ended("0")), Some(0));
        assert_eq!(exit_code(&ended("17")), Some(17));
        assert_eq!(exit_code("Kernel panic"), None);
    }
}
