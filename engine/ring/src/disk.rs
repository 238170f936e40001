//! Opening a pool device: claiming it on the descriptor that will do the I/O (R23), and asking
//! what it needs. Files are created at full length here; writing them once, so that no later
//! write has to allocate, is the formatter's business.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lockstep_types::BLOCK;

use crate::error::DiskError;
use crate::sys::check;

/// A disk of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub(crate) u32);

/// What kind of thing holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptionsDisk {
    /// Refuse filesystems without O_DIRECT. Off only for tests on such a filesystem: without it
    /// the page cache stands between the store and the disk.
    pub require_direct: bool,
    /// Claim the disk exclusively (R23). Off only for tools that look at a disk in use.
    pub claim: bool,
    /// Open for writing too.
    pub writable: bool,
}

impl Default for OpenOptionsDisk {
    fn default() -> Self {
        Self {
            require_direct: true,
            claim: true,
            writable: true,
        }
    }
}

/// An open, claimed disk. Hand it to [`crate::Reactor::add_disk`]; the methods here are for start
/// and tools, before a reactor runs. The claim ends when it is dropped.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    kind: DiskKind,
    size: u64,
    block: u32,
    direct: bool,
    /// Whether `file` carries the claim's lock.
    locked: bool,
}

impl Drop for Disk {
    /// Gives the claim back by name. Closing alone would not: a child that another thread has
    /// forked and that has not yet executed its program shares the descriptor, and the lock with it.
    /// Nothing of ours is under way then, for a reactor waits for the kernel before it drops a disk.
    fn drop(&mut self) {
        if self.locked {
            // SAFETY: takes no pointer; the descriptor is open. The close that follows gives the
            // lock back too, so a refusal changes nothing.
            let _ = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
        }
    }
}

