//! Doing what the monitor wants. Everything can be done twice, and names what it was decided on: this publication,
//! this pod and no later one of its name, this version of a node.

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use lockstep_evict::plan::Action;
use serde_json::{Value, json};

use super::scene::{IN_USE, TAINT, has_taint};
use super::{World, lockstep, within};

/// Does these things about a silent node, one after the other; after one that fails, none. What is left is decided
/// anew.
pub async fn all(world: &World, node: &str, actions: &[Action]) {
    for action in actions {
        match within(one(world, node, action)).await {
            Ok(()) => {
                tracing::warn!(node, what = %words(action), "done about a node that nobody hears")
            }
            Err(error) => {
                let (what, error) = (words(action), format!("{error:#}"));
                tracing::warn!(
                    node,
                    what,
                    error,
                    "not done about a node that nobody hears; again soon"
                );
                return;
            }
        }
    }
}

async fn one(world: &World, node: &str, action: &Action) -> anyhow::Result<()> {
    let client = &world.client;
    match action {
        Action::Fence { volume, attachment } => {
            let fenced = lockstep::fence(&world.daemon, node, volume, attachment).await;
            fenced.map_err(|status| anyhow::anyhow!("{}", status.message()))
        }
        Action::Taint { machine } => taint(client, machine).await,
        Action::Delete {
            namespace,
            name,
            uid,
        } => delete(client, namespace, name, uid, Some(0)).await,
        Action::Forget { machine, volumes } => forget(client, machine, volumes).await,
        Action::Unpublish { name } => {
            let all: Api<VolumeAttachment> = Api::all(client.clone());
            gone(all.delete(name, &DeleteParams::default()).await.map(drop))
        }
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::Fence { volume, .. } => format!("fenced the volume {volume}"),
        Action::Taint { machine } => format!("tainted the node {machine}"),
        Action::Delete {
            namespace, name, ..
        } => format!("deleted the pod {namespace}/{name} by force"),
        Action::Forget { machine, volumes } => format!(
            "took out of what the node {machine} has in use: {}",
            volumes.join(", ")
        ),
        Action::Unpublish { name } => format!("deleted the VolumeAttachment {name}"),
    }
}

async fn taint(client: &Client, machine: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(machine).await?;
    if has_taint(&node) {
        return Ok(());
    }
    let mut taints = taints(&node)?;
    taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
    set_taints(&nodes, &node, &taints).await
}

/// Lets new pods come to a node again.
pub async fn untaint(world: &World, machine: &str) {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let lift = async {
        let node = nodes.get(machine).await?;
        let mut taints = taints(&node)?;
        taints.retain(|it| it["key"] != TAINT);
        set_taints(&nodes, &node, &taints).await
    };
    match within(lift).await {
        Ok(()) => tracing::info!(machine, "the node takes new pods again"),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(machine, error, "the node's taint is lifted later");
        }
    }
}

fn taints(node: &Node) -> anyhow::Result<Vec<Value>> {
    let taints = node.spec.iter().flat_map(|it| it.taints.iter()).flatten();
    let taints: Result<Vec<Value>, _> = taints.map(serde_json::to_value).collect();
    Ok(taints?)
}

/// Refused if somebody else has changed the node meanwhile.
async fn set_taints(nodes: &Api<Node>, node: &Node, taints: &[Value]) -> anyhow::Result<()> {
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"taints": taints},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let patched = nodes.patch(&node.name_any(), &params, &patch).await;
    patched.map(drop).context("setting its taints")
}

/// Deletes this pod and no other of that name, within so many seconds, or as long as it asks for.
///
/// # Errors
/// The API server's.
pub async fn delete(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
    grace: Option<u32>,
) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let this = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    gone(pods.delete(name, &this).await.map(drop))
}

async fn forget(client: &Client, machine: &str, volumes: &[String]) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(machine).await?;
    let status = node.status.iter();
    let in_use = status.flat_map(|it| it.volumes_in_use.iter()).flatten();
    let ours = |entry: &str| {
        let handle = entry.strip_prefix(IN_USE);
        handle.is_some_and(|handle| volumes.iter().any(|it| it == handle))
    };
    let left: Vec<&String> = in_use.filter(|it| !ours(it)).collect();
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "status": {"volumesInUse": left},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let patched = nodes.patch_status(machine, &params, &patch).await;
    patched.map(drop).context("setting its status")
}

/// What is gone, or was another of that name, is as good as deleted.
fn gone(deleted: kube::Result<()>) -> anyhow::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        deleted => Ok(deleted?),
    }
}
