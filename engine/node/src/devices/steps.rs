//! The steps of making a device and taking it apart that wait for the kernel, which may wait for this
//! daemon's data plane in turn: never run on its thread, nor on tokio's own.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
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
    sync(device.file(), &path)
}

/// As [`write_back`], of a device by its node.
pub fn write_back_node(path: &Path) -> Result<(), CloseError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let device = opened.with_context(|| format!("cannot open {}", path.display()))?;
    sync(&device, path)
}

fn sync(device: &File, path: &Path) -> Result<(), CloseError> {
    let synced = device.sync_all();
    Ok(synced.with_context(|| format!("cannot write {} back", path.display()))?)
}

/// Whether a process that can be seen from here has a device open.
pub fn is_open(path: &Path) -> bool {
    let Ok(number) = std::fs::metadata(path).map(|it| it.rdev()) else {
        return false;
    };
    let opened = |process: std::fs::DirEntry| {
        let descriptors = std::fs::read_dir(process.path().join("fd"));
        descriptors.into_iter().flatten().flatten().any(|it| {
            // Of the file behind the link, which is not opened for that.
            std::fs::metadata(it.path())
                .is_ok_and(|it| it.file_type().is_block_device() && it.rdev() == number)
        })
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(opened)
}

/// The bytes of a block device, without opening it.
pub fn size_of(path: &Path) -> io::Result<u64> {
    let name = path.file_name().unwrap_or_default();
    let text = std::fs::read_to_string(Path::new("/sys/block").join(name).join("size"))?;
    let sectors: u64 = text.trim().parse().map_err(io::Error::other)?;
    // Always counted in sectors of 512 bytes.
    Ok(sectors * 512)
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

/// As [`link`], of a loop device.
pub fn link_loop(record: &Record) -> PathBuf {
    link(&record.name, &loop_path(record.number.unwrap_or_default()))
}

/// Makes `/dev/lockstep/NAME`; what a user opens. A link that belongs to a living device of another
/// cluster on this host stays.
pub fn link(name: &str, device: &Path) -> PathBuf {
    let path = Path::new(LINKS).join(name);
    let made = std::fs::create_dir_all(LINKS).and_then(|()| {
        if let Ok(target) = std::fs::read_link(&path) {
            if target != device && is_ours(&target) {
                return Err(io::Error::from(ErrorKind::AlreadyExists));
            }
            std::fs::remove_file(&path)?;
        }
        std::os::unix::fs::symlink(device, &path)
    });
    match made {
        Ok(()) => path,
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "the device has no link; its own name serves");
            device.to_owned()
        }
    }
}

/// Whether a target of a link is a device of some daemon's.
fn is_ours(target: &Path) -> bool {
    let number = |prefix: &str| -> Option<u32> {
        let text = target.to_str()?.strip_prefix(prefix)?;
        text.parse().ok()
    };
    let found = match (number("/dev/loop"), number("/dev/nbd")) {
        (Some(number), _) => LoopDevice::label_of(number).ok(),
        (_, Some(number)) => lockstep_kernel_nbd::backend_of(number),
        // Who has made it, the name does not say.
        _ => return number("/dev/ublkb").is_some() && target.exists(),
    };
    found.is_some_and(|found| found.starts_with(&label("")))
}

/// Removes the names of a device.
fn clean(record: &Record) {
    if let Some(number) = record.number {
        unlink(&record.name, &loop_path(number));
    }
    let _ = std::fs::remove_dir(&record.mount);
}

/// Removes the link to a device, if it is that.
pub fn unlink(name: &str, device: &Path) {
    let path = Path::new(LINKS).join(name);
    if std::fs::read_link(&path).is_ok_and(|target| target == device) {
        let _ = std::fs::remove_file(&path);
        // Only if it is empty.
        let _ = std::fs::remove_dir(LINKS);
    }
}

/// The node of a loop device.
pub fn loop_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}
