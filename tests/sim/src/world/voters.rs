//! Who votes: every node notes which log each other one follows, and the leader carries out what
//! `lockstep_consensus::electorate` decides, as the keeper of the real shell does. A node without its log
//! begins one under a new id (R20).

use super::step::Inward;
use super::{Event, World};
use crate::control::Voter;
use crate::mutation::{Mutation, ShellMutation};
use crate::net::NodeIndex;
use lockstep_consensus::log::LogIdentity;
use lockstep_consensus::voters::{GONE_AFTER, Seat};
use lockstep_consensus::{
    Input as VoterInput,
    electorate::{self, Electorate, Generation, Heard, Seated, Standing, Step},
};
use lockstep_control::{Command, State};
use lockstep_types::{Nanos, NodeRole, SECOND, millis};
use std::collections::{BTreeMap, BTreeSet};

/// A leader looks about so often, with some scatter: raft forgets who was active once an election timeout.
const EVERY: Nanos = SECOND / 2;
/// A node that was not heard for so long has not been steady.
const FRESH: Nanos = 3500 * millis(1);
/// Before it began, by the clock of a process: room for what is long gone.
const ROOM: Nanos = 2 * GONE_AFTER;

/// What a process knows of the others.
#[derive(Default)]
pub struct Electors {
    heard: BTreeMap<NodeIndex, Beat>,
    leading_since: Option<Nanos>,
    looked: Nanos,
}

struct Beat {
    last: Nanos,
    since: Nanos,
    boot: u64,
    raft_id: u64,
    generation: Option<Generation>,
}

