//! The steps of making a device and taking it apart that wait for the kernel, which may wait for this
//! daemon's data plane in turn: never run on its thread, nor on tokio's own.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lockstep_fuse::{LoopDevice, Mount};

use super::record::{Record, label};

/// Links to the loop devices, by volume.
const LINKS: &str = "/dev/lockstep";

/// Why a device was not closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// It is mounted, or otherwise claimed.
    #[error("{} is in use (mounted, or claimed by another driver): unmount it first", path.display())]
    InUse {
        /// The device.
        path: PathBuf,
    },
    /// Somebody has it open.
    #[error("{} is still open somewhere ('fuser {}' says where): it goes when it is closed; try again then", path.display(), path.display())]
    Open {
        /// The device.
        path: PathBuf,
    },
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Attaches a loop device to the file in the mount.
pub fn attach_loop(record: &Record) -> anyhow::Result<LoopDevice> {
    let file = Mount::adopt(&record.mount).open_volume(&record.file())?;
    Ok(LoopDevice::attach(&file, &record.label(), false)?)
}

/// The kernel takes the file's new size.
pub fn grow(record: &Record) -> anyhow::Result<()> {
    let number = record.number.context("the device is complete")?;
    let file = Mount::adopt(&record.mount).open_volume(&record.file())?;
    Ok(LoopDevice::adopt(number, &record.label())?.grow(&file)?)
}

/// Whether a device is claimed: by a mount, a swap area, another driver.
pub fn is_claimed(path: &Path) -> bool {
    // O_EXCL without O_CREAT claims a block device, or finds it claimed.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Writes back what the kernel has cached of a device that nobody claims.
pub fn write_back(record: &Record) -> Result<(), CloseError> {
    let Some(device) = adopt(record) else {
        return Ok(());
    };
    let path = device.path();
    if is_claimed(&path) {
        return Err(CloseError::InUse { path });
    }
    let synced = device.file().sync_all();
    Ok(synced.with_context(|| format!("cannot write {} back", path.display()))?)
}

/// Detaches the loop device, if it did not go with its last user already.
pub fn detach_loop(record: &Record) -> Result<(), CloseError> {
    match adopt(record) {
        Some(device) => device.detach().map_err(|e| CloseError::Failed(e.into())),
        None => Ok(()),
    }
}

/// The loop device of a record; none if it was never there, or is another's by now.
fn adopt(record: &Record) -> Option<LoopDevice> {
    LoopDevice::adopt(record.number?, &record.label()).ok()
}

/// Unmounts the file system behind a device whose loop device was detached.
pub fn unmount(record: &Record) -> Result<(), CloseError> {
    let open = || CloseError::Open {
        path: loop_path(record.number.unwrap_or_default()),
    };
    Mount::adopt(&record.mount)
        .unmount()
        .map_err(|_| open())
        .map(|()| clean(record))
}

/// Fails everything that still asks through a device, for good, and removes it: for a publication
/// that is no more (R12). A file system on it must be unmounted by whoever mounted it.
pub fn abandon(record: &Record) {
    if let Err(error) = Mount::adopt(&record.mount).abort() {
        tracing::warn!(volume = %record.name, %error, "a device that is no longer served");
    }
    if let Some(device) = adopt(record)
        && let Err(error) = device.detach()
    {
        tracing::warn!(volume = %record.name, %error, "a device that is no longer served");
    }
    clean(record);
}

/// Makes `/dev/lockstep/NAME`; what a user opens. A link that belongs to a living device of another
/// cluster on this host stays.
pub fn link(record: &Record) -> PathBuf {
    let number = record.number.unwrap_or_default();
    let device = loop_path(number);
    let path = Path::new(LINKS).join(&record.name);
    let made = std::fs::create_dir_all(LINKS).and_then(|()| {
        if let Ok(target) = std::fs::read_link(&path) {
            if target != device && is_ours(&target) {
                return Err(io::Error::from(ErrorKind::AlreadyExists));
            }
            std::fs::remove_file(&path)?;
        }
        std::os::unix::fs::symlink(&device, &path)
    });
    match made {
        Ok(()) => path,
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "the device has no link; its own name serves");
            device
        }
    }
}

/// Whether a target of a link is a device of some daemon's.
fn is_ours(target: &Path) -> bool {
    let number = target
        .to_str()
        .and_then(|text| text.strip_prefix("/dev/loop"))
        .and_then(|number| number.parse().ok());
    number.is_some_and(|number| {
        LoopDevice::label_of(number).is_ok_and(|found| found.starts_with(&label("")))
    })
}

/// Removes the names of a device.
fn clean(record: &Record) {
    let path = Path::new(LINKS).join(&record.name);
    if let Some(number) = record.number
        && std::fs::read_link(&path).is_ok_and(|target| target == loop_path(number))
    {
        let _ = std::fs::remove_file(&path);
        // Only if it is empty.
        let _ = std::fs::remove_dir(LINKS);
    }
    let _ = std::fs::remove_dir(&record.mount);
}

/// The node of a loop device.
pub fn loop_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}
