//! Worlds that follow a script instead of dice: who does what when, and what must be so by then.

use crate::disk::Disk;
use crate::net::{NetFaults, NodeIndex};
use crate::rng::Rng;
use crate::run::{Config, Outcome};
use crate::world::client::Kind;
use crate::world::plan::{Plan, VolumePlan};
use crate::world::{Trigger, World};
use bytes::Bytes;
use lockstep_consensus::Input as VoterInput;
use lockstep_control::Command;
use lockstep_store::format::{Batch, Superblock};
use lockstep_types::{BLOCK, Nanos, SECOND, VolumeId, millis};
use std::collections::BTreeMap;

/// The volume of a scripted world.
pub const VOLUME: VolumeId = VolumeId::from_u128(0xf0);

/// One node in a, one in b, a witness, one volume with a copy in each, published in a.
pub fn two_sites(config: &Config, script: impl FnOnce(&mut World)) -> Outcome {
    two_sites_by(config, |_| {}, script)
}

/// The same, with a plan adjusted.
pub fn two_sites_by(
    config: &Config,
    adjust: impl FnOnce(&mut Plan),
    script: impl FnOnce(&mut World),
) -> Outcome {
    scripted_by(config, [1, 1], "*=1", adjust, script)
}

/// A faultless world of so many data nodes with one volume, adjusted; the script supplies the faults.
pub fn scripted_by(
    config: &Config,
    data_nodes: [usize; 2],
    copies: &'static str,
    adjust: impl FnOnce(&mut Plan),
    script: impl FnOnce(&mut World),
) -> Outcome {
    let mut rng = Rng::new(config.seed);
    let mut plan = Plan::draw(&mut rng.split("plan"), &config.less);
    plan.data_nodes = data_nodes;
    plan.victim %= data_nodes[0] + data_nodes[1]; // drawn among as many as the mix would have
    plan.every = [None; 12];
    plan.odd = 0;
    plan.operator_every = None;
    plan.drift = 0;
    plan.net = NetFaults {
        give_up: 4 * SECOND,
        ..NetFaults::none()
    };
    plan.delays = [100_000, millis(1), millis(10)];
    plan.volumes = vec![VolumePlan {
        copies,
        strict: false,
        blocks: 4 * 64,
    }];
    plan.duration = 60 * SECOND;
    plan.operations = 100_000;
    plan.think = millis(35);
    adjust(&mut plan);
    World::run_plan(config, plan, rng, |world| {
        world.wish_at("a1");
        script(world);
    })
}

