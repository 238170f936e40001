//! What a secondary asks of the store that holds its replica.

use lockstep_types::{
    BlockRange, Checksums, ExtentIndex, Record, RecordKind, ReplicaMeta, Sequence, Stamp,
};
use lockstep_wire::TailEntry;

/// What a secondary needs of the store that holds its replica. Calls that end later return a tag,
/// which comes back through `Secondary::on_…`.
pub trait ReplicaStore {
    /// Journals a record; `on_durable` follows.
    fn append(&mut self, record: Record, floor: Stamp, charged: bool);
    /// Journals content that was read elsewhere at a stamp; `on_copied` follows.
    fn copy(
        &mut self,
        read_at: Stamp,
        kind: RecordKind,
        range: BlockRange,
        checksums: Checksums,
        payload: bytes::Bytes,
    ) -> u64;
    /// Makes the metadata durable; `on_done` follows.
    fn put_meta(&mut self, meta: &ReplicaMeta) -> u64;
    /// Voids every record above a sequence; `on_done` follows.
    fn void_above(&mut self, sequence: Sequence) -> u64;
    /// Reads blocks; `on_read` follows.
    fn read(&mut self, range: BlockRange) -> u64;
    /// Reads a journaled record; `on_record` follows.
    fn read_record(&mut self, stamp: Stamp) -> u64;
    /// Reads an extent's checksums; `on_sums` follows.
    fn extent_sums(&mut self, index: ExtentIndex) -> u64;
    /// Records above a sequence, oldest first.
    fn tail(&self, above: Sequence) -> Vec<TailEntry>;
    /// Extents with anything newer, from an index on, and where to go on.
    fn extents_newer(
        &self,
        than: Sequence,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>);
    /// Extents present, from an index on, and where to go on.
    fn extents_present(
        &self,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>);
    /// The newest sequence that touched an extent; zero if none did.
    fn extent_newest(&self, index: ExtentIndex) -> Sequence;
    /// Raises the limit of destaging.
    fn set_floor(&mut self, floor: Stamp);
    /// Reserves extents for this replica; how many were granted.
    fn reserve(&mut self, extents: u32) -> u32;
    /// Gives every reservation of this replica back.
    fn release_reservations(&mut self);
}
