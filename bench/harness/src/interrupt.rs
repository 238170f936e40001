//! Ctrl-C and its kin. Whatever takes long looks here, ends in an error, and so puts away on its way
//! out what it has started, mounted or made.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);
/// How long a signal may go unseen.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program may take to end when it is asked to.
const ENDING: Duration = Duration::from_secs(5);
/// What shells say of a program that Ctrl-C ended.
const EXIT: i32 = 130;

/// Listens from now on. The first signal is left to [`check`]; a second one ends the process at once.
///
/// # Errors
/// The system's.
pub fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    let wait = move || {
        runtime.block_on(async {
            let [interrupt, terminate, hang_up] = &mut signals;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => (),
                    _ = terminate.recv() => (),
                    _ = hang_up.recv() => (),
                }
                if ASKED.swap(true, Ordering::Relaxed) {
                    eprintln!("ended at once: daemons and files of this run are left behind");
                    std::process::exit(EXIT);
                }
                eprintln!("ending: putting away what was started (once more ends at once)");
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("cannot listen for signals")?;
    Ok(())
}

/// An error once the process was asked to end.
///
/// # Errors
/// It was.
pub fn check() -> anyhow::Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("ended by a signal before everything was measured; what was kept with --out stays");
    }
    Ok(())
}

/// Sleeps, and wakes early to the error of [`check`].
///
/// # Errors
/// The process was asked to end.
pub fn sleep(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// Runs a program to its end, or ends it when the process is asked to end.
///
/// # Errors
/// It cannot be run, or the process was asked to end.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    // Both pipes at once: one that nobody reads would hold the child up.
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(asked) = check() {
            end(&mut child);
            return Err(asked);
        }
        std::thread::sleep(LOOK);
    };
    Ok(Output {
        status,
        stdout: stdout.join().expect("reading does not panic"),
        stderr: stderr.join().expect("reading does not panic"),
    })
}

/// Asks first: programs that were started by this one are ended by it.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    let begin = Instant::now();
    while begin.elapsed() < ENDING {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is still the best account of what happened.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_program_says_is_kept() {
        let said = output(Command::new("sh").args(["-c", "seq 100000; echo no >&2; exit 3"]));
        let said = said.expect("sh runs");
        assert_eq!(said.status.code(), Some(3));
        assert!(said.stdout.ends_with(b"100000\n"));
        assert_eq!(said.stderr, b"no\n");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = output(&mut Command::new("no-such-program")).expect_err("there is none");
        assert!(format!("{error:#}").contains("no-such-program"));
    }
}