/// What a script can do and demand.
pub trait Script {
    /// Something happens at a moment.
    fn at(&mut self, at: Nanos, what: impl FnOnce(&mut World) + 'static);
    /// A node neither hears nor is heard.
    fn isolate(&mut self, node: &str);
    /// Two nodes do not hear each other.
    fn cut(&mut self, a: &str, b: &str);
    /// What `from` says does not reach `to`.
    fn cut_one_way(&mut self, from: &str, to: &str);
    /// Everybody hears everybody.
    fn heal_all(&mut self);
    /// A person rebuilds the control plane from a node's log, as if all others were lost.
    fn rebuild_from(&mut self, node: &str);
    /// A person opens the volume with the newest copy that can be reached.
    fn force_open(&mut self);
    /// The volume waits for that.
    fn expect_distrusted(&mut self);
    /// A machine loses power and stays off.
    fn kill_machine(&mut self, node: &str);
    /// A process is killed and stays dead.
    fn kill_process(&mut self, node: &str);
    /// A machine or process that was stopped starts again, with the devices it had.
    fn start_again(&mut self, node: &str);
    /// A process is killed when it has sent so many rolled records (R11), and starts again soon; each
    /// number is another such death.
    fn dies_rolling(&mut self, node: &str, after: Vec<u32>);
    /// A machine loses power when it has answered a SEAL, and starts again soon.
    fn dies_sealed(&mut self, node: &str);
    /// A machine loses power when it has acknowledged something next, and starts again soon.
    fn dies_acknowledging(&mut self, node: &str);
    /// A machine loses power after so long, and what was written to its journal until then decays.
    fn dies_with_rotten_tail(&mut self, node: &str, after: Nanos);
    /// The same after `after`, and only what was written until `until` decays: the marks of later batches
    /// cover it (R24).
    fn dies_with_rotten_middle(&mut self, node: &str, until: Nanos, after: Nanos);
    /// The payload of the last batch in the journals of a machine that is off decays: a torn batch (R24). If
    /// there is one with a payload, coverage counts it as [`TORN`].
    fn tear_last_batch(&mut self, node: &str);
    /// The last payload in its journal rots, whether a later batch has marked it or not.
    fn rot_last_payload(&mut self, node: &str);
    /// A machine that is off loses its raft log, and keeps its pools.
    fn loses_log(&mut self, node: &str);
    /// A step happens when the copy on a node is certified.
    fn at_certification_of(&mut self, node: &str, what: impl FnOnce(&mut World) + 'static);
    /// So many appends to a node arrive with a bit turned.
    fn spoil_appends(&mut self, to: &str, count: u32);
    /// A process is stopped by a signal for so long.
    fn stop_for(&mut self, node: &str, time: Nanos);
    /// Clients ask for nothing more, or for as much as they like.
    fn hush(&mut self, hush: bool);
    /// What one node says to another waits for so long.
    fn clog(&mut self, from: &str, to: &str, until: Nanos);
    /// The devices of a node are so many times slower, or as fast as ever.
    fn slow(&mut self, node: &str, factor: u64);
    /// A machine starts again with blank devices.
    fn start_blank(&mut self, node: &str);
    /// The raft log of a node hardly moves from now on, or does again.
    fn slow_log(&mut self, node: Option<&str>);
    /// The kernel holds a request on the device that the volume has now.
    fn remember_device(&mut self);
    /// The kernel of a node issues the write that it held, or reads through the device of before.
    fn issue_held(&mut self, node: &str, kind: Kind);
    /// The pod moves to the node of a site that has no copy.
    fn publish_without_copy(&mut self, site: &str);
    /// The node that has the volume attached.
    fn holder(&self) -> String;
    /// Every batch in the journals of a machine that is off decays.
    fn rot_journal(&mut self, node: &str);
    /// No voter hears another, although nodes do.
    fn mute_voters(&mut self, mute: bool);
    /// The operator lets the volume grow by so many blocks.
    fn grow(&mut self, volume: VolumeId, blocks: u64);
    /// So many copies are certified.
    fn expect_in_sync_count(&mut self, count: usize);
    /// The pod lives there from the beginning.
    fn wish_at(&mut self, node: &str);
    /// The pod moves there, by force.
    fn publish_at(&mut self, node: &str);
    /// Somebody tries to attach the volume there; the recorded publication stands.
    fn try_attach(&mut self, node: &str);
    /// The control plane's leadership goes there.
    fn lead(&mut self, node: &str);
    /// Exactly the copies of these nodes are certified.
    fn expect_in_sync(&mut self, nodes: &[&str]);
    /// The volume's record stays as it is for so long.
    fn expect_no_change_for(&mut self, time: Nanos);
    /// The application is told of no error for so long.
    fn expect_no_errors_for(&mut self, time: Nanos);
    /// Writes have been acknowledged since, with no stall longer than this.
    fn expect_acks(&mut self, since: Nanos, longest_stall: Nanos);
    /// None has.
    fn expect_no_acks_since(&mut self, since: Nanos);
}

impl Script for World {
    fn at(&mut self, at: Nanos, what: impl FnOnce(&mut World) + 'static) {
        self.script_at(at, Box::new(what));
    }

    fn isolate(&mut self, node: &str) {
        let alone = self.named(node);
        for other in (0..self.nodes.len()).filter(|other| *other != alone) {
            self.block_both(alone, other);
        }
    }

    fn cut(&mut self, a: &str, b: &str) {
        let (a, b) = (self.named(a), self.named(b));
        self.block_both(a, b);
    }

    fn cut_one_way(&mut self, from: &str, to: &str) {
        let (from, to, now) = (self.named(from), self.named(to), self.now());
        self.net.set_blocked(now, from, to, true);
    }

    fn rebuild_from(&mut self, node: &str) {
        let node = self.named(node);
        self.rebuild_quorum(node);
    }

    fn force_open(&mut self) {
        self.promote_by_force(VOLUME);
    }

    fn expect_distrusted(&mut self) {
        if !self.committed.state.volumes[&VOLUME].membership.distrusted {
            self.fail("script", "the volume's record is trusted");
        }
    }

    fn heal_all(&mut self) {
        let now = self.now();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.net.set_blocked(now, from, to, false);
            }
        }
    }

