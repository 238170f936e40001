//! Metrics and health over plain HTTP, for Prometheus and for kubelet's probes. Nothing here tells
//! more than counts, and names of volumes and nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::exposition::Source;
use crate::listener;

/// What the probes are told. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    condition: Arc<AtomicU8>,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const FAILED: u8 = 2;

impl Health {
    /// The control state has been read and the pools recovered: the node serves.
    pub fn set_ready(&self, ready: bool) {
        let condition = if ready { READY } else { STARTING };
        self.condition.store(condition, Ordering::Release);
    }

    /// Whether it does.
    pub fn is_ready(&self) -> bool {
        self.condition.load(Ordering::Acquire) == READY
    }

    /// The node has lost its part of the control plane: it is to be given nothing new.
    pub fn set_failed(&self) {
        self.condition.store(FAILED, Ordering::Release);
    }
}

#[derive(Clone)]
struct Shared {
    metrics: PrometheusHandle,
    source: Source,
    health: Health,
}

/// Installs the process's metrics recorder.
///
/// # Errors
/// There is one already.
pub fn install_recorder() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .install_recorder()
        .map_err(|e| anyhow::anyhow!("metrics cannot be set up: {e}"))
}

/// Serves `/metrics`, `/livez` and `/readyz` until the task is dropped.
///
/// # Errors
/// The address is taken.
pub async fn serve(
    address: SocketAddr,
    metrics: PrometheusHandle,
    source: Source,
    health: Health,
) -> anyhow::Result<()> {
    let listener = listener::bind(address).map_err(|e| {
        anyhow::anyhow!("cannot listen on {address} for metrics: {e}; change listen.metrics")
    })?;
    let app = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(Shared {
            metrics,
            source,
            health,
        });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the metrics server ended");
        }
    });
    Ok(())
}

async fn render(State(shared): State<Shared>) -> String {
    shared.metrics.run_upkeep();
    let mut text = shared.metrics.render();
    text.push_str(&shared.source.render().await);
    text
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.health.condition.load(Ordering::Acquire) {
        READY => (StatusCode::OK, "ready\n"),
        FAILED => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the raft log failed; restart this daemon\n",
        ),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}
