//! The few system calls that the standard library does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// Tells the allocator to keep what it once had: a journal's index grows and shrinks by megabytes
/// a second, and giving its pages back in between costs a system call and a fault each time.
pub(crate) fn keep_freed_memory() {
    /// Freed bytes at the end of a heap beyond which they go back after all.
    #[cfg(target_env = "gnu")]
    const KEPT: libc::c_int = 64 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator; no memory is touched.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT / 2);
    }
}

/// Private zeroed memory, aligned to a page.
pub(crate) fn map_anonymous(length: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A child of fork must not make the kernel copy pages that the device writes into.
    // SAFETY: the range is the mapping just made; the advice changes no content.
    unsafe { libc::madvise(base, length, libc::MADV_DONTFORK) };
    Ok(NonNull::new(base.cast()).expect("mmap does not return null on success"))
}

/// # Safety
/// `base` and `length` must be those of one [`map_anonymous`], with no reference left into it.
pub(crate) unsafe fn unmap(base: NonNull<u8>, length: usize) {
    // SAFETY: the caller's promise.
    let done = unsafe { libc::munmap(base.as_ptr().cast(), length) };
    assert_eq!(done, 0, "unmapping one's own mapping does not fail");
}

/// The result of a call that returns -1 and sets errno.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that a call has just returned.
pub(crate) fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just given this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe a live integer.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// An eventfd, counting.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })
}

/// Adds one to an eventfd.
pub(crate) fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: eight readable bytes, and the descriptor is borrowed, so open.
    let written = unsafe { libc::write(fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    assert_eq!(
        written, 8,
        "an eventfd takes eight bytes until 2^64 signals are unread"
    );
}

/// Shuts a socket down in one or both directions; failure means it is down already.
pub(crate) fn shutdown(fd: RawFd, how: i32) {
    // SAFETY: takes no pointer.
    unsafe { libc::shutdown(fd, how) };
}

/// Clears O_NONBLOCK: the ring answers EAGAIN instead of waiting where it is set.
pub(crate) fn set_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) }).map(drop)
}
