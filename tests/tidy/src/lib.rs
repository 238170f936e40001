//! A linter of our own, run as tests: what holds for the workspace as a whole and no compiler
//! checks. The tests stand in `tests/`, one a subject; here is what they look at.
//!
//! | subject | test |
//! |---|---|
//! | who may depend on whom, and on what from outside | `tests/dependencies.rs` |
//! | no clock, dice, threads or system calls in pure cores | `tests/purity.rs` |
//! | where `unsafe` may stand, and what stands above it | `tests/unsafe_code.rs` |
//! | nothing unfinished, no `unwrap` | `tests/leftovers.rs` |
//! | lengths of files and functions | `tests/lengths.rs` |
//! | alerts, runbooks and dashboard against the metrics that there are | `tests/monitoring.rs` |
#![forbid(unsafe_code)]

pub mod source;
pub mod workspace;

pub use source::{Source, sources};
pub use workspace::{Package, Workspace};

/// Fails with one line a finding.
///
/// # Panics
/// If there is one.
#[track_caller]
pub fn none_of(findings: Vec<String>, why: &str) {
    assert!(findings.is_empty(), "\n{}\n\n{why}\n", findings.join("\n"));
}
