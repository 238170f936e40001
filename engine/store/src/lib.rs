//! The store of one device: a journal that makes writes durable, extents they move to, checksums apart
//! from the data they cover, and a recovery that drops nothing silently. PURE: it decides what bytes go
//! where; a shell carries the disk operations out.
//!
//! | file | job |
//! |---|---|
//! | `api` | the boundary |
//! | `store` | the state, and where the disk's answers go |
//! | `requests`, `queries` | what may be asked, and looked at |
//! | `commit`, `journal`, `index` | the ring: group commit, space, what it holds |
//! | `destage`, `work`, `deltas` | from the ring to the place: rounds, what each takes on, what it logs |
//! | `forward` | from the ring's tail to its head |
//! | `checkpoint`, `anchor`, `extents`, `sums` | metadata of places; what is free |
//! | `reads`, `locate` | from where the newest content lies, verified |
//! | `recover`, `rescan` | after a stop or a crash: metadata, then the ring |
//! | `slots`, `table` | replicas, and their durable state |
//! | `audit` | whether the state contradicts itself |
//! | `create` | a new pool |
//! | `format`, `geometry` | bytes and places |
//! | `scrub` | when to verify which extent |
#![forbid(unsafe_code)]

mod anchor;
pub mod api;
mod audit;
mod checkpoint;
mod commit;
mod create;
mod deltas;
mod destage;
mod extents;
/// What lies on the disk, byte by byte.
pub mod format;
mod forward;
mod gather;
/// Where the areas of a pool lie.
pub mod geometry;
mod index;
mod journal;
mod locate;
pub mod mutate;
mod pressure;
mod queries;
mod reads;
mod recover;
mod requests;
mod rescan;
/// When to verify which extent.
pub mod scrub;
mod slots;
mod store;
mod sums;
mod table;
mod work;

pub use api::*;
pub use create::{NewPool, pool_writes};
pub use geometry::{FormatOptions, Geometry, GeometryError};
pub use store::{OpenOptions, Store};
