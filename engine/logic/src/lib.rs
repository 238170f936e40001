//! One node's data plane: stores, secondaries and primaries, composed into one state machine that the
//! daemon and the simulator drive alike. PURE.
//!
//! [`Node::step`] takes the time and one [`Input`](io::Input), and pushes what is to be done. Between
//! a primary and a replica of the same node messages take the same way as over a link (R3), through a
//! queue that is empty again when `step` returns.
//!
//! | file | decides |
//! |---|---|
//! | `node` | what an input concerns; settling; timers |
//! | `pool` | which replica or job a store's answer belongs to |
//! | `messages` | which replica or primary a message belongs to |
//! | `replicas` | which replicas are made, reborn, deleted here (R4, R18, R24) |
//! | `volumes` | who seeks to be primary of what (R9, R12) |
//! | `attach` | publications: begun, ended |
//! | `requests` | which requests reach a primary (R12) |
//! | `beacons` | leases and floors between nodes (R13) |
//! | `ledger` | the stamps between which writes stood in one site only |
//! | `links` | who can be reached |
//! | `losses` | replicas lost while nobody has their volume open (R4) |
//! | `proposals` | what is put to the control plane, and what becomes of it |
//! | `slow` | whether a member that is far slower than its peers may be evicted |
//! | `stop` | the clean end |
#![forbid(unsafe_code)]

mod attach;
mod beacons;
mod events;
mod inspect;
pub mod io;
mod ledger;
mod links;
mod losses;
mod messages;
mod node;
mod pool;
mod proposals;
mod replicas;
mod requests;
mod slow;
mod stop;
mod volumes;

pub use inspect::{Inspection, PoolInspection, ReplicaInspection, VolumeInspection};
pub use node::{Node, NodeConfig};
pub use volumes::view_of;
