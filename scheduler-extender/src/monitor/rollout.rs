//! Replacing the daemons' pods one at a time after an upgrade, as [`lockstep_evict::rollout`] says.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use lockstep_api::{Client, proto};
use lockstep_csi::daemon::Daemon as Lockstep;
use lockstep_evict::rollout::{Daemon, Daemons};

use super::scene::{DAEMON, pages};
use super::{World, act, lockstep};

/// What a DaemonSet's pods and revisions are told apart by.
const REVISION: &str = "controller-revision-hash";

/// Deletes the pod whose turn it is, if it is one's turn.
///
/// # Errors
/// Kubernetes or Lockstep does not answer.
pub async fn step(world: &World, namespace: &str) -> anyhow::Result<()> {
    let mut daemons = pods(world, namespace).await?;
    if !daemons.pods.iter().any(|it| it.outdated) {
        return Ok(());
    }
    // After the pods were looked at: one that has ended since is no more heard.
    daemons.settled = is_settled(&world.daemon).await?;
    let Some(next) = daemons.next() else {
        return Ok(());
    };
    tracing::info!(
        pod = next.pod,
        machine = next.machine,
        "replacing the daemon's pod by a newer one"
    );
    act::delete(&world.client, namespace, &next.pod, &next.uid, None).await
}

async fn pods(world: &World, namespace: &str) -> anyhow::Result<Daemons> {
    let sets: Api<DaemonSet> = Api::namespaced(world.client.clone(), namespace);
    let sets = pages(&sets, ListParams::default()).await?;
    let ours = |it: &&DaemonSet| {
        let template = it
            .spec
            .as_ref()
            .and_then(|it| it.template.metadata.as_ref());
        let labels = template.and_then(|it| it.labels.as_ref());
        labels.is_some_and(|it| it.contains_key(DAEMON))
    };
    let sets: Vec<&DaemonSet> = sets.iter().filter(ours).collect();
    let wanted = |it: &&&DaemonSet| {
        it.status
            .as_ref()
            .map_or(0, |it| it.desired_number_scheduled)
    };
    let wanted: i32 = sets.iter().map(|it| wanted(&it)).sum();
    let newest = newest(world, namespace).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    let pods = pages(&pods, ListParams::default().labels(DAEMON)).await?;
    let daemon = |pod: &Pod| {
        let owner = pod
            .owner_references()
            .iter()
            .find(|it| it.controller == Some(true));
        let newest = owner.and_then(|it| newest.get(&it.uid));
        let revision = pod.labels().get(REVISION);
        Daemon {
            machine: pod
                .spec
                .as_ref()
                .and_then(|it| it.node_name.clone())
                .unwrap_or_default(),
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            outdated: newest.is_some_and(|(_, newest)| Some(newest) != revision),
            ready: is_ready(pod),
            ending: pod.metadata.deletion_timestamp.is_some(),
        }
    };
    Ok(Daemons {
        pods: pods.iter().map(daemon).collect(),
        wanted: usize::try_from(wanted).unwrap_or(0),
        settled: false,
    })
}

/// The newest revision of each DaemonSet, by the set's unique id.
async fn newest(world: &World, namespace: &str) -> anyhow::Result<BTreeMap<String, (i64, String)>> {
    let revisions: Api<ControllerRevision> = Api::namespaced(world.client.clone(), namespace);
    let mut newest: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for revision in pages(&revisions, ListParams::default()).await? {
        let Some(hash) = revision.labels().get(REVISION) else {
            continue;
        };
        let owner = revision
            .owner_references()
            .iter()
            .find(|it| it.controller == Some(true));
        let Some(owner) = owner else { continue };
        let known = newest.entry(owner.uid.clone()).or_default();
        if known.1.is_empty() || revision.revision > known.0 {
            *known = (revision.revision, hash.clone());
        }
    }
    Ok(newest)
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.iter();
    let conditions = status.flat_map(|it| it.conditions.iter()).flatten();
    conditions
        .into_iter()
        .any(|it| it.type_ == "Ready" && it.status == "True")
}

async fn is_settled(daemon: &Lockstep) -> anyhow::Result<bool> {
    let life = lockstep::life(daemon).await.context("who is heard")?;
    let heard = life.is_conclusive() && life.members.values().all(|it| !it.heard_by.is_empty());
    let status = daemon.ask(|client: Client| async move {
        client.cluster().status(proto::StatusRequest {}).await
    });
    let status = status.await.context("the cluster's status")?;
    let whole =
        |it: &proto::StatusCount| it.count == 0 || it.status() == proto::VolumeStatus::Healthy;
    Ok(heard && !status.voters_changing && status.volumes.iter().all(whole))
}
