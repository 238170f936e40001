//! Sites, nodes and the links between them, on one machine: every node is a network namespace with
//! its own TCP stack, the nodes of a site share a bridge, and every two sites are joined by a link
//! whose packets pass through a program of ours that delays, loses, cuts and reorders them while
//! the test runs. Needs root, `ip` (iproute2) and /dev/net/tun.
//!
//! ```no_run
//! # fn main() -> Result<(), netlab::LabError> {
//! use netlab::{Direction, Lab};
//! use std::time::Duration;
//!
//! let mut lab = Lab::new("example")?;
//! for site in ["a", "b", "w"] {
//!     lab.site(site)?;
//! }
//! let (a1, b1) = (lab.node("a", "a1")?, lab.node("b", "b1")?);
//! let link = lab.link("a", "b");
//! link.set_delay(Direction::Both, Duration::from_millis(5)); // 10 ms there and back
//! let server = a1.command("lockstep").arg("daemon").spawn()?;
//! link.cut(Direction::Forth); // b hears nothing of a, a still hears b
//! link.heal();
//! # drop((server, b1));
//! # Ok(())
//! # } // here the lab ends: its processes are killed, its namespaces and devices are gone
//! ```
//!
//! Addresses: node n of site s is 10.s.0.n, counted from 1 in the order made. Each lab has its own
//! world, so that labs run side by side. There are no routes around a link: when a–b is cut, a and b
//! see each other through nobody, and w sees both.
//!
//! | job | module |
//! |---|---|
//! | the world: namespaces, bridges, addresses, clean-up | `lab` |
//! | a node: processes and threads inside it | `node` |
//! | what a test turns on a link | `link` |
//! | the packets of a link | `emulator` |
//! | system calls | `sys` |

mod emulator;
mod lab;
mod link;
mod node;
mod sys;

pub use lab::{Lab, LabError, clean, is_root};
pub use link::{Counts, Direction, Link};
pub use node::Node;
