//! What can go wrong on a disk, a socket or for want of a buffer.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The pool has no buffer of this size now; try again when buffers have come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the buffer pool has no buffer of {bytes} bytes free")]
pub struct Exhausted {
    /// What was asked for.
    pub bytes: usize,
}

/// Opening, claiming or creating a disk failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process holds it (R23).
    #[error("{} is in use by another process; stop that daemon, or give this one another path", path.display())]
    Claimed {
        /// What.
        path: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a file nor a block device; name one of these as the pool's device", path.display())]
    NotADisk {
        /// What.
        path: PathBuf,
    },
    /// The filesystem cannot do direct I/O.
    #[error("{} does not support direct I/O (O_DIRECT); use a block device, or a file on ext4 or xfs", path.display())]
    NoDirectIo {
        /// What.
        path: PathBuf,
    },
    /// Direct I/O needs a coarser alignment than Lockstep's block.
    #[error("{} needs I/O aligned to {needed} bytes, more than Lockstep's 4096; reformat the device with blocks of 4096 bytes or less", path.display())]
    CoarseBlocks {
        /// What.
        path: PathBuf,
        /// What it needs.
        needed: u32,
    },
    /// No room for the whole file.
    #[error("there is no room for {length} bytes at {}; free space, or choose a smaller pool", path.display())]
    NoRoom {
        /// What.
        path: PathBuf,
        /// What was asked for.
        length: u64,
    },
}

impl DiskError {
    /// A stable code for logs, metrics and documentation.
    pub fn code(&self) -> &'static str {
        match self {
            Self::System { .. } => "disk.system",
            Self::Claimed { .. } => "disk.claimed",
            Self::NotADisk { .. } => "disk.not-a-disk",
            Self::NoDirectIo { .. } => "disk.no-direct-io",
            Self::CoarseBlocks { .. } => "disk.coarse-blocks",
            Self::NoRoom { .. } => "disk.no-room",
        }
    }
}

/// What a failed transfer means to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoErrorKind {
    /// ENOSPC, EDQUOT: the file was not fully allocated, or the device below is thin and full.
    NoSpace,
    /// EIO, ENODATA, EILSEQ, EREMOTEIO, EBADMSG, ETIME, ENOLINK: the medium or the path to it.
    Media,
    /// ENODEV, ENXIO, ESHUTDOWN: the device is gone.
    Gone,
    /// EROFS, EPERM, EACCES: the device became read-only.
    ReadOnly,
    /// The range ends beyond the end of the file or device (EFBIG, or a read of nothing).
    BeyondEnd,
    /// Anything else.
    Other,
}

impl IoErrorKind {
    /// The meaning of an errno.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::EIO
            | libc::ENODATA
            | libc::EILSEQ
            | libc::EREMOTEIO
            | libc::EBADMSG
            | libc::ETIME
            | libc::ENOLINK => Self::Media,
            libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN => Self::Gone,
            libc::EROFS | libc::EPERM | libc::EACCES => Self::ReadOnly,
            libc::EFBIG => Self::BeyondEnd,
            _ => Self::Other,
        }
    }
}

/// A transfer did not happen in full. After a failed durable write nothing is known about the
/// range's content; after a failed flush nothing about anything written since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IoError {
    /// "write", "read" or "flush".
    pub action: &'static str,
    /// Start of the request in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes done before the failure.
    pub done: u64,
    /// What it means.
    pub kind: IoErrorKind,
    /// The errno, 0 if the kernel gave none.
    pub errno: i32,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            action,
            offset,
            length,
            done,
            kind,
            errno,
        } = self;
        write!(
            f,
            "{action} of {length} bytes at {offset} failed after {done}: "
        )?;
        match errno {
            0 => write!(f, "{kind:?}"),
            errno => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl std::error::Error for IoError {}

/// Listening or dialling failed at once.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A system call failed.
    #[error("cannot {action} {address}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A Unix socket's path has more than 107 bytes.
    #[error("the socket path {address} is too long for the kernel (107 bytes); use a shorter one")]
    PathTooLong {
        /// Which.
        address: String,
    },
    /// rustls refused the configuration or the name.
    #[error("TLS cannot begin: {0}")]
    Tls(#[from] rustls::Error),
    /// No buffer for the connection.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// Bytes were not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue is at its bound; [`crate::Event::Writable`] says when to try again.
    #[error("the connection's send queue is full")]
    Full,
    /// The connection is closing or closed.
    #[error("the connection is closed")]
    Closed,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq)]
pub enum CloseReason {
    /// This side closed it.
    Local,
    /// The peer closed it in order.
    Peer,
    /// A TLS connection ended without its closing alert: bytes may be missing.
    Truncated,
    /// The peer or the network broke it; the errno.
    Broken(i32),
    /// Dialling failed; the errno.
    ConnectFailed(i32),
    /// TLS failed, a refused certificate included (`lockstep_net::refusal` says which).
    Tls(rustls::Error),
    /// The handshake took too long.
    HandshakeTimeout,
    /// A frame was refused by its framing; what was wrong.
    BadFrame(&'static str),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = |errno: i32| io::Error::from_raw_os_error(errno);
        match self {
            Self::Local => f.write_str("closed by this side"),
            Self::Peer => f.write_str("closed by the peer"),
            Self::Truncated => f.write_str("cut off without a closing alert"),
            Self::Broken(e) => write!(f, "connection broken: {}", errno(*e)),
            Self::ConnectFailed(e) => write!(f, "cannot connect: {}", errno(*e)),
            Self::Tls(e) => write!(f, "TLS failed: {e}"),
            Self::HandshakeTimeout => f.write_str("the TLS handshake took too long"),
            Self::BadFrame(why) => write!(f, "bad frame: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_meanings() {
        for (errno, kind) in [
            (libc::EIO, IoErrorKind::Media),
            (libc::ENODATA, IoErrorKind::Media),
            (libc::EILSEQ, IoErrorKind::Media),
            (libc::ENOSPC, IoErrorKind::NoSpace),
            (libc::EDQUOT, IoErrorKind::NoSpace),
            (libc::ENXIO, IoErrorKind::Gone),
            (libc::EROFS, IoErrorKind::ReadOnly),
            (libc::EFBIG, IoErrorKind::BeyondEnd),
            (libc::EINVAL, IoErrorKind::Other),
        ] {
            assert_eq!(IoErrorKind::from_errno(errno), kind, "errno {errno}");
        }
    }
}
