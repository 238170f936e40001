//! A target as it lies on this host: what it is, whether something uses it, and what it holds.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::OFlags;

use super::file::{Export, Target};
use super::signature::{self, HEAD, TAIL};
use super::usage;
use crate::load::Client;
use crate::size;

/// A block; what is used of a target is a multiple of it.
const BLOCK: u64 = 4096;
/// Blocks in between that are looked at, evenly spread.
const SAMPLES: u64 = 256;

/// A target that can be measured.
pub struct Place {
    /// Its name in the results.
    pub name: String,
    /// Bytes that are used.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Whether writing is allowed.
    pub writable: bool,
}

/// What it is.
pub enum Kind {
    /// A device, or a file that was there; held open for as long as it is measured: the kernel gives a
    /// device that is held so to nobody who would mount it.
    Path {
        /// Where.
        path: PathBuf,
        /// Kept open.
        _held: File,
    },
    /// A file that is to be made.
    New(PathBuf),
    /// An export.
    Nbd(Export),
}

impl Place {
    /// Finds and judges a target; `writes` tells whether the job writes to it.
    ///
    /// # Errors
    /// It is not there, something uses it, or it is not to be overwritten.
    pub fn find(target: &Target, writes: bool) -> anyhow::Result<Self> {
        let wanted = target.bytes()?;
        let (kind, size, holds) = match (&target.device, &target.file, &target.nbd) {
            (Some(path), _, _) => device(path, writes)?,
            (_, Some(path), _) => match path.exists() {
                true => file(path, writes)?,
                false => return new_file(&target.name, path, wanted),
            },
            (_, _, Some(uri)) => export(uri, writes)?,
            _ => bail!("it names no place"),
        };
        let usable = size - size % BLOCK;
        let bytes = wanted.unwrap_or(usable);
        ensure!(
            bytes <= usable,
            "it holds {} and the job asks for {}; lower 'size' or leave it away",
            size::text(size),
            size::text(bytes)
        );
        ensure!(bytes > 0, "it holds no bytes; name a larger one");
        if writes && !target.overwrite {
            bail!(
                "{}, and the job writes to it; if that may be destroyed, say 'overwrite = true' at this target, \
                 otherwise leave only workloads of kind \"read\"",
                holds.map_or_else(
                    || "it looks empty, but it exists".to_owned(),
                    |what| format!("it holds {what}")
                )
            );
        }
        Ok(Self {
            name: target.name.clone(),
            bytes,
            kind,
            writable: writes,
        })
    }
}

fn new_file(name: &str, path: &Path, wanted: Option<u64>) -> anyhow::Result<Place> {
    let bytes = wanted.with_context(|| {
        format!(
            "{} does not exist; say with 'size' how large it is to be made",
            path.display()
        )
    })?;
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    ensure!(
        parent.is_dir(),
        "{} is no directory; make it, or name another file",
        parent.display()
    );
    let free = rustix::fs::statvfs(parent)
        .with_context(|| format!("cannot ask for the room in {}", parent.display()))?;
    let free = free.f_bavail * free.f_frsize;
    ensure!(
        bytes <= free,
        "{} has room for {} MiB and the job asks for {}; lower 'size' or name another place",
        parent.display(),
        free >> 20,
        size::text(bytes)
    );
    Ok(Place {
        name: name.to_owned(),
        bytes,
        kind: Kind::New(path.to_owned()),
        writable: true,
    })
}

/// What it is, its size, and what it holds.
type Found = (Kind, u64, Option<String>);

