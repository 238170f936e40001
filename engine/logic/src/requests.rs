//! Requests of front-ends: to the primary under the attachment they came through, or failed (R12).

use crate::io::{Output, Tag};
use crate::node::Node;
use lockstep_protocol::Role;
use lockstep_protocol::mutate::Mutation;
use lockstep_types::{AttachmentId, Request, RequestError, VolumeId};

impl Node {
    /// A request of a front-end. It waits while the volume is not open here, and while it is not known
    /// yet who has it attached.
    pub(crate) fn on_client(
        &mut self,
        volume: VolumeId,
        attachment: AttachmentId,
        tag: Tag,
        request: Request,
        out: &mut Vec<Output>,
    ) {
        let Some(state) = self.volumes.get(&volume) else {
            if self.gone.contains(&volume) {
                return fenced(tag, out);
            }
            let waiting = self.unplaced.entry(volume).or_default();
            return waiting.push((attachment, tag, request));
        };
        let running = state.running.as_ref();
        let serves = running.is_some_and(|r| match r.primary.role() {
            Role::Attached(id) => {
                id == attachment || self.broken.is(Mutation::R12AttachmentIgnored)
            }
            Role::Caretaker => false,
        });
        if !serves {
            return fenced(tag, out); // R12
        }
        self.with_primary(volume, out, |primary, now, present, pushed| {
            primary.on_client(now, tag, request, present, pushed);
        });
    }

    /// The record of a volume is known: requests that waited for it are placed.
    pub(crate) fn place_requests(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        for (attachment, tag, request) in self.unplaced.remove(&volume).unwrap_or_default() {
            self.on_client(volume, attachment, tag, request, out);
        }
    }
}

/// The attachment is not, or no longer, the one published here.
pub(crate) fn fenced(tag: Tag, out: &mut Vec<Output>) {
    let result = Err(RequestError::Fenced);
    out.push(Output::Complete { tag, result });
}
