//! The extender as a scheduler, the API server, a probe and a person meet it: over real TLS connections.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Authority, Connection, answers, listen, small};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use lockstep_scheduler_extender::routes::{anybody, certified};
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::tls::{Clients, Tls};
use serde_json::{Value, json};

struct Running {
    authority: Authority,
    folder: tempfile::TempDir,
    state: State,
    tls: Arc<Tls>,
    schedulers: std::net::SocketAddr,
    others: std::net::SocketAddr,
}

impl Running {
    async fn start() -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().expect("a folder");
        authority.install(folder.path());
        let tls = Arc::new(Tls::open(folder.path()).expect("certificates"));
        let state = State::default();
        let answers = answers(state.clone());
        let routes = certified(answers.clone());
        let schedulers = listen(Arc::clone(&tls), Clients::Certified, routes).await;
        let others = listen(Arc::clone(&tls), Clients::Anybody, anybody(answers)).await;
        Self {
            authority,
            folder,
            state,
            tls,
            schedulers,
            others,
        }
    }

    async fn scheduler(&self) -> Connection {
        let config = self
            .authority
            .client(Some(self.authority.sign("kube-scheduler")));
        let opened = Connection::open(self.schedulers, config).await;
        opened.expect("let in")
    }
}

fn args(names: &[&str]) -> String {
    let pod = json!({
        "metadata": {"namespace": "shop", "name": "pg-0", "uid": "u"},
        "spec": {"containers": [{"name": "pg"}],
                 "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data-pg-0"}}]},
    });
    json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string()
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

const ALL: [&str; 4] = ["a1", "a2", "b1", "cp1"];

#[tokio::test]
async fn nodes_are_filtered_and_scored_over_one_connection() {
    let running = Running::start().await;
    running.state.set_storage(small(&running.state));
    let mut scheduler = running.scheduler().await;
    let (status, body) = scheduler.post("/filter", args(&ALL)).await;
    assert_eq!(status, StatusCode::OK);
    let why = "no healthy Lockstep daemon on the node";
    let expected = json!({
        "Nodes": null, "NodeNames": ["a1", "a2"], "FailedNodes": {}, "Error": "",
        "FailedAndUnresolvableNodes": {"b1": why, "cp1": why},
    });
    assert_eq!(parsed(&body), expected);
    let (status, body) = scheduler.post("/prioritize", args(&["a2", "a1"])).await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!([{"Host": "a2", "Score": 4}, {"Host": "a1", "Score": 10}]);
    assert_eq!(parsed(&body), expected);
    assert_eq!(running.state.refused(), 1, "the pod waits for b1 and cp1");
}

