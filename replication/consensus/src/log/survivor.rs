//! Forced recovery: what a log that survived its majority still knows, and how the log begins that
//! goes on from it with one voter.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use raft_proto::eraftpb::{ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType, Snapshot};

use super::{Position, RecoveredLog, sole_voter};

/// Everything that a log holds, whether known to be committed or not: an entry that was
/// acknowledged may be committed by voters that are gone, and nobody is left to say otherwise.
#[derive(Clone, PartialEq, Debug)]
pub struct Survivor<'a> {
    /// The state machine the commands go on from; none in a log that never received one.
    pub snapshot: Option<&'a Bytes>,
    /// The commands behind it, in order.
    pub commands: Vec<(u64, &'a Bytes)>,
    /// The last entry; its term is the highest that this log has seen.
    pub last: Position,
    /// Every raft id that the log has seen vote since its snapshot.
    pub voting: BTreeSet<u64>,
    /// Every raft id that the log has seen in any part since its snapshot, its own among them: all
    /// are barred, so that no older voter and no longer log can ever be taken for part of the new.
    pub members: BTreeSet<u64>,
}

impl RecoveredLog {
    /// What is left, for a forced recovery.
    pub fn survivor(&self) -> Survivor<'_> {
        let metadata = self.snapshot.as_ref().map(Snapshot::get_metadata);
        let base = metadata.map_or(Position::default(), |metadata| Position {
            index: metadata.index,
            term: metadata.term,
        });
        let end = self.entries.last().map_or(base, |entry| Position {
            index: entry.index,
            term: entry.term,
        });
        let (mut voting, mut members) = (BTreeSet::new(), BTreeSet::from([self.identity.raft_id]));
        if let Some(conf) = metadata.map(|metadata| metadata.get_conf_state()) {
            voting.extend(conf.voters.iter().chain(&conf.voters_outgoing).copied());
            members.extend(conf.learners.iter().chain(&conf.learners_next).copied());
        }
        for (kind, id) in self.entries.iter().flat_map(changes) {
            members.insert(id);
            if kind == ConfChangeType::AddNode {
                voting.insert(id);
            }
        }
        members.extend(&voting);
        Survivor {
            snapshot: self.snapshot.as_ref().map(|snapshot| &snapshot.data),
            commands: self.commands().collect(),
            last: Position {
                index: end.index,
                term: end.term.max(self.hard_state.term),
            },
            voting,
            members,
        }
    }
}

impl Survivor<'_> {
    /// What the new log begins with: `data` is the state machine at `index`, `raft_id` the one voter.
    ///
    /// # Panics
    /// If the new log would begin within the old one.
    pub fn successor(&self, raft_id: u64, index: u64, data: Bytes) -> Snapshot {
        assert!(index > self.last.index, "the new log begins behind the old");
        assert!(
            !self.members.contains(&raft_id),
            "R20: a new log has a new raft id"
        );
        let term = self.last.term + 1;
        sole_voter(raft_id, Position { index, term }, data)
    }
}

/// Who becomes what by an entry that changes the configuration.
fn changes(entry: &Entry) -> Vec<(ConfChangeType, u64)> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Vec::new(),
        EntryType::EntryConfChange => ConfChange::decode(&entry.data[..])
            .map(|change| vec![(change.get_change_type(), change.node_id)])
            .unwrap_or_default(),
        EntryType::EntryConfChangeV2 => ConfChangeV2::decode(&entry.data[..])
            .map(|change| {
                let single = change.changes.iter();
                single
                    .map(|single| (single.get_change_type(), single.node_id))
                    .collect()
            })
            .unwrap_or_default(),
    }
}