impl Disk {
    /// Opens and claims `path` before a byte of it is read (R23).
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(path: &Path, options: OpenOptionsDisk) -> Result<Self, DiskError> {
        let system = |action| {
            move |source| DiskError::System {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let kind =
            kind_of(&std::fs::metadata(path).map_err(system("look at"))?).ok_or_else(|| {
                DiskError::NotADisk {
                    path: path.to_owned(),
                }
            })?;
        let (file, direct) = open_file(path, kind, options)?;
        let metadata = file.metadata().map_err(system("look at"))?;
        if kind_of(&metadata) != Some(kind) {
            return Err(DiskError::NotADisk {
                path: path.to_owned(),
            });
        }
        if options.claim && kind == DiskKind::File {
            claim_file(&file, path)?;
        }
        let (size, block) = match kind {
            DiskKind::File => (metadata.size(), file_alignment(&file)),
            DiskKind::BlockDevice => (
                device_size(&file).map_err(system("size"))?,
                device_block(&file).map_err(system("size"))?,
            ),
        };
        if block as usize > BLOCK {
            return Err(DiskError::CoarseBlocks {
                path: path.to_owned(),
                needed: block,
            });
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            kind,
            size,
            block,
            direct,
            locked: options.claim && kind == DiskKind::File,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File or device.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Length in bytes at opening.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Logical block size in bytes: offsets, lengths and memory of direct I/O are multiples of it.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Reads all of `into` at `offset`, blocking. Aligned as direct I/O needs it.
    ///
    /// # Errors
    /// The system's own.
    pub fn read_blocking(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// Writes all of `from` at `offset`, blocking; durable only after [`Self::flush_blocking`].
    ///
    /// # Errors
    /// The system's own.
    pub fn write_blocking(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }

    /// Makes everything written before durable, blocking.
    ///
    /// # Errors
    /// The system's own; nothing may be assumed about earlier writes then.
    pub fn flush_blocking(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Creates a new file of `length` bytes with all its space allocated. The extents are unwritten:
/// a first write to each converts it, which costs up to 8 × a flush, so the formatter writes what
/// must be fast once.
///
/// # Errors
/// [`DiskError::NoRoom`] with nothing left behind; the file exists already; the system's own.
pub fn create_file(path: &Path, length: u64) -> Result<(), DiskError> {
    let system = |action: &'static str, source| DiskError::System {
        action,
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| system("create", e))?;
    let signed = i64::try_from(length).map_err(|_| DiskError::NoRoom {
        path: path.to_owned(),
        length,
    })?;
    // SAFETY: takes no pointer; the descriptor is open.
    let allocated = check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, signed) });
    let result = match allocated {
        Ok(_) => file
            .sync_all()
            .and_then(|()| sync_parent(path))
            .map_err(|e| system("sync", e)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Err(DiskError::NoRoom {
                path: path.to_owned(),
                length,
            }),
            _ => Err(system("allocate", e)),
        },
    };
    if result.is_err() {
        // Best effort: the error in hand says more than this one would.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn kind_of(metadata: &std::fs::Metadata) -> Option<DiskKind> {
    let kind = metadata.file_type();
    if kind.is_file() {
        Some(DiskKind::File)
    } else if kind.is_block_device() {
        Some(DiskKind::BlockDevice)
    } else {
        None
    }
}

fn open_file(
    path: &Path,
    kind: DiskKind,
    options: OpenOptionsDisk,
) -> Result<(File, bool), DiskError> {
    let open = |flags| {
        let mut how = OpenOptions::new();
        how.read(true)
            .write(options.writable)
            .custom_flags(flags)
            .open(path)
    };
    // On a block device O_EXCL without O_CREAT claims it against mounts and other claims (R23).
    let claim = match kind {
        DiskKind::BlockDevice if options.claim => libc::O_EXCL,
        _ => 0,
    };
    let error = match open(claim | libc::O_DIRECT) {
        Ok(file) => return Ok((file, true)),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EBUSY) => Err(DiskError::Claimed {
            path: path.to_owned(),
        }),
        Some(libc::EINVAL) if !options.require_direct => open(claim)
            .map(|file| (file, false))
            .map_err(|source| DiskError::System {
                action: "open",
                path: path.to_owned(),
                source,
            }),
        Some(libc::EINVAL) => Err(DiskError::NoDirectIo {
            path: path.to_owned(),
        }),
        _ => Err(DiskError::System {
            action: "open",
            path: path.to_owned(),
            source: error,
        }),
    }
}

fn claim_file(file: &File, path: &Path) -> Result<(), DiskError> {
    // SAFETY: takes no pointer; the descriptor is open.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Err(DiskError::Claimed {
            path: path.to_owned(),
        }),
        Err(source) => Err(DiskError::System {
            action: "claim",
            path: path.to_owned(),
            source,
        }),
    }
}

/// What direct I/O on this file needs; 4096 where the kernel does not say.
fn file_alignment(file: &File) -> u32 {
    // SAFETY: all-zero is a valid statx.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself; `answer` is writable.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut answer,
        )
    };
    let known = done == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    match answer.stx_dio_offset_align.max(answer.stx_dio_mem_align) {
        0 => BLOCK as u32,
        align if known => align,
        _ => BLOCK as u32,
    }
}

fn device_size(file: &File) -> io::Result<u64> {
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    let mut size = 0u64;
    // SAFETY: this request writes eight bytes through the pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &mut size) })?;
    Ok(size)
}

fn device_block(file: &File) -> io::Result<u32> {
    const BLKSSZGET: libc::c_ulong = 0x1268;
    let mut block: libc::c_int = 0;
    // SAFETY: this request writes one int through the pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &mut block) })?;
    u32::try_from(block).map_err(|_| io::Error::other("a negative block size"))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_ends_with_the_disk_though_a_child_shares_its_descriptor() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pool");
        create_file(&path, 8192).expect("room");
        // The place may be memory.
        let options = OpenOptionsDisk {
            require_direct: false,
            ..OpenOptionsDisk::default()
        };
        let disk = Disk::open(&path, options).expect("opens");
        // What a fork leaves in a child until it executes its program.
        let shared = disk.file.try_clone().expect("a descriptor");
        drop(disk);
        let again = Disk::open(&path, options).expect("the claim is free");
        drop(shared);
        let second = Disk::open(&path, options);
        assert!(
            matches!(second, Err(DiskError::Claimed { .. })),
            "{second:?}"
        ); // R23
        drop(again);
    }
}
