//! The note on a volume that a file system is being made there. A mkfs that was interrupted leaves blocks that
//! nobody recognises, and what nobody recognises is never formatted; the note tells it from other data. It is
//! written before mkfs, where no file system puts anything yet, and durably taken off before the first mount:
//! so it never lies on a volume that has been used.
//!
//! One block of 4,096 bytes, 1 MiB before the end of the device, little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 16 | `LOCKSTEP-MAKEFS\0` |
//! | 16 | 2 | version, 1 |
//! | 18 | 2 | 0 |
//! | 20 | 4 | CRC32C of the block with these four bytes 0 |
//! | 24 | 32 | the volume's id, in hexadecimal digits |
//! | 56 | 4040 | 0 |

use lockstep_types::{BLOCK, VolumeId};

const MAGIC: &[u8; 16] = b"LOCKSTEP-MAKEFS\0";
const VERSION: u16 = 1;
/// Bytes from the end of the device.
const BEFORE_END: u64 = 1 << 20;

/// Where it lies on a device of so many bytes.
pub fn place(bytes: u64) -> u64 {
    let at = bytes.saturating_sub(BEFORE_END);
    at - at % BLOCK as u64
}

/// The note of a volume.
pub fn block(volume: VolumeId) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..16].copy_from_slice(MAGIC);
    block[16..18].copy_from_slice(&VERSION.to_le_bytes());
    block[24..56].copy_from_slice(volume.to_string().as_bytes());
    let sum = crc32c::crc32c(&block);
    block[20..24].copy_from_slice(&sum.to_le_bytes());
    block
}

/// Whether a block is the note of this volume.
pub fn is_of(block: &[u8], volume: VolumeId) -> bool {
    block == self::block(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_frozen() {
        let note = block(VolumeId::from_u128(
            0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        ));
        assert_eq!(note.len(), 4096);
        let head: String = note[..24]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            head, "4c4f434b535445502d4d414b45465300010000008dac6b61",
            "a note of another layout needs a new version, and this one must still be read"
        );
        assert_eq!(&note[24..56], b"0123456789abcdef0123456789abcdef");
        assert!(note[56..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn only_the_volume_s_own_note_counts() {
        let (one, other) = (VolumeId::from_u128(1), VolumeId::from_u128(2));
        let mut note = block(one);
        assert!(is_of(&note, one) && !is_of(&note, other));
        note[4095] ^= 1;
        assert!(!is_of(&note, one));
        assert_eq!(place(10 << 20), 9 << 20);
    }
}
