//! Times and bounds.

use lockstep_types::{Nanos, millis, seconds};

/// raft's unit of time, in nanoseconds.
pub const TICK: Nanos = millis(50);
/// The election timeout all voters share: 1 s. For this long after a leader's last word a voter
/// supports no other.
pub(crate) const ELECTION_TICKS: usize = 20;
/// How often a leader speaks: every 200 ms, the longest round trip to a witness.
pub(crate) const HEARTBEAT_TICKS: usize = 4;
/// The first data voter campaigns after 1.1 s: by then the others' timeout is over too, though they
/// may have heard the leader a little later.
const FIRST_CAMPAIGN_TICKS: usize = 22;
/// Data voters spread over this many ticks.
const CAMPAIGN_SPREAD: u64 = 10;

/// Entries behind the newest snapshot before the next one is taken.
pub(crate) const COMPACT_ENTRIES: u64 = 8192;
/// Bytes of entries behind the newest snapshot before the next one is taken.
pub(crate) const COMPACT_BYTES: u64 = 8 << 20;
/// Longest command, in bytes.
pub const MAX_COMMAND: usize = 1 << 20;
/// Entries in one message, in bytes; one entry always goes.
pub(crate) const MAX_MESSAGE: u64 = 1 << 20;
/// What a leader takes in before it is committed, in bytes.
pub(crate) const MAX_UNCOMMITTED: u64 = 16 << 20;
/// Append messages on their way to one follower.
pub(crate) const MAX_INFLIGHT: usize = 64;

/// How long a proposal or a read is waited for, in nanoseconds.
pub const ATTEMPT_TIMEOUT: Nanos = seconds(5);
/// How often a read is asked for again, in nanoseconds.
pub(crate) const READ_AGAIN: Nanos = millis(300);
/// A snapshot that has not arrived by then is sent again, in nanoseconds.
pub(crate) const SNAPSHOT_TIMEOUT: Nanos = seconds(5);
/// How long a log is quiet before it says that all of it has been flushed (R24), in nanoseconds.
pub(crate) const MARK_AFTER: Nanos = seconds(1);
/// How long a witness waits between two attempts to hand leadership over, in nanoseconds.
pub(crate) const HAND_OVER_EVERY: Nanos = seconds(2);

/// What a voter is told at its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Whether it is the witness: it campaigns last, and leads only until a data site's voter can.
    pub witness: bool,
    /// A number no other start of this voter has had.
    pub boot: u64,
}

/// After how many ticks without a leader a voter campaigns. Fixed a node, different between voters
/// whose raft ids are near, and the witness's the largest: raft itself would draw it by chance.
pub(crate) fn campaign_ticks(raft_id: u64, witness: bool) -> usize {
    let last = FIRST_CAMPAIGN_TICKS + CAMPAIGN_SPREAD as usize;
    if witness {
        last
    } else {
        FIRST_CAMPAIGN_TICKS + (raft_id % CAMPAIGN_SPREAD) as usize
    }
}

const _: () =
    assert!(FIRST_CAMPAIGN_TICKS > ELECTION_TICKS && ELECTION_TICKS > 2 * HEARTBEAT_TICKS);
const _: () = assert!(MAX_UNCOMMITTED > MAX_MESSAGE && MAX_MESSAGE >= MAX_COMMAND as u64);
