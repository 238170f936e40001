//! What lies on a device, by the marks that file systems, partition tables and volume managers leave,
//! as `blkid` knows them; and whether anything does at all.

/// Bytes at the beginning that are looked at.
pub const HEAD: usize = 1 << 20;
/// Bytes at the end.
pub const TAIL: usize = 1 << 20;

/// Mark, where it begins, what it stands for.
const MARKS: &[(&[u8], usize, &str)] = &[
    (b"LSsb", 0, "a Lockstep pool"),
    (&[0x53, 0xef], 0x438, "an ext2, ext3 or ext4 file system"),
    (b"XFSB", 0, "an XFS file system"),
    (b"_BHRfS_M", 0x1_0040, "a Btrfs file system"),
    (
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
        0x1018,
        "a bcache or bcachefs device",
    ),
    (&[0x10, 0x20, 0xf5, 0xf2], 0x400, "an F2FS file system"),
    (b"ReIsEr2Fs", 0x1_0034, "a ReiserFS file system"),
    (b"NTFS    ", 3, "an NTFS file system"),
    (b"EXFAT   ", 3, "an exFAT file system"),
    (b"FAT1", 54, "a FAT file system"),
    (b"FAT32", 82, "a FAT file system"),
    (b"CD001", 0x8001, "an ISO 9660 file system"),
    (b"hsqs", 0, "a SquashFS file system"),
    (b"LUKS\xba\xbe", 0, "an encrypted volume (LUKS)"),
    (b"SWAPSPACE2", 4086, "swap space"),
    (b"LABELONE", 0, "an LVM physical volume"),
    (b"LABELONE", 512, "an LVM physical volume"),
    (b"LABELONE", 1024, "an LVM physical volume"),
    (b"LABELONE", 1536, "an LVM physical volume"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 0, "a member of a RAID (md)"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 4096, "a member of a RAID (md)"),
    (b"bluestore block device", 0, "a Ceph OSD (BlueStore)"),
    (b"EFI PART", 512, "a GPT partition table"),
    (b"EFI PART", 4096, "a GPT partition table"),
    (b"QFI\xfb", 0, "a QEMU image (qcow2)"),
];
/// The same, counted from the end.
const LAST_MARKS: &[(&[u8], usize, &str)] = &[
    (b"EFI PART", 512, "the copy of a GPT partition table"),
    (b"EFI PART", 4096, "the copy of a GPT partition table"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 8192, "a member of a RAID (md)"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 65536, "a member of a RAID (md)"),
    // In the last block, behind sizes and UUIDs; of versions 8 and 9.
    (&[0x83, 0x74, 0x02, 0x6b], 4036, "DRBD's metadata"),
    (&[0x83, 0x74, 0x02, 0x6d], 4036, "DRBD's metadata"),
];

/// What lies there, in words; none if every byte is zero. `middle` are samples from in between.
pub fn find(head: &[u8], middle: &[u8], tail: &[u8]) -> Option<String> {
    let at = |bytes: &[u8], from: Option<usize>, mark: &[u8]| {
        let from = from?;
        (bytes.get(from..from.checked_add(mark.len())?)? == mark).then_some(())
    };
    for (mark, from, what) in MARKS {
        if at(head, Some(*from), mark).is_some() {
            return Some((*what).to_owned());
        }
    }
    if is_zfs(head) {
        return Some("a member of a ZFS pool".into());
    }
    for (mark, back, what) in LAST_MARKS {
        if at(tail, tail.len().checked_sub(*back), mark).is_some() {
            return Some((*what).to_owned());
        }
    }
    if is_partition_table(head) {
        return Some("a partition table (MBR)".into());
    }
    let is_used = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let used = is_used(head) || is_used(middle) || is_used(tail);
    used.then(|| "data of a kind that this program does not know".to_owned())
}

/// The last two bytes of the first sector, and an entry that says whether it is bootable and is not empty.
fn is_partition_table(head: &[u8]) -> bool {
    let Some(sector) = head.get(..512) else {
        return false;
    };
    let mut entries = sector[446..510].chunks_exact(16);
    let plausible = |entry: &[u8]| matches!(entry[0], 0 | 0x80) && entry[4] != 0;
    sector[510..] == [0x55, 0xaa] && entries.any(plausible)
}

/// An uberblock, of either byte order, in the ring behind the first label's pairs.
fn is_zfs(head: &[u8]) -> bool {
    const RING: std::ops::Range<usize> = 128 << 10..256 << 10;
    let magic = 0x00ba_b10c_u64;
    let ring = head.get(RING).unwrap_or_default();
    let mut blocks = ring.chunks_exact(1024);
    blocks.any(|block| block[..8] == magic.to_le_bytes() || block[..8] == magic.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mark: &[u8], from: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        bytes[from..from + mark.len()].copy_from_slice(mark);
        bytes
    }

    #[test]
    fn every_mark_is_found() {
        let empty = vec![0; HEAD];
        for (mark, from, what) in MARKS {
            let found = find(&with(mark, *from), &[], &empty);
            assert_eq!(found.as_deref(), Some(*what));
        }
        for (mark, back, what) in LAST_MARKS {
            let found = find(&empty, &[], &with(mark, TAIL - back));
            assert_eq!(found.as_deref(), Some(*what));
        }
        let zfs = with(&0x00ba_b10c_u64.to_le_bytes(), (128 << 10) + 3 * 1024);
        assert_eq!(
            find(&zfs, &[], &empty).as_deref(),
            Some("a member of a ZFS pool")
        );
    }

    #[test]
    fn zeroes_are_nothing_and_one_byte_is_something() {
        let empty = vec![0; HEAD];
        assert_eq!(find(&empty, &[0; 4096], &empty), None);
        assert!(find(&empty, &[0, 0, 1], &empty).is_some());
        assert!(find(&empty, &[], &with(&[9], 77)).is_some());
        // Smaller than a mark's place.
        assert_eq!(find(&[0; 64], &[], &[0; 64]), None);
    }

    #[test]
    fn a_partition_table_has_an_entry() {
        let empty = vec![0; HEAD];
        let mut sector = with(&[0x55, 0xaa], 510);
        let unknown = find(&sector, &[], &empty).expect("it is not empty");
        assert!(unknown.contains("does not know"), "{unknown}");
        sector[446 + 4] = 0x83;
        let table = find(&sector, &[], &empty).expect("an entry");
        assert!(table.contains("MBR"), "{table}");
    }
}
