//! The replication protocol of one volume: a [`Primary`] that sequences writes and counts durable
//! acks, a [`Secondary`] at every replica, and what makes one safe after the other died. PURE.
//!
//! Both are state machines: they are told the time, a message or an event, and push what is to be
//! done. The rules they uphold are numbered (R1–R25) in docs/safety.md and cited where they hold.
#![forbid(unsafe_code)]

mod durability;
mod lease;
mod overlap;
mod pace;
mod primary;
mod reconcile;
mod secondary;
mod slow;
mod timings;
mod view;

pub mod mutate;

pub use durability::is_durable;
pub use lease::Grant;
pub use primary::{
    Comparison, Primary, PrimaryEvent, PrimaryOut, PrimaryStatus, Proposal, ProposalEnd, Role,
};
pub use reconcile::{Union, UnionError, union_of_tails};
pub use secondary::{ReplicaStore, Secondary};
pub use timings::Timings;
pub use view::{Expected, ReplicaView, View};
