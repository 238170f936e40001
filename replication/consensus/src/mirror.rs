//! The log in memory, as raft reads it: everything behind the newest snapshot, and a few entries
//! before it for followers that are only a little behind.
//!
//! It runs ahead of the disk by what has been handed to the shell and is not yet durable; raft itself
//! keeps track of how far it may rely on that.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{Error, StorageError};
use raft_proto::eraftpb::{Entry, HardState, Snapshot};

use crate::log::{Position, RecoveredLog};

/// Entries kept although the snapshot contains them.
const KEPT: usize = 1024;

/// What raft reads.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    hard_state: HardState,
    /// The newest snapshot; empty in a voter that has yet to receive its first.
    snapshot: Snapshot,
    /// Dense; the first one follows `before`.
    entries: VecDeque<Entry>,
    before: Position,
    /// Bytes of data in the entries behind the snapshot.
    bytes: u64,
    /// Set when a follower needs a newer snapshot than there is.
    wanted: Cell<bool>,
}

impl Mirror {
    pub(crate) fn new(log: &RecoveredLog) -> Self {
        let snapshot = log.snapshot.clone().unwrap_or_default();
        let metadata = snapshot.get_metadata();
        let before = Position {
            index: metadata.index,
            term: metadata.term,
        };
        let bytes = log.entries.iter().map(weight).sum();
        let entries = log.entries.iter().cloned().collect();
        Self {
            hard_state: log.hard_state.clone(),
            snapshot,
            entries,
            before,
            bytes,
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The index of the snapshot, 0 without one.
    pub(crate) fn base(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    /// How much has gathered behind the snapshot: entries up to `applied`, bytes of all.
    pub(crate) fn since_snapshot(&self, applied: u64) -> (u64, u64) {
        (applied.saturating_sub(self.base()), self.bytes)
    }

    /// Whether a follower waits for a newer snapshot; asking clears it.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.replace(false)
    }

    /// Appends entries, replacing what stands at their indexes and behind.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.base() && first.index <= self.last() + 1,
            "raft hands out entries without a gap, behind the snapshot"
        );
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.index >= first.index)
        {
            let void = self.entries.pop_back().expect("there is a back");
            self.bytes -= weight(&void);
        }
        self.bytes += entries.iter().map(weight).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Replaces everything by the leader's snapshot.
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.before = Position {
            index: metadata.index,
            term: metadata.term,
        };
        self.entries.clear();
        self.bytes = 0;
        self.snapshot = snapshot;
    }

    /// Takes the own state machine's snapshot; entries far before it go.
    pub(crate) fn compact(&mut self, snapshot: Snapshot) {
        let index = snapshot.get_metadata().index;
        assert!(
            index >= self.base() && index <= self.last(),
            "a snapshot stands for entries of the log"
        );
        let covered = index.saturating_sub(self.before.index) as usize;
        let newly = index - self.base();
        let start = covered
            - usize::try_from(newly)
                .expect("entries are in memory")
                .min(covered);
        self.bytes -= self.entries.range(start..covered).map(weight).sum::<u64>();
        self.snapshot = snapshot;
        for _ in 0..covered.saturating_sub(KEPT) {
            let gone = self.entries.pop_front().expect("covered entries are there");
            self.before = Position {
                index: gone.index,
                term: gone.term,
            };
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.before.index + self.entries.len() as u64
    }

    /// The term of the entry at `index`, if it is known.
    pub(crate) fn term_at(&self, index: u64) -> Result<u64, StorageError> {
        let metadata = self.snapshot.get_metadata();
        if index == self.before.index {
            return Ok(self.before.term);
        }
        if index == metadata.index {
            return Ok(metadata.term);
        }
        if index < self.before.index {
            return Err(StorageError::Compacted);
        }
        let at = (index - self.before.index - 1) as usize;
        self.entries
            .get(at)
            .map(|entry| entry.term)
            .ok_or(StorageError::Unavailable)
    }
}

impl Storage for Mirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = self.snapshot.get_metadata().get_conf_state().clone();
        Ok(RaftState {
            hard_state: self.hard_state.clone(),
            conf_state,
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(
            high <= self.last() + 1,
            "raft asks for entries it has been given"
        );
        let first = self.before.index + 1;
        let range = self
            .entries
            .range((low - first) as usize..(high - first) as usize);
        let mut left = max_size.into().unwrap_or(u64::MAX);
        let fits = |entry: &&Entry| {
            // The first one always goes.
            let weight = weight(entry);
            let fits = entry.index == low || weight <= left;
            left = left.saturating_sub(weight);
            fits
        };
        Ok(range.take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).map_err(Error::Store)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The newest snapshot, if it will do for `to`: a replica refuses one that does not know it.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let metadata = self.snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        let knows = [&conf.voters, &conf.learners, &conf.voters_outgoing]
            .iter()
            .any(|ids| ids.contains(&to));
        if metadata.index == 0 || metadata.index < request_index || !knows {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}

fn weight(entry: &Entry) -> u64 {
    raft::util::entry_approximate_size(entry) as u64
}
