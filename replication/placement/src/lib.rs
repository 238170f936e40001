//! Where copies go: the site grammar, the choice, and why it could not be made. PURE.
//!
//! The control state checks with it, the proposer and the scheduler extender choose with it.
#![forbid(unsafe_code)]

mod choose;
mod explain;
mod grammar;
mod label;
mod refusal;
mod topology;

pub use choose::{Choice, Held, Local, Request, add_one, choose, replace};
pub use explain::explain;
pub use grammar::{Grammar, GrammarError, MAX_COPIES, spreads_over};
pub use label::{LabelError, MAX_LABEL, check_label};
pub use refusal::{Area, Refusal, Shortage};
pub use topology::{Domain, Fitness, Host, Space, Topology};
