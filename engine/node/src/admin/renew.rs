//! Certificates in time: renewed at two thirds of their life, by this node where it can sign and by a
//! data node otherwise; read again when somebody has replaced the files. Connections that stand keep
//! theirs, so neither costs an I/O.

use std::time::Duration;

use anyhow::bail;
use lockstep_api::error::status;
use lockstep_api::proto;
use lockstep_control::{Fate, Node};
use lockstep_net::{Issued, NodeRequest, PeerIdentity};
use lockstep_types::NodeRole;
use tonic::{Code, Status};

use super::{Shared, forward};
use crate::control::good_for;
use crate::join::found::{sign, unix_now};

/// Between looks at the files and the clock.
const LOOK: Duration = Duration::from_secs(5);
/// Between attempts that fail.
const AGAIN: Duration = Duration::from_secs(60);

/// Works until the daemon ends.
pub async fn keep_certificate(shared: Shared) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let certificates = &shared.inner.certificates;
        let refusals = certificates.take_refusals();
        if !refusals.is_empty() {
            let control = shared.control().clone();
            tokio::spawn(async move { control.note_refusals(refusals).await });
        }
        match certificates.reload_if_changed() {
            Ok(true) => tracing::info!("the certificate was replaced and is in use"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the certificate on disk is not used; the old one stays in use");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        if unix_now() < certificates.current().renew_at() {
            continue;
        }
        match shared.renew().await {
            Ok(()) => {
                let until = certificates.current().not_after();
                tracing::info!(until_unix = until, "this node's certificate was renewed");
                shared.tell_of_renewal(until).await;
            }
            Err(error) => {
                let error = format!("{error:#}");
                let left = certificates
                    .current()
                    .not_after()
                    .saturating_sub(unix_now());
                tracing::error!(%error, seconds_left = left, "this node's certificate cannot be renewed");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

impl Shared {
    /// Signs for `identity`, if this node holds the cluster secret: the CA and the certificate, PEM.
    pub(super) fn sign_for(
        &self,
        identity: PeerIdentity,
        request: &str,
    ) -> Result<(String, String), Status> {
        let unable = |why: String| status(Code::FailedPrecondition, "cannot-sign", why);
        let secret = self
            .inner
            .directory
            .cluster_secret()
            .map_err(|e| unable(e.to_string()))?
            .ok_or_else(|| unable("this node is a witness and cannot sign".into()))?;
        let cluster = self.control().state().cluster.clone();
        let cluster = cluster.ok_or_else(|| unable("this node has no cluster yet".into()))?;
        let certificate = sign(
            cluster.id,
            &cluster.ca_certificate,
            &cluster.sealed_ca_key,
            &secret,
            request,
            identity,
        )
        .map_err(|e| unable(format!("{e:#}")))?;
        let authority = String::from_utf8(cluster.ca_certificate)
            .map_err(|_| unable("the CA certificate is not PEM".into()))?;
        Ok((authority, certificate))
    }

    /// A new key and a certificate for it, in use at once.
    async fn renew(&self) -> anyhow::Result<()> {
        let certificates = &self.inner.certificates;
        let identity = certificates.current().identity();
        let request = NodeRequest::generate()?;
        let own = self.sign_for(identity, request.pem());
        let (authority, certificate) = match own {
            Ok(signed) => signed,
            Err(_) => self.signed_elsewhere(request.pem()).await?,
        };
        let issued = Issued {
            certificate,
            key: request.key_pem(),
        };
        certificates.renew(&authority, &issued)?;
        Ok(())
    }

    async fn tell_of_renewal(&self, until: u64) {
        let control = self.control();
        let name = control.state().node_name(control.node());
        let detail = good_for(until.saturating_sub(unix_now()));
        control
            .note_certificate(Fate::Renewed, format!("node '{name}'"), detail)
            .await;
    }

    async fn signed_elsewhere(&self, request: &str) -> anyhow::Result<(String, String)> {
        let signers: Vec<Node> = {
            let (state, me) = (self.control().state(), self.control().node());
            let data = state.nodes.values();
            data.filter(|node| node.role == NodeRole::Data && node.id != me)
                .cloned()
                .collect()
        };
        let mut last = None;
        for signer in signers {
            match self.ask_to_sign(&signer, request).await {
                Ok(signed) => return Ok(signed),
                Err(status) => last = Some(status),
            }
        }
        match last {
            Some(status) => bail!("no data node signs it: {}", status.message()),
            None => bail!("there is no data node that could sign it"),
        }
    }

    async fn ask_to_sign(&self, signer: &Node, request: &str) -> Result<(String, String), Status> {
        let request = proto::RenewCertificateRequest {
            certificate_request: request.to_owned(),
        };
        let client = forward::client_of(self, signer).await?;
        let reply = client
            .nodes()
            .renew_certificate(request)
            .await?
            .into_inner();
        Ok((reply.ca_certificate, reply.certificate))
    }
}
