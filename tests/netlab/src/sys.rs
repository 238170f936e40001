//! The system calls std does not have. All `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Makes the spawned process start inside a network namespace. The namespace stays open in this
/// process at least until the command is dropped.
pub fn spawn_inside(command: &mut Command, namespace: std::sync::Arc<File>) {
    let enter = move || enter(namespace.as_fd());
    // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns;
    // it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// Moves the calling thread into a network namespace, for good.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes no pointer; the descriptor is open as long as it is borrowed.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// A TUN device of that name in the calling thread's network namespace: one IP packet a read or
/// write, without blocking. It is gone when the file is closed.
pub fn tun(name: &str) -> io::Result<File> {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(
        name.len() < request.ifr_name.len(),
        "a device name has up to 15 bytes: {name}"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes the request, an ifreq that outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &mut request) })?;
    // SAFETY: fcntl with F_SETFL takes no pointer; the descriptor is open.
    check(unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(device)
}

/// Waits until one of the descriptors can be read, or the time is over.
pub fn wait_readable(descriptors: &[RawFd], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array has the length given, and it and the timeout, if any, outlive the call.
    let result = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            timeout,
            std::ptr::null(),
        )
    };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// Whether the other end of a socket was closed.
pub fn is_closed(descriptor: RawFd) -> io::Result<bool> {
    let mut polled = libc::pollfd {
        fd: descriptor,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd is given, and it outlives the call.
    check(unsafe { libc::poll(&mut polled, 1, 0) })?;
    Ok(polled.revents != 0)
}

/// Lets the calling thread's timeouts end when they are over, instead of 50 µs later.
pub fn sharpen_timers() -> io::Result<()> {
    // SAFETY: prctl with PR_SET_TIMERSLACK takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) })
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Kills a process at once. That it is gone already is no error.
pub fn kill(process: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointer.
    match check(unsafe { libc::kill(process, libc::SIGKILL) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
