//! What is done about nodes that are dead, so that pods with Lockstep's volumes run elsewhere soon. PURE.
//!
//! | job | module |
//! |---|---|
//! | who is heard by whom: when a node counts as silent | [`evidence`] |
//! | what Kubernetes and Lockstep say of one silent node | [`scene`] |
//! | what is to be done there next, and what never is | [`plan`](mod@plan) |
//! | which daemon is upgraded next | [`rollout`] |
//! | when: graces, rechecks, one batch at a time | [`monitor`] |
//!
//! [`monitor::Monitor::step`] takes what was heard and says what is to be asked and done. Everything that it does follows
//! from what it was told last, so that another monitor can take over at any point.
#![forbid(unsafe_code)]

pub mod evidence;
pub mod monitor;
pub mod plan;
pub mod rollout;
pub mod scene;
