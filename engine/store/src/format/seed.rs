//! Seeds of stored checksums: a block that lies at the wrong address, or belongs to another chain of
//! layers, does not match although its bytes are sound.
//!
//! A stored checksum is the block's raw CRC32C XOR its seed. For blocks of equal length that is a
//! seeded CRC: starting the register elsewhere changes the result by a constant that depends on the
//! seed and the length alone (the CRC is affine in its start), so nothing needs to be computed again
//! over the data where a raw CRC enters or leaves the store.
//!
//! The seed is of the *lineage* and the logical block, not of the reading volume or the physical
//! place: clones, folding and moving need no recomputation.

use lockstep_types::LineageId;

/// The seed of a block of a volume: the lineage's halves and the block number through the
/// finaliser of MurmurHash3, folded to 32 bits. Part of the format.
pub const fn seed(lineage: LineageId, block: u64) -> u32 {
    let raw = lineage.as_u128();
    let mixed =
        mix(raw as u64 ^ mix((raw >> 64) as u64 ^ mix(block.wrapping_add(0x9e37_79b9_7f4a_7c15))));
    (mixed ^ (mixed >> 32)) as u32
}

/// A raw checksum as it is stored, or a stored one as it was computed: the same operation.
pub const fn seeded(lineage: LineageId, block: u64, checksum: u32) -> u32 {
    checksum ^ seed(lineage, block)
}

const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::BLOCK;
    use std::collections::BTreeSet;

    #[test]
    fn xor_equals_starting_the_crc_elsewhere() {
        // For any start of the register, seeded XOR raw is one constant for all blocks.
        let blocks: Vec<Vec<u8>> = (0..50u32)
            .map(|n| {
                (0..BLOCK as u32)
                    .map(|i| (i.wrapping_mul(n * n + 7) >> 3) as u8)
                    .collect()
            })
            .collect();
        for start in [1, 0x8000_0000, 0x1234_5678] {
            let constants: BTreeSet<u32> = blocks
                .iter()
                .map(|b| crc32c::crc32c_append(start, b) ^ crc32c::crc32c(b))
                .collect();
            assert_eq!(constants.len(), 1);
        }
    }

    #[test]
    fn neighbours_and_lineages_differ() {
        let mut seen = BTreeSet::new();
        for lineage in [1u128, 2, 1 << 64, 1 << 127, (1 << 64) | 1] {
            for block in 0..1000 {
                seen.insert(seed(LineageId::from_u128(lineage), block));
            }
        }
        assert!(seen.len() > 4990, "{} of 5000 are distinct", seen.len());
    }

    #[test]
    fn frozen() {
        assert_eq!(seed(LineageId::from_u128(0), 0), FROZEN.0);
        assert_eq!(
            seed(
                LineageId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
                1 << 37
            ),
            FROZEN.1
        );
    }

    /// Computed by another implementation of the same text.
    const FROZEN: (u32, u32) = (0x6501c541, 0x056f349e);
}
