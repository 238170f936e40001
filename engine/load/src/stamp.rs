//! What a written block looks like: a stamp that names its write, and a body derived from it.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic and version, `LKSTAMP1` |
//! | 8 | volume id u128 |
//! | 24 | block number u64 |
//! | 32 | operation number u64 |
//! | 40 | client u32 |
//! | 44 | zero, 16 bytes |
//! | 60 | crc32c of bytes 0 to 60 |
//! | 64 | body: splitmix64 seeded by bytes 0 to 64, 4032 bytes |
//!
//! Little-endian.

use crate::dice::{GAMMA, mix};
use lockstep_types::{BLOCK, VolumeId};

const MAGIC: [u8; 8] = *b"LKSTAMP1";
const HEAD: usize = 64;
const CHECKED: usize = 60;
const _: () = assert!((BLOCK - HEAD).is_multiple_of(8));

/// Names one write of one block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// The volume written to.
    pub volume: VolumeId,
    /// The block written.
    pub block: u64,
    /// The operation, unique for its oracle.
    pub operation: u64,
    /// Whose it was.
    pub client: u32,
}

/// What the 4096 bytes of a block are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Content {
    /// All zero.
    Zeroes,
    /// Every byte as this write made it.
    Whole(Stamp),
    /// This write's head; its body is another's from byte `at` on.
    Torn {
        /// Whose head it is.
        stamp: Stamp,
        /// The first byte that differs.
        at: usize,
        /// Whether all bytes from there on are zero.
        zeroes: bool,
    },
    /// No stamp: the first bytes.
    Garbage([u8; 16]),
}

impl Stamp {
    /// Writes the block's 4096 bytes.
    pub fn fill(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK, "a stamp fills one block");
        let head = self.head();
        block[..HEAD].copy_from_slice(&head);
        let mut state = seed(&head);
        for word in block[HEAD..].chunks_exact_mut(8) {
            state = state.wrapping_add(GAMMA);
            word.copy_from_slice(&mix(state).to_le_bytes());
        }
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..24].copy_from_slice(&self.volume.as_u128().to_le_bytes());
        head[24..32].copy_from_slice(&self.block.to_le_bytes());
        head[32..40].copy_from_slice(&self.operation.to_le_bytes());
        head[40..44].copy_from_slice(&self.client.to_le_bytes());
        let sum = crc32c::crc32c(&head[..CHECKED]);
        head[CHECKED..].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// The stamp of a head, if every byte of it is right.
    fn of_head(head: &[u8; HEAD]) -> Option<Self> {
        let u64_at = |at| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let volume = u128::from(u64_at(8)) | u128::from(u64_at(16)) << 64;
        let stamp = Self {
            volume: VolumeId::from_u128(volume),
            block: u64_at(24),
            operation: u64_at(32),
            client: u32_at(40),
        };
        (stamp.head() == *head).then_some(stamp)
    }
}

impl Content {
    /// What `block`, 4096 bytes, is.
    pub fn of(block: &[u8]) -> Self {
        assert_eq!(block.len(), BLOCK, "one block");
        let head: &[u8; HEAD] = block[..HEAD].try_into().expect("a block has a head");
        let Some(stamp) = Stamp::of_head(head) else {
            if is_zero(block) {
                return Self::Zeroes;
            }
            return Self::Garbage(block[..16].try_into().expect("sixteen bytes"));
        };
        let mut state = seed(head);
        for (index, word) in block[HEAD..].chunks_exact(8).enumerate() {
            state = state.wrapping_add(GAMMA);
            let expected = mix(state).to_le_bytes();
            if word != expected {
                let inside = word
                    .iter()
                    .zip(expected)
                    .position(|(found, right)| *found != right);
                let at = HEAD + 8 * index + inside.expect("the words differ");
                return Self::Torn {
                    stamp,
                    at,
                    zeroes: is_zero(&block[at..]),
                };
            }
        }
        Self::Whole(stamp)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn seed(head: &[u8; HEAD]) -> u64 {
    head.chunks_exact(8).fold(0, |state, word| {
        mix(state ^ u64::from_le_bytes(word.try_into().expect("eight bytes")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let volume = VolumeId::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        Stamp {
            volume,
            block: 0x1234,
            operation: 0x5678,
            client: 9,
        }
    }

    fn block() -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        stamp().fill(&mut block);
        block
    }

    #[test]
    fn the_bytes_are_frozen() {
        let hex: String = block()[..80]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(crc32c::crc32c(&block()), GOLDEN_SUM);
    }

    const GOLDEN: &str = "4c4b5354414d5031ffeeddccbbaa998877665544332211003412000000000000\
        78560000000000000900000000000000000000000000000000000000b61f7031\
        cbeba7b9f24bd139283dd7057be05f73";
    const GOLDEN_SUM: u32 = 2_897_671_710;

    #[test]
    fn every_wrong_byte_is_seen() {
        assert_eq!(Content::of(&block()), Content::Whole(stamp()));
        assert_eq!(Content::of(&vec![0; BLOCK]), Content::Zeroes);
        for at in 0..BLOCK {
            let mut bytes = block();
            bytes[at] ^= 0x10;
            match Content::of(&bytes) {
                Content::Garbage(_) => assert!(at < HEAD),
                Content::Torn {
                    stamp: found,
                    at: place,
                    ..
                } => {
                    assert_eq!((found, place), (stamp(), at));
                }
                other => panic!("{other:?} at {at}"),
            }
        }
    }

    #[test]
    fn a_torn_tail_of_zeroes_is_named() {
        let mut bytes = block();
        bytes[512..].fill(0);
        let Content::Torn { at, zeroes, .. } = Content::of(&bytes) else {
            panic!("it is torn")
        };
        assert!((512..520).contains(&at) && zeroes);
    }
}