    fn kill_machine(&mut self, node: &str) {
        let node = self.named(node);
        self.power_off(node);
    }

    fn kill_process(&mut self, node: &str) {
        let node = self.named(node);
        self.kill(node);
    }

    fn start_again(&mut self, node: &str) {
        let node = self.named(node);
        self.restart(node, false);
    }

    fn dies_rolling(&mut self, node: &str, mut after: Vec<u32>) {
        let node = self.named(node);
        let Some(first) = after.pop() else { return };
        let then = move |world: &mut World| {
            let name = world.name(node);
            world.kill(node);
            world.coverage.hit("script: died rolling a tail");
            world.dies_rolling(&name, after);
            let soon = world.now() + millis(150);
            world.at(soon, move |w| w.start_again(&name));
        };
        self.set_trap(node, Trigger::Rolled, first, Box::new(then));
    }

    fn dies_sealed(&mut self, node: &str) {
        let node = self.named(node);
        let then = move |world: &mut World| {
            let name = world.name(node);
            world.power_off(node);
            world.coverage.hit("script: died after a seal");
            let soon = world.now() + millis(150);
            world.at(soon, move |w| w.start_again(&name));
        };
        self.set_trap(node, Trigger::Sealed, 1, Box::new(then));
    }

    fn dies_acknowledging(&mut self, node: &str) {
        let node = self.named(node);
        let then = move |world: &mut World| {
            let name = world.name(node);
            world.power_off(node);
            world.coverage.hit("script: died after an acknowledgement");
            let soon = world.now() + millis(150);
            world.at(soon, move |w| w.start_again(&name));
        };
        self.set_trap(node, Trigger::Acked, 1, Box::new(then));
    }

    fn dies_with_rotten_tail(&mut self, node: &str, after: Nanos) {
        self.dies_with_rotten_middle(node, after, after);
    }

    fn dies_with_rotten_middle(&mut self, node: &str, until: Nanos, after: Nanos) {
        let node = self.named(node);
        let (now, before) = (self.now(), journals(self, node));
        self.at(now + until, move |world| {
            if until == after {
                world.power_off(node);
            }
            let written = journals(world, node);
            let dies = move |world: &mut World| dies_decayed(world, node, &before, &written);
            match until == after {
                true => dies(world),
                false => world.at(now + after, dies),
            }
        });
    }

    fn tear_last_batch(&mut self, node: &str) {
        let node = self.named(node);
        for disk in &mut self.nodes[node].disks {
            let pages = journal_pages(&disk.disk);
            let batches = batches(&disk.disk, &pages);
            // None if it only marks the one before it.
            if let Some((_, Some(page))) = batches.last_key_value() {
                let torn = turned(&pages[page]);
                disk.disk.media_mut().write_stable(*page, &[torn]);
                self.coverage.hit(TORN);
            }
        }
    }

    fn rot_last_payload(&mut self, node: &str) {
        let node = self.named(node);
        for disk in &mut self.nodes[node].disks {
            let pages = journal_pages(&disk.disk);
            let batches = batches(&disk.disk, &pages);
            let mut payloads = batches.values().flatten();
            if let Some(page) = payloads.next_back() {
                let rotten = turned(&pages[page]);
                disk.disk.media_mut().write_stable(*page, &[rotten]);
            }
        }
    }

    fn loses_log(&mut self, node: &str) {
        let node = self.named(node);
        self.lose_log(node);
    }

    fn at_certification_of(&mut self, node: &str, what: impl FnOnce(&mut World) + 'static) {
        let node = self.named(node);
        self.when_certified(node, Box::new(what));
    }

    fn spoil_appends(&mut self, to: &str, count: u32) {
        let to = self.named(to);
        self.spoil_appends_to(to, count);
    }

    fn stop_for(&mut self, node: &str, time: Nanos) {
        let node = self.named(node);
        self.pause(node);
        let then = self.now() + time;
        self.at(then, move |world| world.resume(node));
    }

