//! Bits rot under cold blocks that nobody reads, once faults have stopped and everything is served: scrub
//! must find them, and repair them from another certified copy, with no read of a client's to help it.

use super::World;
use super::plan::FaultKind;
use crate::invariants::unreadable_blocks;
use crate::net::NodeIndex;
use lockstep_types::{BLOCK, Incarnation, Nanos, ReplicaId, SECOND, VolumeId};

/// Passes after which everything must be whole: what was met before it had a primary to tell, or when
/// no more repairs could wait, is met again.
const PASSES: u64 = 4;
/// Pages that rot, at most.
const MOST: u64 = 24;

/// A certified copy on the device that rots.
#[derive(Clone, Copy, Debug)]
struct Cold {
    volume: VolumeId,
    replica: ReplicaId,
    life: Incarnation,
    blocks: u64,
}

impl World {
    /// Rots what stands on one device, and waits until scrub has repaired it.
    pub(super) fn rot_cold_blocks(&mut self) {
        let Some(pass) = self.plan.scrub_pass else {
            return;
        };
        let Some(node) = self.may_rot_cold() else {
            return;
        };
        let copies = self.certified_on(node);
        self.rot_pages(node);
        let struck = self.rotten(node, &copies);
        let name = self.name(node);
        self.say(
            "chaos",
            format_args!("{struck} blocks on {name} are rotten: {copies:x?}"),
        );
        self.scrub_is_due = true;
        let left = self.until_scrubbed(node, &copies, pass);
        self.scrub_is_due = false;
        if left > 0 {
            let why = format!("{left} rotten blocks on {name} after {PASSES} passes");
            self.fail("scrub", why);
        } else if struck > 0 && self.failure.is_none() {
            self.coverage.hit("fault: rot under cold blocks");
            self.coverage.hit("scrub: everything repaired");
        }
    }

    /// What is rotten yet when everything has been repaired, or should have been.
    ///
    /// At least half a pass goes by: what struck a destaged page that no delta speaks of yet shows when one does
    /// (world seed 1816454).
    fn until_scrubbed(&mut self, node: NodeIndex, copies: &[Cold], pass: Nanos) -> usize {
        let deadline = self.now() + PASSES * pass + 10 * SECOND;
        loop {
            self.run_until(self.now() + pass / 2);
            let left = self.rotten(node, copies);
            if left == 0 || self.failure.is_some() || self.now() >= deadline {
                return left;
            }
        }
    }

    /// A device whose every block can be had elsewhere, in a world that wants for nothing.
    fn may_rot_cold(&mut self) -> Option<NodeIndex> {
        let node = self.any_data_node();
        let now = self.now();
        let rots = self.plan.over_budget || self.plan.every(FaultKind::Corruption).is_some();
        let waits = self.clients.volumes.keys().any(|v| self.may_wait(*v));
        let dead = self.nodes[node].disks.iter().any(|d| d.disk.is_dead(now));
        let calm = !rots && !waits && !dead && self.nodes[node].runs();
        let certified = self.certified_on(node).len();
        // A copy that is certified only after its pages rotted would be a surprise later (world seed 900620).
        let all = certified > 0 && certified == self.copies_on(node);
        (calm && all && self.others_hold(node)).then_some(node)
    }

    fn copies_on(&self, node: NodeIndex) -> usize {
        let whose = self.nodes[node].id;
        let volumes = self.committed.state.volumes.values();
        let copies = volumes.flat_map(|volume| volume.replicas.values());
        copies.filter(|copy| copy.node == whose).count()
    }

    /// Certified copies there that took a write since the process began: one that has heard no append of
    /// the open epoch knows no primary to tell, and waits for one.
    fn certified_on(&self, node: NodeIndex) -> Vec<Cold> {
        let whose = self.nodes[node].id;
        let process = self.nodes[node].process.as_ref();
        let since = process.map_or(Nanos::MAX, |process| process.started);
        let wrote = |volume: &VolumeId| {
            let client = self.clients.volumes.get(volume);
            client.is_some_and(|client| client.written > since)
        };
        let volumes = self.committed.state.volumes.values();
        let volumes = volumes.filter(|volume| wrote(&volume.id));
        let copies = volumes.flat_map(|volume| {
            let members = volume.membership.in_sync.iter();
            let here = members.filter(|(id, _)| volume.replicas[*id].node == whose);
            here.map(|(replica, life)| Cold {
                volume: volume.id,
                replica: *replica,
                life: *life,
                blocks: volume.blocks,
            })
        });
        copies.collect()
    }

    /// Bits of some pages that were written turn over.
    fn rot_pages(&mut self, node: NodeIndex) {
        let mut pages = Vec::new();
        for (slot, disk) in self.nodes[node].disks.iter().enumerate() {
            let all = super::node::DATA_FROM / BLOCK as u64..disk.disk.bytes() / BLOCK as u64;
            let written = all.filter(|page| disk.disk.media().is_written(*page));
            pages.extend(written.map(|page| (slot, page)));
        }
        if pages.is_empty() {
            return;
        }
        for _ in 0..self.dice.between(1, MOST) {
            let (slot, page) = *self.dice.pick(&pages);
            let media = self.nodes[node].disks[slot].disk.media_mut();
            media.rot(&mut self.dice, page);
            let at = page * BLOCK as u64;
            self.say_node(node, format_args!("bits rot at {at:#x}"));
        }
    }

    /// Blocks of these copies that cannot be read now, of those that are still certified.
    fn rotten(&self, node: NodeIndex, copies: &[Cold]) -> usize {
        let certified = |copy: &&Cold| {
            let record = self.committed.state.volumes.get(&copy.volume);
            record.is_some_and(|r| r.membership.in_sync.get(&copy.replica) == Some(&copy.life))
        };
        let disks = &self.nodes[node].disks;
        let bad = copies.iter().filter(certified).map(|copy| {
            let of =
                |disk: &super::SimDisk| unreadable_blocks(&disk.disk, copy.replica, copy.blocks);
            disks.iter().map(of).sum::<usize>()
        });
        bad.sum()
    }
}
