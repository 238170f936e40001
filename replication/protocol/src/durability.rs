//! When a write is durable enough to be acknowledged.

use lockstep_types::{ReplicaId, Sequence};
use std::collections::BTreeSet;

/// The highest sequence that every required replica has durably (R2): never a timeout, never a
/// majority, never the primary's own opinion that a peer is dead.
///
/// # Panics
/// If nothing is required: a primary without a required replica must not be asked.
pub fn is_durable(
    required: &BTreeSet<ReplicaId>,
    acked: impl Fn(ReplicaId) -> Sequence,
) -> Sequence {
    required
        .iter()
        .map(|replica| acked(*replica))
        .min()
        .expect("required is never empty (R11)")
}
