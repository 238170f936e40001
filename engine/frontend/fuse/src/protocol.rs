//! The bytes of FUSE, as far as one file needs them. Native byte order (little-endian on every
//! machine we run on), protocol 7.
//!
//! | message | offset: field |
//! |---|---|
//! | request | 0: length u32 · 4: opcode u32 · 8: unique u64 · 16: node u64 · 24: uid, gid, pid u32 · 36: extension length u16 · 38: zero u16 · 40: arguments |
//! | reply | 0: length u32 · 4: negative errno i32 · 8: unique u64 · 16: result |
//! | notification | 0: length u32 · 4: code i32 · 8: zero u64 |
//! | INIT arguments | 0: major u32 · 4: minor u32 · 8: read-ahead u32 · 12: flags u32 · 16: flags, high half u32 |
//! | INIT result, 64 | 0: major u32 · 4: minor u32 · 8: read-ahead u32 · 12: flags u32 · 16: background u16 · 18: congestion u16 · 20: max write u32 · 24: time granularity u32 · 28: max pages u16 · 32: flags, high half u32 |
//! | READ, WRITE arguments, 40 | 0: handle u64 · 8: offset u64 · 16: size u32 |
//! | FALLOCATE arguments, 32 | 0: handle u64 · 8: offset u64 · 16: length u64 · 24: mode u32 |
//! | SETATTR arguments, 88 | 0: which fields u32 |
//! | OPEN result, 16 | 0: handle u64 · 8: flags u32 |
//! | WRITE result, 8 | 0: size u32 |
//! | attributes, 88 | 0: inode, size, blocks of 512, 3 times u64 · 48: 3 nanoseconds u32 · 60: mode, links, uid, gid, device, block size, flags u32 |
//! | LOOKUP result, 128 | 0: node, generation, name seconds, attribute seconds u64 · 32: 2 nanoseconds u32 · 40: attributes |
//! | GETATTR result, 104 | 0: seconds u64 · 8: nanoseconds u32 · 16: attributes |
//! | STATFS result, 80 | 0: blocks, free, available, files, free files u64 · 40: block size, name length, fragment u32 |

use bytes::{BufMut, BytesMut};

/// Bytes before a request's arguments.
pub const IN_HEADER: usize = 40;
/// Bytes before a reply's result.
pub const OUT_HEADER: usize = 16;
/// Bytes of a WRITE's arguments, before its payload.
pub const WRITE_IN: usize = 40;
/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// The newest minor version whose structures are used here.
pub const MINOR: u32 = 41;
/// The oldest with which this works: MAX_PAGES and the rest of INIT's result.
pub const OLDEST_MINOR: u32 = 31;
/// The root directory's node.
pub const ROOT: u64 = 1;
/// The bit of `unique` by which a request sent again is known.
pub const RESENT: u64 = 1 << 63;

/// Operations.
#[allow(missing_docs, reason = "named as in the kernel")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
}

/// Flags of INIT, both halves in one number.
#[allow(missing_docs, reason = "named as in the kernel")]
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const BIG_WRITES: u64 = 1 << 5;
    /// Without it a loop device has one request in flight.
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// Reads of an aborted connection say ECONNABORTED.
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const INIT_EXT: u64 = 1 << 30;
    /// Unanswered requests can be had again.
    pub const HAS_RESEND: u64 = 1 << 39;
}

/// Flags of an open file.
#[allow(missing_docs, reason = "named as in the kernel")]
pub mod fopen {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Notifications.
pub mod notify {
    /// Send all unanswered requests again.
    pub const RESEND: i32 = 7;
}

/// Modes of FALLOCATE.
#[allow(missing_docs, reason = "named as in the kernel")]
pub mod falloc {
    pub const KEEP_SIZE: u32 = 0x01;
    pub const PUNCH_HOLE: u32 = 0x02;
    pub const ZERO_RANGE: u32 = 0x10;
}

/// SETATTR wants a size.
pub const FATTR_SIZE: u32 = 1 << 3;

/// A request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InHeader {
    /// Bytes of the whole message.
    pub length: u32,
    /// What is asked.
    pub opcode: u32,
    /// Names the request in the reply.
    pub unique: u64,
    /// The file concerned.
    pub node: u64,
}

impl InHeader {
    /// Decodes the first 40 bytes.
    pub fn decode(raw: &[u8; IN_HEADER]) -> Self {
        Self {
            length: u32_at(raw, 0),
            opcode: u32_at(raw, 4),
            unique: u64_at(raw, 8),
            node: u64_at(raw, 16),
        }
    }
}

/// What kernel and server agreed in INIT. Kept beside the descriptor, for the next server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Negotiated {
    /// The minor version spoken.
    pub minor: u32,
    /// Flags of [`init`] that both know.
    pub flags: u64,
}

impl Negotiated {
    /// Whether the next server can have unanswered requests again.
    pub fn can_resend(&self) -> bool {
        self.flags & init::HAS_RESEND != 0
    }
}

/// What INIT may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitAnswer {
    /// The kernel speaks a newer major version: say ours and it asks again.
    Older,
    /// Agreed.
    Agreed(Negotiated),
    /// Too old; the versions are the kernel's.
    Refused {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
}

