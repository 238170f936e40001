//! Replicas on this node's pools: made, found again, reborn after a loss (R4), deleted (R18).

use crate::io::{NodeEvent, Output};
use crate::node::Node;
use crate::pool::Condition;
use crate::proposals::Asker;
use lockstep_control::{Command, Replica, Tombstone};
use lockstep_protocol::mutate::Mutation;
use lockstep_protocol::{Grant, Secondary};
use lockstep_store::{Recovery, StoreError};
use lockstep_types::{
    DeviceId, Gap, Incarnation, Nanos, ReplicaId, ReplicaMeta, Stamp, VolumeId, seconds,
};
use std::collections::{BTreeMap, BTreeSet};

/// Before what failed, or was refused, is tried again.
const AGAIN: Nanos = seconds(1);

/// A replica on a pool of this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Local {
    pub volume: VolumeId,
    pub device: DeviceId,
    pub secondary: Secondary,
    /// What recovery lost of it is durable: until then it says nothing (R24).
    pub answers: bool,
}

/// What is under way with the replicas here.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Jobs {
    /// Replicas that the records place on this node.
    homes: BTreeMap<ReplicaId, VolumeId>,
    /// Those that are not yet as the records say.
    pub unsettled: BTreeSet<ReplicaId>,
    making: BTreeMap<ReplicaId, ReplicaMeta>,
    deleting: BTreeSet<ReplicaId>,
    /// Nothing is tried again before then.
    not_before: BTreeMap<ReplicaId, Nanos>,
}

impl Jobs {
    pub fn any(&self) -> bool {
        !self.unsettled.is_empty()
    }
}

/// What is to be done about a replica.
enum Need {
    Nothing,
    /// Something under way or refused must end first.
    Patience,
    Create(ReplicaMeta),
    Delete(DeviceId),
    Propose(Command),
}

impl Node {
    /// A volume's record was told: its replicas here are to be as it says.
    pub(crate) fn home_replicas(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let Some(state) = self.volumes.get(&volume) else {
            return;
        };
        let (me, replicas) = (self.me, &state.record.replicas);
        let overwritten = replicas
            .iter()
            .filter(|(_, r)| r.node == me && r.sealed_off);
        let overwritten: Vec<ReplicaId> = overwritten.map(|(id, _)| *id).collect();
        self.jobs
            .homes
            .retain(|id, of| *of != volume || replicas.contains_key(id));
        for (id, _) in replicas.iter().filter(|(_, r)| r.node == me) {
            self.jobs.homes.insert(*id, volume);
            self.jobs.unsettled.insert(*id);
        }
        for replica in overwritten {
            self.with_secondary(replica, out, |secondary, _, store, _| {
                secondary.seal_off(store)
            });
        }
        self.settle_replicas(out);
    }

    /// The volume is gone: none of its replicas is recorded.
    pub(crate) fn forget_homes(&mut self, volume: VolumeId) {
        self.jobs.homes.retain(|_, of| *of != volume);
    }

    /// Data to be deleted (R18).
    pub(crate) fn on_tombstone(&mut self, tombstone: Tombstone, out: &mut Vec<Output>) {
        if tombstone.node == self.me {
            self.tombstones.insert(tombstone.replica, tombstone);
            self.jobs.homes.remove(&tombstone.replica);
            self.jobs.unsettled.insert(tombstone.replica);
            self.settle_replicas(out);
        }
    }

    /// Does what can be done now about every replica that is not as recorded.
    pub(crate) fn settle_replicas(&mut self, out: &mut Vec<Output>) {
        if self.stopping.is_some() {
            return;
        }
        for replica in self.jobs.unsettled.iter().copied().collect::<Vec<_>>() {
            match self.need_of(replica) {
                Need::Nothing => {
                    self.jobs.unsettled.remove(&replica);
                }
                Need::Patience => {}
                Need::Create(meta) => self.create(meta),
                Need::Delete(device) => self.delete(device, replica),
                Need::Propose(command) => {
                    self.jobs.not_before.insert(replica, Nanos::MAX);
                    self.propose(Asker::Replica(replica), command, out);
                }
            }
        }
    }

    /// A proposal about a replica ended; as the `first` of this process it says that the records told are
    /// not old ones, and what waited for that waits no longer.
    pub(crate) fn replica_proposal_ended(
        &mut self,
        replica: ReplicaId,
        first: bool,
        out: &mut Vec<Output>,
    ) {
        match first {
            true => self.jobs.not_before.clear(),
            false => {
                self.jobs.not_before.insert(replica, self.now + AGAIN);
            }
        }
        self.settle_replicas(out);
    }

