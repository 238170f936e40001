//! CRC32C of blocks: computed once where a payload enters the node, carried with it to every disk.

use crate::BLOCK;
use smallvec::SmallVec;

/// One CRC32C a 4 KiB block, in block order. Inline up to 16 blocks.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Checksums(pub SmallVec<[u32; 16]>);

impl Checksums {
    /// No blocks.
    pub fn none() -> Self {
        Self::default()
    }

    /// The values.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// How many blocks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `payload` has exactly these checksums.
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.len() * BLOCK
            && payload
                .chunks_exact(BLOCK)
                .zip(&self.0)
                .all(|(block, sum)| crc32c::crc32c(block) == *sum)
    }
}

impl FromIterator<u32> for Checksums {
    fn from_iter<T: IntoIterator<Item = u32>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// The checksums of a payload of whole blocks.
///
/// # Panics
/// If the length is not a multiple of [`BLOCK`].
pub fn checksum_blocks(payload: &[u8]) -> Checksums {
    assert!(
        payload.len().is_multiple_of(BLOCK),
        "payloads are whole blocks"
    );
    payload.chunks_exact(BLOCK).map(crc32c::crc32c).collect()
}

/// CRC32C of a block of zeroes.
pub fn checksum_of_zeroes() -> u32 {
    const ZEROES: u32 = 0x98f9_4189;
    ZEROES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_as_computed() {
        assert_eq!(crc32c::crc32c(&[0; BLOCK]), checksum_of_zeroes());
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut payload = vec![7; 3 * BLOCK];
        let sums = checksum_blocks(&payload);
        assert!(sums.matches(&payload));
        payload[2 * BLOCK + 9] ^= 4;
        assert!(!sums.matches(&payload));
        assert!(!sums.matches(&payload[..BLOCK]));
    }
}
