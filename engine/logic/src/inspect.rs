//! A node, looked at from outside: for `explain`, metrics, heartbeats and the simulator's invariants.
//! Nothing is decided by it.

use crate::io::AttachmentState;
use crate::node::Node;
use crate::pool::Condition;
use crate::replicas::Local;
use lockstep_control::candidates::Held;
use lockstep_protocol::{PrimaryStatus, Role};
use lockstep_store::Store;
use lockstep_types::{
    AttachmentId, BlockRange, Cut, DeviceId, EXTENT_BLOCKS, Epoch, Gap, Incarnation, Nanos,
    ReplicaId, Stamp, VolumeId,
};

/// A whole node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Inspection {
    /// Volumes that have a primary here.
    pub volumes: Vec<VolumeInspection>,
    /// Replicas here.
    pub replicas: Vec<ReplicaInspection>,
    /// Pools here.
    pub pools: Vec<PoolInspection>,
    /// Payloads from peers that did not match their checksums.
    pub spoiled: u64,
}

/// A volume with a primary here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VolumeInspection {
    /// The volume.
    pub volume: VolumeId,
    /// What its primary is at.
    pub primary: PrimaryStatus,
    /// The attachment it serves; none for a caretaker.
    pub attachment: Option<AttachmentId>,
    /// What the front-end was told last.
    pub state: Option<AttachmentState>,
}

/// A replica here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaInspection {
    /// The replica.
    pub replica: ReplicaId,
    /// Its volume.
    pub volume: VolumeId,
    /// Its pool.
    pub device: DeviceId,
    /// The highest epoch promised.
    pub promised: Epoch,
    /// The epoch last opened.
    pub opened: Epoch,
    /// Everything up to here is durable without a gap.
    pub durable: Stamp,
    /// The highest floor known.
    pub floor: Stamp,
    /// Its life.
    pub incarnation: Incarnation,
    /// Set while it is being resynced.
    pub cut: Option<Cut>,
    /// What recovery lost of it.
    pub gap: Gap,
    /// Overwritten by a forced promotion.
    pub sealed_off: bool,
    /// Its device failed.
    pub failed: bool,
}

/// A pool here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PoolInspection {
    /// The device.
    pub device: DeviceId,
    /// It is recovered and serves.
    pub ready: bool,
    /// Its device failed with this errno.
    pub failed: Option<i32>,
    /// Data extents that nobody was promised.
    pub free_extents: u32,
    /// Data extents in all.
    pub total_extents: u32,
    /// How full the journal's ring is, in 1/65536.
    pub fill: u32,
}

impl Node {
    /// Everything that is worth looking at.
    pub fn inspect(&self, now: Nanos) -> Inspection {
        Inspection {
            volumes: self.inspect_volumes(now),
            replicas: self
                .replicas
                .keys()
                .filter_map(|id| self.inspect_replica(*id))
                .collect(),
            pools: self.pools().collect(),
            spoiled: self.spoiled,
        }
    }

    /// The pools, for heartbeats.
    pub fn pools(&self) -> impl Iterator<Item = PoolInspection> + '_ {
        self.pools.iter().map(|(device, pool)| PoolInspection {
            device: *device,
            ready: pool.condition == Condition::Ready,
            failed: match pool.condition {
                Condition::Failed(errno) => Some(errno),
                _ => None,
            },
            free_extents: pool.store.free_extents(),
            total_extents: pool.store.total_extents(),
            fill: pool.store.fill(),
        })
    }

    /// What each pool's store is at, in words: for whoever looks for why nothing moves.
    pub fn outline(&self) -> String {
        let pools = self.pools.iter();
        let pools: Vec<String> = pools
            .map(|(device, pool)| format!("{device:?}: {}", pool.store.outline()))
            .collect();
        pools.join("\n")
    }

    /// The copies of a volume here, for a forced recovery.
    pub fn held_copies(&self, volume: VolumeId) -> Vec<Held> {
        let here = self.replicas.iter();
        let here = here.filter(|(_, local)| local.volume == volume);
        let held = |(id, local): (&ReplicaId, &Local)| {
            let meta = local.secondary.meta();
            Held {
                replica: *id,
                incarnation: meta.incarnation,
                last: local.secondary.durable(),
                history: meta.history.clone(),
                gap: meta.gap,
                cut: meta.cut,
                failed: local.secondary.is_failed(),
            }
        };
        here.map(held).collect()
    }

    /// Which blocks of a range hold data, from its start on, as runs of (blocks, whether they do); at
    /// most `limit` of them, so that the last may end early. None where the copy of this node cannot
    /// tell: there is none, it is not certified, the lease has run out (R13), or something is in flight
    /// there (R14). Until a run says "none", a block may hold data.
    pub fn presence(
        &self,
        now: Nanos,
        volume: VolumeId,
        attachment: AttachmentId,
        range: BlockRange,
        limit: usize,
    ) -> Option<Vec<(u32, bool)>> {
        let primary = &self.volumes.get(&volume)?.running.as_ref()?.primary;
        if primary.role() != Role::Attached(attachment) {
            return None; // R12
        }
        let replica = primary.presence_source(now, range)?;
        let store = self.store(self.replicas.get(&replica)?.device)?;
        let mut runs: Vec<(u32, bool)> = Vec::new();
        for index in range.extents() {
            let start = u64::from(index) * EXTENT_BLOCKS;
            let present = store.present_blocks(replica, index);
            for block in start.max(range.start)..(start + EXTENT_BLOCKS).min(range.end()) {
                let holds = present >> (block - start) & 1 == 1;
                let full = runs.len() == limit;
                match runs.last_mut() {
                    Some((count, held)) if *held == holds => *count += 1,
                    _ if full => return Some(runs),
                    _ => runs.push((1, holds)),
                }
            }
        }
        Some(runs)
    }

    /// Scrubs a pool here whole within this time; a week is the default.
    pub fn set_scrub_pass(&mut self, device: DeviceId, pass: Nanos) {
        if let Some(pool) = self.pools.get_mut(&device) {
            pool.scrub_within(pass);
        }
    }

    /// The store of a device of this node, to be looked at.
    pub fn store(&self, device: DeviceId) -> Option<&Store> {
        self.pools.get(&device).map(|pool| &pool.store)
    }

    fn inspect_volumes(&self, now: Nanos) -> Vec<VolumeInspection> {
        let running = self.volumes.iter().filter_map(|(id, state)| {
            let primary = &state.running.as_ref()?.primary;
            let attachment = match primary.role() {
                Role::Attached(attachment) => Some(attachment),
                Role::Caretaker => None,
            };
            Some(VolumeInspection {
                volume: *id,
                primary: primary.status(now),
                attachment,
                state: state.told_state(),
            })
        });
        running.collect()
    }

    fn inspect_replica(&self, replica: ReplicaId) -> Option<ReplicaInspection> {
        let local = self.replicas.get(&replica)?;
        let meta = local.secondary.meta();
        Some(ReplicaInspection {
            replica,
            volume: local.volume,
            device: local.device,
            promised: meta.promised,
            opened: meta.opened,
            durable: local.secondary.durable(),
            floor: meta.floor,
            incarnation: meta.incarnation,
            cut: meta.cut,
            gap: meta.gap,
            sealed_off: meta.sealed_off,
            failed: local.secondary.is_failed(),
        })
    }
}
