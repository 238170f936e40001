//! What is counted, for Prometheus.

use std::time::Duration;

use lockstep_verdict::reason::Reason;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::state::State;

const SECONDS: &str = "lockstep_extender_request_seconds";
/// Bounds of the histogram, in seconds: 5 ms is what is promised, 250 ms when the scheduler gives up.
const BUCKETS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
];

/// Installs the process's recorder.
///
/// # Errors
/// There is one already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder);
    let handle = recorder.map_err(|e| anyhow::anyhow!("metrics cannot be set up: {e}"))?;
    describe();
    Ok(handle)
}

/// A request was answered; `outcome` is "answered" or "undecodable".
pub fn answered(verb: &'static str, outcome: &'static str, took: Duration) {
    metrics::histogram!(SECONDS, "verb" => verb).record(took);
    metrics::counter!("lockstep_extender_requests_total", "verb" => verb, "outcome" => outcome)
        .increment(1);
}

/// Nodes were refused.
pub fn refused(reasons: impl IntoIterator<Item = Reason>) {
    let mut counts = [0_u64; Reason::ALL.len()];
    for reason in reasons {
        counts[reason as usize] += 1;
    }
    for (reason, count) in Reason::ALL.into_iter().zip(counts) {
        if count > 0 {
            metrics::counter!("lockstep_extender_refused_nodes_total", "reason" => reason.code())
                .increment(count);
        }
    }
}

/// Lockstep or Kubernetes did not answer.
pub fn source_failed(source: &'static str) {
    metrics::counter!("lockstep_extender_source_failures_total", "source" => source).increment(1);
}

/// A scheduler was told that a refusal has lapsed, or could not be.
pub fn touched(outcome: &'static str) {
    metrics::counter!("lockstep_extender_touched_nodes_total", "outcome" => outcome).increment(1);
}

/// A pod was seen before it was stored; `outcome` is "added", "unchanged" or "undecodable".
pub fn admitted(outcome: &'static str) {
    metrics::counter!("lockstep_extender_admitted_pods_total", "outcome" => outcome).increment(1);
}

/// What is known now.
pub fn known(state: &State) {
    let (cluster, now) = (state.cluster(), state.now());
    let (nodes, volumes) = cluster.storage().counts();
    let (claims, _, pods) = state.with_claims(|claims| claims.counts());
    let gauge = |what: &'static str, count: usize| {
        metrics::gauge!("lockstep_extender_known", "what" => what).set(count as f64);
    };
    gauge("nodes", cluster.machines().len());
    gauge("lockstep-nodes", nodes);
    gauge("volumes", volumes);
    gauge("claims", claims);
    gauge("pods", pods);
    gauge("refused-pods", state.refused());
    let age = cluster.storage().heard().map(|at| now.saturating_sub(at));
    let age = age.map_or(f64::INFINITY, |age| Duration::from_nanos(age).as_secs_f64());
    metrics::gauge!("lockstep_extender_storage_age_seconds").set(age);
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(SECONDS, "From a request's last byte to its answer's first");
    describe_counter!(
        "lockstep_extender_requests_total",
        "Requests, by verb and outcome"
    );
    describe_counter!(
        "lockstep_extender_refused_nodes_total",
        "Nodes refused, by reason"
    );
    describe_counter!(
        "lockstep_extender_source_failures_total",
        "Times that Lockstep or Kubernetes did not tell what there is"
    );
    describe_counter!(
        "lockstep_extender_touched_nodes_total",
        "Nodes annotated because a refusal has lapsed"
    );
    describe_counter!(
        "lockstep_extender_admitted_pods_total",
        "Pods seen by the webhook"
    );
    describe_gauge!("lockstep_extender_known", "What is remembered, by kind");
    describe_gauge!(
        "lockstep_extender_storage_age_seconds",
        "Since Lockstep was last heard"
    );
}
