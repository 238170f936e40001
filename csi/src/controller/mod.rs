//! The Controller service: volumes of the cluster, made, published, grown, changed and listed.
//!
//! | job | module |
//! |---|---|
//! | made and deleted | [`create`] |
//! | attached to a node, and fenced from it | [`publish`] |
//! | listed, described, how they are | [`list`] |
//! | grown, and their policy changed | [`change`] |

mod change;
mod create;
mod list;
mod publish;

pub use list::health;
pub use publish::ATTACHMENT;

use tonic::{Request, Response, Status};

use crate::daemon::Daemon;
use crate::proto::controller_server::Controller;
use crate::proto::controller_service_capability::{Rpc, Type, rpc};
use crate::serialize::Serialize;
use crate::server::call;
use crate::{capability, names, proto};

/// Serves it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControllerService {
    daemon: Daemon,
    serialize: Serialize,
}

impl ControllerService {
    /// Of a driver that asks this daemon.
    pub fn new(daemon: Daemon) -> Self {
        Self {
            daemon,
            serialize: Serialize::default(),
        }
    }
}

/// What is offered.
const CAPABILITIES: [rpc::Type; 10] = [
    rpc::Type::CreateDeleteVolume,
    rpc::Type::PublishUnpublishVolume,
    rpc::Type::ListVolumes,
    rpc::Type::ListVolumesPublishedNodes,
    rpc::Type::GetCapacity,
    rpc::Type::ExpandVolume,
    rpc::Type::GetVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::ModifyVolume,
    rpc::Type::GetVolumeHealth,
];

macro_rules! calls {
    ($($method:ident($request:ident) -> $reply:ident: $name:literal, $object:ident;)*) => {
        #[tonic::async_trait]
        impl Controller for ControllerService {
            $(async fn $method(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<proto::$reply>, Status> {
                let (service, request) = (self.clone(), request.into_inner());
                let object = request.$object.clone();
                call($name, object, async move { service.$method(request).await }).await
            })*

            async fn controller_get_capabilities(
                &self,
                _: Request<proto::ControllerGetCapabilitiesRequest>,
            ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
                let capabilities = CAPABILITIES.map(|it| proto::ControllerServiceCapability {
                    r#type: Some(Type::Rpc(Rpc { r#type: it.into() })),
                });
                Ok(Response::new(proto::ControllerGetCapabilitiesResponse {
                    capabilities: capabilities.to_vec(),
                }))
            }

            async fn get_capacity(
                &self,
                request: Request<proto::GetCapacityRequest>,
            ) -> Result<Response<proto::GetCapacityResponse>, Status> {
                self.capacity(request.into_inner()).await.map(Response::new)
            }
        }
    };
}

calls! {
    create_volume(CreateVolumeRequest) -> CreateVolumeResponse: "CreateVolume", name;
    delete_volume(DeleteVolumeRequest) -> DeleteVolumeResponse: "DeleteVolume", volume_id;
    controller_publish_volume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse:
        "ControllerPublishVolume", volume_id;
    controller_unpublish_volume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse:
        "ControllerUnpublishVolume", volume_id;
    validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse:
        "ValidateVolumeCapabilities", volume_id;
    list_volumes(ListVolumesRequest) -> ListVolumesResponse: "ListVolumes", starting_token;
    controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse:
        "ControllerGetVolume", volume_id;
    controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse:
        "ControllerGetVolumeHealth", volume_id;
    controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse:
        "ControllerExpandVolume", volume_id;
    controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse:
        "ControllerModifyVolume", volume_id;
}

impl ControllerService {
    async fn validate_volume_capabilities(
        &self,
        request: proto::ValidateVolumeCapabilitiesRequest,
    ) -> Result<proto::ValidateVolumeCapabilitiesResponse, Status> {
        let id = names::known_id(&request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument(
                "the volume capabilities are missing",
            ));
        }
        self.daemon.volume(id).await?;
        let read = capability::read_all(&request.volume_capabilities).and_then(|_| {
            crate::parameters::policy(&request.parameters, &request.mutable_parameters)
        });
        Ok(match read {
            Ok(_) => proto::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(proto::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
            Err(status) => proto::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: status.message().to_owned(),
            },
        })
    }
}
