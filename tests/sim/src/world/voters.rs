//! Who votes: the leader's node replaces voters that are gone, as the real shell does, by the plan of
//! lockstep-consensus. A voter without its log never comes back under its id (R20).

use super::{Event, World};
use crate::control::Voter;
use crate::mutation::{Mutation, ShellMutation};
use crate::net::NodeIndex;
use lockstep_consensus::log::LogIdentity;
use lockstep_consensus::voters::{self, Candidate, Change, Seat};
use lockstep_consensus::{Config, Input as VoterInput, Reconfiguration, Status};
use lockstep_control::Command;
use lockstep_types::{Nanos, NodeRole, SECOND, millis};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader's node knows of the others, and the change under way.
#[derive(Default)]
pub struct Electorate {
    /// The node and boot whose knowledge this is.
    of: Option<u64>,
    seen: BTreeMap<u64, Nanos>,
    steady: BTreeMap<NodeIndex, Nanos>,
    under_way: Option<UnderWay>,
    next_id: u64,
    tickets: u64,
}

struct UnderWay {
    remove: BTreeSet<u64>,
    add: BTreeMap<u64, NodeIndex>,
    since: Nanos,
    founded: bool,
}

impl World {
    pub(super) fn on_voters(&mut self) {
        self.queue.after(SECOND, Event::Voters);
        let Some(leader) = self.leading_node() else {
            return;
        };
        self.watch(leader);
        self.retire(leader);
        if self.electorate.under_way.is_some() {
            return self.go_on_with_change(leader);
        }
        if let Some(change) = self.plan_change(leader) {
            self.begin_change(leader, change);
        }
    }

    fn leading_node(&self) -> Option<NodeIndex> {
        let leads = |node: &usize| {
            self.nodes[*node].runs()
                && self.nodes[*node]
                    .voter()
                    .is_some_and(|voter| voter.consensus.status().role.leading)
        };
        (0..self.nodes.len()).find(leads)
    }

    /// A node whose voter was replaced while it was away follows again, once the leader's node sees it.
    fn retire(&mut self, leader: NodeIndex) {
        let status = self.nodes[leader]
            .voter()
            .expect("it leads")
            .consensus
            .status();
        let joining = self.electorate.under_way.as_ref();
        let counts = |raft_id: &u64| {
            let conf = &status.conf;
            let sets = [&conf.voters, &conf.voters_outgoing, &conf.learners];
            sets.into_iter().any(|ids| ids.contains(raft_id))
                || joining.is_some_and(|change| change.add.contains_key(raft_id))
        };
        let over = |node: &NodeIndex| {
            self.nodes[*node].voter().is_some()
                && !self.nodes[*node].paused
                && !counts(&self.nodes[*node].raft_id)
        };
        let replaced: Vec<NodeIndex> = self
            .electorate
            .steady
            .keys()
            .copied()
            .filter(over)
            .collect();
        for node in replaced {
            self.coverage.hit("control: a replaced voter follows again");
            self.say_node(node, format_args!("votes no longer"));
            let it = &mut self.nodes[node];
            it.folder.wipe();
            it.raft_id = 0;
            let process = it.process.as_mut().expect("it has a voter");
            process.voter = None;
            let boot = process.boot;
            self.queue.after(0, Event::Watch { node, boot });
        }
    }

    /// What the leader's node sees of the others. Knowledge starts anew with each leader.
    fn watch(&mut self, leader: NodeIndex) {
        let now = self.now();
        let boot = self.nodes[leader]
            .process
            .as_ref()
            .map(|process| process.boot);
        let status = self.nodes[leader]
            .voter()
            .expect("it leads")
            .consensus
            .status();
        let new = self.electorate.of != boot;
        if new {
            self.electorate.of = boot;
            self.electorate.seen.clear();
            self.electorate.steady.clear();
        }
        // Heard as in production, where a heartbeat names the log that a node follows. Raft forgets who was
        // active once an election timeout, and a look at the same moment each time would see nobody.
        let follows = |raft_id: u64| {
            let mut nodes = 0..self.nodes.len();
            let node = nodes.find(|node| self.nodes[*node].raft_id == raft_id)?;
            let voter = self.nodes[node].voter();
            (voter.is_some() && self.net.reach(leader, node)).then_some(())
        };
        let seen = status.progress.iter().map(|progress| progress.raft_id);
        let seen: Vec<u64> = seen.filter(|id| new || follows(*id).is_some()).collect();
        for raft_id in seen {
            self.electorate.seen.insert(raft_id, now);
        }
        for node in 0..self.nodes.len() {
            let process = self.nodes[node].process.as_ref();
            let failed = process.is_some_and(|process| process.log_failed);
            if node == leader || self.net.reach(leader, node) && !failed {
                self.electorate.steady.entry(node).or_insert(now);
            } else {
                self.electorate.steady.remove(&node);
            }
        }
    }

    fn plan_change(&self, leader: NodeIndex) -> Option<Change> {
        let now = self.now();
        let voter = self.nodes[leader].voter().expect("it leads");
        let status = voter.consensus.status();
        let seat = |node: NodeIndex| [Seat::A, Seat::B, Seat::W][self.nodes[node].site];
        let present: Vec<voters::Voter> = status
            .conf
            .voters
            .iter()
            .filter_map(|raft_id| {
                let node = *voter.state.voters.bound.get(raft_id)?;
                let last_seen = self.electorate.seen.get(raft_id).copied().unwrap_or(now);
                Some(voters::Voter {
                    raft_id: *raft_id,
                    node,
                    seat: seat(self.index_of(node)),
                    last_seen,
                })
            })
            .collect();
        if present.len() != status.conf.voters.len() || !status.conf.voters_outgoing.is_empty() {
            return None;
        }
        let candidates: Vec<Candidate> = self
            .electorate
            .steady
            .iter()
            .map(|(node, since)| Candidate {
                node: self.nodes[*node].id,
                seat: seat(*node),
                last_seen: now,
                steady_since: *since,
            })
            .collect();
        voters::plan(now, &present, &candidates, Some(status.raft_id))
    }

