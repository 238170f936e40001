//! Pools: what may become one, where this node's are, and claiming them (R23).

pub mod catalogue;
pub mod create;
pub mod failures;
pub mod signature;
