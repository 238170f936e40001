//! What clients write: blocks that name the write they came from in every word.

use crate::invariants::v05_linearizable::Value;
use bytes::Bytes;
use lockstep_types::BLOCK;

/// The bytes of a block of this value; the block's address is part of them.
pub fn block_of(value: Value, volume: u64, block: u64, into: &mut Vec<u8>) {
    assert!(value != 0, "0 stands for zeroes");
    let mut word = seed(value, volume, block);
    into.extend_from_slice(&value.to_le_bytes());
    for _ in 1..BLOCK / 8 {
        word = next(word);
        into.extend_from_slice(&word.to_le_bytes());
    }
}

/// The value that a block names.
///
/// # Errors
/// If any byte is not what that write put there.
pub fn value_of(bytes: &[u8], volume: u64, block: u64) -> Result<Value, String> {
    let words = || {
        bytes
            .chunks_exact(8)
            .map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes")))
    };
    let value = words().next().expect("a block has words");
    let mut word = if value == 0 {
        0
    } else {
        seed(value, volume, block)
    };
    for (i, found) in words().enumerate().skip(1) {
        word = if value == 0 { 0 } else { next(word) };
        if found != word {
            return Err(format!(
                "wrong bytes at {} of block {block}, which names write {value:#x}",
                i * 8
            ));
        }
    }
    Ok(value)
}

/// The payload of a write.
pub fn payload(value: Value, volume: u64, start: u64, count: u32) -> Bytes {
    let mut bytes = Vec::with_capacity(count as usize * BLOCK);
    for block in start..start + u64::from(count) {
        block_of(value, volume, block, &mut bytes);
    }
    bytes.into()
}

fn seed(value: Value, volume: u64, block: u64) -> u64 {
    (value ^ volume.rotate_left(40) ^ block.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn next(word: u64) -> u64 {
    word.wrapping_mul(0x5851_f42d_4c95_7f2d)
        .wrapping_add(0x1405_7b7e_f767_814f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_write_and_place() {
        let bytes = payload(77, 1, 10, 2);
        assert_eq!(value_of(&bytes[..BLOCK], 1, 10), Ok(77));
        assert_eq!(value_of(&bytes[BLOCK..], 1, 11), Ok(77));
        assert!(value_of(&bytes[BLOCK..], 1, 10).is_err());
        let mut torn = bytes.to_vec();
        torn[3000] ^= 1;
        assert!(value_of(&torn[..BLOCK], 1, 10).is_err());
        assert_eq!(value_of(&[0; BLOCK], 1, 10), Ok(0));
    }
}