    fn hush(&mut self, hush: bool) {
        if hush {
            self.clients.hush();
        } else {
            self.clients.speak();
        }
    }

    fn clog(&mut self, from: &str, to: &str, until: Nanos) {
        let (from, to) = (self.named(from), self.named(to));
        self.net.clog(from, to, until);
    }

    fn slow(&mut self, node: &str, factor: u64) {
        let node = self.named(node);
        if factor == 1 {
            return self.speed_up(node);
        }
        for disk in &mut self.nodes[node].disks {
            disk.disk.slow = factor;
        }
    }

    fn start_blank(&mut self, node: &str) {
        let node = self.named(node);
        self.restart(node, true);
    }

    fn slow_log(&mut self, node: Option<&str>) {
        self.slow_log = node.map(|node| self.named(node));
    }

    fn remember_device(&mut self) {
        let client = self.clients.volumes.get(&VOLUME);
        let attached = client.and_then(|client| client.attached.as_ref());
        self.remembered = attached.map(|attached| attached.id);
    }

    fn issue_held(&mut self, node: &str, kind: Kind) {
        let node = self.named(node);
        if let Some(attachment) = self.remembered {
            self.coverage.hit("script: held request issued");
            self.issue_stale(node, VOLUME, attachment, kind);
        }
    }

    fn publish_without_copy(&mut self, site: &str) {
        let copies = self.in_sync_names(VOLUME);
        let names = (0..self.nodes.len()).map(|node| self.name(node));
        let without: Vec<String> = names
            .filter(|name| name.starts_with(site) && !copies.contains(name))
            .collect();
        let node = without.first().expect("a node of the site has no copy");
        self.publish_at(&node.clone());
    }

    fn holder(&self) -> String {
        let client = self.clients.volumes.get(&VOLUME);
        let attached = client.and_then(|client| client.attached.as_ref());
        self.name(attached.expect("the volume is attached").node)
    }

    fn rot_journal(&mut self, node: &str) {
        let node = self.named(node);
        for disk in &mut self.nodes[node].disks {
            for (page, bytes) in journal_pages(&disk.disk) {
                disk.disk.media_mut().write_stable(page, &[turned(&bytes)]);
            }
        }
    }

    fn mute_voters(&mut self, mute: bool) {
        self.voters_mute = mute;
    }

    fn grow(&mut self, volume: VolumeId, blocks: u64) {
        let now = self.committed.state.volumes.get(&volume).map(|v| v.blocks);
        if let Some(now) = now {
            self.propose_operator(Command::ResizeVolume {
                volume,
                blocks: now + blocks,
            });
        }
    }

    fn expect_in_sync_count(&mut self, count: usize) {
        let found = self.in_sync_names(VOLUME);
        if found.len() != count {
            self.fail("expected", format!("in sync are {found:?}, not {count}"));
        }
    }

    fn wish_at(&mut self, node: &str) {
        let node = self.named(node);
        self.wish_node(VOLUME, node);
    }

    fn publish_at(&mut self, node: &str) {
        let node = self.named(node);
        self.wish_node(VOLUME, node);
    }

    fn try_attach(&mut self, node: &str) {
        let node = self.named(node);
        self.ask_attach(node, VOLUME);
    }

    fn lead(&mut self, node: &str) {
        let to = self.nodes[self.named(node)].id;
        for node in 0..self.nodes.len() {
            if self.nodes[node].voter().is_some() {
                self.tell_voter(node, VoterInput::TransferLeader { to });
            }
        }
    }

    fn expect_in_sync(&mut self, nodes: &[&str]) {
        let mut found = self.in_sync_names(VOLUME);
        found.sort();
        if found != nodes {
            self.fail("expected", format!("in sync are {found:?}, not {nodes:?}"));
        }
    }

    fn expect_no_change_for(&mut self, time: Nanos) {
        let version = |world: &World| {
            let record = world.committed.state.volumes.get(&VOLUME);
            record.map(|record| record.membership.version)
        };
        let (before, then) = (version(self), self.now() + time);
        self.at(then, move |world| {
            let now = version(world);
            if now != before {
                let text = format!("the record's version went from {before:?} to {now:?}");
                world.fail("expected", text);
            }
        });
    }

