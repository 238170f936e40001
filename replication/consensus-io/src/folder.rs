//! The folder that holds one log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lockstep_consensus::Snapshot;
use lockstep_consensus::log::{
    self, DiskOp, LogCorrupt, LogIdentity, RecoveredLog, SEGMENT_BYTES, SegmentFile, SnapshotFile,
};
use lockstep_types::{ClusterId, NodeId};

/// Ends the name of a file that is not whole yet.
const UNFINISHED: &str = ".unfinished";
const LOCK: &str = "lock";

/// A log's folder, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct LogFolder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
    /// The segment written last.
    open: Option<(u64, File)>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error(
        "the raft log in {path} is in use by another process; two daemons must not share a log: stop the other one"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is a log already.
    #[error("{path} holds a raft log already; it will not be overwritten")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The file system is full. Nothing was lost; the same ops may be tried again.
    #[error("no space to write {path}: free space on the file system under the raft log")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Anything else the system says. After it nothing in the folder can be relied on.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in the folder is no sound log.
    #[error(transparent)]
    Corrupt(#[from] LogCorrupt),
}

impl LogFolder {
    /// Opens the folder, which is created if it is missing, and locks it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let created = !path.exists();
        std::fs::create_dir_all(path).map_err(fault("create", path))?;
        if created && let Some(parent) = path.parent() {
            flush_folder(parent)?;
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.map_err(fault("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
                open: None,
            }),
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(fault("lock", &lock_path)(source)),
        }
    }

    /// Reads the log, and cleans up what a crash has left. `None`: there is no log here, and the node
    /// needs a voter with a new raft id (R20).
    pub fn recover(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<Option<RecoveredLog>, FolderError> {
        let (segments, snapshots) = self.read()?;
        let Some(log) = log::recover(cluster, node, &segments, &snapshots)? else {
            return Ok(None);
        };
        if let Some(torn) = &log.torn {
            tracing::warn!(
                file = torn.file,
                offset = torn.offset,
                "dropped a batch that was being written in a crash"
            );
        }
        if let Some(newest) = segments.iter().max_by_key(|segment| segment.number) {
            self.write_again(newest)?;
        }
        self.carry_out(&log.cleanup)?;
        Ok(Some(log))
    }

    /// What a failed flush dropped is on no disk, and yet read from the cache of the system, which
    /// holds it to be written (a flush would do nothing). This voter answers for what it has read, so
    /// that is written once more, to its place and as it is.
    fn write_again(&mut self, newest: &SegmentFile) -> Result<(), FolderError> {
        let (file, path) = self.segment(newest.number)?;
        file.write_all_at(&newest.bytes, 0)
            .map_err(fault("write", &path))?;
        file.sync_data().map_err(fault("flush", &path))
    }

    /// Creates the log of a new voter. Refused if there is one.
    pub fn create(
        &mut self,
        identity: LogIdentity,
        genesis: Option<&Snapshot>,
    ) -> Result<RecoveredLog, FolderError> {
        let (segments, snapshots) = self.read()?;
        if !matches!(
            log::recover(identity.cluster, identity.node, &segments, &snapshots),
            Ok(None)
        ) {
            return Err(FolderError::Exists {
                path: self.path.clone(),
            });
        }
        self.carry_out(&log::create(identity, genesis))?;
        let log = self.recover(identity.cluster, identity.node)?;
        Ok(log.expect("a log that has just been created is there"))
    }

    /// Carries out `ops` in order, each durable before the next begins. After [`FolderError::Full`]
    /// the same ops may be tried again from the first; after any other error never (a failed flush
    /// may have dropped what it was to write).
    pub fn carry_out(&mut self, ops: &[DiskOp]) -> Result<(), FolderError> {
        ops.iter().try_for_each(|op| self.carry_out_one(op))
    }

    fn carry_out_one(&mut self, op: &DiskOp) -> Result<(), FolderError> {
        match op {
            DiskOp::WriteSnapshot { index, bytes } => {
                self.write_whole(&log::snapshot_name(*index), bytes, bytes.len() as u64)
            }
            DiskOp::CreateSegment { number, header } => {
                self.open = None;
                self.write_whole(&log::segment_name(*number), header, SEGMENT_BYTES)
            }
            DiskOp::Append {
                segment,
                offset,
                bytes,
            } => {
                let (file, path) = self.segment(*segment)?;
                file.write_all_at(bytes, *offset)
                    .map_err(fault_or_full("write", &path))?;
                // Never tried again: what a failed flush dropped is gone.
                file.sync_data().map_err(fault("flush", &path))
            }
            DiskOp::ZeroTail { segment, from } => {
                let (file, path) = self.segment(*segment)?;
                let length = file
                    .metadata()
                    .map_err(fault("read the length of", &path))?
                    .len();
                write_zeroes(file, *from, length).map_err(fault_or_full("write", &path))?;
                file.sync_data().map_err(fault("flush", &path))
            }
            DiskOp::Flush { segment } => {
                let (file, path) = self.segment(*segment)?;
                file.sync_all().map_err(fault("flush", &path))
            }
            DiskOp::RemoveSegment { number } => self.remove(&log::segment_name(*number)),
            DiskOp::RemoveSnapshot { index } => self.remove(&log::snapshot_name(*index)),
        }
    }

    fn read(&self) -> Result<(Vec<SegmentFile>, Vec<SnapshotFile>), FolderError> {
        let (mut segments, mut snapshots) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.path).map_err(fault("list", &self.path))? {
            let path = entry.map_err(fault("list", &self.path))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.ends_with(UNFINISHED) {
                std::fs::remove_file(&path).map_err(fault("remove", &path))?;
                continue;
            }
            let read = || {
                std::fs::read(&path)
                    .map(Bytes::from)
                    .map_err(fault("read", &path))
            };
            if let Some(number) = log::parse_segment_name(name) {
                segments.push(SegmentFile {
                    number,
                    bytes: read()?,
                });
            } else if let Some(index) = log::parse_snapshot_name(name) {
                snapshots.push(SnapshotFile {
                    index,
                    bytes: read()?,
                });
            }
        }
        Ok((segments, snapshots))
    }

    /// A file that is there whole or not at all: `bytes`, and zeroes up to `length`.
    fn write_whole(&self, name: &str, bytes: &[u8], length: u64) -> Result<(), FolderError> {
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let path = self.path.join(name);
        let mut file = File::create(&unfinished).map_err(fault_or_full("create", &unfinished))?;
        file.write_all(bytes)
            .map_err(fault_or_full("write", &unfinished))?;
        write_zeroes(&file, bytes.len() as u64, length)
            .map_err(fault_or_full("write", &unfinished))?;
        // A later try starts over with an empty file, so this flush may fail for want of space.
        file.sync_all()
            .map_err(fault_or_full("flush", &unfinished))?;
        std::fs::rename(&unfinished, &path).map_err(fault_or_full("rename", &unfinished))?;
        flush_folder(&self.path)
    }

    fn segment(&mut self, number: u64) -> Result<(&File, PathBuf), FolderError> {
        let path = self.path.join(log::segment_name(number));
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(fault("open", &path))?;
            self.open = Some((number, file));
        }
        let (_, file) = self.open.as_ref().expect("it has just been opened");
        Ok((file, path))
    }

    fn remove(&mut self, name: &str) -> Result<(), FolderError> {
        self.open = None;
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            // The ops may be carried out a second time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(fault("remove", &path)(error)),
            Ok(()) => flush_folder(&self.path),
        }
    }
}

fn write_zeroes(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZEROES.len() as u64);
        file.write_all_at(&ZEROES[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

fn flush_folder(path: &Path) -> Result<(), FolderError> {
    // An empty parent is the current folder.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(fault("flush", path))
}

fn fault(what: &'static str, path: &Path) -> impl Fn(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io {
        what,
        path: path.clone(),
        source,
    }
}

fn fault_or_full(what: &'static str, path: &Path) -> impl Fn(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            FolderError::Full { path: path.clone() }
        }
        _ => FolderError::Io {
            what,
            path: path.clone(),
            source,
        },
    }
}
