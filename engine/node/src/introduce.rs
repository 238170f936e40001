//! What this node says of itself: that it is there, where it is reached, and which pools it has. And whom it
//! would call, should it lose its log.

use std::time::Duration;

use lockstep_control::{Command, Node, Outcome, Pool};

use crate::control::{Control, ProposeError, admit};
use crate::directory::{Directory, Identity};
use crate::http::Health;
use crate::join::found::founding_ca;
use crate::join::protocol;

/// Commits what this node has to say of itself whenever the state says otherwise.
pub(crate) async fn introduce(
    control: Control,
    directory: Directory,
    identity: Identity,
    me: Node,
    pools: Vec<Pool>,
    health: Health,
) {
    let mut applied = control.watch();
    let mut identity = identity;
    loop {
        applied.borrow_and_update();
        keep_members(&control, &directory, &mut identity);
        match missing(&control, &directory, &identity, &me, &pools) {
            Ok(None) => {
                if !health.is_ready() {
                    health.set_ready(true);
                    if identity.founder {
                        // From now on a lost log is a lost log, and no reason to found again.
                        identity.founder = false;
                        write_identity(&directory, &identity);
                    }
                }
                if applied.changed().await.is_err() {
                    return;
                }
            }
            Ok(Some(command)) => match control.propose(command).await {
                Ok(Outcome::Unchanged)
                | Err(ProposeError::NotDone(_) | ProposeError::Unknown(_)) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Ok(_) => {}
                Err(ProposeError::Rejected(rejected)) => {
                    tracing::error!(%rejected, "the cluster refused what this node says of itself");
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            },
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "this node cannot introduce itself");
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        }
    }
}

/// R20: a node that loses its log must still know whom to call.
fn keep_members(control: &Control, directory: &Directory, identity: &mut Identity) {
    let members: Vec<protocol::Member> = {
        let state = control.state();
        if !state.nodes.contains_key(&control.node()) {
            return;
        }
        let others = state
            .nodes
            .values()
            .filter(|node| node.id != control.node());
        others.map(admit::member_of).collect()
    };
    if members != identity.members {
        identity.members = members;
        write_identity(directory, identity);
    }
}

fn write_identity(directory: &Directory, identity: &Identity) {
    if let Err(error) = directory.write_identity(identity) {
        tracing::error!(%error, "identity.toml could not be rewritten");
    }
}

fn missing(
    control: &Control,
    directory: &Directory,
    identity: &Identity,
    me: &Node,
    pools: &[Pool],
) -> anyhow::Result<Option<Command>> {
    let state = control.state();
    anyhow::ensure!(
        !state.removed.contains(&me.id),
        "it was removed from the cluster, which refuses its certificate: stop this daemon"
    );
    if state.cluster.is_none() {
        if !identity.founder {
            // Its state has not arrived yet: it must not call itself ready.
            return Ok(Some(Command::PutNode(me.clone())));
        }
        let (ca_certificate, sealed_ca_key) = founding_ca(directory)?;
        let (id, _) = identity.ids()?;
        return Ok(Some(Command::InitCluster {
            id,
            name: identity.cluster_name.clone(),
            ca_certificate,
            sealed_ca_key,
        }));
    }
    let held = state.nodes.get(&me.id);
    let differs = held.is_none_or(|held| {
        held.control_address != me.control_address || held.data_addresses != me.data_addresses
    });
    if differs {
        let cordoned = held.is_some_and(|held| held.cordoned);
        return Ok(Some(Command::PutNode(Node {
            cordoned,
            ..me.clone()
        })));
    }
    // Said once; one that an older daemon said so is said again, with what it left out.
    let said = |pool: &Pool| {
        let held = state.pools.get(&pool.device);
        held.is_some_and(|held| held.places == pool.places)
    };
    let missing = pools.iter().find(|pool| !said(pool));
    Ok(missing.cloned().map(Command::PutPool))
}
