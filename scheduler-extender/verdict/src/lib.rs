//! On which nodes a pod may run, and where it runs best, by where the copies of its volumes are. PURE.
//!
//! | job | module |
//! |---|---|
//! | what Lockstep said: nodes, volumes, copies | [`storage`] |
//! | that, joined with the nodes of Kubernetes | [`cluster`] |
//! | what Kubernetes said: claims, volumes, classes, pods | [`claims`] |
//! | what one pod asks for | [`wanted`] |
//! | which nodes go, and why | [`filter`](mod@filter), [`reason`] |
//! | which are best | [`prioritize`](mod@prioritize), [`bands`] |
//! | how much old news is worth | [`trust`] |
//! | all of it in words | [`explain`](mod@explain) |
//! | whom to tell that a refusal has lapsed | [`refused`] |
//!
//! A verdict is made in two steps. [`Claims::wanted`](claims::Claims::wanted) finds what a pod asks for; then
//! [`filter::filter`], [`prioritize::prioritize`] and [`explain::explain`] judge the nodes over one
//! [`Cluster`](cluster::Cluster), which never changes. Neither waits, asks, or fails.
#![forbid(unsafe_code)]

pub mod bands;
pub mod claims;
pub mod cluster;
pub mod explain;
pub mod filter;
pub mod prioritize;
pub mod reason;
pub mod refused;
pub mod storage;
pub mod trust;
pub mod wanted;
