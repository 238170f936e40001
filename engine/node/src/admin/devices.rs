//! Devices of volumes attached to this node.

use lockstep_api::error::{self, status};
use lockstep_api::proto::devices_server::Devices;
use lockstep_api::{proto, wish};
use lockstep_control::Volume;
use lockstep_logic::io::AttachmentState;
use lockstep_types::{AttachmentId, BLOCK, VolumeId};
use tonic::{Code, Request, Response, Status};

use super::Shared;
use crate::devices::{CloseError, FrontEnd, Made};

#[tonic::async_trait]
impl Devices for Shared {
    async fn open(
        &self,
        request: Request<proto::OpenDeviceRequest>,
    ) -> Result<Response<proto::Device>, Status> {
        let request = request.into_inner();
        let (id, name, device) = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            let device = self.socket_of(volume).ok_or_else(|| {
                let words = format!(
                    "volume '{}' is not attached to this node: 'lockstep volume attach' does that",
                    volume.name
                );
                status(Code::FailedPrecondition, "not-attached", words)
            })?;
            (volume.id, volume.name.clone(), device)
        };
        if !request.attachment.is_empty() && request.attachment != device.attachment {
            let words = format!(
                "volume '{name}' is attached under {} and not {}",
                device.attachment, request.attachment
            );
            return Err(status(Code::FailedPrecondition, "wrong-attachment", words));
        }
        let wanted = match request.front_end() {
            proto::FrontEnd::Nbd => return Ok(Response::new(device)),
            proto::FrontEnd::Unspecified if !self.devices()?.any_available() => {
                return Ok(Response::new(device));
            }
            proto::FrontEnd::Unspecified | proto::FrontEnd::Device => None,
            proto::FrontEnd::Loop => Some(FrontEnd::Loop),
            proto::FrontEnd::KernelNbd => Some(FrontEnd::KernelNbd),
            proto::FrontEnd::Ublk => Some(FrontEnd::Ublk),
        };
        let device = self.block_device(id, &name, device, wanted).await?;
        Ok(Response::new(device))
    }

    async fn close(
        &self,
        request: Request<proto::CloseDeviceRequest>,
    ) -> Result<Response<proto::CloseDeviceReply>, Status> {
        let request = request.into_inner();
        let attachment = {
            let state = self.control().state();
            let volume = wish::volume(&state, &request.volume)?;
            volume.membership.attachment.map(|attachment| attachment.id)
        };
        // A socket lives as long as its attachment: only a block device can be closed.
        if let Some(attachment) = attachment
            && (request.attachment.is_empty() || request.attachment == attachment.to_string())
        {
            self.close_device(attachment).await?;
        }
        Ok(Response::new(proto::CloseDeviceReply {}))
    }

    async fn list(
        &self,
        _: Request<proto::ListDevicesRequest>,
    ) -> Result<Response<proto::ListDevicesReply>, Status> {
        self.bridge()
            .map_err(|_| error::invalid("a witness has no devices"))?;
        let state = self.control().state();
        let devices = state
            .volumes
            .values()
            .filter_map(|volume| self.socket_of(volume))
            .flat_map(|socket| {
                let block = self.block_device_of(&socket);
                std::iter::once(socket).chain(block)
            })
            .collect();
        Ok(Response::new(proto::ListDevicesReply { devices }))
    }
}

impl Shared {
    /// Takes the block device of a publication apart, if it has one.
    pub(super) async fn close_device(&self, attachment: AttachmentId) -> Result<(), Status> {
        self.devices()?.close(attachment).await.map_err(|error| {
            let code = match error {
                CloseError::InUse { .. } | CloseError::Open { .. } => "in-use",
                CloseError::Failed(_) => "not-closed",
            };
            status(Code::FailedPrecondition, code, format!("{error:#}"))
        })
    }

    /// The block device of a volume that is attached here; made if it is not there, and with no path
    /// while it has to wait for the volume.
    async fn block_device(
        &self,
        volume: VolumeId,
        name: &str,
        socket: proto::Device,
        wanted: Option<FrontEnd>,
    ) -> Result<proto::Device, Status> {
        let failed =
            |e: anyhow::Error| status(Code::FailedPrecondition, "front-end", format!("{e:#}"));
        let attachment: AttachmentId = socket.attachment.parse().expect("made from an id");
        if self.devices()?.made(attachment).is_none() && !socket.waiting.is_empty() {
            return Ok(proto::Device {
                front_end: proto::FrontEnd::Device.into(),
                path: String::new(),
                ..socket
            });
        }
        let whose = (volume, attachment);
        let made = self.devices()?.open(whose, name, wanted).await;
        Ok(describe(made.map_err(failed)?, socket))
    }

    /// The block device beside a socket, if one was made.
    fn block_device_of(&self, socket: &proto::Device) -> Option<proto::Device> {
        let attachment = socket.attachment.parse().ok()?;
        let made = self.devices().ok()?.made(attachment)?;
        Some(describe(made, socket.clone()))
    }

    /// The NBD socket of a volume that is attached here.
    fn socket_of(&self, volume: &Volume) -> Option<proto::Device> {
        let attachment = volume
            .membership
            .attachment
            .filter(|a| a.node == self.control().node())?;
        let view = self.bridge().ok()?.view();
        let view = view.borrow();
        let state = view
            .attachments
            .get(&volume.id)
            .filter(|(id, _)| *id == attachment.id)
            .map(|(_, state)| *state);
        let waiting = match state {
            Some(AttachmentState::Open { .. }) => String::new(),
            Some(AttachmentState::Fenced) => {
                "fenced: the volume was published elsewhere since".into()
            }
            Some(AttachmentState::Suspended) | None => view
                .primaries
                .get(&volume.id)
                .and_then(|primary| primary.waiting.clone())
                .unwrap_or_else(|| "being opened".into()),
        };
        Some(proto::Device {
            volume: volume.id.to_string(),
            attachment: attachment.id.to_string(),
            front_end: proto::FrontEnd::Nbd.into(),
            path: self
                .inner
                .directory
                .export(&volume.name)
                .display()
                .to_string(),
            bytes: volume.blocks * BLOCK as u64,
            waiting,
            passed_over: Vec::new(),
        })
    }
}

/// A device beside its volume's socket.
fn describe(made: Made, socket: proto::Device) -> proto::Device {
    let front_end = match made.choice.front_end {
        FrontEnd::Ublk => proto::FrontEnd::Ublk,
        FrontEnd::KernelNbd => proto::FrontEnd::KernelNbd,
        FrontEnd::Loop => proto::FrontEnd::Loop,
    };
    proto::Device {
        front_end: front_end.into(),
        path: made.path.display().to_string(),
        passed_over: made.choice.passed_over,
        ..socket
    }
}
