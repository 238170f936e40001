//! What is on a device already. A pool is never made over something that looks like data; the
//! table is small and our own, so that no external tool decides it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read from the start of a device.
const HEAD: usize = 128 << 10;
/// Bytes read from its end, where a backup GPT and RAID superblocks lie.
const TAIL: usize = 64 << 10;

/// Something recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What people call it.
    pub what: String,
}

struct Signature {
    what: &'static str,
    offset: usize,
    magic: &'static [u8],
}

const fn at(what: &'static str, offset: usize, magic: &'static [u8]) -> Signature {
    Signature {
        what,
        offset,
        magic,
    }
}

/// Offsets and magics as the formats' own documentation gives them.
const HEAD_SIGNATURES: &[Signature] = &[
    at("an XFS file system", 0, b"XFSB"),
    at("an ext2, ext3 or ext4 file system", 0x438, b"\x53\xef"),
    at("a btrfs file system", 0x10040, b"_BHRfS_M"),
    at("an f2fs file system", 0x400, b"\x10\x20\xf5\xf2"),
    at("an NTFS file system", 3, b"NTFS    "),
    at("an exFAT file system", 3, b"EXFAT   "),
    at("a FAT file system", 0x36, b"FAT1"),
    at("a FAT32 file system", 0x52, b"FAT32   "),
    at("a squashfs image", 0, b"hsqs"),
    at("an ISO 9660 image", 0x8001, b"CD001"),
    at("swap space", 4086, b"SWAPSPACE2"),
    at("swap space", 4086, b"SWAP-SPACE"),
    at("swap space (64 KiB pages)", 65526, b"SWAPSPACE2"),
    at("a LUKS container", 0, b"LUKS\xba\xbe"),
    at("an LVM physical volume", 0x218, b"LVM2 001"),
    at("an LVM physical volume", 0x018, b"LVM2 001"),
    at("a Linux RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    at("a Linux RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    at(
        "a bcache device",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    at("a Ceph BlueStore device", 0, b"bluestore block device"),
    at("a DRBD volume", 0x1000 - 4, b"\x83\x74\x02\x6d"),
    at("a qcow2 image", 0, b"QFI\xfb"),
    at("a VMDK image", 0, b"KDMV"),
    at("a GPT partition table", 512, b"EFI PART"),
    at("a GPT partition table (4 KiB sectors)", 4096, b"EFI PART"),
];

const ZFS_UBERBLOCK: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();

/// What is recognised on `device` of `size` bytes; empty when nothing is.
///
/// # Errors
/// The system's, reading.
pub fn probe(device: &File, size: u64) -> io::Result<Vec<Found>> {
    let head = read(device, 0, HEAD.min(size as usize))?;
    let tail_length = TAIL.min(size as usize);
    let tail = read(device, size - tail_length as u64, tail_length)?;
    let mut found: Vec<Found> = HEAD_SIGNATURES
        .iter()
        .filter(|s| head.get(s.offset..s.offset + s.magic.len()) == Some(s.magic))
        .map(|s| Found {
            what: s.what.to_owned(),
        })
        .collect();
    let mut add = |what: &str| {
        found.push(Found {
            what: what.to_owned(),
        })
    };
    if has_partitions(&head) {
        add("an MBR partition table");
    }
    for sector in [512, 4096] {
        if tail.len() >= sector && tail[tail.len() - sector..].starts_with(b"EFI PART") {
            add("a backup GPT partition table");
        }
    }
    if head.get(HEAD.min(head.len()) / 2..).is_some_and(|half| {
        half.chunks_exact(1024)
            .any(|c| c.starts_with(&ZFS_UBERBLOCK))
    }) {
        add("a ZFS pool member");
    }
    found.dedup();
    Ok(found)
}

/// An MBR is 55 AA at 510 and at least one entry with a type and a sane status byte; the same two
/// bytes alone also end a boot sector.
fn has_partitions(head: &[u8]) -> bool {
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return false;
    }
    let entries: Vec<&[u8]> = head[446..510].chunks_exact(16).collect();
    entries.iter().all(|e| e[0] == 0 || e[0] == 0x80) && entries.iter().any(|e| e[4] != 0)
}

fn read(device: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(size: usize, writes: &[(usize, &[u8])]) -> Vec<Found> {
        let mut bytes = vec![0; size];
        for (offset, content) in writes {
            bytes[*offset..offset + content.len()].copy_from_slice(content);
        }
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&bytes, 0).expect("written");
        probe(&file, size as u64).expect("probed")
    }

    #[test]
    fn an_empty_device_is_empty() {
        assert_eq!(device(1 << 20, &[]), []);
        assert_eq!(device(4096, &[]), []);
        // A boot sector's end alone is no partition table.
        assert_eq!(device(1 << 20, &[(510, &[0x55, 0xaa])]), []);
    }

    #[test]
    fn every_signature_is_seen() {
        for signature in HEAD_SIGNATURES {
            let found = device(1 << 20, &[(signature.offset, signature.magic)]);
            assert!(
                found.iter().any(|f| f.what == signature.what),
                "{}",
                signature.what
            );
        }
        let mut entry = [0u8; 66];
        entry[4] = 0x83;
        entry[64..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(
            device(1 << 20, &[(446, &entry)])[0].what,
            "an MBR partition table"
        );
        assert_eq!(
            device(1 << 20, &[((1 << 20) - 512, b"EFI PART")])[0].what,
            "a backup GPT partition table"
        );
        assert_eq!(
            device(1 << 20, &[(100 << 10, &ZFS_UBERBLOCK)])[0].what,
            "a ZFS pool member"
        );
    }

    #[test]
    fn file_systems_of_the_real_tools_are_seen() {
        let place = tempfile::tempdir().expect("a directory");
        let tools: &[(&str, &[&str], &str)] = &[
            ("mkfs.ext4", &["-q", "-F"], "ext"),
            ("mkfs.xfs", &["-q", "-f"], "XFS"),
            ("mkswap", &["-q"], "swap"),
        ];
        for (tool, arguments, expected) in tools {
            let path = place.path().join(tool);
            let file = File::create(&path).expect("a file");
            file.set_len(320 << 20).expect("sized");
            match std::process::Command::new(tool)
                .args(*arguments)
                .arg(&path)
                .output()
            {
                Ok(output) if output.status.success() => {}
                // The table's own test above covers a machine without the tool.
                _ => continue,
            }
            let found = probe(&File::open(&path).expect("opens"), 320 << 20).expect("probed");
            assert!(
                found.iter().any(|f| f.what.contains(expected)),
                "{tool}: {found:?}"
            );
        }
    }
}
