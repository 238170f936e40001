//! Requests and their answers. What cannot be read is refused with 400, after which a scheduler goes on without
//! us; everything else is answered with 200, for the bodies of other answers are thrown away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use kube::{Api, Client};
use lockstep_verdict::filter::filter;
use lockstep_verdict::prioritize::prioritize;
use lockstep_verdict::reason::Reason;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::api::{ExtenderArgs, ExtenderFilterResult, HostPriority};
use crate::state::State;
use crate::view::PodView;
use crate::webhook::{self, Origin};
use crate::{measure, objects};

/// Bytes of a scheduler's request at most: 5,000 whole nodes of 25 KiB each.
const LARGEST_ARGS: usize = 128 << 20;
/// Bytes of the API server's request at most: it stores no object of more than 1.5 MiB.
const LARGEST_REVIEW: usize = 8 << 20;
/// How long a body may take to arrive. The scheduler waits for 250 ms, the API server for 2 s.
const ARRIVAL: Duration = Duration::from_secs(2);
/// How long the API server is asked about a claim that is not known here.
const CLAIM: Duration = Duration::from_secs(1);

/// What answers are made from. Cheap to clone.
#[derive(Clone)]
pub struct Answers {
    /// What is known.
    pub state: State,
    /// Where claims are looked up that a pod names and that are not known here yet.
    pub client: Option<Client>,
    /// What is counted.
    pub metrics: PrometheusHandle,
    /// What a reader of metrics shows where no client certificate is asked for; none lets nobody in.
    pub token: Option<Arc<str>>,
}

/// For those who show a certificate: schedulers and people.
pub fn certified(answers: Answers) -> Router {
    Router::new()
        .route("/filter", post(filter_nodes))
        .route("/prioritize", post(prioritize_nodes))
        .route("/explain/{namespace}/{name}", get(explain_pod))
        .route("/metrics", get(render))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(answers)
}

/// For those who show none: the API server, probes, and who has the token.
pub fn anybody(answers: Answers) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .route("/metrics", get(render_for_token))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(answers)
}

async fn filter_nodes(Shared(answers): Shared<Answers>, body: Body) -> Response {
    judge("filter", body, |bytes| filtered(&answers.state, bytes)).await
}

async fn prioritize_nodes(Shared(answers): Shared<Answers>, body: Body) -> Response {
    judge("prioritize", body, |bytes| {
        prioritized(&answers.state, bytes)
    })
    .await
}

async fn judge(
    verb: &'static str,
    body: Body,
    answer: impl FnOnce(&[u8]) -> serde_json::Result<Vec<u8>>,
) -> Response {
    let bytes = match arrived(body, LARGEST_ARGS).await {
        Ok(bytes) => bytes,
        Err(refusal) => return refusal,
    };
    let start = Instant::now();
    let answer = answer(&bytes);
    let outcome = if answer.is_ok() {
        "answered"
    } else {
        "undecodable"
    };
    measure::answered(verb, outcome, start.elapsed());
    match answer {
        Ok(answer) => json(answer),
        Err(error) => {
            tracing::warn!(verb, %error, "the scheduler's request cannot be read; it goes on without us");
            let words = format!("this is no request of the extender API, v1: {error}\n");
            (StatusCode::BAD_REQUEST, words).into_response()
        }
    }
}

/// The answer to a filter request.
///
/// # Errors
/// It is none.
pub fn filtered(state: &State, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut args = ExtenderArgs::read(body)?;
    let names = args.take_names()?;
    let mut refused = vec![None; names.len()];
    if let Some(pod) = args.pod.as_ref().map(objects::pod) {
        let wanted = state.with_claims(|claims| claims.wanted(&pod));
        let nodes = names.iter().map(String::as_str);
        refused = filter(&state.cluster(), state.now(), &wanted, nodes);
        measure::refused(refused.iter().flatten().copied());
        let pairs = names.iter().zip(&refused);
        let goes = pairs.filter(|(_, why)| why.is_some());
        state.note_refused(&pod, goes.map(|(name, _)| name.clone()).collect());
    }
    let texts: Vec<_> = refused.into_iter().map(|it| it.map(Reason::text)).collect();
    let result = ExtenderFilterResult::new(args.nodes.as_ref(), &names, &texts);
    serde_json::to_vec(&result)
}

/// The answer to a prioritize request.
///
/// # Errors
/// It is none.
pub fn prioritized(state: &State, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut args = ExtenderArgs::read(body)?;
    let names = args.take_names()?;
    let mut scores = vec![0; names.len()];
    if let Some(pod) = args.pod.as_ref().map(objects::pod) {
        let wanted = state.with_claims(|claims| claims.wanted(&pod));
        let nodes = names.iter().map(String::as_str);
        scores = prioritize(&state.cluster(), state.now(), &wanted, nodes);
    }
    let pairs = names.iter().zip(scores);
    let list: Vec<HostPriority<'_>> = pairs
        .map(|(host, score)| HostPriority {
            host,
            score: score.into(),
        })
        .collect();
    serde_json::to_vec(&list)
}

