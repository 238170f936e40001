//! What is heard from Kubernetes and told to it, against a server that speaks as much of the API as is used:
//! lists, watches, one claim, patches of nodes. It answers what it is told to, also an expired watch.

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use kube::{Client, Config};
use lockstep_csi::DRIVER;
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::{kubernetes, touch};
use lockstep_types::VolumeId;
use lockstep_verdict::claims::Pod;
use lockstep_verdict::wanted::Source;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/pods";
const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    /// What a list of each path answers.
    lists: Mutex<BTreeMap<&'static str, Vec<Value>>>,
    /// What is told to who watches.
    watches: BTreeMap<&'static str, broadcast::Sender<String>>,
    /// Selectors of lists and watches, and what was patched.
    asked: Mutex<Vec<(String, String)>>,
    patched: Mutex<Vec<(String, Value)>>,
}

impl Server {
    async fn start(lists: &[(&'static str, Vec<Value>)]) -> (Self, Client) {
        let paths = [NODES, PODS, CLAIMS, VOLUMES, CLASSES];
        let server = Self {
            inner: Arc::new(Inner {
                lists: Mutex::new(lists.iter().cloned().collect()),
                watches: paths.map(|path| (path, broadcast::channel(16).0)).into(),
                asked: Mutex::default(),
                patched: Mutex::default(),
            }),
        };
        let routes = Router::new().fallback(answer).with_state(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let url = format!("http://{address}").parse().expect("a URL");
        let client = Client::try_from(Config::new(url)).expect("a client");
        (server, client)
    }

    /// Tells who watches, once somebody does.
    async fn tell(&self, path: &str, kind: &str, object: Value) {
        let sender = &self.inner.watches[path];
        until("a watch", || sender.receiver_count() > 0).await;
        let line = json!({"type": kind, "object": object});
        sender.send(format!("{line}\n")).expect("somebody watches");
    }
}

async fn answer(
    Shared(server): Shared<Server>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == "PATCH" {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
        let body: Value = serde_json::from_slice(&body.expect("a body")).expect("JSON");
        let name = path.rsplit('/').next().expect("a name").to_owned();
        server.inner.patched.lock().push((name.clone(), body));
        let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                            "metadata": {"name": name}});
        return axum::Json(object).into_response();
    }
    let selector = query.get("fieldSelector").cloned().unwrap_or_default();
    server.inner.asked.lock().push((path.clone(), selector));
    if query.contains_key("watch") {
        let receiver = server.inner.watches[path.as_str()].subscribe();
        let lines = stream::unfold(receiver, |mut receiver| async move {
            let line = receiver.recv().await.ok()?;
            Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
        });
        return Body::from_stream(lines).into_response();
    }
    let Some(items) = server.inner.lists.lock().get(path.as_str()).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    axum::Json(list).into_response()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"));
}

fn node(name: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "2"},
           "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name, "resourceVersion": "2"},
           "spec": {"nodeName": node, "containers": [], "volumes": [
               {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}})
}

fn claim(name: &str, volume: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": "2"},
           "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": volume,
                    "resources": {"requests": {"storage": "1Gi"}}}})
}

fn volume(name: &str, id: u128) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "2"},
           "spec": {"csi": {"driver": DRIVER, "volumeHandle": VolumeId::from_u128(id).to_string()}}})
}

fn class(name: &str, copies: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "2"}, "provisioner": DRIVER,
           "parameters": {"replicas": copies}})
}

fn lists() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (NODES, vec![node("a1", "True"), node("b1", "True")]),
        (PODS, vec![pod("pg-0", "a1")]),
        (CLAIMS, vec![claim("data", "pv-1"), claim("new", "")]),
        (VOLUMES, vec![volume("pv-1", 1)]),
        (CLASSES, vec![class("fast", "2")]),
    ]
}

fn new_pod(claim: &str) -> Pod {
    Pod {
        key: ("shop".into(), "another".into()),
        uid: "another".into(),
        claims: vec![claim.into()],
        ..Pod::default()
    }
}

/// What stands behind a claim, and on which nodes it is used.
fn found(state: &State, claim: &str) -> Option<(Source, Vec<String>)> {
    let wanted = state.with_claims(|claims| claims.wanted(&new_pod(claim)));
    wanted
        .volumes
        .into_iter()
        .next()
        .map(|it| (it.source, it.users))
}

