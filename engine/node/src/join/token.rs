//! Making join tokens.

use anyhow::Context;
use lockstep_control::Command;
use lockstep_net::JoinToken;
use lockstep_types::NodeRole;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::control::Control;
use crate::join::found::unix_now;
use crate::mint;

/// Most addresses in a token.
const ADDRESSES: usize = 5;

/// SHA-256 of a CA certificate in PEM: what a token carries.
///
/// # Errors
/// It is not PEM.
pub fn ca_hash(pem: &[u8]) -> anyhow::Result<[u8; 32]> {
    let der = CertificateDer::from_pem_slice(pem).context("the CA certificate is not PEM")?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    Ok(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Makes and commits a one-time token.
///
/// # Errors
/// The control plane refuses or cannot be asked.
pub async fn create(control: &Control, role: NodeRole, seconds: u64) -> anyhow::Result<JoinToken> {
    let (ca, addresses) = {
        let state = control.state();
        let cluster = state
            .cluster
            .as_ref()
            .context("this node has no cluster yet")?;
        // This node first, then others that can sign.
        let mut nodes: Vec<_> = state
            .nodes
            .values()
            .filter(|node| node.role == NodeRole::Data)
            .collect();
        nodes.sort_by_key(|node| (node.id != control.node(), node.id));
        let addresses: Vec<String> = nodes
            .iter()
            .take(ADDRESSES)
            .map(|node| node.control_address.clone())
            .collect();
        // The founder commits its cluster first and itself a moment later.
        anyhow::ensure!(
            !addresses.is_empty(),
            "no node of this cluster has said yet where it can be reached; try again in a moment"
        );
        (cluster.ca_certificate.clone(), addresses)
    };
    let token = JoinToken {
        id: mint::number(),
        secret: mint::bytes(),
        ca_sha256: ca_hash(&ca)?,
        addresses,
    };
    let command = Command::PutToken {
        id: token.id,
        secret_hash: token.secret_sha256(),
        expires_unix: unix_now() + seconds,
        role,
    };
    control.propose_patiently(command).await?;
    Ok(token)
}