/// Decides what to answer the arguments of INIT.
pub fn on_init(arguments: &[u8]) -> InitAnswer {
    if arguments.len() < 16 {
        return InitAnswer::Refused { major: 0, minor: 0 };
    }
    let (major, minor) = (u32_at(arguments, 0), u32_at(arguments, 4));
    if major > MAJOR {
        return InitAnswer::Older;
    }
    if major < MAJOR || minor < OLDEST_MINOR {
        return InitAnswer::Refused { major, minor };
    }
    let mut offered = u64::from(u32_at(arguments, 12));
    if offered & init::INIT_EXT != 0 && arguments.len() >= 20 {
        offered |= u64::from(u32_at(arguments, 16)) << 32;
    }
    let wanted = init::ASYNC_READ
        | init::BIG_WRITES
        | init::ASYNC_DIO
        | init::PARALLEL_DIROPS
        | init::ABORT_ERROR
        | init::MAX_PAGES
        | init::INIT_EXT
        | init::HAS_RESEND;
    InitAnswer::Agreed(Negotiated {
        minor: minor.min(MINOR),
        flags: offered & wanted,
    })
}

/// Bytes of INIT's result.
pub const INIT_OUT: usize = 64;

/// Writes INIT's result. `max_write` in bytes; `background` requests may wait at the server.
pub fn put_init(to: &mut BytesMut, agreed: &Negotiated, max_write: u32, background: u16) {
    let start = to.len();
    to.put_u32_le(MAJOR);
    to.put_u32_le(agreed.minor);
    to.put_u32_le(0);
    to.put_u32_le(agreed.flags as u32);
    to.put_u16_le(background);
    to.put_u16_le(background / 4 * 3);
    to.put_u32_le(max_write);
    to.put_u32_le(1);
    to.put_u16_le(u16::try_from(max_write / 4096).expect("a request has at most 65535 pages"));
    to.put_u16_le(0);
    to.put_u32_le((agreed.flags >> 32) as u32);
    to.put_bytes(0, INIT_OUT - (to.len() - start));
}

/// What a file or directory looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Its node.
    pub node: u64,
    /// Bytes.
    pub size: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Bytes an I/O should have.
    pub block_size: u32,
}

/// Bytes of attributes.
pub const ATTRIBUTES: usize = 88;

/// Writes attributes.
pub fn put_attributes(to: &mut BytesMut, attributes: &Attributes) {
    to.put_u64_le(attributes.node);
    to.put_u64_le(attributes.size);
    to.put_u64_le(attributes.size / 512);
    // Times: the file's own do not matter to anyone.
    to.put_bytes(0, 3 * 8 + 3 * 4);
    to.put_u32_le(attributes.mode);
    to.put_u32_le(attributes.links);
    to.put_bytes(0, 3 * 4);
    to.put_u32_le(attributes.block_size);
    to.put_u32_le(0);
}

/// Bytes of LOOKUP's result.
pub const ENTRY_OUT: usize = 40 + ATTRIBUTES;

/// For how many seconds the kernel may use what it was told: for ever. Whoever looks at the mount
/// while no server is there must not have to wait for the next one; a new size is fetched by
/// [`crate::LoopDevice::grow`].
const VALID: u64 = u32::MAX as u64;

/// Writes LOOKUP's result.
pub fn put_entry(to: &mut BytesMut, attributes: &Attributes) {
    to.put_u64_le(attributes.node);
    to.put_u64_le(0);
    to.put_u64_le(VALID);
    to.put_u64_le(VALID);
    to.put_bytes(0, 2 * 4);
    put_attributes(to, attributes);
}

/// Bytes of GETATTR's result.
pub const ATTR_OUT: usize = 16 + ATTRIBUTES;

/// Writes GETATTR's result.
pub fn put_attr(to: &mut BytesMut, attributes: &Attributes) {
    to.put_u64_le(VALID);
    to.put_bytes(0, 8);
    put_attributes(to, attributes);
}

/// Bytes of OPEN's result.
pub const OPEN_OUT: usize = 16;

/// Writes OPEN's result.
pub fn put_open(to: &mut BytesMut, flags: u32) {
    to.put_u64_le(0);
    to.put_u32_le(flags);
    to.put_u32_le(0);
}

/// Bytes of WRITE's result.
pub const WRITE_OUT: usize = 8;

/// Writes WRITE's result.
pub fn put_write(to: &mut BytesMut, size: u32) {
    to.put_u32_le(size);
    to.put_u32_le(0);
}

/// Bytes of STATFS's result.
pub const STATFS_OUT: usize = 80;

/// Writes STATFS's result: one file that fills everything.
pub fn put_statfs(to: &mut BytesMut, size: u64) {
    to.put_u64_le(size / 4096);
    to.put_bytes(0, 2 * 8);
    to.put_u64_le(2);
    to.put_u64_le(0);
    to.put_u32_le(4096);
    to.put_u32_le(255);
    to.put_u32_le(4096);
    to.put_bytes(0, 4 + 6 * 4);
}

/// Writes a reply's header; `length` is the result's. `error` is 0 or an errno above 0.
pub fn put_header(to: &mut BytesMut, unique: u64, error: u32, length: usize) {
    to.put_u32_le(u32::try_from(OUT_HEADER + length).expect("replies are short"));
    to.put_i32_le(-i32::try_from(error).expect("errno is small"));
    to.put_u64_le(unique);
}

/// Writes the notification that asks for all unanswered requests again.
pub fn put_resend(to: &mut BytesMut) {
    to.put_u32_le(OUT_HEADER as u32);
    to.put_i32_le(notify::RESEND);
    to.put_u64_le(0);
}

/// The number at `at`; the caller has checked that it is there.
pub fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

/// The number at `at`; the caller has checked that it is there.
pub fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}
