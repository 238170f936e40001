//! Carrying out a command. Each handler checks first and changes last, so that a refused command
//! has changed nothing.

mod attach;
mod cluster;
mod forced;
mod membership;
mod nodes;
mod notes;
mod replicas;
mod volumes;

use crate::command::{Command, Node, Pool, Proposal, Settings};
use crate::event::{Event, Severity};
use crate::record::{Attachment, Expected, Membership, Volume};
use crate::state::{State, Tombstone, extents};
use crate::{Rejected, policy};
use lockstep_types::{ClusterId, DeviceId, Incarnation, NodeId, ReplicaId, VolumeId};

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Applied {
    /// What was done, or why nothing was.
    pub result: Result<Outcome, Rejected>,
    /// What changed, in order, for the data planes.
    pub changes: Vec<Change>,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "fields are what the variant's words name")]
pub enum Outcome {
    /// As asked for.
    Done,
    /// It was so already.
    Unchanged,
    /// A volume was made, or one of this name and kind exists.
    Volume { id: VolumeId, created: bool },
    /// The volume is published to the node under this attachment, new or old.
    Attached(Attachment),
    /// The membership record as it is now.
    Membership(Box<Membership>),
}

/// A piece of the state that changed, whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "fields are what the variant's words name")]
pub enum Change {
    /// The cluster.
    Cluster {
        id: ClusterId,
        generation: u32,
        version: u32,
        settings: Settings,
    },
    /// A node joined or changed.
    Node(Node),
    /// A node was removed.
    NodeGone(NodeId),
    /// A pool was added or changed.
    Pool(Pool),
    /// A pool was removed.
    PoolGone(DeviceId),
    /// A volume, its membership or its replicas changed. A record with an epoch above the promised
    /// one binds a replica as a request of that epoch would (R3).
    Volume(Box<Volume>),
    /// A volume is gone, and so is all of its data that could be reached.
    VolumeGone(VolumeId),
    /// The node named deletes this life of this replica and says `ReplicaGone` (R18).
    Tombstone(Tombstone),
    /// The data was deleted, or its pool left the cluster.
    TombstoneGone {
        volume: VolumeId,
        replica: ReplicaId,
        incarnation: Incarnation,
    },
    /// A raft id was bound to a node (R20).
    Voter { raft_id: u64, node: NodeId },
    /// A raft id is never used again.
    VoterGone { raft_id: u64 },
}

type Applying = Result<Outcome, Rejected>;

impl State {
    /// Applies the entry at `index`. Deterministic: the same state and proposal give the same state
    /// and answer on every voter.
    ///
    /// # Panics
    /// If `index` is not above the last one applied.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Applied {
        assert!(index > self.applied, "entries are applied once, in order");
        self.applied = index;
        let mut apply = Apply {
            state: self,
            index,
            at_unix_ms: proposal.at_unix_ms,
            changes: Vec::new(),
        };
        let result = apply
            .admit(&proposal.command)
            .and_then(|()| apply.dispatch(&proposal.command));
        let changes = std::mem::take(&mut apply.changes);
        assert!(
            result.is_ok() || changes.is_empty(),
            "a refused command changes nothing"
        );
        Applied { result, changes }
    }
}

/// One command on its way into the state.
struct Apply<'a> {
    state: &'a mut State,
    index: u64,
    at_unix_ms: u64,
    changes: Vec<Change>,
}