fn device(path: &Path, writes: bool) -> anyhow::Result<Found> {
    let metadata = std::fs::metadata(path).with_context(|| {
        format!(
            "cannot find {}; 'lsblk' lists the devices of this host",
            path.display()
        )
    })?;
    ensure!(
        metadata.file_type().is_block_device(),
        "{} is no block device; a file is named with 'file'",
        path.display()
    );
    if let Some(user) = usage::of_device(metadata.rdev())? {
        bail!("{} is in use: {user}", path.display());
    }
    // O_EXCL: refused if the kernel has given it to a file system, a RAID, a mapping, or to someone who
    // asked as we do.
    let flags = OFlags::EXCL.bits() as i32;
    let opened = OpenOptions::new()
        .read(true)
        .write(writes)
        .custom_flags(flags)
        .open(path);
    let mut held = match opened {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => bail!(
            "{} is in use: the kernel gives it to nobody else (a mount, RAID, LVM or another program \
             holds it; 'lsblk' and 'fuser -v {}' tell which)",
            path.display(),
            path.display()
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(
            "{} may not be opened by this user; run it as root",
            path.display()
        ),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let size = held.seek(SeekFrom::End(0))?;
    let holds = look(size, |at, length| read(&held, at, length))?;
    Ok((
        Kind::Path {
            path: path.to_owned(),
            _held: held,
        },
        size,
        holds,
    ))
}

fn file(path: &Path, writes: bool) -> anyhow::Result<Found> {
    let metadata = std::fs::metadata(path)?;
    ensure!(
        !metadata.file_type().is_block_device(),
        "{} is a block device; name it with 'device'",
        path.display()
    );
    ensure!(
        metadata.is_file(),
        "{} is no file; name one",
        path.display()
    );
    if let Some(user) = usage::of_file(path)? {
        bail!("{} is in use: {user}", path.display());
    }
    let held = OpenOptions::new()
        .read(true)
        .write(writes)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let holds = look(metadata.len(), |at, length| read(&held, at, length))?;
    Ok((
        Kind::Path {
            path: path.to_owned(),
            _held: held,
        },
        metadata.len(),
        holds,
    ))
}

fn export(uri: &str, writes: bool) -> anyhow::Result<Found> {
    let export = Export::parse(uri)?;
    let mut client = connect(&export)?;
    ensure!(
        !(writes && client.is_read_only()),
        "the server exports it for reading only; leave only workloads of kind \"read\""
    );
    let size = client.size;
    let holds = look(size, |at, length| {
        let length = u32::try_from(length)?;
        Ok(client.read_at(at, length)?.to_vec())
    })?;
    Ok((Kind::Nbd(export), size, holds))
}

/// A connection to an export.
///
/// # Errors
/// Nothing serves there, or it has no such export.
pub fn connect(export: &Export) -> anyhow::Result<Client> {
    match export {
        Export::Unix(socket, name) => Client::connect(socket, name),
        Export::Tcp(address, name) => Client::connect_tcp(address, name),
    }
}

fn read(file: &File, at: u64, length: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)
        .with_context(|| format!("cannot read {length} bytes at {at}"))?;
    Ok(bytes)
}

/// What something of that size holds.
fn look(
    size: u64,
    mut read: impl FnMut(u64, usize) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Option<String>> {
    // Exports may insist on whole blocks.
    let size = size - size % BLOCK;
    let first = size.min(HEAD as u64);
    let last = size.min(TAIL as u64);
    let head = read(0, first as usize)?;
    let tail = read(size - last, last as usize)?;
    let mut middle = Vec::new();
    let step = size / SAMPLES / BLOCK * BLOCK;
    for number in 1..SAMPLES {
        let at = number * step;
        if at >= first && at + BLOCK <= size - last {
            middle.extend(read(at, BLOCK as usize)?);
        }
    }
    Ok(signature::find(&head, &middle, &tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        toml::from_str(text).expect("a target")
    }

    fn refused(target: &Target, writes: bool) -> String {
        match Place::find(target, writes) {
            Ok(_) => panic!("it was taken"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_file_with_data_needs_a_word() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x");
        let mut bytes = vec![0; 4 << 20];
        bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        std::fs::write(&path, &bytes).expect("room");
        let given = format!("name = \"a\"\nfile = {path:?}\n");
        let said = refused(&target(&given), true);
        assert!(
            said.contains("ext4") && said.contains("overwrite = true"),
            "{said}"
        );
        assert!(
            Place::find(&target(&given), false).is_ok(),
            "it is only read"
        );
        let allowed = target(&format!("{given}overwrite = true\n"));
        assert_eq!(Place::find(&allowed, true).expect("allowed").bytes, 4 << 20);
        // One byte in the middle, where no mark is.
        bytes.fill(0);
        bytes[2 << 20] = 1;
        std::fs::write(&path, &bytes).expect("room");
        assert!(refused(&target(&given), true).contains("does not know"));
        bytes.fill(0);
        std::fs::write(&path, &bytes).expect("room");
        assert!(refused(&target(&given), true).contains("looks empty"));
        let large = target(&format!("{given}size = \"8MiB\"\n"));
        assert!(refused(&large, false).contains("lower 'size'"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let of = |text: &str| refused(&target(&format!("name = \"a\"\n{text}")), true);
        assert!(of("device = \"/dev/no-such-device\"").contains("lsblk"));
        assert!(of("device = \"/dev/null\"").contains("no block device"));
        assert!(of("file = \"/no/such/directory/x\"\nsize = \"4KiB\"").contains("no directory"));
        assert!(of("file = \"/tmp/no-such-file-of-ours\"").contains("'size'"));
        assert!(of("file = \"/tmp\"").contains("no file"));
        assert!(of("nbd = \"nbd+unix:///x?socket=/no/such.sock\"").contains("nothing serves"));
    }
}
