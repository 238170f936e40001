//! Who uses a device or a file: mounts, swap, mappings and RAIDs, partitions of it that are used, loop
//! devices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// Who uses a device of that number, in words.
///
/// # Errors
/// The kernel does not tell.
pub fn of_device(device: u64) -> anyhow::Result<Option<String>> {
    let number = format!("{}:{}", major(device), minor(device));
    let own = Path::new("/sys/dev/block").join(&number);
    let mut parts = vec![(number, own.clone())];
    for entry in std::fs::read_dir(&own).into_iter().flatten().flatten() {
        let path = entry.path();
        // A directory of a disk that is a partition has a number of its own.
        if path.join("partition").exists()
            && let Ok(number) = std::fs::read_to_string(path.join("dev"))
        {
            parts.push((number.trim().to_owned(), path));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    for (number, directory) in &parts {
        if let Some(place) = mounted(&mounts, number) {
            return Ok(Some(format!("it is mounted on {place}; unmount it first")));
        }
        if swap_files(&swaps).any(|path| number_of(&path).as_ref() == Some(number)) {
            return Ok(Some("it is swap space; 'swapoff' ends that".into()));
        }
        let holders = std::fs::read_dir(directory.join("holders"));
        if let Some(holder) = holders.into_iter().flatten().flatten().next() {
            return Ok(Some(format!(
                "it is part of {} (LVM, RAID or another mapping); take it out of there first",
                holder.file_name().to_string_lossy()
            )));
        }
    }
    Ok(None)
}

/// Who uses a file, in words.
///
/// # Errors
/// It cannot be found.
pub fn of_file(path: &Path) -> anyhow::Result<Option<String>> {
    let path = path.canonicalize()?;
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swap_files(&swaps).any(|file| file == path) {
        return Ok(Some("it is swap space; 'swapoff' ends that".into()));
    }
    for entry in std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
    {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|file| Path::new(file.trim()) == path) {
            let name = entry.file_name().to_string_lossy().into_owned();
            return Ok(Some(format!(
                "it is under /dev/{name}; 'losetup --detach /dev/{name}' ends that, or name that device"
            )));
        }
    }
    Ok(None)
}

/// Where a device of that number is mounted.
fn mounted(mountinfo: &str, number: &str) -> Option<String> {
    let mut fields = mountinfo
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let line = fields.find(|fields| fields.get(2) == Some(&number))?;
    line.get(4).map(|place| (*place).to_owned())
}

/// Devices and files that are swap space: the first column but for its heading.
fn swap_files(swaps: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = swaps.lines().skip(1);
    lines.filter_map(|line| Some(PathBuf::from(line.split_whitespace().next()?)))
}

fn number_of(path: &Path) -> Option<String> {
    let device = std::fs::metadata(path).ok()?.rdev();
    Some(format!("{}:{}", major(device), minor(device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_swap_are_read() {
        let info =
            "26 1 254:1 / / rw - ext4 /dev/root rw\n30 26 7:3 / /mnt rw - xfs /dev/loop3 rw\n";
        assert_eq!(mounted(info, "7:3").as_deref(), Some("/mnt"));
        assert_eq!(mounted(info, "7:4"), None);
        let swaps =
            "Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n/swap file 1 0 -3\n";
        let files: Vec<_> = swap_files(swaps).collect();
        assert_eq!(files, [PathBuf::from("/dev/vda2"), PathBuf::from("/swap")]);
    }

    #[test]
    fn a_file_of_nobody_is_free() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(of_file(file.path()).expect("there"), None);
    }
}
