//! A verdict in words, as JSON: what `lockstep pod explain` shows.

use lockstep_types::Locality;
use lockstep_verdict::bands::Milli;
use lockstep_verdict::claims::Pod;
use lockstep_verdict::cluster::Cluster;
use lockstep_verdict::explain::{NodeVerdict, explain, notes};
use lockstep_verdict::reason::Reason;
use lockstep_verdict::wanted::Wanted;
use serde::Serialize;

/// How every node does for a pod.
#[derive(Serialize)]
pub struct PodView {
    /// NAMESPACE/NAME.
    pub pod: String,
    /// The node that it is bound to; empty if it is not.
    pub node: String,
    /// What its annotation says; empty if that means nothing.
    pub locality: &'static str,
    /// What is to be known about all nodes.
    pub notes: Vec<String>,
    /// The nodes, the best first.
    pub nodes: Vec<NodeView>,
}

/// How a node does.
#[derive(Serialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Whether the pod can run there.
    pub stays: bool,
    /// Why it cannot; empty if it can. The code never changes its meaning.
    pub reason: &'static str,
    /// The same for programs.
    pub code: &'static str,
    /// 0 to 10.
    pub score: u8,
    /// What it gets for each volume.
    pub volumes: Vec<VolumeView>,
}

/// What a node gets for a volume.
#[derive(Serialize)]
pub struct VolumeView {
    /// The claim.
    pub claim: String,
    /// 0 to 10, with three digits behind the point.
    pub points: f64,
    /// Why.
    pub why: String,
}

impl PodView {
    /// Judges all nodes that are known.
    pub fn new(cluster: &Cluster, now: u64, pod: &Pod, wanted: &Wanted) -> Self {
        let verdicts = explain(cluster, now, wanted, cluster.machines());
        Self {
            pod: format!("{}/{}", pod.key.0, pod.key.1),
            node: pod.node.clone(),
            locality: match wanted.locality {
                None => "",
                Some(Locality::Prefer) => "prefer",
                Some(Locality::Require) => "require",
                Some(Locality::None) => "none",
            },
            notes: notes(cluster, now, wanted),
            nodes: verdicts.into_iter().map(node).collect(),
        }
    }
}

fn node(verdict: NodeVerdict) -> NodeView {
    let volumes = verdict.volumes.into_iter().map(|it| VolumeView {
        claim: it.claim,
        points: points(it.milli),
        why: it.why,
    });
    NodeView {
        node: verdict.node,
        stays: verdict.refused.is_none(),
        reason: verdict.refused.map_or("", Reason::text),
        code: verdict.refused.map_or("", Reason::code),
        score: verdict.score,
        volumes: volumes.collect(),
    }
}

fn points(milli: Milli) -> f64 {
    milli as f64 / 1000.0
}
