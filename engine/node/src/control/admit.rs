//! Letting nodes in: the member's side of joining. Any data node can do it: it has the state, the
//! wrapped CA key in it, and the cluster secret that opens it.

use std::time::Duration;

use lockstep_control::{Command, Fate, Node, Token};
use lockstep_net::{JoinToken, PeerIdentity};
use lockstep_types::{NodeId, NodeRole};
use tokio::sync::mpsc;

use super::Control;
use super::notes::good_for;
use crate::frame;
use crate::join::found::{NODE_LIFE, sign, unix_now};
use crate::join::protocol::{
    JoinReply, JoinRequest, Joined, MAX_FRAME, Member, Role, from_hex, to_hex,
};
use crate::listener::Incoming;

/// How long a joiner may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves joiners until the listener ends. Without the cluster secret (a witness) they are sent away.
pub async fn admit(
    control: Control,
    secret: Option<[u8; 32]>,
    mut incoming: mpsc::Receiver<Incoming>,
) {
    while let Some(joiner) = incoming.recv().await {
        let control = control.clone();
        tokio::spawn(async move {
            let address = joiner.address;
            if let Err(error) = serve(&control, secret, joiner).await {
                tracing::info!(%address, %error, "a joiner's connection ended");
            }
        });
    }
}

async fn serve(
    control: &Control,
    secret: Option<[u8; 32]>,
    mut joiner: Incoming,
) -> std::io::Result<()> {
    let asked =
        tokio::time::timeout(PATIENCE, frame::read_json(&mut joiner.stream, MAX_FRAME)).await;
    let request: JoinRequest =
        asked.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let reply = match let_in(control, secret, &request).await {
        Ok(joined) => {
            tracing::info!(name = %request.name, site = %request.site, node = %request.node, "a node joined");
            let whose = format!("node '{}'", request.name);
            let detail = good_for(NODE_LIFE.as_secs());
            tell(control, Fate::Issued, whose, detail);
            JoinReply::Joined(joined)
        }
        Err(why) => {
            tracing::warn!(address = %joiner.address, name = %request.name.escape_default(), %why, "a joiner was refused");
            let whose = format!("a joiner at {}", joiner.address.ip());
            tell(control, Fate::Denied, whose, why.clone());
            JoinReply::Refused { why }
        }
    };
    frame::write_json(&mut joiner.stream, &reply).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut joiner.stream).await
}

/// Nobody waits for the event.
fn tell(control: &Control, fate: Fate, whose: String, detail: String) {
    let control = control.clone();
    tokio::spawn(async move { control.note_certificate(fate, whose, detail).await });
}

async fn let_in(
    control: &Control,
    secret: Option<[u8; 32]>,
    request: &JoinRequest,
) -> Result<Joined, String> {
    let Some(secret) = secret else {
        return Err(
            "this member is a witness and cannot sign certificates; ask a data node".into(),
        );
    };
    let node: NodeId = request
        .node
        .parse()
        .map_err(|_| "it sent a malformed node id")?;
    control.catch_up().await.map_err(|e| e.to_string())?;
    let (cluster, members) = {
        let state = control.state();
        check_token(state.tokens.get(&request.token), request)?;
        let cluster = state
            .cluster
            .clone()
            .ok_or("this member has no cluster yet; try again")?;
        let members = state.nodes.values().map(member_of).collect();
        (cluster, members)
    };
    let identity = PeerIdentity {
        cluster: cluster.id,
        role: request.role.into(),
        node,
    };
    // Signed before anything is committed: a request that cannot be signed uses up no token.
    let certificate = sign(
        cluster.id,
        &cluster.ca_certificate,
        &cluster.sealed_ca_key,
        &secret,
        &request.certificate_request,
        identity,
    )
    .map_err(|e| e.to_string())?;
    let commands = [
        Command::UseToken {
            id: request.token,
            node,
        },
        Command::PutNode(asked_for(node, request)),
    ];
    for command in commands {
        control
            .propose_patiently(command)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(Joined {
        cluster: cluster.id.to_string(),
        ca_certificate: String::from_utf8(cluster.ca_certificate)
            .map_err(|_| "the CA certificate is not PEM")?,
        certificate,
        cluster_secret: (request.role == Role::Data).then(|| to_hex(&secret)),
        members,
    })
}

/// One answer for every token that is not good, so that nothing can be learnt by trying.
fn check_token(token: Option<&Token>, request: &JoinRequest) -> Result<(), String> {
    let shown = from_hex::<16>(&request.secret);
    let good = token.filter(|token| {
        let known =
            shown.is_some_and(|shown| JoinToken::secret_matches(&token.secret_hash, &shown));
        known && token.used_by.is_none() && token.expires_unix > unix_now()
    });
    let Some(token) = good else {
        return Err(
            "the token is unknown, used or expired; make a new one with 'lockstep node token'"
                .into(),
        );
    };
    if token.role != NodeRole::from(request.role) {
        return Err(format!(
            "the token is for a {:?} node; make one for the role you want",
            token.role
        ));
    }
    Ok(())
}

/// The node that wants to join, as the state will know it.
fn asked_for(node: NodeId, request: &JoinRequest) -> Node {
    Node {
        id: node,
        name: request.name.clone(),
        site: request.site.clone(),
        zone: request.zone.clone(),
        rack: request.rack.clone(),
        role: request.role.into(),
        control_address: request.control_address.clone(),
        data_addresses: request.data_addresses.clone(),
        cordoned: false,
    }
}

/// A node as one without the state must know it.
pub(crate) fn member_of(node: &Node) -> Member {
    let role = match node.role {
        NodeRole::Data => Role::Data,
        NodeRole::Witness => Role::Witness,
    };
    Member {
        node: node.id.to_string(),
        role,
        address: node.control_address.clone(),
    }
}
