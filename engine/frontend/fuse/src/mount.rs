//! The mount that holds the volume's file.

use crate::device::{BODY, Device};
use crate::sys;
use crate::volume::Volume;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// mount(2) refused.
    #[error("cannot mount FUSE on {target}: {error} (it needs CAP_SYS_ADMIN and a directory)")]
    Mount {
        /// Where.
        target: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// umount(2) refused.
    #[error("cannot unmount {target}: {error} (is the loop device detached?)")]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The volume's file cannot be opened.
    #[error("cannot open {path}: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection cannot be aborted.
    #[error("cannot abort the FUSE connection of {target}: {error}")]
    Abort {
        /// Where.
        target: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A mount. Dropping it leaves it mounted: it outlives the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    target: PathBuf,
}

impl Mount {
    /// Mounts the connection on `target`, a directory. Does not wait for the session, which sees
    /// INIT first.
    pub fn new(device: &Device, target: impl Into<PathBuf>) -> Result<Self, MountError> {
        let target = target.into();
        let (user, group) = sys::user_and_group();
        let fd = device.as_fd().as_raw_fd();
        let data = format!(
            "fd={fd},rootmode=40000,user_id={user},group_id={group},max_read={BODY},default_permissions"
        );
        let data = CString::new(data).expect("numbers have no NUL");
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME;
        text(&target)
            .and_then(|path| sys::mount(c"lockstep", &path, c"fuse.lockstep", flags, &data))
            .map_err(|error| MountError::Mount {
                target: target.clone(),
                error,
            })?;
        Ok(Self { target })
    }

    /// A mount that an earlier server left.
    pub fn adopt(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
        }
    }

    /// Where it is.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Opens the volume's file for direct I/O. The session must be answering: never call it on the
    /// thread that runs it.
    pub fn open_volume(&self, volume: &Volume) -> Result<File, MountError> {
        let path = self.target.join(&volume.name);
        OpenOptions::new()
            .read(true)
            .write(!volume.read_only)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .map_err(|error| MountError::Open { path, error })
    }

    /// Unmounts; fails while the file is open, so by a loop device. The session must be answering.
    /// Waits up to half a second for references that go by themselves: a loop device being
    /// detached, a process that forked and has not executed yet.
    pub fn unmount(self) -> Result<(), MountError> {
        let mut tries = 50;
        loop {
            match self.umount(0) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    return Err(MountError::Unmount {
                        target: self.target,
                        error,
                    });
                }
            }
        }
    }

    /// Ends the connection at once: every waiting request fails, and every later one. For a volume
    /// that was fenced (R12) or a server that will not come back. Then removes the mount from the
    /// tree; a loop device still attached keeps it alive, and failing, until it is detached.
    pub fn abort(self) -> Result<(), MountError> {
        // MNT_FORCE aborts the connection, also where it then cannot unmount because it is busy.
        let forced = self.umount(libc::MNT_FORCE);
        let gone =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT));
        match forced {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(_) => {}
        }
        self.umount(libc::MNT_DETACH)
            .map_err(|error| MountError::Abort {
                target: self.target,
                error,
            })
    }

    fn umount(&self, flags: libc::c_int) -> io::Result<()> {
        sys::unmount(&text(&self.target)?, flags | libc::UMOUNT_NOFOLLOW)
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
