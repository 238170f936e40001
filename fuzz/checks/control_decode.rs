//! Any bytes at all, as a voter finds them in its log and in its snapshots: they are refused, or they
//! mean something, and that is written and read back as the same. Compiled into the fuzz target of this
//! name and into a property test of `replication/control`.

use lockstep_control::{decode_proposal, decode_snapshot, encode_proposal, encode_snapshot};

/// Checks `data` as a proposal and as a snapshot.
pub fn check(data: &[u8]) {
    if let Ok(proposal) = decode_proposal(data) {
        let again = encode_proposal(&proposal);
        assert_eq!(decode_proposal(&again), Ok(proposal));
    }
    if let Ok(state) = decode_snapshot(data) {
        let again = encode_snapshot(&state);
        assert_eq!(decode_snapshot(&again), Ok(state));
    }
}
