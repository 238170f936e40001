//! A daemon that was killed is gone only once the kernel has ended its disk operations: until then
//! its locks, its claims and its ports are taken, and whoever starts in its place waits for them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to end a process: its flushes on a busy disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks; nothing tells of the end of a stranger's claim.
const LOOK: Duration = Duration::from_millis(20);

/// Tries until it works, fails for another reason than `is_ending` knows, or [`PATIENCE`] is over.
/// Blocks its thread.
///
/// # Errors
/// The last try's.
pub fn wait_while<T, E>(
    what: &str,
    mut attempt: impl FnMut() -> Result<T, E>,
    is_ending: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    let mut told = false;
    loop {
        match attempt() {
            Err(error) if is_ending(&error) && began.elapsed() < PATIENCE => {
                if !told {
                    tracing::info!("waiting for {what}");
                    told = true;
                }
                std::thread::sleep(LOOK);
            }
            end => return end,
        }
    }
}

/// Whether a living process holds the lock (flock) of the file at `path`. The kernel names the holder
/// of every lock it knows in /proc/locks, as 0 once that process is gone.
pub fn is_held_by_the_living(path: &Path) -> bool {
    let (Ok(metadata), Ok(locks)) = (
        std::fs::metadata(path),
        std::fs::read_to_string("/proc/locks"),
    ) else {
        return false;
    };
    locks
        .lines()
        .filter_map(flock_of)
        .any(|(pid, inode)| inode == metadata.ino() && is_alive(pid))
}

/// Holder and inode of a line `1: FLOCK ADVISORY WRITE 4711 fd:00:123456 0 EOF`. The device beside the
/// inode is not always the one that stat gives (btrfs, overlays), so that it is not looked at.
fn flock_of(line: &str) -> Option<(u32, u64)> {
    let mut words = line.split_whitespace().skip(1);
    (words.next()? == "FLOCK").then_some(())?;
    let pid = words.nth(2)?.parse().ok()?;
    let inode = words.next()?.rsplit(':').next()?.parse().ok()?;
    Some((pid, inode))
}

/// Whether a process is there and not ending. One whose first thread has ended is: it was killed,
/// and others of its threads may still be in the kernel.
fn is_alive(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name, field 2, is in parentheses and may contain anything.
    let state = text.rfind(')').and_then(|at| text[at..].chars().nth(2));
    !matches!(state, Some('Z' | 'X') | None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ending_is_waited_for_and_what_lives_is_not() {
        let mut left = 3;
        let taken = wait_while(
            "the test",
            || {
                left -= 1;
                if left == 0 { Ok("free") } else { Err("ending") }
            },
            |error| *error == "ending",
        );
        assert_eq!(taken, Ok("free"));
        let mut tries = 0;
        let refused: Result<(), _> = wait_while(
            "the test",
            || {
                tries += 1;
                Err("living")
            },
            |error| *error == "ending",
        );
        assert_eq!((refused, tries), (Err("living"), 1));
    }

    #[test]
    fn a_killed_process_that_nobody_has_reaped_is_not_alive() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep runs");
        assert!(is_alive(child.id()));
        child.kill().expect("killed");
        while is_alive(child.id()) {
            std::thread::yield_now();
        }
        child.wait().expect("reaped");
        assert!(!is_alive(child.id()));
    }

    #[test]
    fn the_holder_of_a_lock_is_known() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("lock");
        let file = std::fs::File::create(&path).expect("created");
        assert!(!is_held_by_the_living(&path));
        file.try_lock().expect("free");
        assert!(is_held_by_the_living(&path), "this process holds it");
        drop(file);
        assert!(!is_held_by_the_living(&path));
        assert_eq!(
            flock_of("7: FLOCK  ADVISORY  WRITE 4711 fd:00:123456 0 EOF"),
            Some((4711, 123_456))
        );
        assert_eq!(
            flock_of("8: POSIX  ADVISORY  WRITE 4711 fd:00:123456 0 EOF"),
            None
        );
        assert_eq!(flock_of("7: -> FLOCK  ADVISORY"), None);
    }
}
