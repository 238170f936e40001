//! More connections than it has descriptors for: it waits, and goes on once there are some.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// What the keeper may have open: three of its own, the listener, and a few clients.
const DESCRIPTORS: usize = 8;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn started(path: &Path) -> Running {
    let keeper = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {DESCRIPTORS} && exec \"$@\""))
        .args(["sh", env!("CARGO_BIN_EXE_lockstep-keeper")])
        .arg(path)
        .spawn()
        .expect("sh starts");
    let mut keeper = Running(keeper);
    while !path.exists() {
        let ended = keeper.0.try_wait().expect("a child");
        assert!(ended.is_none(), "the keeper ended: {ended:?}");
        std::thread::yield_now();
    }
    keeper
}

fn connected(path: &Path) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    connect(&socket, &SocketAddrUnix::new(path).expect("short")).expect("there is room to wait");
    socket
}

/// What a process has used, in ticks of a hundredth of a second.
fn used(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let after = stat.rsplit(')').next().expect("a name in brackets");
    let mut fields = after.split_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .expect("a field")
            .parse::<u64>()
            .expect("ticks")
    };
    next() + next()
}

#[test]
fn a_crowd_costs_no_processor_time_and_is_served_when_it_thins() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("keeper.sock");
    let keeper = started(&path);
    let crowd: Vec<OwnedFd> = (0..DESCRIPTORS).map(|_| connected(&path)).collect();

    let (before, began) = (used(keeper.0.id()), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (ticks, passed) = (used(keeper.0.id()) - before, began.elapsed());
    let share = ticks as f64 / 100.0 / passed.as_secs_f64();
    assert!(
        share < 0.2,
        "it used {share:.2} of a core while it had no descriptors"
    );

    drop(crowd);
    let client = lockstep_keeper::Keeper::connect(&path).expect("there is room");
    client.put("a", b"of a", &[]).expect("kept");
    assert_eq!(client.list().expect("listed").len(), 1);
}
