//! The files that are written to, and memory fit for O_DIRECT.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A block of Lockstep's.
pub const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// Bytes aligned to a block.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// `length` bytes of `fill`.
    pub fn new(length: usize, fill: u8) -> Self {
        let memory = vec![fill; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self {
            memory,
            start,
            length,
        }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Makes file number `index` of `mib` MiB in `directory`, allocated and written once in full: the
/// first write to an unwritten extent is not what is measured. One that is there is used again.
pub fn prepare(directory: &Path, index: usize, mib: u64) -> anyhow::Result<PathBuf> {
    let path = directory.join(format!("lockstep-floor-{index}.dat"));
    let length = mib * MIB as u64;
    if path.metadata().is_ok_and(|m| m.len() == length) && is_written(&path, length)? {
        return Ok(path);
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .with_context(|| format!("cannot create {} for direct I/O", path.display()))?;
    // SAFETY: takes no pointer; the descriptor is open.
    let allocated = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length as i64) };
    if allocated != 0 {
        let why = std::io::Error::last_os_error();
        return Err(why).with_context(|| format!("no room for {mib} MiB at {}", path.display()));
    }
    let block = Aligned::new(MIB, 0x5a);
    for at in 0..mib {
        file.write_all_at(&block, at * MIB as u64)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// The last block is written last.
fn is_written(path: &Path, length: u64) -> std::io::Result<bool> {
    let mut last = [0u8; 1];
    File::open(path)?.read_exact_at(&mut last, length - 1)?;
    Ok(last[0] != 0)
}

/// Opens for direct and durable writes.
pub fn open_durable(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)
        .with_context(|| format!("cannot open {} with O_DIRECT|O_DSYNC", path.display()))
}

/// Numbers good enough to scatter offsets (xorshift64*).
pub struct Scatter(u64);

impl Scatter {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_and_reused() {
        let directory = tempfile::tempdir_in(".").expect("a directory");
        let path = prepare(directory.path(), 0, 2).expect("room");
        let before = path.metadata().expect("there").modified().expect("a time");
        assert_eq!(std::fs::read(&path).expect("reads"), vec![0x5a; 2 * MIB]);
        prepare(directory.path(), 0, 2).expect("reused");
        assert_eq!(
            path.metadata().expect("there").modified().expect("a time"),
            before
        );
        let block = Aligned::new(BLOCK, 1);
        assert_eq!(block.as_ptr() as usize % BLOCK, 0);
        open_durable(&path)
            .expect("opens")
            .write_all_at(&block, 4096)
            .expect("writes");
        assert_eq!(std::fs::read(&path).expect("reads")[4096..8192], block[..]);
    }

    #[test]
    fn scatter_covers_its_range() {
        let mut scatter = Scatter::new(3);
        let mut seen = [0; 16];
        (0..1600).for_each(|_| seen[scatter.below(16) as usize] += 1);
        assert!(seen.iter().all(|n| (50..200).contains(n)), "{seen:?}");
    }
}
