//! What Kubernetes says of a silent node, read at once and not from a cache: it decides what is deleted.

use anyhow::Context;
use futures_util::future::try_join;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{self, Node};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use lockstep_csi::DRIVER;
use lockstep_evict::scene::{Machine, Owner, Pod, Published, Scene, Use};

use super::uses::{self, Handles};
use super::{World, lockstep};
use crate::objects::NODE_LABEL;

/// The taint that keeps new pods away from a node that nobody hears.
pub const TAINT: &str = "lockstep.dev/silent";
/// The annotation of a pod that may be deleted although nobody would make it again.
pub const OPT_IN: &str = "lockstep.dev/evict";
/// Where kubelets say that they live.
const LEASES: &str = "kube-node-lease";
/// How a node's status calls a volume of ours that is in use, before its handle.
pub const IN_USE: &str = "kubernetes.io/csi/csi.lockstep.dev^";
/// The label of our daemons' pods.
pub const DAEMON: &str = "lockstep.dev/role";
/// The daemon's container in them.
const CONTAINER: &str = "daemon";
/// Objects in one answer.
const PAGE: u32 = 500;

/// All that there is to know about a silent node.
///
/// # Errors
/// Lockstep or the API server does not answer.
pub async fn read(world: &World, node: &str) -> anyhow::Result<Scene> {
    let attachments = async {
        let attachments = lockstep::attachments(&world.daemon, node).await;
        attachments.map_err(|status| anyhow::anyhow!("Lockstep: {}", status.message()))
    };
    let (attachments, machine) = try_join(attachments, machine(&world.client, node)).await?;
    let mut scene = Scene {
        node: node.to_owned(),
        attachments,
        ..Scene::default()
    };
    let Some(machine) = machine else {
        return Ok(scene);
    };
    let name = machine.name_any();
    let handles = Handles::new(&world.client);
    let (pods, lease) = try_join(pods(&world.client, &name), lease(&world.client, &name)).await?;
    let daemon_restarts = world
        .daemon_pods
        .as_ref()
        .is_some_and(|namespace| restarts(&pods, namespace));
    let (published, pods) = try_join(published(&handles, &name), told(&handles, &pods)).await?;
    scene.published = published;
    scene.pods = pods;
    scene.machine = Some(Machine {
        tainted: has_taint(&machine),
        unschedulable: machine
            .spec
            .as_ref()
            .is_some_and(|it| it.unschedulable == Some(true)),
        in_use: in_use(&machine),
        kubelet: lease,
        daemon_restarts,
        name,
    });
    Ok(scene)
}

/// Nodes with our taint, and what they are called in Lockstep.
///
/// # Errors
/// The API server does not answer.
pub async fn tainted(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let members = pages(&nodes, ListParams::default().labels(NODE_LABEL)).await?;
    let tainted = members.iter().filter(|it| has_taint(it));
    let named = tainted.map(|it| (it.name_any(), it.labels()[NODE_LABEL].clone()));
    Ok(named.collect())
}

/// Whether a node has our taint.
pub fn has_taint(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|it| it.taints.iter()).flatten();
    taints.into_iter().any(|it| it.key == TAINT)
}

/// Handles of ours that a node's status calls in use.
fn in_use(node: &Node) -> Vec<String> {
    let status = node.status.iter();
    let in_use = status.flat_map(|it| it.volumes_in_use.iter()).flatten();
    in_use
        .filter_map(|it| it.strip_prefix(IN_USE).map(str::to_owned))
        .collect()
}

async fn machine(client: &Client, node: &str) -> anyhow::Result<Option<Node>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{NODE_LABEL}={node}"));
    let mut found = nodes.list(&labelled).await.context("listing nodes")?.items;
    Ok(found.pop())
}

/// What changes whenever a kubelet is heard.
async fn lease(client: &Client, machine: &str) -> anyhow::Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let lease = leases.get_opt(machine).await;
    let lease = lease.context("reading the kubelet's lease")?;
    Ok(lease.and_then(|it| it.resource_version()))
}

async fn pods(client: &Client, machine: &str) -> anyhow::Result<Vec<v1::Pod>> {
    let all: Api<v1::Pod> = Api::all(client.clone());
    let there = ListParams::default().fields(&format!("spec.nodeName={machine}"));
    pages(&all, there).await
}

/// Whether the daemon's pod ends, is gone, or is not up, which only a kubelet that lives can have said.
fn restarts(pods: &[v1::Pod], namespace: &str) -> bool {
    let ours = |it: &&v1::Pod| {
        it.namespace().as_deref() == Some(namespace) && it.labels().contains_key(DAEMON)
    };
    let up = |it: &v1::Pod| {
        let status = it.status.iter();
        let containers = status.flat_map(|it| it.container_statuses.iter()).flatten();
        let running = |it: &v1::ContainerStatus| {
            it.name == CONTAINER && it.state.as_ref().is_some_and(|it| it.running.is_some())
        };
        it.metadata.deletion_timestamp.is_none() && containers.into_iter().any(running)
    };
    !pods.iter().filter(ours).any(up)
}

