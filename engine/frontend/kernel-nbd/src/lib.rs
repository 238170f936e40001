//! The kernel's NBD client: block devices that speak NBD on a socket given to them, set up by generic netlink.
//!
//! A device outlives whoever made it: when its server goes, the kernel keeps what was not answered and waits for
//! [`reconnect`] until [`Parameters::dead_after`] is over; nobody has to hold anything open meanwhile. What was
//! sent and not answered is sent again after [`Parameters::request_timeout`], not before.
//!
//! | job | module |
//! |---|---|
//! | making, reconnecting, growing, ending a device | [`device`] |
//! | messages and their bytes | [`message`] |
//! | asking the kernel | `exchange` |
#![forbid(unsafe_code)]

pub mod device;
mod exchange;
pub mod message;

pub use device::{
    Error, Parameters, backend_of, connect, disconnect, find, is_connected, path, reconnect,
    resize, unavailable,
};
