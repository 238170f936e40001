//! The join token: one line of text that an operator carries from a member to a joiner. It carries
//! the CA's hash, so that the joiner authenticates the cluster before it says anything, and a
//! secret, so that the cluster authenticates the joiner once.
//!
//! Text: `lockstep1.` followed by lower-case base32 of:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | token id, little-endian |
//! | 8 | 16 | secret |
//! | 24 | 32 | SHA-256 of the CA certificate (DER) |
//! | 56 | 1 | number of addresses, 1–16 |
//! | 57 | … | each: length (1), then `host:port` in ASCII |
//! | end − 4 | 4 | CRC32C of all before it, little-endian: a mistyped token is told from a wrong one |

use std::fmt;
use std::str::FromStr;

use crate::base32;
use crate::ca::sha256;

const PREFIX: &str = "lockstep1.";
const FIXED: usize = 57;
const MAX_ADDRESSES: usize = 16;

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It does not start as one.
    #[error(
        "this is not a join token: it must start with '{PREFIX}'; make one with 'lockstep node token'"
    )]
    Prefix,
    /// A letter is missing, changed or too many.
    #[error("the join token is damaged; copy the whole line again")]
    Damaged,
    /// Its list of addresses makes no sense.
    #[error("the join token names no usable address; make a new one with 'lockstep node token'")]
    Addresses,
}

/// A decoded token. `Debug` hides the secret; `Display` is the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token, for expiry and revocation in the control plane.
    pub id: u64,
    /// Shown once, by the joiner, inside TLS.
    pub secret: [u8; 16],
    /// The CA certificate to expect.
    pub ca_sha256: [u8; 32],
    /// Members to ask, `host:port`, 1 to 16.
    pub addresses: Vec<String>,
}

impl JoinToken {
    /// What the control plane keeps instead of the secret.
    pub fn secret_sha256(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// Whether `shown` is the secret whose hash was kept; in constant time.
    pub fn secret_matches(kept_sha256: &[u8; 32], shown: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(kept_sha256, &sha256(shown)).is_ok()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(
            !self.addresses.is_empty()
                && self.addresses.len() <= MAX_ADDRESSES
                && self.addresses.iter().all(|a| is_address(a)),
            "a token names 1 to {MAX_ADDRESSES} addresses host:port"
        );
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.ca_sha256);
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        write!(f, "{PREFIX}{}", base32::encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(JoinTokenError::Prefix)?;
        let bytes = base32::decode(text).ok_or(JoinTokenError::Damaged)?;
        let (body, check) = bytes
            .split_last_chunk::<4>()
            .ok_or(JoinTokenError::Damaged)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*check) || body.len() < FIXED {
            return Err(JoinTokenError::Damaged);
        }
        Ok(Self {
            id: u64::from_le_bytes(body[..8].try_into().expect("eight bytes")),
            secret: body[8..24].try_into().expect("sixteen bytes"),
            ca_sha256: body[24..56].try_into().expect("32 bytes"),
            addresses: decode_addresses(body[56], &body[FIXED..])?,
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

fn decode_addresses(count: u8, mut bytes: &[u8]) -> Result<Vec<String>, JoinTokenError> {
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (&length, rest) = bytes.split_first().ok_or(JoinTokenError::Addresses)?;
        let (text, rest) = rest
            .split_at_checked(length.into())
            .ok_or(JoinTokenError::Addresses)?;
        let text = std::str::from_utf8(text).map_err(|_| JoinTokenError::Addresses)?;
        if !is_address(text) {
            return Err(JoinTokenError::Addresses);
        }
        addresses.push(text.to_owned());
        bytes = rest;
    }
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES || !bytes.is_empty() {
        return Err(JoinTokenError::Addresses);
    }
    Ok(addresses)
}

/// `host:port`, printable ASCII, at most 255 bytes (so that one byte holds the length).
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    text.len() <= 255
        && !host.is_empty()
        && text.bytes().all(|b| b.is_ascii_graphic())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: 0x1122_3344,
            secret: *b"0123456789abcdef",
            ca_sha256: [0xa5; 32],
            addresses: vec![
                "10.0.0.1:7400".into(),
                "[fd00::2]:7400".into(),
                "n3.lan:1".into(),
            ],
        }
    }

    #[test]
    fn round_trip_on_one_line() {
        let text = token().to_string();
        assert!(text.bytes().all(|b| b.is_ascii_graphic()));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("0123456789abcdef"));
    }

    #[test]
    fn golden_text() {
        let golden = include_str!("../tests/golden/join-token-v1.txt").trim();
        assert_eq!(
            token().to_string(),
            golden,
            "the text of a join token has changed, and nodes of the last release join by the old one: give it a new \
             prefix and keep a reader for this one, or leave it alone. Nothing else will do"
        );
        assert_eq!(golden.parse(), Ok(token()), "keep a reader for it");
    }

    #[test]
    fn every_changed_missing_or_added_letter_is_noticed() {
        let text = token().to_string();
        for i in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[i] = if bad[i] == b'a' { b'b' } else { b'a' };
            let bad = String::from_utf8(bad).expect("ASCII");
            assert!(bad.parse::<JoinToken>().is_err(), "letter {i} changed");
            let mut short = text.clone();
            short.remove(i);
            assert!(short.parse::<JoinToken>().is_err(), "letter {i} missing");
        }
        assert_eq!("hello".parse::<JoinToken>(), Err(JoinTokenError::Prefix));
        assert_eq!(
            "lockstep1.".parse::<JoinToken>(),
            Err(JoinTokenError::Damaged)
        );
        assert!(format!("{text}a").parse::<JoinToken>().is_err());
    }

    #[test]
    fn secrets_are_compared_by_hash() {
        let kept = token().secret_sha256();
        assert!(JoinToken::secret_matches(&kept, b"0123456789abcdef"));
        assert!(!JoinToken::secret_matches(&kept, b"0123456789abcdeg"));
        assert!(!JoinToken::secret_matches(&kept, b""));
    }
}
