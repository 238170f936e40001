//! ControllerPublishVolume and ControllerUnpublishVolume: a volume is attached to one node, and a node that
//! it is taken from is fenced before the answer.

use std::collections::HashMap;

use lockstep_api::proto as admin;
use tonic::{Code, Status};

use super::ControllerService;
use crate::{capability, names, proto};

/// The key of a publication's id in what the node is told.
pub const ATTACHMENT: &str = "attachment";

impl ControllerService {
    pub(super) async fn controller_publish_volume(
        &self,
        request: proto::ControllerPublishVolumeRequest,
    ) -> Result<proto::ControllerPublishVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        if request.node_id.is_empty() {
            return Err(Status::invalid_argument("the node's id is missing"));
        }
        capability::read(request.volume_capability.as_ref())?;
        if request.readonly {
            return Err(Status::invalid_argument(
                "PUBLISH_READONLY is not offered: a read-only use is made read-only on its node",
            ));
        }
        let id = names::known_id(&request.volume_id)?;
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = self.daemon.volume(id).await?;
        let nodes = self.daemon.nodes().await?;
        let node = nodes.iter().find(|node| node.name == request.node_id);
        let node = node.ok_or_else(|| {
            Status::not_found(format!(
                "there is no node '{}' in the cluster",
                request.node_id
            ))
        })?;
        check_locality(&volume, node)?;
        let attach = |client: lockstep_api::Client| {
            let request = admin::AttachVolumeRequest {
                volume: volume.id.clone(),
                node: node.id.clone(),
            };
            async move { client.volumes().attach(request).await }
        };
        let reply = self.daemon.ask(attach).await?;
        let attachment = reply.attachment.unwrap_or_default();
        Ok(proto::ControllerPublishVolumeResponse {
            publish_context: HashMap::from([(ATTACHMENT.to_owned(), attachment.id)]),
        })
    }

    pub(super) async fn controller_unpublish_volume(
        &self,
        request: proto::ControllerUnpublishVolumeRequest,
    ) -> Result<proto::ControllerUnpublishVolumeResponse, Status> {
        names::given_id(&request.volume_id)?;
        let done = proto::ControllerUnpublishVolumeResponse {};
        let Some(id) = names::id(&request.volume_id) else {
            return Ok(done); // never ours
        };
        let _turn = self.serialize.begin(&request.volume_id)?;
        let volume = match self.daemon.volume(id).await {
            Err(status) if status.code() == Code::NotFound => return Ok(done),
            volume => volume?,
        };
        let detach = |client: lockstep_api::Client| {
            // Whoever still uses it there has been given up by the caller: it is fenced, and its I/O fails.
            let request = admin::DetachVolumeRequest {
                volume: volume.id.clone(),
                attachment: String::new(),
                node: request.node_id.clone(),
                force: true,
            };
            async move { client.volumes().detach(request).await }
        };
        self.daemon.ask(detach).await?;
        Ok(done)
    }
}

/// `locality: require`, which the scheduler extender upholds, is looked at again: it may have been away.
fn check_locality(volume: &admin::Volume, node: &admin::Node) -> Result<(), Status> {
    let required =
        volume.policy.as_ref().map(admin::Policy::locality) == Some(admin::Locality::Require);
    let held = |it: &admin::Replica| it.node == node.name && !it.leaving && !it.sealed_off;
    if required && !volume.replicas.iter().any(held) {
        let mut holders: Vec<&str> = volume.replicas.iter().map(|it| it.node.as_str()).collect();
        holders.sort_unstable();
        let words = format!(
            "the volume's class requires a copy on the node, and '{}' holds none; {} do",
            node.name,
            holders.join(", ")
        );
        return Err(Status::failed_precondition(words));
    }
    Ok(())
}
