//! What a sequence of records amounts to.

use std::collections::VecDeque;

use raft_proto::eraftpb::Entry;

use super::record::{Checkpoint, LogRecord, Position};
use super::recover::Fault;

/// The log while its records are replayed.
pub(super) struct Replay {
    pub(super) state: Checkpoint,
    /// Entries from `present_from` to `state.last`, as far as they lie behind the base.
    pub(super) entries: VecDeque<Entry>,
    /// Entries below this index were in segments that are gone; the base must make up for them.
    present_from: u64,
}

impl Replay {
    /// Starts from the checkpoint of the oldest segment there is.
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            present_from: checkpoint.last.index + 1,
            state: checkpoint,
            entries: VecDeque::new(),
        }
    }

    pub(super) fn apply(&mut self, record: LogRecord) -> Result<(), Fault> {
        match record {
            LogRecord::Entry(entry) => self.append(entry),
            LogRecord::Truncate { from } => self.truncate(from),
            LogRecord::Compacted(base) => self.compact(base),
            LogRecord::Installed(base) => {
                self.state.base = base;
                self.state.last = base;
                self.entries.clear();
                self.present_from = base.index + 1;
                Ok(())
            }
            LogRecord::HardState(hard_state) => {
                if hard_state.term < self.state.hard_state.term {
                    return Err(Fault::Inconsistent("the term goes back"));
                }
                self.state.hard_state = hard_state;
                Ok(())
            }
            LogRecord::Checkpoint(_) => Err(Fault::Inconsistent("a checkpoint inside a segment")),
            LogRecord::Mark => Ok(()),
        }
    }

    /// Checks what only the whole log can tell.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.present_from > self.state.base.index + 1 {
            return Err(Fault::MissingEntries {
                from: self.state.base.index + 1,
                to: self.present_from - 1,
            });
        }
        if self.state.hard_state.commit > self.state.last.index {
            return Err(Fault::Inconsistent(
                "the commit index lies behind the last entry",
            ));
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> Result<(), Fault> {
        let expected = self.state.last.index + 1;
        if entry.index != expected {
            return Err(Fault::Gap {
                expected,
                found: entry.index,
            });
        }
        if entry.term < self.state.last.term {
            return Err(Fault::Inconsistent(
                "an entry's term is lower than that of the one before it",
            ));
        }
        self.state.last = Position {
            index: entry.index,
            term: entry.term,
        };
        if entry.index > self.state.base.index {
            self.entries.push_back(entry);
        }
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> Result<(), Fault> {
        if from <= self.state.base.index || from > self.state.last.index {
            return Err(Fault::Inconsistent("a truncation outside of the log"));
        }
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            self.entries.pop_back();
        }
        self.present_from = self.present_from.min(from);
        let index = from - 1;
        // Inside a segment that is gone the term is unknown; the entry that follows brings its own.
        let term = match self.entries.back() {
            Some(entry) => entry.term,
            None if index == self.state.base.index => self.state.base.term,
            None => 0,
        };
        self.state.last = Position { index, term };
        Ok(())
    }

    fn compact(&mut self, base: Position) -> Result<(), Fault> {
        if base.index < self.state.base.index || base.index > self.state.last.index {
            return Err(Fault::Inconsistent("a snapshot outside of the log"));
        }
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.index <= base.index)
        {
            let entry = self.entries.pop_front().expect("there is a front");
            if entry.index == base.index && entry.term != base.term {
                return Err(Fault::Inconsistent(
                    "a snapshot's term is not that of its entry",
                ));
            }
        }
        self.state.base = base;
        Ok(())
    }
}
