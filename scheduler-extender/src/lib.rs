//! The scheduler extender: puts pods near the copies of their volumes. It answers from memory; what it knows is
//! brought up to date in the background.
//!
//! | job | module |
//! |---|---|
//! | messages of kube-scheduler | [`api`] |
//! | messages of the API server, what is added to pods | [`webhook`] |
//! | answering them | [`routes`] |
//! | a verdict in words, as JSON | [`view`] |
//! | what is known now | [`state`] |
//! | heard from Kubernetes | [`kubernetes`], [`objects`], [`quantity`] |
//! | heard from Lockstep | [`poll`] |
//! | telling the scheduler that a refusal has lapsed | [`touch`] |
//! | the health monitor, a program of its own | [`monitor`] |
//! | what both programs begin with | [`start`] |
//! | HTTPS, certificates | [`server`], [`tls`] |
//! | certificates made in the cluster | [`issue`] |
//! | what is counted | [`measure`] |
//!
//! The verdicts themselves are [`lockstep_verdict`]'s, what is done about dead nodes [`lockstep_evict`]'s.
#![forbid(unsafe_code)]

pub mod api;
pub mod issue;
pub mod kubernetes;
pub mod measure;
pub mod monitor;
pub mod objects;
pub mod poll;
pub mod quantity;
pub mod routes;
pub mod server;
pub mod start;
pub mod state;
pub mod tls;
pub mod touch;
pub mod view;
pub mod webhook;

/// The resource by which a scheduler knows pods with volumes of ours: pods that do not ask for it cause no
/// request.
pub const RESOURCE: &str = "lockstep.dev/volume";
