//! Ids and secrets from the system's generator. Ids are never reused (R18): 128 random bits.

/// Fresh random bits for an id.
pub fn id() -> u128 {
    u128::from_le_bytes(bytes())
}

/// A fresh 64-bit number, never 0.
pub fn number() -> u64 {
    u64::from_le_bytes(bytes()) | 1
}

/// Fresh random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}