async fn published(handles: &Handles, machine: &str) -> anyhow::Result<Vec<Published>> {
    let all: Api<VolumeAttachment> = Api::all(handles.client().clone());
    let all = pages(&all, ListParams::default()).await?;
    let ours = all
        .iter()
        .filter(|it| it.spec.attacher == DRIVER && it.spec.node_name == machine);
    let mut published = Vec::new();
    for attachment in ours {
        let Some(persistent) = &attachment.spec.source.persistent_volume_name else {
            continue;
        };
        if let Use::Ours(volume) = handles.of_persistent(persistent).await? {
            published.push(Published {
                name: attachment.name_any(),
                volume,
            });
        }
    }
    Ok(published)
}

/// Pods that have not ended.
async fn told(handles: &Handles, pods: &[v1::Pod]) -> anyhow::Result<Vec<Pod>> {
    let mut told = Vec::new();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        told.push(Pod {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            owner: owner(pod),
            opted_in: pod.annotations().get(OPT_IN).map(String::as_str) == Some("true"),
            uses: uses::of(handles, pod).await?,
        });
    }
    Ok(told)
}

fn owner(pod: &v1::Pod) -> Owner {
    if pod
        .annotations()
        .contains_key("kubernetes.io/config.mirror")
    {
        return Owner::Mirror;
    }
    let controller = pod
        .owner_references()
        .iter()
        .find(|it| it.controller == Some(true));
    match controller.map(|it| it.kind.as_str()) {
        Some("DaemonSet") => Owner::DaemonSet,
        Some("Node") => Owner::Mirror,
        Some(_) => Owner::Controller,
        None => Owner::Nobody,
    }
}

/// All of a kind, page by page.
///
/// # Errors
/// The API server does not answer.
pub async fn pages<K>(api: &Api<K>, params: ListParams) -> anyhow::Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K: kube::Resource<DynamicType = ()>,
{
    let mut all = Vec::new();
    let mut params = params.limit(PAGE);
    loop {
        let kind = K::plural(&());
        let page = api.list(&params).await;
        let page = page.with_context(|| format!("listing {kind}"))?;
        let next = page.metadata.continue_.clone().unwrap_or_default();
        all.extend(page.items);
        if next.is_empty() {
            return Ok(all);
        }
        params = params.continue_token(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> v1::Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn who_would_make_a_pod_again() {
        let owned = |kind: &str, controller: bool| {
            let by = json!({"apiVersion": "v1", "kind": kind, "name": "x", "uid": "u", "controller": controller});
            owner(&pod(json!({"metadata": {"ownerReferences": [by]}})))
        };
        assert_eq!(owned("StatefulSet", true), Owner::Controller);
        assert_eq!(owned("DaemonSet", true), Owner::DaemonSet);
        assert_eq!(owned("Node", true), Owner::Mirror);
        assert_eq!(owned("StatefulSet", false), Owner::Nobody);
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
        assert_eq!(owner(&pod(mirror)), Owner::Mirror);
        assert_eq!(owner(&pod(json!({"metadata": {}}))), Owner::Nobody);
    }

    #[test]
    fn a_daemon_that_is_up_does_not_restart() {
        let daemon = |state: Value, ends: bool| {
            let mut metadata = json!({"namespace": "lockstep", "labels": {DAEMON: "data"}});
            if ends {
                metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let status = json!({"name": CONTAINER, "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "state": state});
            pod(json!({"metadata": metadata, "status": {"containerStatuses": [status]}}))
        };
        let running = json!({"running": {}});
        let up = daemon(running.clone(), false);
        assert!(!restarts(std::slice::from_ref(&up), "lockstep"));
        assert!(
            restarts(std::slice::from_ref(&up), "elsewhere"),
            "there is none"
        );
        assert!(restarts(&[daemon(running, true)], "lockstep"));
        assert!(restarts(
            &[daemon(json!({"waiting": {}}), false)],
            "lockstep"
        ));
    }

    #[test]
    fn of_what_is_in_use_ours_is_told() {
        let node = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
            "status": {"volumesInUse": ["kubernetes.io/csi/other^x", "kubernetes.io/csi/csi.lockstep.dev^v1"]},
        }));
        let node: Node = node.expect("a node");
        assert_eq!(in_use(&node), ["v1"]);
        assert!(has_taint(&node) && !has_taint(&Node::default()));
    }
}