    fn need_of(&self, replica: ReplicaId) -> Need {
        let jobs = &self.jobs;
        let early = jobs
            .not_before
            .get(&replica)
            .is_some_and(|at| self.now < *at);
        if jobs.making.contains_key(&replica) || jobs.deleting.contains(&replica) {
            return Need::Patience;
        }
        let held = self
            .replicas
            .get(&replica)
            .map(|local| local.secondary.meta().incarnation);
        let need = if let Some(tombstone) = self.tombstones.get(&replica) {
            self.need_of_tombstone(tombstone, held)
        } else {
            self.need_of_record(replica, held)
        };
        match need {
            Need::Create(_) | Need::Propose(_) if early => Need::Patience,
            need => need,
        }
    }

    fn is_ready(&self, device: DeviceId) -> bool {
        self.pools
            .get(&device)
            .is_some_and(|pool| pool.condition == Condition::Ready)
    }

    /// R18: deleted on a committed tombstone that names volume, replica and life. A life before the
    /// named one has been ended by the commit that began the named one.
    fn need_of_tombstone(&self, tombstone: &Tombstone, held: Option<Incarnation>) -> Need {
        let Tombstone {
            volume,
            replica,
            incarnation,
            device,
            ..
        } = *tombstone;
        if !self.is_ready(device) {
            return Need::Nothing; // looked at again when it has recovered
        }
        match held {
            None => Need::Propose(Command::ReplicaGone {
                volume,
                replica,
                incarnation,
            }),
            Some(held) if held <= incarnation => Need::Delete(device),
            Some(held) => Need::Propose(Command::Reincarnate {
                volume,
                replica,
                from: incarnation,
                to: held,
            }),
        }
    }

    fn need_of_record(&self, replica: ReplicaId, held: Option<Incarnation>) -> Need {
        let state = self
            .jobs
            .homes
            .get(&replica)
            .and_then(|volume| self.volumes.get(volume));
        let Some(state) = state else {
            let local = self.replicas.get(&replica);
            return match local.filter(|_| self.broken.is(Mutation::R18UnrecordedDeleted)) {
                Some(local) => Need::Delete(local.device),
                None => Need::Nothing,
            };
        };
        let record = &state.record;
        let Some(recorded) = record.replicas.get(&replica) else {
            return Need::Nothing;
        };
        if !self.is_ready(recorded.device) {
            return Need::Nothing; // looked at again when it has recovered
        }
        let volume = record.id;
        let Replica {
            incarnation, ready, ..
        } = *recorded;
        let trusting = self.broken.is(Mutation::R4OldRecordTrusted);
        match held {
            Some(held) if held > incarnation => Need::Nothing, // the record told lags behind
            Some(held) if held == incarnation && ready => Need::Nothing,
            Some(held) if held == incarnation => Need::Propose(Command::ReplicaReady {
                volume,
                replica,
                incarnation,
            }),
            // The commit that began the recorded life has ended the one that is held.
            Some(_) if !ready => Need::Delete(recorded.device),
            // After a start the records are those of the last commit that the log knows of, and an old
            // one says of a life that was lived that it is yet to begin (R4). The answer to a proposal,
            // refused like this one, comes when everything before it was told (decision 0013).
            None if !ready && !self.proposals.current && !trusting => {
                Need::Propose(Command::Reincarnate {
                    volume,
                    replica,
                    from: incarnation,
                    to: incarnation,
                })
            }
            None if !ready || self.broken.is(Mutation::R4IncarnationNotChecked) => Need::Create(
                ReplicaMeta::new(replica, volume, record.lineage, incarnation, record.blocks),
            ),
            // Its data is lost (R4). The sole survivor of its set stops for the operator (R21), and
            // any other leaves the set first, by its primary.
            _ if record.membership.in_sync.contains_key(&replica) || recorded.sealed_off => {
                Need::Nothing
            }
            _ => Need::Propose(Command::Reincarnate {
                volume,
                replica,
                from: incarnation,
                to: incarnation.next(),
            }),
        }
    }

    fn create(&mut self, meta: ReplicaMeta) {
        let device = self
            .jobs
            .homes
            .get(&meta.replica)
            .and_then(|volume| self.volumes.get(volume))
            .and_then(|state| state.record.replicas.get(&meta.replica))
            .map(|recorded| recorded.device)
            .expect("its need comes from the record");
        let pool = self.pools.get_mut(&device).expect("its pool is ready");
        self.jobs.making.insert(meta.replica, meta.clone());
        pool.create(self.now, meta);
    }

