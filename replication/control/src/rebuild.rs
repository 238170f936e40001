//! Forced recovery of the control plane from the one log that is left: what state it holds, and the first state
//! of the next generation.

use crate::wire::{DecodeError, decode_proposal, decode_snapshot};
use crate::{Command, Proposal, Rejected, State};
use lockstep_types::NodeId;
use std::collections::BTreeSet;

/// A log that survived its majority.
#[derive(Clone, Copy, Debug)]
pub struct OldLog<'a> {
    /// Its last index.
    pub last: u64,
    /// Every raft id that it has seen vote.
    pub voting: &'a BTreeSet<u64>,
    /// Every raft id that it has seen in any part, its own among them.
    pub members: &'a BTreeSet<u64>,
}

/// Who rebuilds, and as what.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'a> {
    /// The one voter of the new generation: an id that was never used.
    pub raft_id: u64,
    /// Its node.
    pub node: NodeId,
    /// The person who typed it.
    pub operator: &'a str,
    /// When, for the record.
    pub at_unix_ms: u64,
}

/// The first state of the new generation.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What the new log begins with.
    pub state: State,
    /// The index at which it stands.
    pub index: u64,
    /// Raft ids that are never used again (R20).
    pub barred: BTreeSet<u64>,
}

/// An entry of the old log that cannot be read by this build.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// The snapshot.
    #[error("the log's snapshot cannot be read by this build: {0}")]
    Snapshot(DecodeError),
    /// A command.
    #[error("entry {index} cannot be read by this build: {error}")]
    Entry {
        /// Where it stands.
        index: u64,
        /// Why.
        error: DecodeError,
    },
}

impl State {
    /// Applies everything that a log holds. Which entries were committed is not asked: one that was
    /// acknowledged may be committed by voters that are gone.
    ///
    /// # Errors
    /// If something of it cannot be read.
    pub fn replay<'a>(
        snapshot: Option<&[u8]>,
        commands: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Result<Self, Unreadable> {
        let mut state = match snapshot {
            Some(data) => decode_snapshot(data).map_err(Unreadable::Snapshot)?,
            None => Self::new(),
        };
        for (index, command) in commands {
            let proposal =
                decode_proposal(command).map_err(|error| Unreadable::Entry { index, error })?;
            // One that is refused was refused when it was first applied, too.
            let _ = state.apply(index, &proposal);
        }
        Ok(state)
    }

    /// Makes the state of an old log the first of the next generation, with one voter: every older log is
    /// barred, and no volume's record is trusted.
    ///
    /// # Errors
    /// The rules refuse it.
    pub fn rebuild_by_force(
        mut self,
        old: OldLog<'_>,
        new: Successor<'_>,
    ) -> Result<Rebuilt, Rejected> {
        let mut barred = old.members.clone();
        barred.extend(self.voters.bound.keys());
        barred.extend(&self.voters.voting);
        // A site that has ever voted is without a voter now, as far as this log knows.
        let known = self.voters.voting.union(old.voting).copied().collect();
        let mut index = old.last + 1;
        self.apply_configuration(index, known);
        let commands = [
            Command::RebuildGeneration {
                generation: self.generation + 1,
                barred_voters: barred.clone(),
                operator: new.operator.to_owned(),
            },
            Command::PutVoter {
                raft_id: new.raft_id,
                node: new.node,
            },
        ];
        for command in commands {
            index += 1;
            let proposal = Proposal {
                at_unix_ms: new.at_unix_ms,
                command,
            };
            self.apply(index, &proposal).result?;
        }
        index += 1;
        self.apply_configuration(index, BTreeSet::from([new.raft_id]));
        Ok(Rebuilt {
            state: self,
            index,
            barred,
        })
    }
}
