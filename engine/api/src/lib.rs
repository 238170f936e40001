//! The administration interface: messages, client and server of `proto/admin.proto`, how errors
//! travel, and how the control state looks in it.
//!
//! | job | module |
//! |---|---|
//! | generated from the proto file | [`proto`] |
//! | connecting over a Unix socket or mutual TLS | [`client`] |
//! | gRPC codes, words, stable codes | [`error`] |
//! | messages from the control state, wishes from messages | [`show`], [`wish`] |
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod show;
pub mod wish;

/// Generated from `proto/admin.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("lockstep.admin.v1");
}

pub use client::{Client, ConnectError, Target, connect};