#[tokio::test]
async fn what_kubernetes_tells_is_known_and_stays_up_to_date() {
    let (server, client) = Server::start(&lists()).await;
    let state = State::default();
    tokio::spawn(kubernetes::hear(client, state.clone()));
    let of = |id| Source::Bound(VolumeId::from_u128(id));
    until("all lists", || {
        let told = state.with_claims(|claims| claims.told());
        told.claims
            && told.persistent
            && told.classes
            && told.pods
            && state.cluster().machines() == ["a1", "b1"]
    })
    .await;
    assert_eq!(found(&state, "data"), Some((of(1), vec!["a1".into()])));
    let asked = server.inner.asked.lock().clone();
    let living = asked
        .iter()
        .find(|(path, _)| path == PODS)
        .expect("pods are listed");
    assert!(living.1.contains("status.phase!=Succeeded"), "{living:?}");

    server.tell(NODES, "MODIFIED", node("b1", "False")).await;
    server.tell(NODES, "DELETED", node("a1", "True")).await;
    until("a node being gone", || state.cluster().machines() == ["b1"]).await;
    server.tell(PODS, "DELETED", pod("pg-0", "a1")).await;
    until("a pod being gone", || {
        found(&state, "data") == Some((of(1), vec![]))
    })
    .await;
    server.tell(PODS, "ADDED", pod("pg-1", "b1")).await;
    until("a pod", || {
        found(&state, "data") == Some((of(1), vec!["b1".into()]))
    })
    .await;
    server
        .tell(CLASSES, "MODIFIED", class("fast", "nine"))
        .await;
    until("a class that is not valid", || {
        matches!(
            found(&state, "new"),
            Some((Source::Unbound { wish: None, .. }, _))
        )
    })
    .await;
    server.tell(CLAIMS, "MODIFIED", claim("new", "pv-2")).await;
    until("a bound claim", || {
        matches!(found(&state, "new"), Some((Source::Missing, _)))
    })
    .await;
    server.tell(VOLUMES, "ADDED", volume("pv-2", 2)).await;
    until("its volume", || {
        found(&state, "new") == Some((of(2), vec![]))
    })
    .await;
    // Lockstep is asked at once: pods wait for it.
    let asked = tokio::time::timeout(PATIENCE, state.asked_soon()).await;
    asked.expect("a volume that nobody knew");
    server.tell(CLAIMS, "DELETED", claim("new", "pv-2")).await;
    until("a claim being gone", || found(&state, "new").is_none()).await;
}

#[tokio::test]
async fn after_an_expired_watch_a_list_replaces_what_was_known() {
    let (server, client) = Server::start(&lists()).await;
    let state = State::default();
    tokio::spawn(kubernetes::hear(client, state.clone()));
    until("the first list", || {
        state.cluster().machines() == ["a1", "b1"]
    })
    .await;
    server
        .inner
        .lists
        .lock()
        .insert(NODES, vec![node("c1", "True")]);
    let expired = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                         "message": "too old resource version", "reason": "Expired", "code": 410});
    server.tell(NODES, "ERROR", expired).await;
    until("the second list", || state.cluster().machines() == ["c1"]).await;
}

#[tokio::test]
async fn a_scheduler_is_told_when_a_refusal_has_lapsed() {
    let (server, client) = Server::start(&lists()).await;
    let state = State::default();
    let storage = common::small(&state);
    tokio::spawn(touch::tell(client, state.clone()));
    let pod = state.with_claims(|claims| claims.pod("shop", "pg-0").cloned());
    let pod = pod.expect("known");
    // Nothing is heard of Lockstep: the node that had been refused is not refused any more.
    state.note_refused(&pod, vec!["a2".into()]);
    until("the patch", || !server.inner.patched.lock().is_empty()).await;
    let patched = server.inner.patched.lock().clone();
    assert_eq!(patched.len(), 1);
    assert_eq!(patched[0].0, "a2");
    let annotation = &patched[0].1["metadata"]["annotations"][touch::ANNOTATION];
    let at: u64 = annotation
        .as_str()
        .and_then(|it| it.parse().ok())
        .expect("a time");
    assert!(at > 1_700_000_000_000, "{at}");
    // b1 does not answer, and stays refused; once it is refused no more, it is told of.
    state.set_storage(storage);
    state.note_refused(&pod, vec!["b1".into(), "a1".into()]);
    until("the second patch", || {
        server.inner.patched.lock().len() == 2
    })
    .await;
    assert_eq!(server.inner.patched.lock()[1].0, "a1");
}
