//! One client of an export, or the kernel behind a block device.

use lockstep_nbd::{Intent, Session};
use lockstep_types::{AttachmentId, VolumeId};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) front: Front,
    /// Fixed by the socket or device; for a client that came by TCP, the one it named last.
    pub(super) volume: Option<VolumeId>,
    /// Bound when the client opened the export, or the device was made.
    pub(super) attachment: Option<AttachmentId>,
    /// The socket or device is gone; kept until the last request is answered.
    pub(super) gone: bool,
}

#[derive(Debug)]
pub(super) enum Front {
    Nbd {
        session: Box<Session>,
        via: Via,
        /// An open that waits for the volume.
        waiting: Option<(String, Intent)>,
    },
    Fuse(Box<lockstep_fuse::Session>),
    Ublk(Box<lockstep_ublk::Session>),
}

impl Connection {
    /// Whether a block device is behind it.
    pub(super) fn is_device(&self) -> bool {
        match self.front {
            Front::Nbd { via, .. } => matches!(via, Via::Kernel(_)),
            Front::Fuse(_) | Front::Ublk(_) => true,
        }
    }

    /// Whether nothing more will come of it.
    pub(super) fn is_done(&self) -> bool {
        let in_flight = match &self.front {
            Front::Nbd { session, .. } => session.in_flight(),
            Front::Fuse(session) => session.in_flight(),
            Front::Ublk(session) => session.in_flight(),
        };
        self.gone && in_flight == 0
    }

    /// The volume has grown.
    pub(super) fn grown(&mut self, bytes: u64) {
        match &mut self.front {
            Front::Nbd { session, .. } => session.grown(bytes),
            Front::Fuse(session) => session.grown(bytes),
            Front::Ublk(session) => session.grown(bytes),
        }
    }

    /// The only publication it may have; none if it takes what there is.
    pub(super) fn only(&self) -> Option<AttachmentId> {
        match self.front {
            Front::Nbd {
                via: Via::Kernel(attachment),
                ..
            } => Some(attachment),
            _ => None,
        }
    }
}

/// How an NBD client came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// By the socket of a volume.
    Socket,
    /// By TCP: it names any volume of this node, after STARTTLS.
    Tcp,
    /// It is the kernel, for the block device of this publication: only under that is it served (R12), and what
    /// this daemon cannot answer before it stops is left to the next one.
    Kernel(AttachmentId),
}
