//! The Node service: volumes of this node, staged, published, measured, grown.
//!
//! | job | module |
//! |---|---|
//! | the device opened, its file system made or checked, mounted once | [`stage`] |
//! | shown to a pod | [`publish`] |
//! | how full, how it is | [`stats`] |
//! | grown | [`expand`] |

mod expand;
mod publish;
mod stage;
mod stats;

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};

use crate::daemon::Daemon;
use crate::host::paths::{Place, Root};
use crate::proto::node_server::Node;
use crate::proto::node_service_capability::{Rpc, Type, rpc};
use crate::serialize::Serialize;
use crate::server::call;
use crate::{proto, topology};

/// Serves it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeService {
    daemon: Daemon,
    serialize: Serialize,
    /// This node's name in the cluster.
    name: Arc<str>,
    /// Volumes that are used here at most; 0: as many as there are.
    most_volumes: i64,
    root: Arc<Root>,
}

impl NodeService {
    /// Of the node of that name, whose daemon this is; kubelet's paths lie below `root`.
    pub fn new(daemon: Daemon, name: &str, most_volumes: i64, root: Root) -> Self {
        Self {
            daemon,
            serialize: Serialize::default(),
            name: name.into(),
            most_volumes,
            root: Arc::new(root),
        }
    }

    /// Where something is published, of a path that must be given; none if nothing can be: nothing of ours
    /// lies outside kubelet's folder.
    fn published(&self, path: &str) -> Result<Option<Place>, Status> {
        match self.place(path, "volume path") {
            Err(status) if !path.is_empty() && status.code() == Code::InvalidArgument => Ok(None),
            place => place,
        }
    }

    /// The place of a path that must be given; none if the folder that it lies in is not there.
    fn place(&self, path: &str, what: &str) -> Result<Option<Place>, Status> {
        if path.is_empty() {
            return Err(Status::invalid_argument(format!("the {what} is missing")));
        }
        self.root.place(path).map_err(Status::from)
    }
}

/// What is offered.
const CAPABILITIES: [rpc::Type; 6] = [
    rpc::Type::StageUnstageVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::GetVolumeHealth,
    rpc::Type::GetStorageHealth,
];

macro_rules! calls {
    ($($method:ident($request:ident) -> $reply:ident: $name:literal;)*) => {
        #[tonic::async_trait]
        impl Node for NodeService {
            $(async fn $method(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<proto::$reply>, Status> {
                let (service, request) = (self.clone(), request.into_inner());
                let object = request.volume_id.clone();
                call($name, object, async move { service.$method(request).await }).await
            })*

            async fn node_get_capabilities(
                &self,
                _: Request<proto::NodeGetCapabilitiesRequest>,
            ) -> Result<Response<proto::NodeGetCapabilitiesResponse>, Status> {
                let capabilities = CAPABILITIES.map(|it| proto::NodeServiceCapability {
                    r#type: Some(Type::Rpc(Rpc { r#type: it.into() })),
                });
                Ok(Response::new(proto::NodeGetCapabilitiesResponse {
                    capabilities: capabilities.to_vec(),
                }))
            }

            async fn node_get_info(
                &self,
                _: Request<proto::NodeGetInfoRequest>,
            ) -> Result<Response<proto::NodeGetInfoResponse>, Status> {
                self.info().await.map(Response::new)
            }

            async fn node_get_storage_health(
                &self,
                _: Request<proto::NodeGetStorageHealthRequest>,
            ) -> Result<Response<proto::NodeGetStorageHealthResponse>, Status> {
                Ok(Response::new(self.storage_health().await))
            }
        }
    };
}

calls! {
    node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse: "NodeStageVolume";
    node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse: "NodeUnstageVolume";
    node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse: "NodePublishVolume";
    node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse: "NodeUnpublishVolume";
    node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse: "NodeGetVolumeStats";
    node_get_volume_health(NodeGetVolumeHealthRequest) -> NodeGetVolumeHealthResponse: "NodeGetVolumeHealth";
    node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse: "NodeExpandVolume";
}

impl NodeService {
    async fn info(&self) -> Result<proto::NodeGetInfoResponse, Status> {
        let nodes = self.daemon.nodes().await?;
        let own = nodes.iter().find(|node| *node.name == *self.name);
        let own = own.ok_or_else(|| {
            let words = format!(
                "there is no node '{}' in the cluster; has it joined?",
                self.name
            );
            Status::new(Code::Unavailable, words)
        })?;
        Ok(proto::NodeGetInfoResponse {
            node_id: own.name.clone(),
            max_volumes_per_node: self.most_volumes,
            accessible_topology: Some(topology::of_node(own)),
        })
    }
}
