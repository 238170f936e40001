//! Tells a scheduler that a refusal has lapsed, by an annotation on a node that takes the pod now: a scheduler
//! looks at a pod again when something about a node changes that the pod could run on, and otherwise only after
//! five minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::measure;
use crate::state::State;

/// The annotation: when a pod was last found to be able to run there after all, in milliseconds since 1970.
pub const ANNOTATION: &str = "lockstep.dev/schedulable-again";
/// How often refusals are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Nodes annotated in one time at most.
const MOST: usize = 10;

/// Tells, for as long as it is polled.
pub async fn tell(client: Client, state: State) {
    let nodes: Api<Node> = Api::all(client);
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        for node in state.lapsed(MOST) {
            match touch(&nodes, &node).await {
                Ok(()) => measure::touched("told"),
                Err(error) => {
                    measure::touched("failed");
                    tracing::warn!(
                        node,
                        %error,
                        "the scheduler could not be told that a pod can run on the node again; it looks again within \
                         five minutes. May this account patch nodes?"
                    );
                }
            }
        }
    }
}

async fn touch(nodes: &Api<Node>, node: &str) -> kube::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_millis().to_string();
    let patch = json!({"metadata": {"annotations": {ANNOTATION: now}}});
    let params = PatchParams::default();
    nodes
        .patch_metadata(node, &params, &Patch::Merge(&patch))
        .await
        .map(drop)
}