async fn explain_pod(
    Shared(answers): Shared<Answers>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let state = &answers.state;
    let found = state.with_claims(|claims| {
        let pod = claims.pod(&namespace, &name)?;
        Some((pod.clone(), claims.wanted(pod)))
    });
    let Some((pod, wanted)) = found else {
        let words = format!(
            "no pod '{namespace}/{name}' with claims is known here; ended pods are not, and a new one is within a moment\n"
        );
        return (StatusCode::NOT_FOUND, words).into_response();
    };
    let view = PodView::new(&state.cluster(), state.now(), &pod, &wanted);
    json(serde_json::to_vec(&view).expect("a view has nothing that JSON lacks"))
}

async fn mutate(Shared(answers): Shared<Answers>, body: Body) -> Response {
    let bytes = match arrived(body, LARGEST_REVIEW).await {
        Ok(bytes) => bytes,
        Err(refusal) => return refusal,
    };
    let review = serde_json::from_slice::<AdmissionReview<Pod>>(&bytes).ok();
    let request: Option<AdmissionRequest<Pod>> = review.and_then(|it| it.try_into().ok());
    let Some(request) = request else {
        measure::admitted("undecodable");
        let words = "this is no AdmissionReview of a pod\n";
        return (StatusCode::BAD_REQUEST, words).into_response();
    };
    let ours = has_ours(&answers, &request).await;
    let (review, changed) =
        webhook::answer(&request, ours).expect("a patch of ours can be written");
    measure::admitted(if changed { "added" } else { "unchanged" });
    json(serde_json::to_vec(&review).expect("a review has nothing that JSON lacks"))
}

/// Whether a pod has a volume of ours, as far as that can be known.
async fn has_ours(answers: &Answers, request: &AdmissionRequest<Pod>) -> bool {
    let Some(pod) = request
        .object
        .as_ref()
        .filter(|_| webhook::concerns(request))
    else {
        return false;
    };
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let mut unknown = Vec::new();
    for origin in webhook::origins(pod) {
        let whose = answers.state.with_claims(|claims| match &origin {
            Origin::Claim(claim) => claims.is_ours(namespace, claim),
            Origin::Template(class) => claims.is_class_ours(class),
        });
        match (whose, origin) {
            (Some(true), _) => return true,
            (None, Origin::Claim(claim)) => unknown.push(claim),
            (Some(false), _) | (None, Origin::Template(_)) => {}
        }
    }
    // A StatefulSet makes a claim and its pod at once: the claim may not have been told of yet.
    let Some(client) = answers.client.as_ref().filter(|_| !unknown.is_empty()) else {
        return false;
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let looked_up = tokio::time::timeout(CLAIM, look_up(&api, &answers.state, &unknown));
    looked_up.await.unwrap_or(false)
}

/// Whether one of these claims is ours, as the API server knows them.
async fn look_up(api: &Api<PersistentVolumeClaim>, state: &State, names: &[String]) -> bool {
    for name in names {
        let Ok(Some(claim)) = api.get_opt(name).await else {
            continue;
        };
        let (key, claim) = objects::claim(&claim);
        let ours = state.change_claims(|claims| {
            // What a watch has told meanwhile is newer.
            if claims.is_ours(&key.0, &key.1).is_none() {
                claims.put_claim(key.clone(), claim);
            }
            claims.is_ours(&key.0, &key.1)
        });
        if ours == Some(true) {
            return true;
        }
    }
    false
}

async fn render(Shared(answers): Shared<Answers>) -> String {
    measure::known(&answers.state);
    answers.metrics.run_upkeep();
    answers.metrics.render()
}

async fn render_for_token(shared: Shared<Answers>, headers: HeaderMap) -> Response {
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|it| it.as_bytes().strip_prefix(b"Bearer "));
    let allowed = match (&shared.0.token, given) {
        (Some(token), Some(given)) => is_same(token.as_bytes(), given),
        _ => false,
    };
    if allowed {
        return render(shared).await.into_response();
    }
    let words = "metrics want a client certificate, or the token of --metrics-token\n";
    (StatusCode::UNAUTHORIZED, words).into_response()
}

async fn alive() -> &'static str {
    "alive\n"
}

async fn ready(Shared(answers): Shared<Answers>) -> (StatusCode, &'static str) {
    if answers.state.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not everything has been heard yet; verdicts refuse and prefer nothing that is not known\n",
        )
    }
}

async fn arrived(body: Body, most: usize) -> Result<Bytes, Response> {
    match tokio::time::timeout(ARRIVAL, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let words = format!("the body broke off, or has more than {most} bytes\n");
            Err((StatusCode::PAYLOAD_TOO_LARGE, words).into_response())
        }
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}

fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Compares in a time that does not depend on where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let different = a
        .iter()
        .zip(b)
        .fold(0, |different, (a, b)| different | (a ^ b));
    a.len() == b.len() && different == 0
}
