//! Sockets and exports of the volumes that are published to this node.

use lockstep_control::{Change, Volume};
use lockstep_ring::Reactor;
use lockstep_types::{AttachmentId, VolumeId};

use super::DataPlane;
use crate::plane::socket::Socket;

impl DataPlane {
    /// Exports follow the committed record: whatever is published to this node has a socket.
    pub(super) fn follow_change(&mut self, change: &Change, reactor: &mut Reactor) {
        match change {
            Change::Volume(volume) => {
                let here = volume
                    .membership
                    .attachment
                    .filter(|a| a.node == self.me)
                    .map(|a| a.id);
                let held = self.sockets.get(&volume.id).map(|socket| socket.attachment);
                if held != here {
                    self.close_export(volume.id, reactor);
                    if let Some(attachment) = here {
                        self.open_export(volume, attachment, reactor);
                    }
                }
            }
            Change::VolumeGone(volume) => self.close_export(*volume, reactor),
            _ => {}
        }
    }

    fn open_export(&mut self, volume: &Volume, attachment: AttachmentId, reactor: &mut Reactor) {
        let path = self.directory.join(format!("{}.sock", volume.name));
        let socket = Socket::open(attachment, path, reactor);
        if let Some(listener) = socket.listener() {
            self.listeners.insert(listener, volume.id);
        }
        self.sockets.insert(volume.id, socket);
        self.exports
            .attach(volume.id, volume.name.clone(), attachment);
    }

    pub(super) fn close_export(&mut self, volume: VolumeId, reactor: &mut Reactor) {
        let Some(socket) = self.sockets.remove(&volume) else {
            return;
        };
        if let Some(listener) = socket.close(reactor) {
            self.listeners.remove(&listener);
        }
        self.exports.detach(volume, &mut self.actions);
    }
}
