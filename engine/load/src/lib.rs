//! The stamped load and its oracle: what demo, simulator, bench and tests write to a volume, and
//! how they know that what they read is right. PURE: no clock, no dice from outside, no I/O.
//!
//! - Every block written carries a [`Stamp`] that names its write, so that a wrong byte does too.
//! - A [`Generator`] draws [`Action`]s from a seed.
//! - The [`Oracle`] is told when an operation begins and how it ends, and judges every read: each
//!   block must behave like one register (V5). A failed write is unknown: it may appear, once, at
//!   any later moment, and never flips back.
//!
//! ```
//! use lockstep_load::{Action, Generator, Oracle, Profile};
//! use lockstep_types::{BLOCK, VolumeId};
//!
//! let volume = VolumeId::from_u128(7);
//! let mut disk = vec![0; 64 * BLOCK];
//! let mut oracle = Oracle::new(volume, 64);
//! let mut generator = Generator::new(1, Profile::new(64));
//! for _ in 0..100 {
//!     let action = generator.next(|range| oracle.is_busy(range)).expect("nothing is in flight");
//!     let operation = oracle.begin(1, action);
//!     match action {
//!         Action::Read(range) => {
//!             let at = range.start as usize * BLOCK;
//!             oracle.verify_read(operation, &disk[at..at + range.bytes()]).expect("right bytes");
//!         }
//!         Action::Write(range) => {
//!             let at = range.start as usize * BLOCK;
//!             operation.fill(volume, &mut disk[at..at + range.bytes()]);
//!             oracle.acknowledge(operation);
//!         }
//!         Action::Discard(range) | Action::Zeroes(range) => {
//!             let at = range.start as usize * BLOCK;
//!             disk[at..at + range.bytes()].fill(0);
//!             oracle.acknowledge(operation);
//!         }
//!         Action::Flush => oracle.acknowledge(operation),
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

mod action;
mod dice;
mod generate;
mod history;
mod oracle;
mod stamp;
mod violation;

pub use action::{Action, Operation};
pub use dice::Dice;
pub use generate::{Generator, Overlap, Profile};
pub use oracle::{Counts, Oracle};
pub use stamp::{Content, Stamp};
pub use violation::{Expected, Outcome, Violation, Why};
