//! What must hold after every step. One invariant a file; [`TABLE`] says what each is and when it is
//! looked at.
//!
//! | | file |
//! |---|---|
//! | V1 | `v01_required` |
//! | V2 | `v02_durable` |
//! | V3 | `v03_old_epoch` |
//! | V4 | `v04_lease` |
//! | V5 | `v05_linearizable`, `v05_overlap` |
//! | V6 | `v06_identical` |
//! | V7 | `v07_monotone` |
//! | V8 | none yet: there are no snapshots |
//! | V9 | `v09_resync` |
//! | V10 | `v10_bounds` |
//! | V11 | `v11_served` |

mod v01_required;
mod v02_durable;
mod v03_old_epoch;
mod v04_lease;
pub mod v05_linearizable;
mod v05_overlap;
mod v06_identical;
mod v07_monotone;
mod v09_resync;
mod v10_bounds;
mod v11_served;

pub(crate) use v06_identical::unreadable_blocks;

use crate::net::NodeIndex;
use crate::world::World;
use crate::world::plan::FaultKind;
use lockstep_control::{Applied, Change, Proposal};
use lockstep_types::{AttachmentId, Epoch, VolumeId};
use lockstep_wire::Message;
use std::collections::BTreeMap;

/// An invariant, and where it is checked.
#[derive(Debug)]
pub struct Invariant {
    /// V1 to V11.
    pub name: &'static str,
    /// What must hold.
    pub about: &'static str,
    /// When it is looked at.
    pub when: &'static str,
}

/// All of them.
pub const TABLE: &[Invariant] = &[
    Invariant {
        name: "V1",
        about: "the committed in-sync set is a subset of what the primary waits for",
        when: "each step of a node",
    },
    Invariant {
        name: "V2",
        about: "every acknowledged write is durable on every committed in-sync member",
        when: "each answer, and each change of the record",
    },
    Invariant {
        name: "V3",
        about: "no ack and no read under an epoch after a newer one has opened",
        when: "each answer",
    },
    Invariant {
        name: "V4",
        about: "at most one node holds the lease of a volume",
        when: "each answer, and every quarter second",
    },
    Invariant {
        name: "V5",
        about: "each block is linearizable",
        when: "each answer",
    },
    Invariant {
        name: "V6",
        about: "in-sync members are the same byte for byte",
        when: "at quiescence",
    },
    Invariant {
        name: "V7",
        about: "epochs, promises and incarnations never go back",
        when: "each commit, each step of a node",
    },
    Invariant {
        name: "V8",
        about: "a snapshot is the exact cut, the same on all replicas",
        when: "not yet: the format has layers, and nothing makes snapshots",
    },
    Invariant {
        name: "V9",
        about: "a resync never overwrites a newer version",
        when: "each copy that a replica takes",
    },
    Invariant {
        name: "V10",
        about: "queues and windows stay inside their bounds",
        when: "each step of a node",
    },
    Invariant {
        name: "V11",
        about: "once faults stop, everything is served",
        when: "the end, driven by world/liveness.rs",
    },
];

/// What the checks remember.
#[derive(Default)]
pub struct Checks {
    /// The step at which faults stopped.
    pub faults_stopped_at: u64,
    /// The last entry applied then.
    pub applied_when_faults_stopped: u64,
    /// What volumes said they wait for.
    pub waiting: BTreeMap<VolumeId, String>,
    pub(crate) epochs: v03_old_epoch::Epochs,
    pub(crate) monotone: v07_monotone::Monotone,
    pub(crate) durable: v02_durable::Durable,
    pub(crate) promises: v07_monotone::Promises,
    pub(crate) resync: v09_resync::Resync,
    pub(crate) overlap: v05_overlap::Overlap,
    attached_in: BTreeMap<(NodeIndex, VolumeId), u64>,
}

impl Checks {
    /// A process ended.
    pub fn process_gone(&mut self, node: NodeIndex) {
        self.epochs.process_gone(node);
        self.promises.process_gone(node);
        self.durable.process_gone(node);
        self.attached_in.retain(|(whose, _), _| *whose != node);
    }

    /// A primary closed.
    pub fn closed(&mut self, node: NodeIndex, volume: VolumeId) {
        self.epochs.closed(node, volume);
    }

    /// Whether a node may answer for a volume now (V3).
    pub fn epoch_of_answer(&self, node: NodeIndex, volume: VolumeId) -> Result<(), String> {
        self.epochs.answered(node, volume)
    }

