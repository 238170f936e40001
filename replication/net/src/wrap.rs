//! The CA's private key at rest: AES-256-GCM under a key that HKDF-SHA256 derives from the cluster
//! secret and a random salt. It lies on data voters only.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `LSCAKEY\0` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | length of what follows the nonce: key + 16 bytes of tag |
//! | 16 | 16 | cluster id, little-endian; authenticated |
//! | 32 | 32 | HKDF salt |
//! | 64 | 12 | AES-GCM nonce |
//! | 76 | n | ciphertext of the PKCS#8 key, then the tag |
//!
//! Bytes 0–63 are the additional authenticated data.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use lockstep_types::ClusterId;

use crate::error::NetError;

const MAGIC: [u8; 8] = *b"LSCAKEY\0";
const VERSION: u32 = 1;
const AUTHENTICATED: usize = 64;
const HEADER: usize = AUTHENTICATED + NONCE_LEN;
/// A P-256 PKCS#8 key has some 140 bytes; anything near this is no key.
const MAX_BODY: usize = 4096;
const INFO: &[&[u8]] = &[b"lockstep ca key v1"];

/// Wraps `key_der` under `secret`, with fresh salt and nonce.
///
/// # Errors
/// [`NetError::Crypto`] if the system's generator fails.
///
/// # Panics
/// If `secret` has fewer than 16 bytes: it must be a generated secret, not a password.
pub fn wrap(cluster: ClusterId, key_der: &[u8], secret: &[u8]) -> Result<Vec<u8>, NetError> {
    let (mut salt, mut nonce) = ([0u8; 32], [0u8; NONCE_LEN]);
    aws_lc_rs::rand::fill(&mut salt)
        .and_then(|()| aws_lc_rs::rand::fill(&mut nonce))
        .map_err(|_| NetError::Crypto("the system's random generator failed".into()))?;
    wrap_with(cluster, key_der, secret, salt, nonce)
}

/// Opens what [`wrap`] made.
///
/// # Errors
/// [`NetError::WrappedFormat`] for foreign bytes, [`NetError::Unwrap`] for another secret, another
/// cluster or damage.
pub fn unwrap(cluster: ClusterId, wrapped: &[u8], secret: &[u8]) -> Result<Vec<u8>, NetError> {
    let bad = |why| Err(NetError::WrappedFormat { why });
    if wrapped.len() < HEADER || wrapped[..8] != MAGIC {
        return bad("magic");
    }
    if u32_at(wrapped, 8) != VERSION {
        return bad("version");
    }
    let length = u32_at(wrapped, 12) as usize;
    if length > MAX_BODY || wrapped.len() != HEADER + length {
        return bad("length");
    }
    if wrapped[16..32] != cluster.as_u128().to_le_bytes() {
        return Err(NetError::Unwrap);
    }
    let nonce: [u8; NONCE_LEN] = wrapped[AUTHENTICATED..HEADER]
        .try_into()
        .expect("the slice has a nonce's length");
    let mut body = wrapped[HEADER..].to_vec();
    let plain = derive(secret, &wrapped[32..64])
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&wrapped[..AUTHENTICATED]),
            &mut body,
        )
        .map_err(|_| NetError::Unwrap)?;
    Ok(plain.to_vec())
}

fn wrap_with(
    cluster: ClusterId,
    key_der: &[u8],
    secret: &[u8],
    salt: [u8; 32],
    nonce: [u8; NONCE_LEN],
) -> Result<Vec<u8>, NetError> {
    assert!(
        secret.len() >= 16,
        "the cluster secret has at least 128 bits"
    );
    let length = key_der.len() + AES_256_GCM.tag_len();
    assert!(
        length <= MAX_BODY,
        "a private key is smaller than {MAX_BODY} bytes"
    );
    let mut out = Vec::with_capacity(HEADER + length);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&cluster.as_u128().to_le_bytes());
    out.extend_from_slice(&salt);
    let mut body = key_der.to_vec();
    derive(secret, &salt)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&out[..AUTHENTICATED]),
            &mut body,
        )
        .map_err(|_| NetError::Crypto("sealing the CA key failed".into()))?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&body);
    Ok(out)
}

fn derive(secret: &[u8], salt: &[u8]) -> LessSafeKey {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let okm = prk
        .expand(INFO, &AES_256_GCM)
        .expect("32 bytes are within HKDF's bound");
    LessSafeKey::new(UnboundKey::from(okm))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn round_trip_and_every_flipped_bit_is_noticed() {
        let cluster = ClusterId::from_u128(77);
        let wrapped = wrap(cluster, b"a private key", SECRET).expect("wraps");
        assert_eq!(
            unwrap(cluster, &wrapped, SECRET).expect("unwraps"),
            b"a private key"
        );
        assert_ne!(
            wrapped,
            wrap(cluster, b"a private key", SECRET).expect("wraps")
        );
        assert!(unwrap(cluster, &wrapped, b"another secret of 128 bits").is_err());
        assert!(unwrap(ClusterId::from_u128(78), &wrapped, SECRET).is_err());
        for bit in 0..wrapped.len() * 8 {
            let mut bad = wrapped.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(cluster, &bad, SECRET).is_err(), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(unwrap(cluster, &wrapped[..length], SECRET).is_err());
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = wrap_with(
            ClusterId::from_u128(0x0102),
            b"key",
            SECRET,
            [7; 32],
            [9; 12],
        )
        .expect("wraps");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            include_str!("../tests/golden/wrapped-ca-key-v1.hex").trim(),
            "the bytes of a wrapped CA key have changed, and clusters in the field keep the old ones in their \
             control state: give them a new version and keep a reader for this one, or leave them alone. \
             Nothing else will do"
        );
        let read = unwrap(ClusterId::from_u128(0x0102), &bytes, SECRET);
        assert_eq!(read.expect("a key that was wrapped once"), b"key");
    }
}
