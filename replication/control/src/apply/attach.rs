//! Publications of volumes to nodes, and their fencing (R12).

use super::{Apply, Applying, Outcome};
use crate::Rejected;
use crate::event::Severity;
use crate::mutate::Mutation;
use crate::record::{Attachment, Volume};
use lockstep_types::{AttachmentId, VolumeId};

impl Apply<'_> {
    /// Publishes to a node. One attachment lives at a time, and none on a node where a fenced device
    /// of the volume may still hold requests: they must never reach a later epoch.
    pub(super) fn attach(&mut self, id: VolumeId, attachment: Attachment) -> Applying {
        let mut volume = self.openable(id)?;
        if let Some(current) = volume.membership.attachment {
            if current.node == attachment.node {
                return Ok(Outcome::Attached(current));
            }
            if !self.state.broken(Mutation::SecondAttachment) {
                return Err(Rejected::Attached {
                    node: self.state.node_name(current.node),
                });
            }
        }
        let node = self.new_things_on(attachment.node)?.name.clone();
        let known = volume.fenced.contains_key(&attachment.id);
        self.fresh(attachment.id.as_u128(), known)?;
        let old = volume.fenced.iter().find(|(_, at)| **at == attachment.node);
        if let Some((old, _)) = old
            && !self.state.broken(Mutation::FencedRepublish)
        {
            return Err(Rejected::OldDevice {
                node,
                attachment: *old,
            });
        }
        volume.membership.attachment = Some(attachment);
        let text = format!("volume '{}' was attached to node '{node}'", volume.name);
        self.tell(Severity::Info, Some(id), Some(attachment.node), text);
        self.put_volume(volume)?;
        Ok(Outcome::Attached(attachment))
    }

    /// Ends a publication without the node's help. Its epoch ends with it: replicas that see the
    /// record refuse the old primary, and it can change the in-sync set no more.
    pub(super) fn detach(
        &mut self,
        id: VolumeId,
        attachment: AttachmentId,
        device_gone: bool,
    ) -> Applying {
        let mut volume = self.state.volume(id)?.clone();
        let current = volume
            .membership
            .attachment
            .filter(|current| current.id == attachment);
        let Some(current) = current else {
            return if device_gone {
                self.device_gone(id, attachment)
            } else {
                Ok(Outcome::Unchanged)
            };
        };
        self.fence(&mut volume);
        if device_gone {
            volume.fenced.remove(&attachment);
        }
        let node = self.state.node_name(current.node);
        let text = format!("volume '{}' was detached from node '{node}'", volume.name);
        self.tell(Severity::Info, Some(id), Some(current.node), text);
        self.put_volume(volume)
    }

    pub(super) fn device_gone(&mut self, id: VolumeId, attachment: AttachmentId) -> Applying {
        let mut volume = self.state.volume(id)?.clone();
        if volume.fenced.remove(&attachment).is_none() {
            return Ok(Outcome::Unchanged);
        }
        self.put_volume(volume)
    }

    /// Takes the attachment out of the record, remembers that its device may live, and ends the epoch
    /// of a primary that served it.
    pub(super) fn fence(&self, volume: &mut Volume) {
        let Some(current) = volume.membership.attachment.take() else {
            return;
        };
        volume.fenced.insert(current.id, current.node);
        let serves =
            volume.membership.primary == Some(current.node) && !volume.membership.caretaker;
        if serves && !self.state.broken(Mutation::DetachKeepsEpoch) {
            volume.membership.epoch = self.epoch_after(volume);
            volume.membership.primary = None;
            volume.membership.repair_only = false;
        }
    }

    /// A volume that may be opened: made, not being deleted, its in-sync set trusted.
    pub(super) fn openable(&self, id: VolumeId) -> Result<Volume, Rejected> {
        let volume = self.volume(id)?;
        if volume.membership.distrusted {
            return Err(Rejected::Distrusted);
        }
        if !volume.is_ready() {
            let waiting = volume.replicas.values().find(|replica| !replica.ready);
            let node =
                waiting.map_or_else(String::new, |replica| self.state.node_name(replica.node));
            return Err(Rejected::NotReady { node });
        }
        Ok(volume)
    }
}