impl World {
    pub(super) fn on_voters(&mut self) {
        let scatter = self.dice.below(millis(20));
        self.queue.after(EVERY + scatter, Event::Voters);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].runs() || self.nodes[node].voter().is_none() {
                continue;
            }
            if self.listen(node) == Standing::Barred {
                self.set_log_aside(node);
                continue;
            }
            if let Some(step) = self.look(node) {
                self.change_electorate(node, step);
            }
        }
    }

    /// Hears who is there, and which log each follows. A link that is down answers no more. Gives what
    /// the others say of this node's own log.
    fn listen(&mut self, node: NodeIndex) -> Standing {
        let now = self.voters_clock(node);
        let ours = self
            .beat_of(node, node, now)
            .and_then(|beat| beat.generation);
        let own = self.nodes[node].raft_id;
        let mut standing = Standing::Good;
        for peer in 0..self.nodes.len() {
            let beat = self.beat_of(node, peer, now);
            if let Some(beat) = &beat {
                let barred = self.outdated_logs(peer);
                match electorate::standing(own, ours, beat.generation, &barred) {
                    Standing::Good => {}
                    other => standing = other,
                }
            }
            let electors = &mut self.nodes[node].process.as_mut().expect("it runs").electors;
            let before = electors.heard.get_mut(&peer);
            match (beat, before) {
                (Some(beat), Some(before))
                    if now - before.last < FRESH && before.boot == beat.boot =>
                {
                    *before = Beat {
                        since: before.since,
                        ..beat
                    };
                }
                (Some(beat), _) => {
                    electors.heard.insert(peer, beat);
                }
                (None, Some(before)) => before.last = before.last.min(now - FRESH),
                (None, None) => {}
            }
        }
        standing
    }

    /// Logs that a node hears from and that its generation has barred.
    fn outdated_logs(&self, node: NodeIndex) -> Vec<u64> {
        let process = self.nodes[node].process.as_ref().expect("it was heard");
        let state = &process.voter.as_ref().expect("it was heard").state;
        if state.generation == 0 {
            return Vec::new(); // nothing was ever rebuilt
        }
        let heard = process.electors.heard.iter();
        let heard = heard.map(|(peer, beat)| {
            let number = beat.generation.map(|of| of.number);
            (self.nodes[*peer].id, beat.raft_id, number)
        });
        electorate::left_behind(state.generation, &state.voters.bound, heard)
    }

    fn beat_of(&self, node: NodeIndex, peer: NodeIndex, now: Nanos) -> Option<Beat> {
        let it = &self.nodes[peer];
        let heard = it.runs() && (peer == node || self.net.reach(node, peer));
        let voter = it.voter().filter(|_| heard)?;
        let generation = voter.state.cluster.is_some();
        Some(Beat {
            last: now,
            since: now,
            boot: it.process.as_ref()?.boot,
            raft_id: it.raft_id,
            generation: generation.then(|| generation_of(&voter.state)),
        })
    }

    fn voters_clock(&self, node: NodeIndex) -> Nanos {
        ROOM + self.clock(node).local(self.now())
    }

    /// What the leader is to do next.
    fn look(&mut self, node: NodeIndex) -> Option<Step> {
        let now = self.voters_clock(node);
        let process = self.nodes[node].process.as_mut()?;
        let status = process.voter.as_ref()?.consensus.status();
        let electors = &mut process.electors;
        // R22: silence counts only while this process itself ran.
        let slept = now > electors.looked + 4 * EVERY;
        electors.looked = now;
        if !status.role.leading || slept {
            electors.leading_since = None;
        }
        if !status.role.leading {
            return None;
        }
        let leading_since = *electors.leading_since.get_or_insert(now);
        let it = &self.nodes[node];
        let process = it.process.as_ref()?;
        let state = &process.voter.as_ref()?.state;
        let heard = process.electors.heard.iter().map(|(peer, beat)| {
            let heard = Heard {
                raft_id: beat.raft_id,
                last: beat.last,
                since: beat.since,
                generation: beat.generation,
            };
            (self.nodes[*peer].id, heard)
        });
        let nodes = state.nodes.iter().map(|(id, known)| {
            let seated = Seated {
                seat: Some([Seat::A, Seat::B, Seat::W][self.nodes[self.index_of(*id)].site]),
                cordoned: known.cordoned,
            };
            (*id, seated)
        });
        let electorate = Electorate {
            now,
            leading_since,
            leader: (it.id, it.raft_id),
            generation: generation_of(state),
            nodes: nodes.collect(),
            bound: &state.voters.bound,
            barred: &state.voters.barred,
            heard: heard.collect(),
            conf: &status.conf,
            progress: &status.progress,
            last: status.last,
        };
        electorate.decide()
    }

    fn change_electorate(&mut self, leader: NodeIndex, step: Step) {
        self.say_node(leader, format_args!("of the voters: {step:?}"));
        match step {
            Step::Bind { raft_id, node } => {
                self.coverage.hit("control: new log bound");
                self.propose_at(leader, Command::PutVoter { raft_id, node });
            }
            Step::Release { raft_id } => {
                self.coverage.hit("control: old log released");
                self.propose_at(leader, Command::RemoveVoter { raft_id });
            }
            Step::Reconfigure(change) => {
                if !change.voters.is_empty() {
                    self.coverage.hit("control: voters being replaced");
                }
                let ticket = 1 << 60 | self.step;
                let input = VoterInput::Reconfigure { ticket, change };
                self.deliver(leader, Inward::Voter(input));
            }
        }
    }

    /// A node without a log begins one, empty and under an id that was never used: it learns (R20).
    pub(super) fn found_log(&mut self, node: NodeIndex) {
        let identity = LogIdentity {
            cluster: self.cluster,
            node: self.nodes[node].id,
            raft_id: self.dice.next_u64(),
            incarnation: self.dice.next_u64(),
        };
        let it = &mut self.nodes[node];
        it.raft_id = identity.raft_id;
        Voter::found(&mut it.folder, identity, None);
        self.say_node(node, format_args!("begins a log as {:x}", identity.raft_id));
    }

    /// A node's log is lost with its disk, while no process has it open.
    pub(crate) fn lose_log(&mut self, node: NodeIndex) {
        if self.nodes[node].folder.is_empty() || !self.quorum_without(node) {
            return;
        }
        self.coverage.hit("fault: raft log lost");
        if self.nodes[node].role == NodeRole::Witness {
            self.coverage.hit("fault: raft log of the witness lost");
        }
        self.say_node(node, format_args!("loses its raft log"));
        self.nodes[node].folder.wipe();
        if self.mutation == Some(Mutation::Shell(ShellMutation::R20VoterReborn)) {
            let it = &mut self.nodes[node];
            let identity = LogIdentity {
                cluster: self.cluster,
                node: it.id,
                raft_id: it.raft_id,
                incarnation: 1,
            };
            let first = self.genesis.clone().expect("the cluster was founded");
            Voter::found(&mut it.folder, identity, Some(&first));
        }
    }

    /// Whether the voters with a log are a quorum without this node.
    pub(super) fn quorum_without(&self, node: NodeIndex) -> bool {
        let others = (0..self.nodes.len())
            .filter(|n| *n != node && !self.nodes[*n].folder.is_empty())
            .map(|n| self.nodes[n].raft_id);
        let others: Vec<u64> = others.collect();
        let have_quorum = |voting: &BTreeSet<u64>| {
            others.iter().filter(|id| voting.contains(id)).count() * 2 > voting.len()
        };
        let (until, left) = &self.committed.left;
        let left = left.iter().filter(|_| self.now() < *until);
        self.committed
            .electorates
            .iter()
            .chain(left)
            .all(have_quorum)
    }

    /// How long an operation on a raft log takes.
    pub(super) fn log_latency(&mut self) -> Nanos {
        self.dice.between(100_000, millis(4))
    }
}

fn generation_of(state: &State) -> Generation {
    Generation {
        number: state.generation,
        rebuilt: state.rebuilt_unix_ms,
    }
}
