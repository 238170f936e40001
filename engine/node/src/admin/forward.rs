//! Asking another node's daemon what only it can do: attach there, detach there, make a device.

use lockstep_api::error::{UNAVAILABLE, status};
use lockstep_api::{Client, Target, connect};
use lockstep_control::Node;
use lockstep_net::Role;
use lockstep_net::tls::connector;
use lockstep_net::verify::dialled_name;
use lockstep_types::NodeRole;
use tonic::{Code, Status};

use super::Shared;

/// A client of this node's daemon, under this node's own certificate.
pub async fn client_of(shared: &Shared, node: &Node) -> Result<Client, Status> {
    let unavailable = |why: String| status(Code::Unavailable, UNAVAILABLE, why);
    let connector = connector(&shared.inner.certificates, &[lockstep_api::client::ALPN])
        .map_err(|e| unavailable(e.to_string()))?;
    let role = match node.role {
        NodeRole::Data => Role::DataNode,
        NodeRole::Witness => Role::Witness,
    };
    let target = Target::Tls {
        address: node.control_address.clone(),
        connector,
        name: dialled_name(role, Some(node.id)),
    };
    connect(target)
        .await
        .map_err(|e| unavailable(format!("node '{}' cannot be asked: {e}", node.name)))
}
