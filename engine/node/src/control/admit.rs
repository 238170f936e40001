//! Letting nodes in: the member's side of joining. Any data node can do it: it has the state, the
//! wrapped CA key in it, and the cluster secret that opens it.

use std::time::Duration;

use lockstep_control::{Command, Fate, Node, Proposal, State, Token};
use lockstep_net::{JoinToken, PeerIdentity};
use lockstep_types::{NodeId, NodeRole};
use tokio::sync::mpsc;

use super::notes::good_for;
use super::{Control, ProposeError};
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
        Err(Refusal { why, ask_another }) => {
            tracing::warn!(address = %joiner.address, name = %request.name.escape_default(), %why, "a joiner was refused");
            let whose = format!("a joiner at {}", joiner.address.ip());
            tell(control, Fate::Denied, whose, why.clone());
            JoinReply::Refused { why, ask_another }
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

/// Why a joiner is not let in.
#[derive(Debug)]
struct Refusal {
    why: String,
    /// It is this member that cannot.
    ask_another: bool,
}

impl Refusal {
    fn of_this_member(why: impl ToString) -> Self {
        Self {
            why: why.to_string(),
            ask_another: true,
        }
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self {
            why,
            ask_another: false,
        }
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(why) => why.to_string().into(),
            ProposeError::NotDone(why) | ProposeError::Unknown(why) => Self::of_this_member(why),
        }
    }
}

async fn let_in(
    control: &Control,
    secret: Option<[u8; 32]>,
    request: &JoinRequest,
) -> Result<Joined, Refusal> {
    let Some(secret) = secret else {
        return Err(Refusal::of_this_member(
            "this member is a witness and cannot sign certificates; ask a data node",
        ));
    };
    let node: NodeId = request
        .node
        .parse()
        .map_err(|_| "it sent a malformed node id".to_owned())?;
    control.catch_up().await.map_err(Refusal::of_this_member)?;
    let asked = Command::PutNode(asked_for(node, request));
    let (cluster, members) = {
        let state = control.state();
        let lost_answer = (!control.was_heard(node)).then_some(node);
        check_token(state.tokens.get(&request.token), lost_answer, request)?;
        would_do(&state, &asked)?;
        let cluster = state
            .cluster
            .clone()
            .ok_or_else(|| Refusal::of_this_member("this member has no cluster yet; try again"))?;
        let members = state.nodes.values().map(member_of).collect();
        (cluster, members)
    };
    let identity = PeerIdentity {
        cluster: cluster.id,
        role: request.role.into(),
        node,
    };
    // Tried and signed before anything is committed: a request that comes to nothing uses up no token.
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
        asked,
    ];
    for command in commands {
        control.propose_patiently(command).await?;
    }
    Ok(Joined {
        cluster: cluster.id.to_string(),
        ca_certificate: String::from_utf8(cluster.ca_certificate)
            .map_err(|_| "the CA certificate is not PEM".to_owned())?,
        certificate,
        cluster_secret: (request.role == Role::Data).then(|| to_hex(&secret)),
        members,
    })
}

/// One answer for every token that is not good, so that nothing can be learnt by trying.
fn check_token(
    token: Option<&Token>,
    lost_answer: Option<NodeId>,
    request: &JoinRequest,
) -> Result<(), String> {
    let shown = from_hex::<16>(&request.secret);
    let good = token.filter(|token| {
        let known =
            shown.is_some_and(|shown| JoinToken::secret_matches(&token.secret_hash, &shown));
        // One that lost the answer asks again; of one that runs, nobody gets a second certificate so.
        let free = token.used_by.is_none() || token.used_by == lost_answer;
        known && free && token.expires_unix > unix_now()
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

/// Whether the state would take a command as it is now; what the rules have against it.
fn would_do(state: &State, command: &Command) -> Result<(), String> {
    let proposal = Proposal {
        at_unix_ms: unix_now() * 1000,
        command: command.clone(),
    };
    let mut tried = state.clone();
    let applied = tried.apply(state.applied + 1, &proposal);
    applied.result.map(drop).map_err(|why| why.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_and_again_for_the_node_that_lost_the_answer() {
        let secret = JoinToken {
            id: 1,
            secret: [7; 16],
            ca_sha256: [0; 32],
            addresses: Vec::new(),
        };
        let request = JoinRequest {
            token: 1,
            secret: to_hex(&secret.secret),
            node: String::new(),
            name: "b1".into(),
            site: "b".into(),
            zone: String::new(),
            rack: String::new(),
            role: Role::Data,
            control_address: String::new(),
            data_addresses: Vec::new(),
            certificate_request: String::new(),
        };
        let (one, other) = (NodeId::from_u128(1), NodeId::from_u128(2));
        let token = |used_by, expires_unix| Token {
            secret_hash: secret.secret_sha256(),
            expires_unix,
            role: NodeRole::Data,
            used_by,
        };
        let checked = |token: Token| check_token(Some(&token), Some(one), &request);
        assert_eq!(checked(token(None, u64::MAX)), Ok(()));
        assert_eq!(checked(token(Some(one), u64::MAX)), Ok(()));
        assert!(checked(token(Some(other), u64::MAX)).is_err(), "used");
        let used = token(Some(one), u64::MAX);
        assert!(check_token(Some(&used), None, &request).is_err(), "it runs");
        assert!(checked(token(None, 1)).is_err(), "expired");
        let witness = Token {
            role: NodeRole::Witness,
            ..token(None, u64::MAX)
        };
        assert!(checked(witness).is_err(), "another role");
        assert!(check_token(None, Some(one), &request).is_err(), "unknown");
    }
}
