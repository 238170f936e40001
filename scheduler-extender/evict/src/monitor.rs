//! When something is done about a silent node: not before its grace is over, never on old news, one batch at a time,
//! and never without having looked again.

use std::collections::BTreeMap;

use lockstep_types::{Nanos, millis, seconds};

use crate::evidence::Life;
use crate::plan::{Action, abandoned, plan};
use crate::scene::Scene;

/// News of who is heard that comes later than this after the last proves no silence in between: this process, or the
/// daemon that it asks, did not run.
const GAP: Nanos = seconds(5);
/// How long Kubernetes has for deleting a VolumeAttachment that nothing keeps.
const ABANDONED: Nanos = seconds(30);

/// Between two looks at a node within its grace.
const LOOK: Nanos = millis(500);
/// Between two looks at one about which there is nothing to do: it may be dead for days.
const REST: Nanos = seconds(5);

/// How long a node may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Graces {
    /// When nothing is heard of its kubelet either.
    pub dead: Nanos,
    /// When its kubelet lives, or its daemon is being replaced: then the daemon comes back.
    pub alive: Nanos,
}

/// What is told to the monitor.
#[derive(Clone, Debug)]
pub enum Input {
    /// Who is heard, as of when that was asked.
    Life {
        /// When.
        asked: Nanos,
        /// Who.
        life: Life,
    },
    /// What was read of a silent node, and when the reading began.
    Scene {
        /// When.
        asked: Nanos,
        /// What.
        scene: Scene,
    },
    /// What came of [`Output::Act`].
    Done {
        /// The silent node.
        node: String,
    },
    /// Nodes of Kubernetes that have our taint, and which nodes of Lockstep they are.
    Tainted {
        /// Names in Kubernetes and in Lockstep.
        machines: Vec<(String, String)>,
    },
}

/// What the monitor wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// That this silent node is looked at.
    Look {
        /// The node.
        node: String,
    },
    /// That these things are done, one after the other, and not the next if one fails.
    Act {
        /// The silent node.
        node: String,
        /// What.
        actions: Vec<Action>,
    },
    /// That new pods may come to this node of Kubernetes again.
    Untaint {
        /// Its name.
        machine: String,
    },
    /// That people are told: nobody hears this node.
    Silent {
        /// The node.
        node: String,
    },
    /// That people are told: it is heard again.
    Back {
        /// The node.
        node: String,
        /// How long it was silent.
        after: Nanos,
    },
}

/// A node that nobody hears.
#[derive(Clone, Debug)]
struct Silence {
    since: Nanos,
    /// What was read of it last, and has not been acted upon.
    scene: Option<(Nanos, Scene)>,
    /// What its kubelet had last said at the first look.
    kubelet: Option<Option<String>>,
    /// Its machine lives.
    alive: bool,
    /// Things are being done.
    busy: bool,
    /// Nothing that was read before then counts.
    done: Nanos,
    /// It is not looked at before then.
    rest: Nanos,
    /// Since when its VolumeAttachments are kept by nothing.
    abandoned: BTreeMap<String, Nanos>,
}

/// All that is remembered.
#[derive(Clone, Debug)]
pub struct Monitor {
    graces: Graces,
    silences: BTreeMap<String, Silence>,
    life: Option<(Nanos, Life)>,
}

impl Monitor {
    /// One that has heard nothing.
    pub fn new(graces: Graces) -> Self {
        Self {
            graces,
            silences: BTreeMap::new(),
            life: None,
        }
    }

    /// Whether no node is silent.
    pub fn is_calm(&self) -> bool {
        self.silences.is_empty()
    }

    /// Whether something is to be done soon about a silent node.
    pub fn is_busy(&self, now: Nanos) -> bool {
        self.silences.values().any(|it| it.rest <= now + LOOK)
    }