    /// The boot in which the device was last handed to the daemon.
    pub fn attached_in(&self, node: NodeIndex, volume: VolumeId) -> Option<u64> {
        self.attached_in.get(&(node, volume)).copied()
    }

    /// It was handed to the daemon of this boot.
    pub fn attach_asked(&mut self, node: NodeIndex, volume: VolumeId, boot: u64) {
        self.attached_in.insert((node, volume), boot);
    }
}

impl World {
    /// A primary says that it has opened an epoch.
    pub(crate) fn opened(&mut self, node: NodeIndex, volume: VolumeId, epoch: Epoch) {
        self.checks.waiting.remove(&volume);
        if let Err(why) = self.checks.epochs.opened(node, volume, epoch) {
            self.fail("V3", why);
        }
    }

    /// A client was answered well.
    pub(crate) fn acknowledged(
        &mut self,
        node: NodeIndex,
        volume: VolumeId,
        _attachment: AttachmentId,
        write: bool,
    ) {
        let local = self.clock(node).local(self.now());
        let seen = self.nodes[node].data().map(|data| data.inspect(local));
        for here in seen.iter().flat_map(|seen| &seen.volumes) {
            let upto = here.primary.completed;
            self.checks.overlap.answered(node, here.volume, upto);
        }
        let name = self.name(node);
        let verdicts = [
            ("V3", self.checks.epochs.answered(node, volume)),
            ("V4", v04_lease::only_holder(self, node, volume)),
            (
                "V2",
                if write {
                    v02_durable::everywhere(self, node, volume)
                } else {
                    Ok(())
                },
            ),
        ];
        for (what, verdict) in verdicts {
            if let Err(why) = verdict {
                self.fail(what, format!("{name}: {why}"));
            }
        }
    }

    /// A node says something to another.
    pub(crate) fn check_said(&mut self, node: NodeIndex, message: &Message) {
        let verdicts = [
            ("V5", self.checks.overlap.said(node, message)),
            ("V9", self.checks.resync.said(message)),
        ];
        for (what, verdict) in verdicts {
            if let Err(why) = verdict {
                let name = self.name(node);
                self.fail(what, format!("{name}: {why}"));
            }
        }
    }

    /// A node has made a step.
    pub(crate) fn check_node(&mut self, node: NodeIndex) {
        let local = self.clock(node).local(self.now());
        let Some(seen) = self.nodes[node].data().map(|data| data.inspect(local)) else {
            return;
        };
        let liar = self.plan.liar == Some(node);
        let rots = self.plan.every(FaultKind::Corruption).is_some();
        // A script lays hands on devices itself.
        let harmed = liar || self.plan.over_budget || rots && node == self.plan.victim;
        let sound = !harmed && !self.is_scripted();
        let state = &self.committed.state;
        let durable = self.checks.durable.note(node, &seen, state, sound);
        let verdicts = [
            ("V2", durable),
            ("V1", v01_required::subset(&self.committed.state, &seen)),
            // What a liar promised is lost with the rest.
            (
                "V7",
                match liar {
                    true => Ok(()),
                    false => self.checks.promises.never_back(node, &seen),
                },
            ),
            ("V10", v10_bounds::inside(&seen)),
            ("V10", v10_bounds::devices(&self.nodes[node].disks)),
        ];
        for (what, verdict) in verdicts {
            if let Err(why) = verdict {
                let name = self.name(node);
                self.fail(what, format!("{name}: {why}"));
            }
        }
    }

    /// A look at everything.
    pub(crate) fn check_everything(&mut self) {
        if let Err(why) = v04_lease::at_most_one(self) {
            self.fail("V4", why);
        }
    }

    /// An entry was committed and applied.
    pub(crate) fn check_committed(&mut self, proposal: &Proposal, applied: &Applied) {
        if let Err(why) = self.checks.monotone.committed(applied) {
            self.fail("V7", why);
        }
        if let Err(why) = self.check_survivors(proposal, applied) {
            self.fail("R21", why);
        }
        if let Err(why) = self.check_cordons(applied) {
            self.fail("cordon", why);
        }
        for change in &applied.changes {
            if let Change::Volume(volume) = change
                && let Err(why) = v02_durable::on_the_certified(self, volume)
            {
                self.fail("V2", why);
            }
        }
    }

    /// Nothing is under way any more.
    pub(crate) fn check_quiescence(&mut self) {
        if let Err(why) = v06_identical::members(self) {
            self.fail("V6", why);
        }
    }
}
