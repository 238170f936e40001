//! The NBD socket of a volume that is attached here.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lockstep_ring::{Address, ListenerId, Reactor, Transport};
use lockstep_types::AttachmentId;

/// A socket in the exports' directory, by the volume's name.
pub(super) struct Socket {
    pub(super) attachment: AttachmentId,
    /// None where it could not be made, as where its path is longer than the kernel takes: the volume has its
    /// other front-ends all the same.
    listener: Option<ListenerId>,
    path: PathBuf,
}

impl Socket {
    /// Listens for clients of this user.
    pub(super) fn open(attachment: AttachmentId, path: PathBuf, reactor: &mut Reactor) -> Self {
        let address = Address::Unix(path.clone());
        let listener = match reactor.listen(&address, Transport::Plain, None) {
            Ok(listener) => {
                // The directory is closed to others already; this is for whoever opens it up.
                let mode = std::fs::Permissions::from_mode(0o600);
                if let Err(error) = std::fs::set_permissions(&path, mode) {
                    tracing::warn!(path = %path.display(), %error, "the NBD socket keeps its default mode");
                }
                Some(listener)
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a volume has no NBD socket");
                None
            }
        };
        Self {
            attachment,
            listener,
            path,
        }
    }

    pub(super) fn listener(&self) -> Option<ListenerId> {
        self.listener
    }

    /// Takes no more clients; what it listened by.
    pub(super) fn close(self, reactor: &mut Reactor) -> Option<ListenerId> {
        let listener = self.listener?;
        reactor.stop_listening(listener);
        let _ = std::fs::remove_file(&self.path);
        Some(listener)
    }
}
