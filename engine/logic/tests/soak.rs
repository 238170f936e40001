//! Kills, cuts and heals at random, with a client that remembers what was acknowledged.

mod world;

use lockstep_types::{NodeId, RequestOp, Response, SECOND, millis};
use std::collections::{BTreeMap, BTreeSet};
use world::{Dice, World, a, n};

const BLOCKS: u64 = 256;

/// What each block may hold: what was acknowledged last, and whatever was sent since.
#[derive(Default)]
struct Client {
    may_be: BTreeMap<u64, BTreeSet<u8>>,
    writing: BTreeMap<u64, (u64, u8)>,
    reading: BTreeMap<u64, u64>,
    acknowledged: u64,
}

impl Client {
    fn take_answers(&mut self, world: &mut World) {
        for (tag, answer) in std::mem::take(&mut world.completed) {
            if let Some((block, fill)) = self.writing.remove(&tag) {
                // One request a block at a time, so an acknowledged write leaves one value.
                if answer == Ok(Response::Done) {
                    self.may_be.insert(block, BTreeSet::from([fill]));
                    self.acknowledged += 1;
                }
            } else if let Some(block) = self.reading.remove(&tag) {
                let Ok(Response::Data(pieces)) = answer else {
                    continue;
                };
                let found = pieces[0].1.as_ref().map_or(0, |bytes| bytes[0]);
                let may_be = self.may_be.entry(block).or_insert(BTreeSet::from([0]));
                assert!(
                    may_be.contains(&found),
                    "block {block} holds {found}, not one of {may_be:?}"
                );
                // What was read must not flip back.
                *may_be = BTreeSet::from([found]);
            }
        }
    }

    fn busy(&self, block: u64) -> bool {
        self.writing.values().any(|(b, _)| *b == block)
            || self.reading.values().any(|b| *b == block)
    }
}

