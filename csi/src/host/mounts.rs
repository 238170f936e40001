//! Mounting by descriptors: what is mounted, and where, is held open from the lookup on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_remount, move_mount, open_tree, unmount,
};

use super::HostError;
use super::paths::Place;
use crate::capability::FileSystem;

/// Mounts on one place at most that are taken off it: more is not our doing.
const MOST_LAYERS: usize = 16;

/// Mount options, sorted by who reads them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    flags: MountAttr,
    /// For the file system: names, and values where there are.
    own: Vec<(String, Option<String>)>,
    /// The file system itself takes no writes.
    read_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct MountAttr(u32);

impl Options {
    /// Sorts options as mount(8) takes them. A SELinux context, which may contain commas, is one option.
    pub fn new(filesystem: FileSystem, given: &[String], read_only: bool) -> Self {
        let mut options = Self {
            read_only,
            ..Self::default()
        };
        // A clone beside its source has the same uuid.
        if filesystem == FileSystem::Xfs {
            options.own.push(("nouuid".into(), None));
        }
        for text in given {
            if text.contains("context=") {
                options.add(text);
            } else {
                text.split(',')
                    .for_each(|option| options.add(option.trim()));
            }
        }
        options
    }

    fn add(&mut self, option: &str) {
        let set = match option {
            "" | "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" | "async" => {
                return;
            }
            "nouuid" if self.own.iter().any(|(name, _)| name == "nouuid") => return,
            "ro" => {
                self.read_only = true;
                return;
            }
            "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "relatime" => MountAttrFlags::MOUNT_ATTR_RELATIME,
            "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            own => {
                let own = match own.split_once('=') {
                    // The quotes are mount(8)'s, which would split at the commas inside.
                    Some((name, value)) => {
                        (name.to_owned(), Some(value.trim_matches('"').to_owned()))
                    }
                    None => (own.to_owned(), None),
                };
                self.own.push(own);
                return;
            }
        };
        self.flags.0 |= set.bits();
    }

    /// Whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// Mounts a device's file system on a folder.
///
/// # Errors
/// The kernel's, with what the file system says about it.
pub fn mount(
    device: &Path,
    filesystem: FileSystem,
    options: &Options,
    target: &OwnedFd,
) -> Result<(), HostError> {
    let context = fsopen(filesystem.name(), FsOpenFlags::FSOPEN_CLOEXEC);
    let context = context.map_err(|error| {
        HostError::failed(
            format!("mount {}: the kernel has no {0}", filesystem.name()),
            error,
        )
    })?;
    let configured = || -> Result<OwnedFd, Errno> {
        fsconfig_set_string(context.as_fd(), "source", device)?;
        for (name, value) in &options.own {
            match value {
                Some(value) => fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str())?,
                None => fsconfig_set_flag(context.as_fd(), name.as_str())?,
            }
        }
        if options.read_only {
            fsconfig_set_flag(context.as_fd(), "ro")?;
        }
        fsconfig_create(context.as_fd())?;
        let mut flags = MountAttrFlags::from_bits_retain(options.flags.0);
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    let mounted = configured().map_err(|error| {
        let words = kernel_words(context.as_fd());
        let why = if words.is_empty() {
            error.to_string()
        } else {
            format!("{words} ({error})")
        };
        HostError::failed(
            format!("mount {} as {}", device.display(), filesystem.name()),
            why,
        )
    })?;
    attach(&mounted, target)
}

/// Shows what lies behind a descriptor, a folder or a device, at a place too.
///
/// # Errors
/// The kernel's.
pub fn bind(
    source: BorrowedFd<'_>,
    place: &Place,
    target: &OwnedFd,
    read_only: bool,
) -> Result<(), HostError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(source, "", flags).map_err(|error| place.failed("bind to", error))?;
    attach(&tree, target)?;
    if read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        let remounted = mount_remount(place.pinned(), flags, "");
        if let Err(error) = remounted {
            // Writable is not what was asked for.
            let _ = unmount(place.pinned(), UnmountFlags::NOFOLLOW);
            return Err(place.failed("make read-only what was bound to", error));
        }
    }
    Ok(())
}

/// A device as something to bind.
///
/// # Errors
/// It is not there.
pub fn open_device(device: &Path) -> Result<OwnedFd, HostError> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::openat(CWD, device, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|error| HostError::failed(format!("open {}", device.display()), error))
}

/// Takes off a place whatever is mounted there; nothing is not an error. Of a device that fails, what was not
/// written is lost, and the place is free all the same.
///
/// # Errors
/// It is in use, or the kernel refuses.
pub fn unmount_all(place: &Place) -> Result<(), HostError> {
    for _ in 0..MOST_LAYERS {
        if place.mounted()?.is_none() {
            return Ok(());
        }
        match unmount(place.pinned(), UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            // A server that is gone: nothing can be written to it any more.
            Err(Errno::NOTCONN | Errno::IO) => {
                let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
                unmount(place.pinned(), flags).map_err(|error| place.failed("unmount", error))?;
            }
            Err(Errno::BUSY) => {
                let words = format!("{} is in use; end its users first", place.path().display());
                return Err(HostError::Refused(words));
            }
            Err(error) => return Err(place.failed("unmount", error)),
        }
    }
    Err(place.failed("unmount", "something goes on mounting there"))
}

fn attach(mounted: &OwnedFd, target: &OwnedFd) -> Result<(), HostError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let moved = move_mount(mounted, "", target, "", flags);
    moved.map_err(|error| HostError::failed("attach a mount", error))
}

/// What the kernel has to say about a mount that it refused: lines like "e ext4: …".
fn kernel_words(context: BorrowedFd<'_>) -> String {
    let mut words = Vec::new();
    let mut line = [0u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        if length == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line[..length]);
        words.push(
            text.trim()
                .trim_start_matches(['e', 'w', 'i'])
                .trim()
                .to_owned(),
        );
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(filesystem: FileSystem, given: &[&str]) -> Options {
        let given: Vec<String> = given.iter().map(|it| (*it).to_owned()).collect();
        Options::new(filesystem, &given, false)
    }

    #[test]
    fn options_go_to_whoever_reads_them() {
        let options = of(
            FileSystem::Ext4,
            &["noatime,nodev", "commit=30", "defaults", "discard"],
        );
        let both = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_NODEV;
        assert_eq!(options.flags.0, both.bits());
        assert_eq!(
            options.own,
            [
                ("commit".to_owned(), Some("30".to_owned())),
                ("discard".to_owned(), None)
            ]
        );
        assert!(!options.is_read_only() && of(FileSystem::Ext4, &["ro"]).is_read_only());
    }

    #[test]
    fn a_context_is_one_option_and_xfs_ignores_uuids_once() {
        let options = of(FileSystem::Xfs, &["context=\"u:r:t:s0:c1,c2\"", "nouuid"]);
        assert_eq!(
            options.own,
            [
                ("nouuid".to_owned(), None),
                ("context".to_owned(), Some("u:r:t:s0:c1,c2".to_owned()))
            ]
        );
    }
}
