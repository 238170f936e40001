//! A wrong block, said so that a person can act on it.

use crate::action::Operation;
use crate::history::{Kind, State, Value};
use crate::stamp::Content;
use lockstep_types::VolumeId;
use std::fmt;

/// What was promised about a block and is not so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The volume.
    pub volume: VolumeId,
    /// The first wrong block of the operation.
    pub block: u64,
    /// The read that returned it.
    pub operation: Operation,
    /// What it returned.
    pub found: Content,
    /// What is wrong with it.
    pub why: Why,
    /// What the block may hold.
    pub expected: Vec<Expected>,
}

/// What is wrong with a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// Not whole: from byte `at` on it is not what its head says.
    Torn {
        /// The first wrong byte.
        at: usize,
        /// Whether the rest is zero.
        zeroes: bool,
    },
    /// Neither zeroes nor stamped.
    Garbage,
    /// Another volume's data.
    OtherVolume,
    /// Another block's data.
    Misdirected,
    /// A stamp that this load never gave.
    NeverWritten,
    /// It was there once, or never: a later write was there before this operation began.
    Replaced {
        /// That write, if it is still remembered.
        by: Option<Expected>,
    },
}

/// A write that a block may hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Expected {
    /// Its number; 0 for the zeroes of a block never written.
    pub operation: u64,
    /// Whose it is.
    pub client: u32,
    /// Whether it wrote zeroes, by a discard or as such.
    pub zeroes: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It has not.
    InFlight,
    /// Done.
    Acknowledged,
    /// It failed, and a read has shown that it happened.
    FailedButSeen,
    /// It failed: it may have happened or not.
    Unknown,
}

impl Expected {
    pub(crate) fn of(value: &Value) -> Self {
        let outcome = match value.state {
            State::InFlight => Outcome::InFlight,
            State::Acknowledged => Outcome::Acknowledged,
            State::Unknown if value.observed => Outcome::FailedButSeen,
            State::Unknown => Outcome::Unknown,
        };
        let zeroes = value.kind != Kind::Data;
        Self {
            operation: value.operation,
            client: value.client,
            zeroes,
            outcome,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operation == 0 {
            return f.write_str("zeroes, never written");
        }
        let outcome = match self.outcome {
            Outcome::InFlight => "in flight",
            Outcome::Acknowledged => "acknowledged",
            Outcome::FailedButSeen => "failed, but seen by a read",
            Outcome::Unknown => "failed, so unknown",
        };
        let zeroes = if self.zeroes { "zeroes of " } else { "" };
        write!(
            f,
            "{zeroes}operation {} of client {} ({outcome})",
            self.operation, self.client
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { number, client, .. } = self.operation;
        write!(
            f,
            "block {} of volume {}: operation {number} of client {client} ",
            self.block, self.volume
        )?;
        match self.found {
            Content::Zeroes => f.write_str("read zeroes")?,
            Content::Garbage(first) => {
                f.write_str("read no stamp but")?;
                first.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(" …")?;
            }
            Content::Whole(stamp) | Content::Torn { stamp, .. } => {
                write!(
                    f,
                    "read operation {} of client {}",
                    stamp.operation, stamp.client
                )?;
            }
        }
        self.write_why(f)?;
        f.write_str("; expected ")?;
        for (index, expected) in self.expected.iter().enumerate() {
            write!(f, "{}{expected}", if index == 0 { "" } else { ", or " })?;
        }
        Ok(())
    }
}

impl Violation {
    fn write_why(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = match self.found {
            Content::Whole(stamp) => Some(stamp),
            _ => None,
        };
        match (self.why, stamp) {
            (Why::Torn { at, zeroes }, _) => {
                let rest = if zeroes { "zeroes" } else { "other bytes" };
                write!(f, ", torn: {rest} from byte {at} on")
            }
            (Why::Garbage, _) => f.write_str(": no write of this load"),
            (Why::OtherVolume, Some(stamp)) => write!(f, " on volume {}", stamp.volume),
            (Why::Misdirected, Some(stamp)) => {
                write!(
                    f,
                    ", misdirected: that was written to block {}",
                    stamp.block
                )
            }
            (Why::NeverWritten, _) => f.write_str(", which this load never did"),
            (Why::Replaced { by: Some(by) }, _) => write!(f, ", which {by} had replaced before"),
            (Why::Replaced { by: None }, _) => f.write_str(", which can be there no more"),
            (Why::OtherVolume | Why::Misdirected, None) => unreachable!("a stamp says so"),
        }
    }
}

impl std::error::Error for Violation {}