    /// Takes what was told, at a time that never goes back.
    pub fn step(&mut self, now: Nanos, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Life { asked, life } => {
                self.hear(now, asked, &life, outputs);
                self.life = Some((asked, life));
                self.act(now, outputs);
                self.look(now, outputs);
            }
            Input::Scene { asked, scene } => self.see(now, asked, scene),
            Input::Done { node } => {
                if let Some(silence) = self.silences.get_mut(&node) {
                    (silence.busy, silence.done) = (false, now);
                    silence.scene = None;
                }
            }
            Input::Tainted { machines } => self.untaint(now, machines, outputs),
        }
    }

    /// Silences begin and end. While there is no majority they neither begin nor lead to anything, but one who is
    /// heard is heard.
    fn hear(&mut self, now: Nanos, asked: Nanos, life: &Life, outputs: &mut Vec<Output>) {
        let last = self.life.as_ref().map_or(asked, |(asked, _)| *asked);
        let gap = now.saturating_sub(last) > GAP;
        let heard = |node: &String| {
            let member = life.members.get(node);
            member.is_none_or(|it| !it.heard_by.is_empty())
        };
        let mut back = Vec::new();
        self.silences.retain(|node, silence| {
            if heard(node) {
                back.push((node.clone(), silence.since));
            } else if gap {
                silence.since = now;
            }
            !heard(node)
        });
        outputs.extend(back.into_iter().map(|(node, since)| Output::Back {
            node,
            after: now - since,
        }));
        for node in life.members.keys().filter(|it| life.is_silent(it)) {
            if !self.silences.contains_key(node) {
                outputs.push(Output::Silent { node: node.clone() });
                self.silences.insert(node.clone(), Silence::new(now));
            }
        }
    }

    fn see(&mut self, now: Nanos, asked: Nanos, scene: Scene) {
        let Some(silence) = self.silences.get_mut(&scene.node) else {
            return;
        };
        if silence.busy || asked < silence.done {
            return;
        }
        if let Some(machine) = &scene.machine {
            let first = silence.kubelet.get_or_insert(machine.kubelet.clone());
            silence.alive |= *first != machine.kubelet || machine.daemon_restarts;
        }
        let idle = abandoned(&scene);
        silence.abandoned.retain(|name, _| idle.contains(name));
        for name in idle {
            silence.abandoned.entry(name).or_insert(now);
        }
        silence.scene = Some((asked, scene));
    }

    /// A batch for each silent node that it is time for. What it is decided on was read before it was asked who is
    /// heard, so that a node which has come back meanwhile is known to have.
    fn act(&mut self, now: Nanos, outputs: &mut Vec<Output>) {
        let Some((heard, life)) = &self.life else {
            return;
        };
        for (node, silence) in &mut self.silences {
            let Some((read, scene)) = silence.scene.take_if(|(read, _)| *read <= *heard) else {
                continue;
            };
            let cordoned = life.members.get(node).is_some_and(|it| it.cordoned)
                || scene.machine.as_ref().is_some_and(|it| it.unschedulable);
            let due = silence.since + silence.grace(self.graces);
            silence.rest = match now < due {
                true => due.min(now + LOOK),
                false => now + REST,
            };
            let old = now.saturating_sub(read) > GAP || now.saturating_sub(*heard) > GAP;
            if cordoned || now < due || old || !life.acts() || !life.is_silent(node) {
                continue;
            }
            let mut actions = plan(&scene);
            if actions.is_empty() {
                actions = silence.unpublish(now);
            }
            if !actions.is_empty() {
                (silence.busy, silence.rest) = (true, now);
                outputs.push(Output::Act {
                    node: node.clone(),
                    actions,
                });
            }
        }
    }

    /// Every monitor looks, also one that does not act: it may have to take over, and then knows whether the machine
    /// lives.
    fn look(&self, now: Nanos, outputs: &mut Vec<Output>) {
        let looked_at = |it: &Silence| !it.busy && it.rest <= now;
        let idle = self.silences.iter().filter(|(_, it)| looked_at(it));
        outputs.extend(idle.map(|(node, _)| Output::Look { node: node.clone() }));
    }

    fn untaint(&mut self, now: Nanos, machines: Vec<(String, String)>, outputs: &mut Vec<Output>) {
        let Some((heard, life)) = &self.life else {
            return;
        };
        if now.saturating_sub(*heard) > GAP || !life.acts() || !life.is_conclusive() {
            return;
        }
        let well = |node: &String| {
            let member = life.members.get(node);
            member.is_none_or(|it| !it.heard_by.is_empty())
        };
        let back = machines.into_iter().filter(|(_, node)| well(node));
        outputs.extend(back.map(|(machine, _)| Output::Untaint { machine }));
    }
}

impl Silence {
    const fn new(since: Nanos) -> Self {
        Self {
            since,
            scene: None,
            kubelet: None,
            alive: false,
            busy: false,
            done: 0,
            rest: 0,
            abandoned: BTreeMap::new(),
        }
    }

    const fn grace(&self, graces: Graces) -> Nanos {
        match self.alive {
            true => graces.alive,
            false => graces.dead,
        }
    }

    fn unpublish(&self, now: Nanos) -> Vec<Action> {
        let overdue = self.abandoned.iter();
        overdue
            .filter(|(_, since)| **since + ABANDONED <= now)
            .map(|(name, _)| Action::Unpublish { name: name.clone() })
            .take(crate::plan::BATCH)
            .collect()
    }
}
