//! `lockstep node remove`: from a node in use to one that is gone. Each step is committed before the
//! next begins, so that a command that was interrupted is just given again.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use lockstep_api::{Client, proto};
use lockstep_node::units::Span;
use serde::Serialize;
use tonic::Code;

use crate::arguments;
use crate::connect::{ConnectArgs, words};
use crate::drain::set_cordon;
use crate::local;
use crate::output::Output;
use crate::progress::Progress;
use crate::volume::{all_volumes, until};

/// Between two looks at what is on its way.
const LOOK: Duration = Duration::from_millis(500);

/// `lockstep node remove`.
#[derive(Args)]
pub struct RemoveArgs {
    /// Its name or id
    #[arg(value_parser = arguments::node)]
    node: String,
    /// How long the copies' moves and the voter's replacement may take, each
    #[arg(long, value_name = "TIME", default_value = "1h")]
    timeout: Span,
}

/// What was done.
#[derive(Serialize)]
struct Removed {
    removed: String,
    id: String,
    /// Volumes of which a copy was moved off.
    moved: Vec<String>,
    /// It voted, and does no longer.
    voted: bool,
}

/// Removes the node.
///
/// # Errors
/// Something needs it that is not moved by itself, or has no other place; the reason is said.
pub async fn remove(
    args: RemoveArgs,
    connect: &ConnectArgs,
    output: &Output,
) -> anyhow::Result<()> {
    let client = connect.connect().await?;
    let node = find(&client, &args.node).await?;
    let held = copies_on(&client, &node).await?;
    refuse_what_is_not_moved(&client, &node, &held).await?;
    let patience = args.timeout.0;
    set_cordon(&client, &node, true).await?;
    if let Err(error) = begin_moves(&client, &node, &held, output).await {
        return Err(give_back(&client, &node, error).await);
    }
    for copy in &held {
        let gone = |volume: &proto::Volume| volume.replicas.iter().all(|it| it.id != copy.replica);
        until(&client, output, &copy.volume, patience, gone).await?;
        say(
            output,
            format!(
                "The copy of volume '{}' has left node '{}'.",
                copy.volume, node.name
            ),
        );
    }
    if node.voter {
        wait_for_the_voter(&client, &node, patience, output).await?;
    }
    take_away(&client, &node, patience).await?;
    let moved: Vec<String> = held.into_iter().map(|copy| copy.volume).collect();
    let text = match local::leave(&connect.directory(), &node.name)? {
        Some(home) => format!(
            "Node '{}' is removed, its certificate is barred and its daemon stopped; {} is of no use any more.",
            node.name,
            home.display()
        ),
        None => format!(
            "Node '{}' is removed and its certificate is barred. Stop its daemon; what its pools hold is of no use any more.",
            node.name
        ),
    };
    output.one(
        &Removed {
            removed: node.name,
            id: node.id,
            moved,
            voted: node.voter,
        },
        &text,
    )
}

/// A copy on the node.
struct Copy {
    volume: String,
    replica: String,
    leaving: bool,
    sealed_off: bool,
}

async fn nodes(client: &Client) -> anyhow::Result<Vec<proto::Node>> {
    let listed = client.nodes().list(proto::ListNodesRequest {}).await;
    Ok(listed.map_err(words)?.into_inner().nodes)
}

pub(super) async fn find(client: &Client, named: &str) -> anyhow::Result<proto::Node> {
    let mut nodes = nodes(client).await?.into_iter();
    nodes
        .find(|node| node.id == named || node.name == named)
        .with_context(|| {
            format!("there is no node '{named}'; 'lockstep node list' shows what there is")
        })
}

async fn copies_on(client: &Client, node: &proto::Node) -> anyhow::Result<Vec<Copy>> {
    let mut held = Vec::new();
    for volume in all_volumes(client).await? {
        let here = volume.replicas.iter().filter(|it| it.node == node.name);
        held.extend(here.map(|it| Copy {
            volume: volume.name.clone(),
            replica: it.id.clone(),
            leaving: it.leaving,
            sealed_off: it.sealed_off,
        }));
    }
    Ok(held)
}

/// What only a person can decide about is asked for before anything is changed.
async fn refuse_what_is_not_moved(
    client: &Client,
    node: &proto::Node,
    held: &[Copy],
) -> anyhow::Result<()> {
    let name = &node.name;
    for volume in all_volumes(client).await? {
        let here = |it: &proto::Attachment| it.node == *name || it.node == node.id;
        if volume.attachment.as_ref().is_some_and(here) {
            bail!(
                "node '{name}' is in use: volume '{0}' is attached there; 'lockstep volume detach {0}' first",
                volume.name
            );
        }
    }
    if let Some(sealed) = held.iter().find(|copy| copy.sealed_off) {
        bail!(
            "node '{name}' holds a copy of volume '{0}' that a forced promotion overwrote; 'lockstep recover discard {0} --replica {name}' first",
            sealed.volume
        );
    }
    let nodes = nodes(client).await?;
    if node.voter && !can_be_spared(node, &nodes) {
        bail!(
            "node '{name}' votes, and no other {} of site '{}' answers that could vote in its place; join one first",
            role(node),
            node.site
        );
    }
    Ok(())
}

fn role(node: &proto::Node) -> &'static str {
    match node.role() {
        proto::Role::Witness => "witness",
        proto::Role::Data | proto::Role::Unspecified => "data node",
    }
}

