//! A whole cluster on this machine: two sites and a witness as child processes of this binary, on
//! 127.0.0.1, with pools in files. What `up`, `down` and `demo` share.

mod cluster;
mod devices;
mod layout;
mod leave;
mod process;

pub use cluster::LocalCluster;
pub use devices::{close_devices, let_go};
pub use layout::Layout;
pub use leave::leave;
pub use process::{is_running, stop_all};
