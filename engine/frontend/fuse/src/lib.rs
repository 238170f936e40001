//! The FUSE front-end: a real block device on kernels with neither ublk nor NBD. A mount holds one
//! file as large as the volume, served over /dev/fuse; a loop device with direct I/O on that file
//! is what the pod gets.
//!
//! - [`Session`] is the file system without I/O: messages in, plain data out. [`protocol`] has the
//!   bytes.
//! - [`Device`] is the descriptor of /dev/fuse, [`Mount`] the mount, [`LoopDevice`] the loop device.
//! - [`Driver`] runs a session on a thread of its own; the ring runs it by `Session` and `Device`
//!   alone.
//!
//! # Restart without an I/O error
//!
//! As long as any process keeps the descriptor open, requests wait while there is no server. The
//! next server takes the descriptor, makes [`Session::resumed`] with what was agreed at the start,
//! and is given every unanswered request again (kernel 6.9 and later; [`Negotiated::can_resend`]
//! says so). The session has no state beside the requests in flight, so nothing else is handed
//! over. Whether those requests may still be done is for the node to say (R12): it answers them
//! with an error if the attachment is no longer the same.
//!
//! # Order
//!
//! Attach: `Device::open`, `Mount::new`, run the session, then `Mount::open_volume` and
//! `LoopDevice::attach` on another thread than the session's, which must answer meanwhile.
//! The file may be closed then; the loop device has its own hold on it.
//! Detach: `LoopDevice::detach`, `Mount::unmount`, and the session ends by itself.

mod device;
mod driver;
mod loopdev;
mod mount;
pub mod protocol;
mod session;
mod sys;
mod volume;

pub use device::{BODY, Device, HEAD, Received};
pub use driver::{Completer, Driver, Ended, Handler};
pub use loopdev::{LoopDevice, LoopError};
pub use mount::{Mount, MountError};
pub use protocol::Negotiated;
pub use session::{CloseReason, Limits, Message, Out, Parts, Session};
pub use volume::Volume;

/// Why this process cannot make block devices here; none if it can.
pub fn unavailable() -> Option<String> {
    let (user, _) = sys::user_and_group();
    if user != 0 {
        return Some("the daemon does not run as root".into());
    }
    ["/dev/fuse", "/dev/loop-control"]
        .into_iter()
        .find(|path| !std::path::Path::new(path).exists())
        .map(|path| format!("this host has no {path}"))
}
