//! The Identity service: what this driver is, and whether it can work.

use tonic::{Request, Response, Status};

use crate::daemon::Daemon;
use crate::proto::identity_server::Identity;
use crate::proto::plugin_capability::service::Type as Service;
use crate::proto::plugin_capability::volume_expansion::Type as Expansion;
use crate::proto::plugin_capability::{Type, VolumeExpansion};
use crate::{DRIVER, proto};

/// Serves it.
#[derive(Clone, Debug)]
pub struct IdentityService {
    daemon: Daemon,
    /// Whether this process serves the Controller service.
    controller: bool,
}

impl IdentityService {
    /// Of a driver that asks this daemon.
    pub fn new(daemon: Daemon, controller: bool) -> Self {
        Self { daemon, controller }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let service =
            |it: Service| Type::Service(proto::plugin_capability::Service { r#type: it.into() });
        let controller = self.controller.then(|| service(Service::ControllerService));
        let rest = [
            service(Service::VolumeAccessibilityConstraints),
            Type::VolumeExpansion(VolumeExpansion {
                r#type: Expansion::Online.into(),
            }),
        ];
        let capabilities = controller.into_iter().chain(rest);
        Ok(Response::new(proto::GetPluginCapabilitiesResponse {
            capabilities: capabilities
                .map(|it| proto::PluginCapability { r#type: Some(it) })
                .collect(),
        }))
    }

    async fn probe(
        &self,
        _: Request<proto::ProbeRequest>,
    ) -> Result<Response<proto::ProbeResponse>, Status> {
        Ok(Response::new(proto::ProbeResponse {
            ready: Some(self.daemon.is_healthy().await),
        }))
    }
}
