//! Records: what a batch is made of.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind |
//! | 1 | 3 | zero |
//! | 4 | 4 | length of the body |
//! | 8 | length | body |
//!
//! | kind | body |
//! |---|---|
//! | 1 entry | index u64, term u64, raft's entry type u32, context length u32, context, data |
//! | 2 hard state | term u64, vote u64, commit u64 |
//! | 3 truncate | from u64: entries from this index on are void |
//! | 4 compacted | index u64, term u64: the snapshot there is durable, entries up to it are not needed |
//! | 5 installed | index u64, term u64: the leader's snapshot there is durable and replaces the log |
//! | 6 mark | nothing: every batch before this one has been flushed |
//! | 7 checkpoint | term, vote, commit, base index, base term, last index, last term; u64 each |
//!
//! A checkpoint is the first record of every segment, and nowhere else: what the log amounted to
//! when the segment was begun, so that older segments can go.

use bytes::{BufMut, Bytes, BytesMut};
use raft_proto::eraftpb::{Entry, HardState};

use super::le;

const HEADER: usize = 8;
const ENTRY_HEADER: usize = 24;

/// One record.
#[derive(Clone, PartialEq, Debug)]
pub enum LogRecord {
    /// An entry.
    Entry(Entry),
    /// Term, vote and commit index.
    HardState(HardState),
    /// Entries from this index on are void.
    Truncate {
        /// The first void index.
        from: u64,
    },
    /// The snapshot at this index is durable; entries up to it are not needed.
    Compacted(Position),
    /// The leader's snapshot at this index is durable and replaces the whole log.
    Installed(Position),
    /// Every batch before this one has been flushed.
    Mark,
    /// What the log amounts to at the start of a segment.
    Checkpoint(Checkpoint),
}

/// An index with its term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// The index.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
}

/// What a log amounts to: its hard state, its snapshot and its last entry.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checkpoint {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The newest durable snapshot; index 0 if there is none.
    pub base: Position,
    /// The last entry; the base if there is none behind it.
    pub last: Position,
}

impl LogRecord {
    /// Appends the encoded record.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(&[self.kind(), 0, 0, 0, 0, 0, 0, 0]);
        match self {
            Self::Entry(entry) => {
                out.put_u64_le(entry.index);
                out.put_u64_le(entry.term);
                out.put_u32_le(entry.entry_type as u32);
                out.put_u32_le(
                    u32::try_from(entry.context.len())
                        .expect("raft limits an entry to far below 4 GiB"),
                );
                out.put_slice(&entry.context);
                out.put_slice(&entry.data);
            }
            Self::HardState(state) => put_hard_state(out, state),
            Self::Truncate { from } => out.put_u64_le(*from),
            Self::Compacted(position) | Self::Installed(position) => put_position(out, *position),
            Self::Mark => {}
            Self::Checkpoint(checkpoint) => {
                put_hard_state(out, &checkpoint.hard_state);
                put_position(out, checkpoint.base);
                put_position(out, checkpoint.last);
            }
        }
        let length = u32::try_from(out.len() - start - HEADER)
            .expect("raft limits an entry to far below 4 GiB");
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes the first record off `bytes`; `None` if it is none.
    pub(super) fn decode(bytes: &mut Bytes) -> Option<Self> {
        if bytes.len() < HEADER || bytes[1..4] != [0; 3] {
            return None;
        }
        let kind = bytes[0];
        let length = le::u32(bytes, 4) as usize;
        if bytes.len() - HEADER < length {
            return None;
        }
        let body = bytes.slice(HEADER..HEADER + length);
        *bytes = bytes.slice(HEADER + length..);
        match (kind, length) {
            (1, ENTRY_HEADER..) => decode_entry(&body).map(Self::Entry),
            (2, 24) => Some(Self::HardState(hard_state(&body, 0))),
            (3, 8) => Some(Self::Truncate {
                from: le::u64(&body, 0),
            }),
            (4, 16) => position(&body, 0).map(Self::Compacted),
            (5, 16) => position(&body, 0).map(Self::Installed),
            (6, 0) => Some(Self::Mark),
            (7, 56) => Some(Self::Checkpoint(Checkpoint {
                hard_state: hard_state(&body, 0),
                base: position(&body, 24)?,
                last: position(&body, 40)?,
            })),
            _ => None,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => 1,
            Self::HardState(_) => 2,
            Self::Truncate { .. } => 3,
            Self::Compacted(_) => 4,
            Self::Installed(_) => 5,
            Self::Mark => 6,
            Self::Checkpoint(_) => 7,
        }
    }
}

fn decode_entry(body: &Bytes) -> Option<Entry> {
    let context = le::u32(body, 20) as usize;
    if body.len() - ENTRY_HEADER < context {
        return None;
    }
    Some(Entry {
        index: index(body, 0)?,
        term: le::u64(body, 8),
        entry_type: le::u32(body, 16) as i32,
        context: body.slice(ENTRY_HEADER..ENTRY_HEADER + context),
        data: body.slice(ENTRY_HEADER + context..),
        sync_log: false,
    })
}

fn put_hard_state(out: &mut BytesMut, state: &HardState) {
    out.put_u64_le(state.term);
    out.put_u64_le(state.vote);
    out.put_u64_le(state.commit);
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_u64_le(position.index);
    out.put_u64_le(position.term);
}

fn hard_state(body: &[u8], at: usize) -> HardState {
    HardState {
        term: le::u64(body, at),
        vote: le::u64(body, at + 8),
        commit: le::u64(body, at + 16),
    }
}

fn position(body: &[u8], at: usize) -> Option<Position> {
    Some(Position {
        index: index(body, at)?,
        term: le::u64(body, at + 8),
    })
}

/// An index that another one can follow: no log gets to the last there is.
fn index(body: &[u8], at: usize) -> Option<u64> {
    Some(le::u64(body, at)).filter(|index| *index < u64::MAX)
}
