//! Paths that kubelet names. They are looked up below its folder, whose own path is resolved once, and never
//! through a symbolic link, a magic link or `..`: whoever can write below it could point them anywhere.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::HostError;
use super::mountinfo::{self, Mount};

/// Bytes of a path, at most.
const MAX_PATH: usize = 4096;
/// What a lookup may not do.
const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The folder below which kubelet's paths lie.
#[derive(Debug)]
pub struct Root {
    /// As kubelet names it.
    path: PathBuf,
    folder: OwnedFd,
}

/// A place below the root: a name in a folder that is held open, so that it stays the same one.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
}

impl Root {
    /// Opens it. It may be a symbolic link; nothing below it may.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty());
        let folder = folder.map_err(|error| {
            HostError::failed(format!("open kubelet's folder {}", path.display()), error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            folder,
        })
    }

    /// The place of that path; the folder that it lies in must be there.
    ///
    /// # Errors
    /// A path that may not be named; no such folder.
    pub fn place(&self, path: &str) -> Result<Option<Place>, HostError> {
        let refused = |why: &str| HostError::Path {
            path: path.chars().take(200).collect(),
            why: why.to_owned(),
        };
        if path.len() > MAX_PATH || path.contains('\0') {
            return Err(refused("it is too long, or contains a NUL"));
        }
        let given = Path::new(path);
        let below = given
            .strip_prefix(&self.path)
            .map_err(|_| refused(&format!("it does not lie below {}", self.path.display())))?;
        if !below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(refused("it contains '..'"));
        }
        let (Some(folder), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(refused("it names kubelet's folder itself"));
        };
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.folder, folder, flags, Mode::empty(), STRICT) {
            Ok(parent) => Ok(Some(Place {
                path: given.to_owned(),
                parent,
                name: name.to_owned(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => Err(refused("it leads through a link")),
            // A file system that is gone, or whose device fails: what lies below is not there any more.
            Err(Errno::NOTCONN | Errno::IO) => Ok(None),
            Err(error) => Err(HostError::failed(format!("look up {path}"), error)),
        }
    }
}

/// What lies at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A block device.
    Device {
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A plain file.
    File,
    /// Anything else.
    Other,
}

impl Place {
    /// As kubelet names it, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place as a path that leads to it and nowhere else, for calls that take no descriptor: its folder
    /// cannot be exchanged any more.
    pub fn pinned(&self) -> PathBuf {
        let folder = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        Path::new(&folder).join(&self.name)
    }

    /// What lies there, held; none if nothing does.
    ///
    /// # Errors
    /// A link lies there, or the system fails.
    pub fn open(&self) -> Result<Option<OwnedFd>, HostError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.parent, &self.name, flags, Mode::empty(), STRICT) {
            Ok(found) => match self.type_of(&found)? {
                FileType::Symlink => Err(HostError::Path {
                    path: self.path.display().to_string(),
                    why: "it is a link".into(),
                }),
                _ => Ok(Some(found)),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at", error)),
        }
    }

    fn type_of(&self, found: &OwnedFd) -> Result<FileType, HostError> {
        self.stat(found)
            .map(|stat| FileType::from_raw_mode(stat.stx_mode.into()))
    }

    fn stat(&self, found: &OwnedFd) -> Result<Statx, HostError> {
        let stat = rustix::fs::statx(found, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        stat.map_err(|error| self.failed("look at", error))
    }

    /// What kind of thing lies there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn kind(&self) -> Result<Option<Kind>, HostError> {
        let Some(found) = self.open()? else {
            return Ok(None);
        };
        let stat = self.stat(&found)?;
        Ok(Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Kind::Folder,
            FileType::RegularFile => Kind::File,
            FileType::BlockDevice => Kind::Device {
                number: (stat.stx_rdev_major, stat.stx_rdev_minor),
            },
            _ => Kind::Other,
        }))
    }

    /// What is mounted there: the topmost, if there are several.
    ///
    /// # Errors
    /// What is mounted cannot be read.
    pub fn mounted(&self) -> Result<Option<Mount>, HostError> {
        // Symbolic links may lead to kubelet's folder: the kernel names the real path.
        let parent = std::fs::read_link(format!("/proc/self/fd/{}", self.parent.as_raw_fd()));
        let parent = parent.map_err(|error| self.failed("resolve", error))?;
        let real = parent.join(&self.name);
        Ok(mountinfo::read()?
            .into_iter()
            .rfind(|mount| mount.at == real))
    }

    /// A folder there, made if nothing is.
    ///
    /// # Errors
    /// Something else lies there.
    pub fn make_folder(&self) -> Result<OwnedFd, HostError> {
        match rustix::fs::mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed("make the folder", error)),
        }
        match self.kind()? {
            Some(Kind::Folder) => self.there(),
            _ => Err(HostError::Path {
                path: self.path.display().to_string(),
                why: "it is there and is no folder".into(),
            }),
        }
    }

    /// An empty file there, to bind a device to, made if nothing is.
    ///
    /// # Errors
    /// Something else lies there.
    pub fn make_file(&self) -> Result<OwnedFd, HostError> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.parent, &self.name, flags, Mode::from_raw_mode(0o640)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed("make the file", error)),
        }
        match self.kind()? {
            Some(Kind::File | Kind::Device { .. }) => self.there(),
            _ => Err(HostError::Path {
                path: self.path.display().to_string(),
                why: "it is there and is no file".into(),
            }),
        }
    }

    /// Removes the folder or file there, which nothing is mounted on; an empty folder, an empty file: what
    /// holds something is not ours.
    ///
    /// # Errors
    /// It holds something.
    pub fn remove(&self) -> Result<(), HostError> {
        let flags = match self.kind()? {
            None => return Ok(()),
            Some(Kind::Folder) => AtFlags::REMOVEDIR,
            Some(Kind::File) => AtFlags::empty(),
            Some(_) => {
                let words = format!(
                    "{} is neither a folder nor a file; it stays",
                    self.path.display()
                );
                return Err(HostError::Refused(words));
            }
        };
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", error)),
        }
    }

    fn there(&self) -> Result<OwnedFd, HostError> {
        let found = self.open()?;
        found.ok_or_else(|| self.failed("open", Errno::NOENT))
    }

    pub(super) fn failed(&self, what: &str, why: impl ToString) -> HostError {
        HostError::failed(format!("{what} {}", self.path.display()), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        std::fs::create_dir_all(at.join("pods/1")).expect("made");
        std::os::unix::fs::symlink("/etc", at.join("out")).expect("a link");
        std::os::unix::fs::symlink("pods", at.join("in")).expect("a link");
        let root = Root::open(at).expect("opens");
        let path = |below: &str| format!("{}/{below}", at.display());
        for bad in ["../x", "pods/../../x", "out/passwd", "in/1"] {
            let refused = root.place(&path(bad)).expect_err(bad);
            assert!(
                matches!(refused, HostError::Path { .. }),
                "{bad}: {refused}"
            );
        }
        for bad in [
            "/etc/passwd",
            "relative",
            "",
            &at.display().to_string(),
            "/x\0y",
        ] {
            assert!(root.place(bad).is_err(), "{bad}");
        }
        assert!(root.place(&path("none/x")).expect("no folder").is_none());
        let link = root
            .place(&path("out"))
            .expect("its folder is there")
            .expect("a place");
        assert!(link.open().is_err(), "a link is not followed");
    }

    #[test]
    fn folders_and_files_are_made_again_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = Root::open(directory.path()).expect("opens");
        let place = |name: &str| {
            let path = format!("{}/{name}", directory.path().display());
            root.place(&path).expect("looked up").expect("a place")
        };
        let (folder, file) = (place("folder"), place("file"));
        for _ in 0..2 {
            folder.make_folder().expect("made");
            file.make_file().expect("made");
        }
        assert!(folder.make_file().is_err() && file.make_folder().is_err());
        assert_eq!(folder.kind().expect("there"), Some(Kind::Folder));
        assert!(folder.mounted().expect("read").is_none());
        std::fs::write(folder.pinned().join("x"), "x").expect("writes");
        assert!(folder.remove().is_err(), "it holds something");
        std::fs::remove_file(folder.pinned().join("x")).expect("gone");
        for place in [&folder, &file, &folder] {
            place.remove().expect("removed, or gone");
        }
    }
}