    fn expect_no_errors_for(&mut self, time: Nanos) {
        let told = |world: &World| ERRORS.map(|what| world.coverage.get(what));
        let (before, then) = (told(self), self.now() + time);
        self.at(then, move |world| {
            if told(world) != before {
                let text = format!("{ERRORS:?} went from {before:?} to {:?}", told(world));
                world.fail("expected", text);
            }
        });
    }

    fn expect_acks(&mut self, since: Nanos, longest_stall: Nanos) {
        let now = self.now();
        let mut last = since;
        let mut longest = 0;
        for at in self
            .acks
            .iter()
            .copied()
            .filter(|at| *at > since)
            .chain([now])
        {
            longest = longest.max(at - last);
            last = at;
        }
        if longest > longest_stall {
            let text = format!(
                "writes stood still for {} ms since {} s",
                longest / 1_000_000,
                since / SECOND
            );
            self.fail("expected", text);
        }
    }

    fn expect_no_acks_since(&mut self, since: Nanos) {
        if let Some(at) = self.acks.last().copied().filter(|at| *at > since) {
            self.fail(
                "expected",
                format!("a write was acknowledged at {} ms", at / 1_000_000),
            );
        }
    }
}

/// A batch was torn by a script.
pub const TORN: &str = "script: last batch torn";

/// What an application is told when it is told an error.
const ERRORS: [&str; 4] = [
    "client: no space",
    "client: fenced",
    "client: corrupt",
    "client: not open",
];

/// Pages by number.
pub(super) type Pages = BTreeMap<u64, Bytes>;

/// What the journals of a node hold, one a device.
pub(super) fn journals(world: &World, node: NodeIndex) -> Vec<Pages> {
    let disks = world.nodes[node].disks.iter();
    disks.map(|disk| journal_pages(&disk.disk)).collect()
}

/// A machine loses power, and what was written to its journals between two looks decays, as far as it is there.
pub(super) fn dies_decayed(world: &mut World, node: NodeIndex, before: &[Pages], after: &[Pages]) {
    world.power_off(node);
    let disks = world.nodes[node].disks.iter_mut();
    for ((disk, before), after) in disks.zip(before).zip(after) {
        let now = journal_pages(&disk.disk);
        for (page, bytes) in after {
            if before.get(page) != Some(bytes) && now.get(page) == Some(bytes) {
                disk.disk.media_mut().write_stable(*page, &[turned(bytes)]);
            }
        }
    }
}

/// What the first page of a device says.
fn superblock(disk: &Disk) -> Superblock {
    let first = disk.media().read(0, 1).expect("a device has a first page");
    Superblock::decode(&first).expect("a pool")
}

/// The batches in a journal, by number, each with the first page of its payload, if it has any.
fn batches(disk: &Disk, pages: &Pages) -> BTreeMap<u64, Option<u64>> {
    let key = superblock(disk).key;
    let batch_at = |page: u64, first: &Bytes| {
        let shape = Batch::peek(first).ok()?;
        let blocks = u64::from(shape.header_blocks);
        let header: Option<Vec<&Bytes>> = (page..page + blocks).map(|at| pages.get(&at)).collect();
        let header: Vec<u8> = header?.into_iter().flatten().copied().collect();
        let parsed = Batch::decode(&header, &key).ok()?;
        let payload = (shape.payload_blocks > 0).then_some(page + blocks);
        Some((parsed.batch.number, payload))
    };
    let found = pages.iter();
    found
        .filter_map(|(page, first)| batch_at(*page, first))
        .collect()
}

/// The pages of a device's journal that hold anything.
fn journal_pages(disk: &Disk) -> Pages {
    let media = disk.media();
    let ring = superblock(disk).geometry.ring;
    let pages = ring.offset / BLOCK as u64..ring.end() / BLOCK as u64;
    pages
        .filter_map(|page| Some((page, media.read(page, 1)?)))
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .collect()
}

/// A page in which a bit has turned.
fn turned(page: &Bytes) -> Bytes {
    let mut bytes = page.to_vec();
    bytes[BLOCK / 2] ^= 0x10;
    bytes.into()
}
