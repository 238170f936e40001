//! The system calls of this crate: thin, typed, and the only place that is unsafe.

use std::ffi::CStr;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Reads once into `head`, then `body`.
pub fn readv(fd: BorrowedFd<'_>, head: &mut [u8], body: &mut [u8]) -> Result<usize> {
    let slices = [
        libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: body.as_mut_ptr().cast(),
            iov_len: body.len(),
        },
    ];
    // SAFETY: both slices point to writable memory of their length, borrowed for the call.
    check_size(unsafe { libc::readv(fd.as_raw_fd(), slices.as_ptr(), 2) })
}

/// Waits until one of `fds` can be read or has failed; which can.
pub fn poll(fds: [BorrowedFd<'_>; 2], want: [bool; 2]) -> Result<[bool; 2]> {
    let entry = |at: usize| libc::pollfd {
        fd: if want[at] { fds[at].as_raw_fd() } else { -1 },
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries = [entry(0), entry(1)];
    // SAFETY: two entries are there, and the descriptors are borrowed for the call.
    let result = check(unsafe { libc::poll(entries.as_mut_ptr(), 2, -1) });
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok([false, false]),
        Err(error) => Err(error),
        Ok(_) => Ok([entries[0].revents != 0, entries[1].revents != 0]),
    }
}

/// A counter that can be waited for.
pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes reads return EAGAIN instead of waiting.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory is passed.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Mounts.
pub fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> Result<()> {
    // SAFETY: all strings end with NUL and live through the call.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    })?;
    Ok(())
}

/// Unmounts.
pub fn unmount(target: &CStr, flags: libc::c_int) -> Result<()> {
    // SAFETY: the string ends with NUL and lives through the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags) })?;
    Ok(())
}

/// The caller's effective user and group.
pub fn user_and_group() -> (u32, u32) {
    // SAFETY: these take nothing and cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Makes the kernel ask the server for the file's attributes, whatever it remembers.
pub fn refresh(fd: BorrowedFd<'_>) -> Result<()> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
    // SAFETY: the path ends with NUL, and the result has room for what the call writes.
    check(unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_SIZE,
            found.as_mut_ptr(),
        )
    })?;
    Ok(())
}

/// Makes a block device node.
pub fn make_block_node(path: &CStr, major: u32, minor: u32) -> Result<()> {
    let device = libc::makedev(major, minor);
    // SAFETY: the string ends with NUL and lives through the call.
    check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFBLK | 0o600, device) })?;
    Ok(())
}

/// An ioctl with a number or nothing.
pub fn ioctl(fd: impl AsFd, request: libc::c_ulong, argument: libc::c_ulong) -> Result<i32> {
    // SAFETY: callers pass requests whose argument is a plain number.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, argument) })
}

/// What a type must be so that the kernel may read and write it.
///
/// # Safety
/// Any bytes are a valid value, there is no padding, and the type is what every request it is
/// passed with expects.
pub unsafe trait Passed {}

/// An ioctl that reads or writes `argument`.
pub fn ioctl_with<T: Passed>(
    fd: impl AsFd,
    request: libc::c_ulong,
    argument: &mut T,
) -> Result<i32> {
    let pointer: *mut T = argument;
    // SAFETY: the pointer is valid for the call, and `Passed` says that the kernel may fill it.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, pointer) })
}
