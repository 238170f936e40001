//! Forced recovery: a control plane is rebuilt from one log while the old side may live, as
//! `lockstep recover rebuild-quorum` does, and a volume is opened by force afterwards.

use super::{Committed, World};
use crate::control::Voter;
use crate::net::NodeIndex;
use lockstep_consensus::log::{LogIdentity, recover};
use lockstep_control::candidates::{Held, may_rejoin, rank};
use lockstep_control::rebuild::{OldLog, Successor};
use lockstep_control::{Command, State, encode_snapshot};
use lockstep_types::VolumeId;
use std::collections::BTreeMap;

impl World {
    /// A person takes everybody else for lost: the node is stopped, and its log made the first of a new
    /// generation. What the others go on to commit is history of the old one.
    pub(crate) fn rebuild_quorum(&mut self, node: NodeIndex) {
        self.kill(node);
        let at_unix_ms = self.now() / 1_000_000;
        let identity = LogIdentity {
            cluster: self.cluster,
            node: self.nodes[node].id,
            raft_id: self.dice.next_u64(),
            incarnation: self.dice.next_u64(),
        };
        let (segments, snapshots) = self.nodes[node].folder.files();
        let log = recover(self.cluster, identity.node, &segments, &snapshots)
            .expect("a sound log")
            .expect("it has a log");
        let survivor = log.survivor();
        let commands = survivor.commands.iter();
        let commands = commands.map(|(index, command)| (*index, command.as_ref()));
        let state = State::replay(survivor.snapshot.map(AsRef::as_ref), commands);
        #[cfg(feature = "mutate")]
        let state = state.map(|state| State {
            mutation: self.committed.state.mutation,
            ..state
        });
        let old = OldLog {
            last: survivor.last.index,
            voting: &survivor.voting,
            members: &survivor.members,
        };
        let new = Successor {
            raft_id: identity.raft_id,
            node: identity.node,
            operator: "simulated",
            at_unix_ms,
        };
        let state = state.expect("it can be read");
        let rebuilt = state.rebuild_by_force(old, new).expect("it is allowed");
        let data = encode_snapshot(&rebuilt.state).into();
        let first = survivor.successor(identity.raft_id, rebuilt.index, data);
        let generation = rebuilt.state.generation;
        let words = format_args!("is rebuilt by force as generation {generation}");
        self.say_node(node, words);
        self.coverage.hit("operator: control plane rebuilt");
        let it = &mut self.nodes[node];
        it.raft_id = identity.raft_id;
        it.folder.wipe();
        Voter::found(&mut it.folder, identity, Some(&first));
        let now = Committed {
            entries: BTreeMap::new(),
            applied: rebuilt.index,
            electorates: vec![rebuilt.state.voters.voting.clone()],
            left: Default::default(),
            state: rebuilt.state,
        };
        self.older.push(std::mem::replace(&mut self.committed, now));
        self.restart(node, false);
    }

    /// A later generation has barred this node's log: the daemon sets it aside and starts again.
    pub(super) fn set_log_aside(&mut self, node: NodeIndex) {
        self.coverage.hit("control: barred log set aside");
        self.say_node(node, format_args!("sets its barred log aside"));
        self.kill(node);
        self.nodes[node].folder.wipe();
        self.restart(node, false);
    }

    /// A person opens a volume with the newest copy that can be reached.
    pub(crate) fn promote_by_force(&mut self, volume: VolumeId) {
        let data = self.nodes.iter().filter_map(|node| node.data());
        let held: Vec<Held> = data.flat_map(|data| data.held_copies(volume)).collect();
        let ranked = rank(held.clone());
        let newest = ranked.iter().find(|one| one.newest && one.held.is_whole());
        let chosen = &newest.expect("a copy is whole").held;
        let record = &self.committed.state.volumes[&volume];
        let command = Command::ForcePromote {
            volume,
            expected: record.membership.expected(),
            replica: chosen.replica,
            incarnation: chosen.incarnation,
            may_rejoin: may_rejoin(chosen, &held),
            operator: "simulated".into(),
        };
        self.coverage.hit("operator: promoted by force");
        self.propose_operator(command);
    }

    /// What was committed under a generation; newer ones than that of the world do not exist.
    pub(super) fn history(&mut self, generation: u32) -> &mut Committed {
        let older = self.older.iter_mut();
        let mut older = older.filter(|history| history.state.generation == generation);
        older.next().unwrap_or(&mut self.committed)
    }
}