struct Soak {
    world: World,
    dice: Dice,
    client: Client,
    attached: Option<(NodeId, u128)>,
    attachments: u128,
    dead: BTreeSet<NodeId>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    fill: u8,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let mut world = World::new(&["a", "b", "c"]);
        world.create_volume("3", &[1, 2, 3], 1024);
        world.rough = (!seed.is_multiple_of(4)).then(|| Dice::new(seed ^ 0x5eed));
        Self {
            world,
            dice: Dice::new(seed),
            client: Client::default(),
            attached: None,
            attachments: 0,
            dead: BTreeSet::new(),
            cuts: BTreeSet::new(),
            fill: 0,
        }
    }

    fn request(&mut self) {
        let Some((node, attachment)) = self.attached else {
            return;
        };
        let block = self.dice.below(BLOCKS) * 4;
        if self.client.busy(block) || self.client.writing.len() > 32 {
            return;
        }
        if self.dice.below(4) == 0 {
            let tag = self
                .world
                .send(node, a(attachment), block, 1, RequestOp::Read);
            self.client.reading.insert(tag, block);
            return;
        }
        self.fill = if self.fill == 255 { 1 } else { self.fill + 1 };
        let fill = self.fill;
        let may_be = self
            .client
            .may_be
            .entry(block)
            .or_insert(BTreeSet::from([0]));
        may_be.insert(fill);
        let tag = self.world.begin_write(node, a(attachment), block, fill);
        self.client.writing.insert(tag, (block, fill));
    }

    fn fault(&mut self) {
        let node = n(1 + u128::from(self.dice.below(3)));
        match self.dice.below(10) {
            0 if self.dead.len() < 2 && !self.dead.contains(&node) => {
                self.kill(node);
            }
            1..=3 => {
                if let Some(back) = self.dead.pop_first() {
                    self.world.start(back);
                }
            }
            4 => {
                let other = n(1 + u128::from(self.dice.below(3)));
                if other != node {
                    let pair = (node.min(other), node.max(other));
                    if self.cuts.insert(pair) {
                        let told = self.dice.below(2) == 0;
                        self.world.cut_link(pair.0, pair.1, told);
                    }
                }
            }
            5..=6 => {
                if let Some((x, y)) = self.cuts.pop_first() {
                    self.world.heal_link(x, y);
                }
            }
            7 => self.move_attachment(),
            8 => self.world.control_answers = !self.world.control_answers,
            _ => {}
        }
    }

    fn kill(&mut self, node: NodeId) {
        self.dead.insert(node);
        self.world.kill(node);
        if self.attached.is_some_and(|(at, _)| at == node) {
            // Its kernel device went with it.
            self.client.writing.clear();
            self.client.reading.clear();
            self.world.completed.clear();
        }
    }

    fn move_attachment(&mut self) {
        let living: Vec<NodeId> = (1..=3)
            .map(n)
            .filter(|id| !self.dead.contains(id))
            .collect();
        let to = living[self.dice.below(living.len() as u64) as usize];
        if let Some(old) = self.world.volume().membership.attachment {
            let command = lockstep_control::Command::Detach {
                volume: world::V,
                attachment: old.id,
                device_gone: true,
            };
            self.world.commit(command);
            self.world.run();
            self.client.take_answers(&mut self.world);
            self.client.writing.clear();
            self.client.reading.clear();
        }
        self.attachments += 1;
        let ticket = self.world.id();
        self.world.step(
            to,
            lockstep_logic::io::Input::Attach {
                ticket,
                volume: world::V,
                attachment: a(self.attachments),
            },
        );
        self.world.pass(millis(200));
        self.attached = Some((to, self.attachments));
    }

    /// The publication that the record names: an attach may have been refused, or come late.
    fn follow_record(&mut self) {
        let current = self.world.volume().membership.attachment;
        let named = current.map(|c| (c.node, c.id.as_u128() - 0xa000));
        if named != self.attached && named.is_none_or(|(node, _)| !self.dead.contains(&node)) {
            self.attached = named;
        }
        if let Some((node, attachment)) = self.attached {
            let shown = self.world.nodes[&node].attachments.get(&world::V);
            if shown.is_none_or(|(id, _)| *id != a(attachment)) || self.dead.contains(&node) {
                self.attached = None;
            }
        }
    }

    fn run(&mut self, rounds: u64) {
        self.move_attachment();
        for _ in 0..rounds {
            for _ in 0..self.dice.below(12) {
                self.follow_record();
                self.request();
                let wait = millis(self.dice.below(30));
                self.world.pass(wait);
                self.client.take_answers(&mut self.world);
            }
            if self.dice.below(3) == 0 {
                self.fault();
                let wait = millis(self.dice.below(4000));
                self.world.pass(wait);
                self.client.take_answers(&mut self.world);
            }
        }
        self.heal();
    }

    /// Everything comes back: all copies are certified, and hold what was acknowledged.
    fn heal(&mut self) {
        self.world.control_answers = true;
        for node in std::mem::take(&mut self.dead) {
            self.world.start(node);
        }
        for (x, y) in std::mem::take(&mut self.cuts) {
            self.world.heal_link(x, y);
        }
        self.world
            .until(120 * SECOND, "all copies are certified", |w| {
                w.in_sync().len() == 3
            });
        for reader in 1..=3 {
            self.world.pass(2 * SECOND);
            self.client.take_answers(&mut self.world);
            if let Some(old) = self.world.volume().membership.attachment {
                self.world.detach(old.node, old.id);
            }
            self.client.take_answers(&mut self.world);
            self.client.writing.clear();
            self.client.reading.clear();
            self.attachments += 1;
            let id = a(self.attachments);
            self.world.attach(n(reader), id);
            for block in 0..BLOCKS {
                let found = self.world.read(n(reader), id, block * 4);
                let may_be = self
                    .client
                    .may_be
                    .entry(block * 4)
                    .or_insert(BTreeSet::from([0]));
                assert!(
                    may_be.contains(&found),
                    "block {} holds {found}, not one of {may_be:?}",
                    block * 4
                );
                *may_be = BTreeSet::from([found]);
            }
        }
    }
}

#[test]
fn acknowledged_writes_survive_kills_and_cuts() {
    let seeds = std::env::var("SOAK_SEEDS").map_or(12, |s| s.parse().expect("a number"));
    let first = std::env::var("SOAK_FIRST").map_or(1, |s| s.parse().expect("a number"));
    let mut acknowledged = 0;
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut soak = Soak::new(seed);
        soak.run(60);
        acknowledged += soak.client.acknowledged;
        for (_, event) in &soak.world.events {
            let text = format!("{event:?}");
            let kind = text.split(' ').next().unwrap_or_default().to_owned();
            *seen.entry(kind).or_default() += 1;
            if let lockstep_logic::io::NodeEvent::Opened { rolled, .. } = event
                && *rolled > 0
            {
                *seen.entry("Opened with a tail rolled".into()).or_default() += 1;
            }
            if let lockstep_logic::io::NodeEvent::Evicting { why, .. } = event {
                *seen.entry(format!("Evicting: {why}")).or_default() += 1;
            }
        }
    }
    println!("{acknowledged} writes acknowledged; {seen:#?}");
    assert!(
        acknowledged > seeds * 20,
        "only {acknowledged} writes were acknowledged"
    );
}