impl Apply<'_> {
    /// What holds for every command: there is a cluster, and its version knows the command.
    fn admit(&self, command: &Command) -> Result<(), Rejected> {
        let needed = command.since();
        if needed > self.state.version {
            return Err(Rejected::Version {
                needed,
                active: self.state.version,
            });
        }
        let bootstrap = matches!(command, Command::InitCluster { .. });
        if self.state.cluster.is_none() && !bootstrap {
            Err(Rejected::NoCluster)
        } else {
            Ok(())
        }
    }

    fn dispatch(&mut self, command: &Command) -> Applying {
        match command {
            Command::InitCluster {
                id,
                name,
                ca_certificate,
                sealed_ca_key,
            } => self.init_cluster(*id, name, ca_certificate, sealed_ca_key),
            Command::PutToken {
                id,
                secret_hash,
                expires_unix,
                role,
            } => self.put_token(*id, *secret_hash, *expires_unix, *role),
            Command::UseToken { id, node } => self.use_token(*id, *node),
            Command::SetClusterVersion { version } => self.set_cluster_version(*version),
            Command::SetSettings(settings) => self.set_settings(*settings),
            Command::PutVoter { raft_id, node } => self.put_voter(*raft_id, *node),
            Command::RemoveVoter { raft_id } => self.remove_voter(*raft_id),
            Command::PutNode(node) => self.put_node(node),
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::CordonNode { node, cordoned } => self.cordon_node(*node, *cordoned),
            Command::PutPool(pool) => self.put_pool(pool),
            Command::RemovePool { device } => self.remove_pool(*device),
            Command::RebuildGeneration {
                generation,
                barred_voters,
                operator,
            } => self.rebuild_generation(*generation, barred_voters, operator),
            Command::NoteVoters => self.note_voters(),
            Command::NoteCertificate {
                teller,
                fate,
                whose,
                detail,
            } => self.note_certificate(*teller, *fate, whose, detail),
            _ => self.dispatch_volume(command),
        }
    }

    fn dispatch_volume(&mut self, command: &Command) -> Applying {
        match command {
            Command::CreateVolume { .. } => self.create_volume(command),
            Command::DeleteVolume { volume } => self.delete_volume(*volume),
            Command::ResizeVolume { volume, blocks } => self.resize_volume(*volume, *blocks),
            Command::SetPolicy { volume, policy } => self.set_policy(*volume, policy),
            Command::NoteSequence {
                volume,
                bound,
                stamp,
            } => self.note_sequence(*volume, *bound, *stamp),
            Command::Attach { volume, attachment } => self.attach(*volume, *attachment),
            Command::Detach {
                volume,
                attachment,
                device_gone,
            } => self.detach(*volume, *attachment, *device_gone),
            Command::DeviceGone { volume, attachment } => self.device_gone(*volume, *attachment),
            Command::Promote {
                volume,
                expected,
                node,
                attachment,
                primary_silent,
            } => self.promote(*volume, *expected, *node, *attachment, *primary_silent),
            Command::StepDown {
                volume,
                expected,
                node,
            } => self.step_down(*volume, *expected, *node),
            Command::ChangeInSync {
                volume,
                expected,
                node,
                remove,
                add,
                reason,
            } => self.change_in_sync(*volume, *expected, *node, remove, add, reason),
            Command::SetRepairOnly {
                volume,
                expected,
                node,
                repair_only,
            } => self.set_repair_only(*volume, *expected, *node, *repair_only),
            Command::ForcePromote {
                volume,
                expected,
                replica,
                incarnation,
                may_rejoin,
                operator,
            } => self.force_promote(
                *volume,
                *expected,
                (*replica, *incarnation),
                may_rejoin,
                operator,
            ),
            _ => self.dispatch_replica(command),
        }
    }

    fn dispatch_replica(&mut self, command: &Command) -> Applying {
        match command {
            Command::ReplicaReady {
                volume,
                replica,
                incarnation,
            } => self.replica_ready(*volume, *replica, *incarnation),
            Command::ReplicaGone {
                volume,
                replica,
                incarnation,
            } => self.replica_gone(*volume, *replica, *incarnation),
            Command::AddReplica { volume, replica } => self.add_replica(*volume, replica),
            Command::MoveReplica { volume, from, to } => self.move_replica(*volume, *from, to),
            Command::RemoveReplica {
                volume,
                replica,
                even_below_policy,
            } => self.remove_replica(*volume, *replica, *even_below_policy),
            Command::KeepReplica { volume, replica } => self.keep_replica(*volume, *replica),
            Command::Reincarnate {
                volume,
                replica,
                from,
                to,
            } => self.reincarnate(*volume, *replica, *from, *to),
            Command::DiscardSealed {
                volume,
                replica,
                operator,
            } => self.discard_sealed(*volume, *replica, operator),
            _ => unreachable!("every command is dispatched"),
        }
    }

    /// A copy of a volume to change; one that is being deleted is left alone.
    fn volume(&self, id: VolumeId) -> Result<Volume, Rejected> {
        let volume = self.state.volume(id)?;
        if volume.deleting {
            Err(Rejected::Deleting)
        } else {
            Ok(volume.clone())
        }
    }

    /// The compare of every compare-and-set (R1, R9).
    fn compare(&self, volume: &Volume, expected: Expected) -> Result<(), Rejected> {
        if volume.membership.expected() == expected
            || self.state.broken(crate::mutate::Mutation::CasIgnored)
        {
            return Ok(());
        }
        Err(Rejected::Conflict {
            current: Box::new(volume.membership.clone()),
        })
    }

    /// Stores a changed volume under a new version, carries out removals that have become due, and
    /// keeps the ledger.
    fn put_volume(&mut self, mut volume: Volume) -> Applying {
        volume.membership.version += 1;
        self.let_go(&mut volume);
        volume.assert_valid();
        self.refresh_ledger(&volume);
        let membership = Box::new(volume.membership.clone());
        self.changes.push(Change::Volume(Box::new(volume.clone())));
        self.state.volumes.insert(volume.id, volume);
        Ok(Outcome::Membership(membership))
    }

    /// Turns replicas that are to leave, are out of the in-sync set and are not needed into
    /// tombstones (R18).
    fn let_go(&mut self, volume: &mut Volume) {
        use crate::mutate::Mutation::TombstoneUnasked;
        if volume.deleting || volume.membership.distrusted {
            return;
        }
        let ready = volume.is_ready();
        let due = volume.replicas.iter().filter(|(id, replica)| {
            let out = !volume.membership.in_sync.contains_key(id);
            let enough = ready && policy::holds_without(volume, &self.state.nodes, **id);
            let unasked =
                self.state.broken(TombstoneUnasked) && ready && replica.ready && !replica.leaving;
            let kept = replica.sealed_off;
            out && !kept && (unasked || replica.leaving && (replica.even_below_policy || enough))
        });
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for replica in due {
            self.bury(volume, replica);
        }
    }

    /// Takes a replica out of the record and commits the deletion of its data (R18).
    fn bury(&mut self, volume: &mut Volume, replica: ReplicaId) {
        let held = volume
            .replicas
            .remove(&replica)
            .expect("only recorded replicas are buried");
        volume.membership.in_sync.remove(&replica);
        let tombstone = Tombstone {
            volume: volume.id,
            replica,
            incarnation: held.incarnation,
            node: held.node,
            device: held.device,
            extents: extents(volume.blocks),
        };
        self.state.tombstones.insert(replica, tombstone);
        self.changes.push(Change::Tombstone(tombstone));
    }

    /// Drops a tombstone whose data is gone; the last one of a deleted volume ends the volume.
    fn drop_tombstone(&mut self, replica: ReplicaId) {
        let gone = self
            .state
            .tombstones
            .remove(&replica)
            .expect("the caller found it");
        let Tombstone {
            volume,
            replica,
            incarnation,
            ..
        } = gone;
        self.state.retired.push(replica.as_u128());
        self.changes.push(Change::TombstoneGone {
            volume,
            replica,
            incarnation,
        });
        self.end_deleted(volume);
    }

    /// Forgets a volume that is being deleted once none of its data is left; its id stays used.
    fn end_deleted(&mut self, volume: VolumeId) {
        let deleting = self
            .state
            .volumes
            .get(&volume)
            .is_some_and(|record| record.deleting);
        let left = self
            .state
            .tombstones
            .values()
            .any(|tombstone| tombstone.volume == volume);
        if deleting && !left {
            self.state.volumes.remove(&volume);
            self.state.retired.push(volume.as_u128());
            self.changes.push(Change::VolumeGone(volume));
        }
    }

    /// Brings the ledger in line with a volume's certified copies.
    fn refresh_ledger(&mut self, volume: &Volume) {
        let counts = volume.is_ready() && !volume.deleting && !volume.membership.distrusted;
        let site = if counts {
            policy::exposed_site(volume, &self.state.nodes)
        } else {
            None
        };
        let was = self
            .state
            .ledger
            .open(volume.id)
            .map(|interval| interval.site.clone());
        self.state
            .ledger
            .refresh(volume.id, &volume.name, site, self.index, self.at_unix_ms);
        if was.as_deref() == site {
            return;
        }
        let text = match site {
            Some(site) => format!(
                "volume '{}': acknowledged writes stand in site '{site}' only",
                volume.name
            ),
            None => format!(
                "volume '{}': acknowledged writes stand in every promised site again",
                volume.name
            ),
        };
        let severity = if site.is_some() {
            Severity::Warning
        } else {
            Severity::Info
        };
        self.tell(severity, Some(volume.id), None, text);
    }

    /// Writes an event.
    fn tell(
        &mut self,
        severity: Severity,
        volume: Option<VolumeId>,
        node: Option<NodeId>,
        text: String,
    ) {
        let (index, at_unix_ms) = (self.index, self.at_unix_ms);
        let event = Event {
            index,
            at_unix_ms,
            severity,
            volume,
            node,
            text,
        };
        if severity == Severity::Forced {
            self.state.audit.push(event.clone());
        }
        self.state.events.push(event);
    }

    /// Refuses an id that is or was in use (R18).
    fn fresh(&self, id: u128, living: bool) -> Result<(), Rejected> {
        let broken = self.state.broken(crate::mutate::Mutation::IdReuse);
        if id == 0 || living || (self.state.retired.contains(id) && !broken) {
            return Err(Rejected::IdUsed { id });
        }
        Ok(())
    }
}

/// Refuses text that cannot name something.
fn label(what: &'static str, text: &str) -> Result<(), Rejected> {
    lockstep_placement::check_label(text).map_err(|error| Rejected::Bad {
        what,
        text: error.text,
        why: error.why,
    })
}

/// An operator's name, fit for a message.
fn operator_name(operator: &str) -> String {
    match plain(operator, 100) {
        name if name.is_empty() => "an operator".into(),
        name => name,
    }
}

/// What somebody else wrote, fit for a message: so many printable characters of it.
fn plain(text: &str, most: usize) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(most).collect()
}
