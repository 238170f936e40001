//! Kubelet's registration: it watches a folder for sockets that tell it of drivers. Served by the driver
//! itself, so that no second container has to.

use std::time::Duration;

use anyhow::ensure;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::DRIVER;
use crate::registration::registration_server::{Registration, RegistrationServer};
use crate::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use crate::server::Socket;

/// Versions of CSI that kubelet may speak.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// Before the socket is made anew after kubelet has refused the driver: doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// At most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Serves the registration socket at `path` for the driver behind `endpoint`, for good. Kubelet asks once
/// for each socket that appears: when it has refused the driver, the socket is made anew.
///
/// # Errors
/// The socket cannot be made, or kubelet could not be answered on it.
pub async fn register(path: &str, endpoint: &str) -> anyhow::Result<()> {
    let file = path.rsplit('/').next().unwrap_or_default();
    ensure!(
        file.contains('@'),
        "kubelet could not be answered on {path}: give the socket a name with an '@' in it, like {DRIVER}@reg.sock"
    );
    let mut wait = FIRST_WAIT;
    loop {
        let socket = Socket::listen(path)?;
        let (refused, mut refusals) = mpsc::channel(1);
        let service = Service {
            endpoint: endpoint
                .strip_prefix("unix://")
                .unwrap_or(endpoint)
                .to_owned(),
            refused,
        };
        let router =
            tonic::transport::Server::builder().add_service(RegistrationServer::new(service));
        let end = async move {
            if refusals.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        socket.serve(router, end).await?;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

struct Service {
    endpoint: String,
    refused: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("kubelet has registered the driver");
        } else {
            tracing::warn!(why = %status.error, "kubelet refuses the driver; registering again");
            // One is enough.
            let _ = self.refused.try_send(());
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::codegen::http::uri::Authority;

    /// What kubelet (1.36) sends as `:authority` on a registration socket: its path, as grpc-go encodes it. The
    /// HTTP/2 library ends streams whose authority it cannot read with PROTOCOL_ERROR, before anybody is asked.
    fn authority(path: &str) -> Result<Authority, impl std::fmt::Debug> {
        path.replace('/', "%2F").parse::<Authority>()
    }

    #[tokio::test]
    async fn kubelet_can_be_answered_on_a_socket_with_an_at_in_its_name_only() {
        let folder = "/var/lib/kubelet/plugins_registry";
        authority(&format!("{folder}/{DRIVER}@reg.sock")).expect("an authority");
        authority(&format!("{folder}/{DRIVER}-reg.sock")).expect_err("no authority");
        let refused = register("/tmp/x@y/reg.sock", "unix:///csi/csi.sock").await;
        let words = refused.expect_err("refused").to_string();
        assert!(words.contains("'@'"), "{words}");
    }
}
