//! One pool: its store, whose answer each tag is, and a replica's access to it.

use lockstep_protocol::ReplicaStore;
use lockstep_store::{AppendContext, OpenOptions, Outputs, Store};
use lockstep_types::{
    BlockRange, Checksums, EXTENT, ExtentIndex, Nanos, Record, RecordKind, ReplicaId, ReplicaMeta,
    SECOND, Sequence, Stamp,
};
use lockstep_wire::TailEntry;
use std::collections::BTreeMap;

/// Extents listed in one answer.
const LISTED: usize = 4096;

/// Whose an answer of the store is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Owner {
    /// Its secondary asked.
    Replica(ReplicaId),
    /// The replica is being made.
    Created(ReplicaId),
    /// Its data is being deleted.
    Deleted(ReplicaId),
    /// That it has a gap is being made durable (R24).
    GapNoted(ReplicaId),
}

/// What a pool is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Condition {
    /// Its replicas are not known yet.
    Recovering,
    /// It serves.
    Ready,
    /// Its device failed with this errno.
    Failed(i32),
}

/// One device's store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pool {
    pub store: Store,
    pub condition: Condition,
    /// Its device failed in an earlier life, and not every replica on it durably says so yet.
    pub failed_before: bool,
    /// What the store pushed and nobody has looked at yet.
    pub outputs: Outputs,
    owners: BTreeMap<u64, Owner>,
    last_tag: u64,
}

impl Pool {
    pub fn new(options: OpenOptions, failed_before: bool) -> Self {
        Self {
            store: Store::open(options),
            condition: Condition::Recovering,
            failed_before,
            outputs: Outputs::new(),
            owners: BTreeMap::new(),
            last_tag: 0,
        }
    }

    /// A new tag for a question of this owner.
    pub fn tag(&mut self, owner: Owner) -> u64 {
        self.last_tag += 1;
        self.owners.insert(self.last_tag, owner);
        self.last_tag
    }

    /// Whose the answer is; each is given once.
    pub fn owner_of(&mut self, tag: u64) -> Owner {
        self.owners
            .remove(&tag)
            .expect("a store answers each tag once")
    }

    /// Scrubs all of it once in this time.
    pub fn scrub_within(&mut self, pass: Nanos) {
        let bytes = u64::from(self.store.total_extents()) * EXTENT as u64;
        let rate = bytes / (pass / SECOND).max(1);
        self.store.set_scrub_rate(rate.max(1));
    }

    /// Access to one replica.
    pub fn access(&mut self, replica: ReplicaId, now: Nanos) -> Access<'_> {
        Access {
            pool: self,
            replica,
            now,
        }
    }

    pub fn create(&mut self, now: Nanos, meta: ReplicaMeta) {
        let tag = self.tag(Owner::Created(meta.replica));
        self.store.create_replica(now, meta, tag, &mut self.outputs);
    }

    pub fn delete(&mut self, now: Nanos, replica: ReplicaId) {
        let tag = self.tag(Owner::Deleted(replica));
        self.store
            .delete_replica(now, replica, tag, &mut self.outputs);
    }

    /// Whether some replica's gap is not durable yet.
    pub fn notes_gaps(&self) -> bool {
        let mut owners = self.owners.values();
        owners.any(|owner| matches!(owner, Owner::GapNoted(_)))
    }

    pub fn note_gap(&mut self, now: Nanos, meta: &ReplicaMeta) {
        let tag = self.tag(Owner::GapNoted(meta.replica));
        self.store.put_meta(now, meta, tag, &mut self.outputs);
    }
}

/// The store as the secondary of one replica sees it.
pub(crate) struct Access<'a> {
    pool: &'a mut Pool,
    replica: ReplicaId,
    now: Nanos,
}

impl Access<'_> {
    fn tag(&mut self) -> u64 {
        self.pool.tag(Owner::Replica(self.replica))
    }
}

impl ReplicaStore for Access<'_> {
    fn append(&mut self, record: Record, floor: Stamp, charged: bool) {
        let context = AppendContext {
            floor,
            charged,
            now: self.now,
        };
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.append(self.replica, record, context, outputs);
    }

    fn copy(
        &mut self,
        read_at: Stamp,
        kind: RecordKind,
        range: BlockRange,
        checksums: Checksums,
        payload: bytes::Bytes,
    ) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.copy(
            self.now,
            tag,
            self.replica,
            read_at,
            kind,
            range,
            checksums,
            payload,
            outputs,
        );
        tag
    }

    fn put_meta(&mut self, meta: &ReplicaMeta) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.put_meta(self.now, meta, tag, outputs);
        tag
    }

    fn void_above(&mut self, sequence: Sequence) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.void_above(self.now, self.replica, sequence, tag, outputs);
        tag
    }

    fn read(&mut self, range: BlockRange) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.read(self.now, tag, self.replica, range, outputs);
        tag
    }

    fn read_record(&mut self, stamp: Stamp) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.read_record(self.now, tag, self.replica, stamp, outputs);
        tag
    }

    fn extent_sums(&mut self, index: ExtentIndex) -> u64 {
        let tag = self.tag();
        let Pool { store, outputs, .. } = &mut *self.pool;
        store.extent_sums(self.now, tag, self.replica, index, outputs);
        tag
    }

    fn tail(&self, above: Sequence) -> Vec<TailEntry> {
        let tail = self.pool.store.tail(self.replica, above).into_iter();
        tail.map(|record| TailEntry {
            stamp: record.stamp,
            kind: record.kind,
            range: record.range,
            checksums: record.checksums,
        })
        .collect()
    }

    fn extents_newer(
        &self,
        than: Sequence,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        and_next(
            self.pool
                .store
                .extents_newer(self.replica, than, from, LISTED),
        )
    }

    fn extents_present(
        &self,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        and_next(self.pool.store.extents_present(self.replica, from, LISTED))
    }

    fn extent_newest(&self, index: ExtentIndex) -> Sequence {
        self.pool.store.extent_newest(self.replica, index)
    }

    fn set_floor(&mut self, floor: Stamp) {
        self.pool.store.set_floor(self.replica, floor);
    }

    fn reserve(&mut self, extents: u32) -> u32 {
        self.pool.store.reserve(self.replica, extents)
    }

    fn release_reservations(&mut self) {
        self.pool.store.release_reservations(self.replica);
    }
}

/// A list, and where to go on if it may not be all.
fn and_next(
    list: Vec<(ExtentIndex, Sequence)>,
) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
    let next = match list.last() {
        Some((last, _)) if list.len() == LISTED => last.checked_add(1),
        _ => None,
    };
    (list, next)
}
