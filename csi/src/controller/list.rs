//! ListVolumes, ControllerGetVolume, ControllerGetVolumeHealth.

use std::collections::BTreeSet;

use lockstep_api::proto::{self as admin, VolumeStatus};
use tonic::{Code, Status};

use super::ControllerService;
use super::create::shown;
use crate::{names, proto};

impl ControllerService {
    pub(super) async fn list_volumes(
        &self,
        request: proto::ListVolumesRequest,
    ) -> Result<proto::ListVolumesResponse, Status> {
        let limit = u32::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument("max_entries is below 0"))?;
        let list = |client: lockstep_api::Client| {
            let request = admin::ListVolumesRequest {
                page: request.starting_token.clone(),
                limit,
            };
            async move { client.volumes().list(request).await }
        };
        let reply = self
            .daemon
            .ask(list)
            .await
            .map_err(|status| match status.code() {
                // What CSI wants to hear of a token that is none.
                Code::InvalidArgument => Status::aborted(status.message()),
                _ => status,
            })?;
        let nodes = self.daemon.nodes().await?;
        let entries = reply
            .volumes
            .iter()
            .map(|volume| proto::list_volumes_response::Entry {
                volume: Some(shown(volume, &nodes)),
                status: Some(proto::list_volumes_response::VolumeStatus {
                    published_node_ids: published(volume),
                }),
            });
        Ok(proto::ListVolumesResponse {
            entries: entries.collect(),
            next_token: reply.next_page,
        })
    }

    pub(super) async fn controller_get_volume(
        &self,
        request: proto::ControllerGetVolumeRequest,
    ) -> Result<proto::ControllerGetVolumeResponse, Status> {
        let id = names::known_id(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let nodes = self.daemon.nodes().await?;
        Ok(proto::ControllerGetVolumeResponse {
            volume: Some(shown(&volume, &nodes)),
            status: Some(proto::controller_get_volume_response::VolumeStatus {
                published_node_ids: published(&volume),
            }),
        })
    }

    pub(super) async fn controller_get_volume_health(
        &self,
        request: proto::ControllerGetVolumeHealthRequest,
    ) -> Result<proto::ControllerGetVolumeHealthResponse, Status> {
        let id = names::known_id(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        Ok(proto::ControllerGetVolumeHealthResponse {
            volume_health: Some(health(&volume)),
        })
    }
}

/// A node is named until the volume has been unpublished from it: whoever is left out is published anew.
fn published(volume: &admin::Volume) -> Vec<String> {
    let all = volume.attachment.iter().chain(&volume.fenced);
    let nodes: BTreeSet<String> = all.map(|it| it.node.clone()).collect();
    nodes.into_iter().collect()
}

/// How a volume is; nothing at all when it is well.
pub fn health(volume: &admin::Volume) -> proto::VolumeHealth {
    use proto::VolumeHealthErrorType as Kind;
    let entry = match volume.status() {
        VolumeStatus::Distrusted => Some((Kind::Inaccessible, "Distrusted")),
        VolumeStatus::Suspended => Some((Kind::Inaccessible, "Suspended")),
        VolumeStatus::RepairOnly => Some((Kind::Inaccessible, "RepairOnly")),
        VolumeStatus::Degraded => Some((Kind::Degraded, "Degraded")),
        VolumeStatus::Creating => Some((Kind::Degraded, "Creating")),
        VolumeStatus::Deleting => Some((Kind::Inaccessible, "Deleting")),
        VolumeStatus::Healthy | VolumeStatus::Unspecified => None,
    };
    let entry = entry.map(|(kind, reason)| proto::volume_health::VolumeHealthEntry {
        status: kind.into(),
        reason: reason.to_owned(),
        message: volume.headline.clone(),
    });
    proto::VolumeHealth {
        volume_id: volume.id.clone(),
        health_statuses: entry.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_node_is_named_until_it_is_unpublished() {
        let on = |node: &str| admin::Attachment {
            id: node.into(),
            node: node.into(),
        };
        let volume = admin::Volume {
            attachment: Some(on("b1")),
            fenced: vec![on("a1"), on("b1")],
            ..admin::Volume::default()
        };
        assert_eq!(published(&volume), ["a1", "b1"]);
    }
}
