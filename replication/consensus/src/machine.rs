//! What the log drives.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::io::Member;

/// A deterministic state machine: daemon and simulator drive the same one the same way.
///
/// [`restore`](Self::restore) comes first, with the genesis or a later snapshot; then commands in the
/// order of their indexes, each once in one life of the machine.
pub trait StateMachine {
    /// Applies a command and says what came of it. The answer goes to whoever proposed it, on the node
    /// where that was; every other node drops it.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// Takes note of who votes from the entry at `index` on: of a joint configuration both halves. In
    /// log order with [`apply`](Self::apply), so that what is derived from it is the same everywhere.
    fn reconfigured(&mut self, _index: u64, _voting: &BTreeSet<u64>) {}

    /// All of the state, as bytes that [`restore`](Self::restore) reads.
    fn snapshot(&self) -> Bytes;

    /// Replaces all of the state.
    fn restore(&mut self, snapshot: &[u8]);

    /// Who is behind which raft id, as the state has it now.
    fn members(&self) -> Vec<Member>;
}