/// Another node of its site takes its vote over; without one, five voters become three. W never
/// leaves by itself, and three never shrink.
fn can_be_spared(node: &proto::Node, nodes: &[proto::Node]) -> bool {
    let alike = |other: &&proto::Node| other.role() == node.role() && other.id != node.id;
    let others = || nodes.iter().filter(alike).filter(|it| it.answering);
    let witness = node.role() == proto::Role::Witness;
    let substitute = others().any(|it| !it.cordoned && (witness || it.site == node.site));
    substitute
        || !witness
            && nodes.iter().filter(|it| it.voter).count() == 5
            && others().any(|it| it.voter && it.site == node.site)
}

/// All are begun before the first is waited for: they run side by side.
async fn begin_moves(
    client: &Client,
    node: &proto::Node,
    held: &[Copy],
    output: &Output,
) -> anyhow::Result<()> {
    for copy in held.iter().filter(|copy| !copy.leaving) {
        let request = proto::MoveReplicaRequest {
            volume: copy.volume.clone(),
            from: copy.replica.clone(),
            node: String::new(),
            pool: String::new(),
        };
        let moved = client.volumes().move_replica(request).await;
        let moved = moved.map_err(words).with_context(|| {
            format!(
                "the copy of volume '{0}' on node '{1}' cannot be moved off; make room for it elsewhere, or accept fewer copies with 'lockstep volume remove-replica {0} --replica {1} --even-below-policy'",
                copy.volume, node.name
            )
        })?;
        let to = moved.into_inner();
        let replicas = to.volume.unwrap_or_default().replicas;
        let place = replicas.into_iter().find(|it| it.id == to.replica);
        say(
            output,
            format!(
                "The copy of volume '{}' moves to node '{}'.",
                copy.volume,
                place.map_or_else(String::new, |it| it.node)
            ),
        );
    }
    Ok(())
}

/// A removal that cannot be carried out leaves the node as usable as it was; copies that already
/// move go on moving.
async fn give_back(client: &Client, node: &proto::Node, error: anyhow::Error) -> anyhow::Error {
    if node.cordoned {
        return error;
    }
    match set_cordon(client, node, false).await {
        Ok(()) => error,
        Err(_) => error.context(format!(
            "node '{0}' stays cordoned: 'lockstep node uncordon {0}'",
            node.name
        )),
    }
}

async fn wait_for_the_voter(
    client: &Client,
    node: &proto::Node,
    patience: Duration,
    output: &Output,
) -> anyhow::Result<()> {
    let progress = Progress::begin(output);
    progress.tell(
        format!("waits until others vote without node '{}'", node.name),
        None,
    );
    let replaced = async {
        loop {
            let now = nodes(client).await?;
            if now.iter().any(|it| it.id == node.id && !it.voter) {
                return Ok::<_, anyhow::Error>(now);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let now = match tokio::time::timeout(patience, replaced).await {
        Ok(now) => now?,
        Err(_) => bail!(
            "node '{}' still votes after {} s: it stays cordoned, and its vote goes as soon as another node can take it; give the command again then",
            node.name,
            patience.as_secs()
        ),
    };
    drop(progress);
    let voters = now.iter().filter(|it| it.voter);
    let voters: Vec<&str> = voters.map(|it| it.name.as_str()).collect();
    say(
        output,
        format!(
            "Node '{}' votes no longer; {} do.",
            node.name,
            voters.join(", ")
        ),
    );
    Ok(())
}

/// The last step. What still needs the node is on its way out: a caretaker's role, mostly.
async fn take_away(client: &Client, node: &proto::Node, patience: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience.min(Duration::from_secs(60));
    loop {
        let request = proto::RemoveNodeRequest {
            node: node.id.clone(),
        };
        let Err(status) = client.nodes().remove(request).await else {
            return Ok(());
        };
        match status.code() {
            // An attempt before this one, of which nobody knew the outcome.
            Code::NotFound => return Ok(()),
            Code::FailedPrecondition | Code::Unavailable | Code::Unknown
                if tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK).await;
            }
            _ => return Err(words(status)),
        }
    }
}

/// Steps are told as they are done; programs get the end.
fn say(output: &Output, text: String) {
    if !output.is_json() {
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, role: proto::Role, voter: bool) -> proto::Node {
        proto::Node {
            id: format!("id-{name}"),
            name: name.into(),
            site: name[..1].into(),
            role: role.into(),
            answering: true,
            voter,
            ..proto::Node::default()
        }
    }

    fn data(name: &str, voter: bool) -> proto::Node {
        node(name, proto::Role::Data, voter)
    }

    #[test]
    fn a_voter_is_spared_if_its_site_has_another_node_or_five_become_three() {
        let w = node("w1", proto::Role::Witness, true);
        let three = [data("a1", true), data("b1", true), w.clone()];
        for node in &three {
            assert!(!can_be_spared(node, &three), "{}", node.name);
        }
        let with_b2 = [&three[..], &[data("b2", false)]].concat();
        assert!(can_be_spared(&with_b2[1], &with_b2));
        assert!(!can_be_spared(&with_b2[0], &with_b2));
        let mut unusable = with_b2.clone();
        unusable[3].cordoned = true;
        assert!(!can_be_spared(&unusable[1], &unusable));
        unusable[3].cordoned = false;
        unusable[3].answering = false;
        assert!(!can_be_spared(&unusable[1], &unusable));
        let five = ["a1", "a2", "b1", "b2"].map(|name| data(name, true));
        let five = [&five[..], std::slice::from_ref(&w)].concat();
        assert!(can_be_spared(&five[3], &five));
        assert!(!can_be_spared(&five[4], &five), "W never leaves by itself");
        let two_w = [&three[..], &[node("x1", proto::Role::Witness, false)]].concat();
        assert!(can_be_spared(&two_w[2], &two_w));
    }
}