    pub(crate) fn replica_created(
        &mut self,
        device: DeviceId,
        replica: ReplicaId,
        result: Result<(), StoreError>,
        out: &mut Vec<Output>,
    ) {
        let meta = self
            .jobs
            .making
            .remove(&replica)
            .expect("it was being made");
        let volume = meta.volume;
        match result {
            Ok(()) => {
                self.house(device, meta, Stamp::ZERO, Grant::never(), true);
                self.answer_early();
                self.review(volume, out);
            }
            Err(error) => {
                self.jobs.not_before.insert(replica, self.now + AGAIN);
                let reason = format!("copy {replica} cannot be made here: {error}");
                out.push(Output::Event(NodeEvent::Waiting { volume, reason }));
            }
        }
        self.settle_replicas(out);
    }

    fn delete(&mut self, device: DeviceId, replica: ReplicaId) {
        self.replicas.remove(&replica);
        self.jobs.deleting.insert(replica);
        let pool = self.pools.get_mut(&device).expect("its pool is ready");
        pool.delete(self.now, replica);
    }

    pub(crate) fn replica_deleted(
        &mut self,
        replica: ReplicaId,
        result: Result<(), StoreError>,
        out: &mut Vec<Output>,
    ) {
        // A device that failed meanwhile says nothing of what is on it any more.
        if result.is_ok() {
            self.jobs.deleting.remove(&replica);
            self.settle_replicas(out);
        }
    }

    /// A pool's replicas are known.
    pub(crate) fn pool_recovered(
        &mut self,
        device: DeviceId,
        recovery: Recovery,
        out: &mut Vec<Output>,
    ) {
        let now = self.now;
        let Recovery {
            replicas,
            torn_batches,
            corrupt,
        } = recovery;
        let pool = self.pools.get(&device).expect("its store spoke");
        let suspect = pool.failed_before && !self.broken.is(Mutation::R24FailureForgotten);
        for mut found in replicas {
            if suspect {
                found.meta.gap = found.meta.gap.max(Gap::Suspect);
            }
            let whole = found.meta.gap == Gap::None;
            if !whole {
                let pool = self.pools.get_mut(&device).expect("its store spoke");
                pool.note_gap(now, &found.meta);
            }
            // R13: what was granted before the start counts as granted now.
            self.house(device, found.meta, found.last, Grant::at_start(now), whole);
        }
        let pool = self.pools.get_mut(&device).expect("its store spoke");
        pool.condition = Condition::Ready;
        pool.scrub_within(self.timings.scrub_pass);
        out.push(Output::Event(NodeEvent::PoolReady {
            device,
            torn_batches,
            corrupt,
        }));
        self.tell_failure_noted(device, out);
        let homes = self.jobs.homes.keys().chain(self.tombstones.keys());
        self.jobs.unsettled.extend(homes.copied());
        if self.broken.is(Mutation::R18UnrecordedDeleted) {
            self.jobs.unsettled.extend(self.replicas.keys());
        }
        self.settle_replicas(out);
        self.answer_early();
        self.review_all(out);
    }

    pub(crate) fn gap_noted(
        &mut self,
        replica: ReplicaId,
        result: Result<(), StoreError>,
        out: &mut Vec<Output>,
    ) {
        let Some(local) = self.replicas.get_mut(&replica) else {
            return;
        };
        local.answers = true;
        let device = local.device;
        match result {
            Ok(()) => self.tell_failure_noted(device, out),
            Err(_) => self.with_secondary(replica, out, |secondary, _, _, replies| {
                secondary.fail(replies);
            }),
        }
        self.answer_early();
    }

    /// Once every replica of a device that failed in an earlier life durably says so itself, whoever
    /// remembered it may forget it.
    fn tell_failure_noted(&mut self, device: DeviceId, out: &mut Vec<Output>) {
        let pool = self.pools.get_mut(&device).expect("a pool of ours");
        let served = pool.condition == Condition::Ready;
        if served && pool.failed_before && !pool.notes_gaps() {
            pool.failed_before = false;
            out.push(Output::Event(NodeEvent::FailureNoted { device }));
        }
    }

    fn house(
        &mut self,
        device: DeviceId,
        meta: ReplicaMeta,
        last: Stamp,
        grant: Grant,
        answers: bool,
    ) {
        let (replica, volume) = (meta.replica, meta.volume);
        let secondary = Secondary::new(meta, last, grant, self.timings.clone(), self.broken);
        let local = Local {
            volume,
            device,
            secondary,
            answers,
        };
        let before = self.replicas.insert(replica, local);
        assert!(before.is_none(), "replica {replica} stands on two pools");
    }
}
