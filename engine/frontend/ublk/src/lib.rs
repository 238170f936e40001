//! ublk: block devices whose requests the kernel hands to this process, as commands of io_uring.
//!
//! A device is made and started by [`Control`], on any thread that may wait; its requests come to the thread that
//! asked for them first, by [`Queue`]. One queue a device: the data plane has one thread a volume. Bytes are copied
//! between a request and memory by reads and writes of the queue's descriptor, so that no buffer is tied to a
//! request that is not there.
//!
//! A device outlives its server: when the descriptor is closed, the kernel keeps what was not answered, and hands
//! all of it to the next server once that has [`Control::start_recovery`], a queue with every tag asked for, and
//! [`Control::end_recovery`].
//!
//! | job | module |
//! |---|---|
//! | structures and numbers of the kernel's interface | [`uapi`] |
//! | devices: made, started, stopped, found | [`control`] |
//! | the requests of one device, without I/O | [`session`] |
//! | their descriptor | [`queue`] |

pub mod control;
pub mod queue;
pub mod session;
mod sys;
pub mod uapi;

pub use control::{Control, Error, Parameters, can_grow, unavailable};
pub use queue::Queue;
pub use session::{Out, Session};

/// Requests of a device under way at once.
pub const DEPTH: u16 = 64;
/// Bytes of the longest read or write.
pub const MAX_TRANSFER: u32 = 512 << 10;