#[tokio::test]
async fn whole_nodes_are_taken_and_given_back() {
    let running = Running::start().await;
    running.state.set_storage(small(&running.state));
    let mut value = parsed(args(&[]).as_bytes());
    let node =
        |name: &str| json!({"metadata": {"name": name}, "status": {"capacity": {"cpu": "8"}}});
    value["Nodes"] = json!({"metadata": {}, "items": ALL.map(node)});
    value["NodeNames"] = Value::Null;
    let mut scheduler = running.scheduler().await;
    let (status, body) = scheduler.post("/filter", value.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let answer = parsed(&body);
    assert_eq!(answer["Nodes"]["items"], json!([node("a1"), node("a2")]));
    assert_eq!(answer["NodeNames"], Value::Null);
    let (_, body) = scheduler.post("/prioritize", value.to_string()).await;
    assert_eq!(parsed(&body).as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn an_empty_cache_keeps_every_node_and_prefers_none() {
    let running = Running::start().await;
    let mut scheduler = running.scheduler().await;
    let (status, body) = scheduler.post("/filter", args(&ALL)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(parsed(&body)["NodeNames"], json!(ALL));
    let (_, body) = scheduler.post("/prioritize", args(&ALL)).await;
    let scores = parsed(&body);
    let zero = |it: &Value| it["Score"] == 0;
    assert!(scores.as_array().is_some_and(|all| all.iter().all(zero)));
    let (status, _) = scheduler.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(scheduler.get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_is_answered() {
    let running = Running::start().await;
    let mut scheduler = running.scheduler().await;
    for body in ["", "null", "{\"NodeNames\": 7}", "\u{0}"] {
        for path in ["/filter", "/prioritize"] {
            let (status, words) = scheduler.post(path, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body:?}");
            assert!(!words.is_empty());
        }
    }
    for body in ["{}", r#"{"Pod":null,"Nodes":null,"NodeNames":null}"#] {
        let (status, answer) = scheduler.post("/filter", body).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(parsed(&answer)["NodeNames"], json!([]));
        let (status, answer) = scheduler.post("/prioritize", body).await;
        assert_eq!((status, parsed(&answer)), (StatusCode::OK, json!([])));
    }
    assert_eq!(
        scheduler.get("/filter").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(scheduler.get("/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_shows_no_certificate_of_the_authority_is_not_let_in() {
    let running = Running::start().await;
    let stranger = Authority::new();
    for shown in [None, Some(stranger.sign("kube-scheduler"))] {
        let config = running.authority.client(shown);
        // Under TLS 1.3 a client hears of it with its first request.
        let refused = match Connection::open(running.schedulers, config).await {
            Err(_) => true,
            Ok(mut connection) => {
                let request = Request::get("/healthz").body(Full::default());
                connection.send(request.expect("a request")).await.is_err()
            }
        };
        assert!(refused);
    }
    assert_eq!(
        running.scheduler().await.get("/healthz").await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let running = Running::start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let opened = tokio::net::TcpStream::connect(running.schedulers).await;
        silent.push(opened.expect("accepted"));
    }
    let start = Instant::now();
    assert_eq!(
        running.scheduler().await.get("/healthz").await.0,
        StatusCode::OK
    );
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "a handshake may take 5 s"
    );
}

#[tokio::test]
async fn new_certificates_are_used_for_new_connections_and_bad_ones_are_not() {
    let mut running = Running::start().await;
    let mut before = running.scheduler().await;
    assert!(!running.tls.reload().expect("unchanged"));
    let next = Authority::new();
    // Files are replaced one by one: a key that does not belong to the certificate is not taken.
    let key = next.sign("127.0.0.1").key;
    std::fs::write(running.folder.path().join("tls.key"), key).expect("written");
    let error = running
        .tls
        .reload()
        .expect_err("they do not belong together");
    assert!(
        format!("{error:#}").contains("does not belong"),
        "{error:#}"
    );
    assert_eq!(
        running.scheduler().await.get("/healthz").await.0,
        StatusCode::OK
    );
    next.install(running.folder.path());
    assert!(running.tls.reload().expect("changed"));
    assert_eq!(
        before.get("/healthz").await.0,
        StatusCode::OK,
        "it lives on"
    );
    let old = running
        .authority
        .client(Some(running.authority.sign("kube-scheduler")));
    assert!(Connection::open(running.schedulers, old).await.is_err());
    running.authority = next;
    assert_eq!(
        running.scheduler().await.get("/healthz").await.0,
        StatusCode::OK
    );
    std::fs::remove_file(running.folder.path().join("ca.crt")).expect("removed");
    let error = running.tls.reload().expect_err("missing");
    assert!(format!("{error:#}").contains("ca.crt"), "{error:#}");
}

#[tokio::test]
async fn the_api_server_needs_no_certificate_and_gets_pods_changed() {
    let running = Running::start().await;
    small(&running.state);
    let config = running.authority.client(None);
    let mut api = Connection::open(running.others, config)
        .await
        .expect("let in");
    let review = include_str!("golden/review.json");
    let (status, body) = api.post("/mutate", review).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(parsed(&body)["response"]["patchType"], "JSONPatch");
    let foreign = review.replace("data-pg-0", "not-known-yet");
    let (status, body) = api.post("/mutate", foreign).await;
    let response = &parsed(&body)["response"];
    assert_eq!(
        (status, &response["allowed"]),
        (StatusCode::OK, &json!(true))
    );
    assert_eq!(response.get("patch"), None);
    assert_eq!(api.post("/mutate", "{}").await.0, StatusCode::BAD_REQUEST);
    // Nothing of a scheduler's is answered there.
    assert_eq!(
        api.post("/filter", args(&ALL)).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(api.get("/explain/shop/pg-0").await.0, StatusCode::NOT_FOUND);
    let large = vec![b' '; (8 << 20) + 1];
    assert_eq!(
        api.post("/mutate", large).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
}

#[tokio::test]
async fn metrics_want_a_certificate_or_the_token() {
    let running = Running::start().await;
    assert_eq!(
        running.scheduler().await.get("/metrics").await.0,
        StatusCode::OK
    );
    let ask = async |token: Option<&str>| {
        let config = running.authority.client(None);
        let mut reader = Connection::open(running.others, config)
            .await
            .expect("let in");
        let mut request = Request::get("/metrics");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::default()).expect("a request");
        reader.send(request).await.expect("answered").0
    };
    assert_eq!(ask(Some("Bearer secret")).await, StatusCode::OK);
    for wrong in [
        None,
        Some("Bearer secre"),
        Some("Bearer secrets"),
        Some("secret"),
        Some("Bearer "),
    ] {
        assert_eq!(ask(wrong).await, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
}

/// The golden answer is what `lockstep pod explain` is tested with.
#[tokio::test]
async fn a_pod_is_explained() {
    let running = Running::start().await;
    running.state.set_storage(small(&running.state));
    let mut person = running.scheduler().await;
    let (status, body) = person.get("/explain/shop/pg-0").await;
    assert_eq!(status, StatusCode::OK);
    let golden = parsed(include_bytes!("golden/explain.json"));
    assert_eq!(parsed(body.as_bytes()), golden, "{body}");
    let (status, words) = person.get("/explain/shop/nobody").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(words.contains("'shop/nobody'"), "{words}");
}