    fn begin_change(&mut self, _leader: NodeIndex, change: Change) {
        let now = self.now();
        let mut add = BTreeMap::new();
        for node in &change.add {
            self.electorate.next_id = self.electorate.next_id.max(100) + 1;
            let raft_id = self.electorate.next_id;
            add.insert(raft_id, self.index_of(*node));
            self.propose_operator(Command::PutVoter {
                raft_id,
                node: *node,
            });
        }
        self.coverage.hit("control: voters being replaced");
        self.say(
            "voters",
            format_args!("{:?} leave, {add:?} join", change.remove),
        );
        self.electorate.under_way = Some(UnderWay {
            remove: change.remove,
            add,
            since: now,
            founded: false,
        });
    }

    fn go_on_with_change(&mut self, leader: NodeIndex) {
        let now = self.now();
        let status = self.nodes[leader]
            .voter()
            .expect("it leads")
            .consensus
            .status();
        let change = self
            .electorate
            .under_way
            .as_ref()
            .expect("the caller looked");
        let (remove, add, founded) = (change.remove.clone(), change.add.clone(), change.founded);
        let done = remove.iter().all(|id| !status.conf.voters.contains(id))
            && add.keys().all(|id| status.conf.voters.contains(id));
        if done || now > change.since + 60 * SECOND {
            self.coverage.hit(if done {
                "control: voters replaced"
            } else {
                "control: change of voters given up"
            });
            for raft_id in if done { remove } else { BTreeSet::new() } {
                self.propose_operator(Command::RemoveVoter { raft_id });
            }
            self.electorate.under_way = None;
            return;
        }
        let bound = &self.nodes[leader]
            .voter()
            .expect("it leads")
            .state
            .voters
            .bound;
        if !add.keys().all(|id| bound.contains_key(id)) {
            return;
        }
        if !founded {
            for (raft_id, node) in &add {
                self.found_learner(*node, *raft_id);
            }
            self.electorate
                .under_way
                .as_mut()
                .expect("as above")
                .founded = true;
        }
        let Some(change) = next_step(&status, &add, remove) else {
            return;
        };
        self.electorate.tickets += 1;
        let ticket = 1 << 60 | self.electorate.tickets;
        self.tell_voter(leader, VoterInput::Reconfigure { ticket, change });
    }

    /// A node begins an empty log under a new id, and learns.
    fn found_learner(&mut self, node: NodeIndex, raft_id: u64) {
        let now = self.now();
        let (cluster, incarnation) = (self.cluster, self.dice.next_u64());
        let Some(process) = self.nodes[node].process.as_mut() else {
            return;
        };
        process.voter = None;
        let boot = process.boot;
        let it = &mut self.nodes[node];
        it.folder.wipe();
        it.raft_id = raft_id;
        Voter::found(
            &mut it.folder,
            LogIdentity {
                cluster,
                node: it.id,
                raft_id,
                incarnation,
            },
            None,
        );
        let config = Config {
            witness: it.role == NodeRole::Witness,
            boot,
        };
        let mut out = Vec::new();
        let local = it.clock.local(now);
        let (voter, _) = Voter::start(local, &mut it.folder, cluster, it.id, config, &mut out)
            .expect("a new log is good");
        it.process.as_mut().expect("it runs").voter = Some(voter);
        self.say_node(node, format_args!("learns as {raft_id}"));
        self.consensus_outputs(node, out);
        let peers: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|peer| self.net.reach(node, *peer))
            .collect();
        for peer in peers {
            let peer = self.nodes[peer].id;
            self.tell_voter(
                node,
                VoterInput::Link {
                    node: peer,
                    up: true,
                },
            );
        }
    }

    /// A voter's log is lost with its disk.
    pub(crate) fn lose_log(&mut self, node: NodeIndex) {
        if self.nodes[node].raft_id == 0 || !self.quorum_without(node) {
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
        } else {
            self.nodes[node].raft_id = 0;
        }
    }

    /// Whether the voters with a log are a quorum without this node.
    pub(super) fn quorum_without(&self, node: NodeIndex) -> bool {
        let voting = &self.committed.state.voters.voting;
        let others = (0..self.nodes.len())
            .filter(|n| *n != node && voting.contains(&self.nodes[*n].raft_id));
        others.count() * 2 > voting.len()
    }

    /// How long an operation on a raft log takes.
    pub(super) fn log_latency(&mut self) -> Nanos {
        self.dice.between(100_000, millis(4))
    }
}

/// What the leader asks for next: those who join learn, and once they have caught up they vote, in place of
/// those who leave.
fn next_step(
    status: &Status,
    add: &BTreeMap<u64, NodeIndex>,
    remove: BTreeSet<u64>,
) -> Option<Reconfiguration> {
    let learning = add
        .keys()
        .all(|id| status.conf.learners.contains(id) || status.conf.voters.contains(id));
    let caught_up = |id: &u64| {
        status
            .progress
            .iter()
            .any(|p| p.raft_id == *id && p.matched + 2 >= status.last)
    };
    if !learning {
        return Some(Reconfiguration {
            learners: add.keys().copied().collect(),
            ..Reconfiguration::default()
        });
    }
    add.keys().all(caught_up).then(|| Reconfiguration {
        voters: add.keys().copied().collect(),
        remove,
        ..Reconfiguration::default()
    })
}
