//! The daemon: everything around the pure cores. tokio carries the control plane (raft, joining,
//! administration, metrics); each data-plane thread owns an io_uring and is reached only through
//! a bounded mailbox.
//!
//! | job | module |
//! |---|---|
//! | from start to end | [`daemon`] |
//! | this node's control plane, and between it and the data plane | [`control`], [`bridge`] |
//! | `node.toml`, units, names | [`config`], [`units`], [`label`] |
//! | the data directory | [`directory`] |
//! | block devices of attached volumes | [`devices`] |
//! | taking over from a daemon that was killed | `ending` |
//! | making and claiming pools | [`pool`] |
//! | founding and joining | [`join`] |
//! | what a node says of itself | `introduce` |
//! | the control port, and the links between nodes | [`listener`], [`links`], [`frame`] |
//! | the data plane's thread | [`plane`] |
//! | forced recovery of the quorum, on a stopped node | [`rebuild`] |
//! | log, metrics, health | [`logging`], [`http`] |
#![forbid(unsafe_code)]

pub mod admin;
pub mod bridge;
pub mod config;
pub mod control;
pub mod daemon;
pub mod devices;
pub mod directory;
mod ending;
mod exposition;
pub mod frame;
#[cfg(test)]
mod frozen;
pub mod http;
mod introduce;
pub mod join;
pub mod label;
pub mod links;
pub mod listener;
pub mod logging;
pub mod mint;
pub mod plane;
pub mod pool;
pub mod rebuild;
pub mod units;
