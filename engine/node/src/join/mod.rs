//! Joining a cluster with a one-time token, and founding one.

pub mod client;
pub mod found;
pub mod protocol;
pub mod token;
