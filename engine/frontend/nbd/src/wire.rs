//! The numbers of the NBD protocol. All integers on the wire are big-endian.
//!
//! | message | offset: field |
//! |---|---|
//! | greeting, server | 0: `NBDMAGIC` · 8: `IHAVEOPT` · 16: handshake flags u16 |
//! | client flags | 0: flags u32 |
//! | option, client | 0: `IHAVEOPT` · 8: option u32 · 12: length u32 · 16: data |
//! | option reply, server | 0: magic u64 · 8: option u32 · 12: type u32 · 16: length u32 · 20: data |
//! | end of EXPORT_NAME | 0: size u64 · 8: transmission flags u16 · 10: 124 zeroes unless NO_ZEROES |
//! | request, client | 0: magic u32 · 4: flags u16 · 6: type u16 · 8: cookie u64 · 16: offset u64 · 24: length u32 · 28: payload |
//! | simple reply | 0: magic u32 · 4: error u32 · 8: cookie u64 · 16: data of a read |
//! | chunk of a structured reply | 0: magic u32 · 4: flags u16 · 6: type u16 · 8: cookie u64 · 16: length u32 · 20: data |

/// The first eight bytes a server sends.
pub const NBDMAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Starts every option, and marks newstyle in the greeting.
pub const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Starts every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes of the server's greeting.
pub const GREETING: usize = 18;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS: usize = 4;
/// Bytes before an option's data.
pub const OPTION_HEAD: usize = 16;
/// Bytes before an option reply's data.
pub const OPTION_REPLY_HEAD: usize = 20;
/// Bytes of a request without its payload.
pub const REQUEST_HEAD: usize = 28;
/// Bytes of a simple reply without data.
pub const SIMPLE_REPLY_HEAD: usize = 16;
/// Bytes before a chunk's data.
pub const CHUNK_HEAD: usize = 20;
/// Longest string the protocol allows.
pub const MAX_STRING: usize = 4096;

/// Handshake and client flags.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// No 124 zeroes after EXPORT_NAME.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Options.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of option replies.
pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR + 1;
    pub const ERR_POLICY: u32 = ERROR + 2;
    pub const ERR_INVALID: u32 = ERROR + 3;
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    pub const ERR_SHUTDOWN: u32 = ERROR + 7;
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
}

/// Types of information about an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod can {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// Requests.
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of structured replies.
pub mod chunk {
    /// Set in the last chunk of a reply.
    pub const DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in every error.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT + 1;
}

/// The one metadata context served, and its id.
pub const ALLOCATION: &str = "base:allocation";
/// The id of `base:allocation` on the wire.
pub const ALLOCATION_ID: u32 = 1;
/// State of a hole that reads as zero: NBD_STATE_HOLE and NBD_STATE_ZERO.
pub const STATE_HOLE_ZERO: u32 = 0b11;

/// A request's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Head {
    /// `Err` has the wrong magic.
    pub fn decode(raw: &[u8; REQUEST_HEAD]) -> Result<Self, u32> {
        let magic = u32_at(raw, 0);
        if magic != REQUEST_MAGIC {
            return Err(magic);
        }
        Ok(Self {
            flags: u16_at(raw, 4),
            command: u16_at(raw, 6),
            cookie: u64_at(raw, 8),
            offset: u64_at(raw, 16),
            length: u32_at(raw, 24),
        })
    }

    pub fn encode(&self) -> [u8; REQUEST_HEAD] {
        let mut raw = [0; REQUEST_HEAD];
        raw[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        raw[4..6].copy_from_slice(&self.flags.to_be_bytes());
        raw[6..8].copy_from_slice(&self.command.to_be_bytes());
        raw[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        raw[16..24].copy_from_slice(&self.offset.to_be_bytes());
        raw[24..].copy_from_slice(&self.length.to_be_bytes());
        raw
    }
}

/// The number at `at`; the caller has checked that it is there.
pub fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(raw[at..at + 2].try_into().expect("two bytes"))
}

/// The number at `at`; the caller has checked that it is there.
pub fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

/// The number at `at`; the caller has checked that it is there.
pub fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}
