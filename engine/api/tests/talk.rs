//! Clients and daemons over real sockets: Unix and mutual TLS.

use lockstep_api::client::ALPN;
use lockstep_api::error::{METADATA, rejected, stable_code};
use lockstep_api::proto::cluster_server::{Cluster, ClusterServer};
use lockstep_api::proto::*;
use lockstep_api::{ConnectError, Target, connect, show};
use lockstep_control::{Command, Proposal, Settings, State, View};
use lockstep_net::tls::{acceptor, connector};
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, ClusterCa, PeerIdentity, Role, RoleSet, Validity};
use lockstep_types::{ClusterId, NodeId};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

/// The cluster service over a state of its own.
#[derive(Clone)]
struct Daemon(Arc<Mutex<State>>);

impl Daemon {
    fn new() -> Self {
        let mut state = State::new();
        let init = Command::InitCluster {
            id: ClusterId::from_u128(7),
            name: "metro".into(),
            ca_certificate: Vec::new(),
            sealed_ca_key: Vec::new(),
        };
        state
            .apply(1, &init.into())
            .result
            .expect("the first command");
        Self(Arc::new(Mutex::new(state)))
    }

    fn apply(&self, command: Command) -> Result<(), Status> {
        let mut state = self.0.lock().expect("nobody panicked");
        let index = state.applied + 1;
        let applied = state.apply(
            index,
            &Proposal {
                at_unix_ms: 9,
                command,
            },
        );
        applied
            .result
            .map(drop)
            .map_err(|refused| rejected(&refused))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Cluster for Daemon {
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusReply> {
        let state = self.0.lock().expect("nobody panicked");
        let cluster = state.cluster.as_ref().expect("it was made");
        Ok(Response::new(StatusReply {
            cluster_id: cluster.id.to_string(),
            cluster_name: cluster.name.clone(),
            ..StatusReply::default()
        }))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Answer<HealthReply> {
        Ok(Response::new(HealthReply {
            healthy: true,
            ..HealthReply::default()
        }))
    }

    async fn create_token(&self, _: Request<CreateTokenRequest>) -> Answer<CreateTokenReply> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn set_settings(&self, request: Request<SetSettingsRequest>) -> Answer<SetSettingsReply> {
        let wish = request
            .into_inner()
            .overprovision_per_cent
            .unwrap_or_default();
        self.apply(Command::SetSettings(Settings {
            overprovision_per_cent: wish,
        }))?;
        Ok(Response::new(SetSettingsReply {
            overprovision_per_cent: wish,
        }))
    }

    type EventsStream = ReceiverStream<Result<Event, Status>>;

    async fn events(&self, _: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        let (to, from) = mpsc::channel(8);
        let events: Vec<_> = {
            let state = self.0.lock().expect("nobody panicked");
            state
                .events
                .iter()
                .map(|event| show::event(&state, event))
                .collect()
        };
        for event in events {
            to.send(Ok(event)).await.expect("the stream lives");
        }
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn ledger(&self, _: Request<LedgerRequest>) -> Answer<LedgerReply> {
        Ok(Response::new(show::ledger(
            &self.0.lock().expect("nobody panicked"),
            None,
        )))
    }

    async fn list_sites(&self, _: Request<ListSitesRequest>) -> Answer<ListSitesReply> {
        let state = self.0.lock().expect("nobody panicked");
        Ok(Response::new(ListSitesReply {
            sites: show::sites(&state, &View::default()),
        }))
    }
}

/// Serves on a Unix socket until the sender is dropped.
fn serve_unix(path: &Path) -> oneshot::Sender<()> {
    let listener = UnixListener::bind(path).expect("a free path");
    let (to, from) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if to.send(Ok::<_, std::io::Error>(stream)).await.is_err() {
                return;
            }
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tonic::transport::Server::builder()
        .add_service(ClusterServer::new(Daemon::new()))
        .serve_with_incoming_shutdown(ReceiverStream::new(from), async {
            let _ = stopped.await;
        });
    tokio::spawn(serving);
    stop
}

#[tokio::test]
async fn a_unix_socket_carries_answers_streams_and_refusals() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let _serving = serve_unix(&path);
    let client = connect(Target::Unix(path)).await.expect("it listens");
    let status = client
        .cluster()
        .status(StatusRequest {})
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        (status.cluster_name.as_str(), status.cluster_id.len()),
        ("metro", 32)
    );

    let request = EventsRequest::default();
    let mut events = client
        .cluster()
        .events(request)
        .await
        .expect("a stream")
        .into_inner();
    let first = events.message().await.expect("sound").expect("one");
    assert!(first.text.contains("metro") && first.severity() == Severity::Info);
    assert!(events.message().await.expect("sound").is_none());

    let bad = SetSettingsRequest {
        overprovision_per_cent: Some(5),
    };
    let refused = client
        .cluster()
        .set_settings(bad)
        .await
        .expect_err("5 per cent");
    assert_eq!(
        (refused.code(), stable_code(&refused)),
        (Code::InvalidArgument, Some("invalid"))
    );
    assert!(
        refused.message().contains("10 to 10000"),
        "{}",
        refused.message()
    );
    assert!(refused.metadata().contains_key(METADATA));
}

#[tokio::test]
async fn a_missing_daemon_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let error = connect(Target::Unix(path.clone()))
        .await
        .expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Unix { .. }));
    assert!(
        error.to_string().contains("lockstep daemon") && error.to_string().contains("admin.sock"),
        "{error}"
    );
}

#[tokio::test]
async fn a_restarted_daemon_is_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let first = serve_unix(&path);
    let client = connect(Target::Unix(path.clone()))
        .await
        .expect("it listens");
    client
        .cluster()
        .health(HealthRequest {})
        .await
        .expect("an answer");
    drop(first);
    std::fs::remove_file(&path).expect("it was there");
    let _second = serve_unix(&path);
    // The old connection ends by the server's goodbye; calls on it may fail until it is noticed.
    for attempt in 0.. {
        match client.cluster().health(HealthRequest {}).await {
            Ok(_) => break,
            Err(error) if attempt == 100 => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// An authority and what it has signed.
struct Pki {
    ca: ClusterCa,
    folder: tempfile::TempDir,
}

impl Pki {
    fn new(cluster: u128) -> Self {
        let ca = ClusterCa::create(ClusterId::from_u128(cluster), validity()).expect("a CA");
        Self {
            ca,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn issue(&self, cluster: u128, role: Role, node: u128) -> Arc<Certificates> {
        let identity = PeerIdentity {
            cluster: ClusterId::from_u128(cluster),
            role,
            node: NodeId::from_u128(node),
        };
        let issued = self.ca.issue(identity, validity()).expect("a certificate");
        let folder = self.folder.path().join(format!("{role}-{node}"));
        Certificates::install(&folder, self.ca.pem(), &issued).expect("installed")
    }
}

fn validity() -> Validity {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    Validity::starting(now, Duration::from_secs(3600))
}

/// Serves over mutual TLS as node 1; gives its address.
async fn serve_tls(certificates: &Arc<Certificates>) -> String {
    let acceptor = acceptor(certificates, RoleSet::ANY, &[ALPN]).expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (to, from) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await
                && to.send(Ok::<_, std::io::Error>(stream)).await.is_err()
            {
                return;
            }
        }
    });
    let serving = tonic::transport::Server::builder()
        .add_service(ClusterServer::new(Daemon::new()))
        .serve_with_incoming(ReceiverStream::new(from));
    tokio::spawn(serving);
    address
}

fn target(address: &str, certificates: &Arc<Certificates>, node: u128) -> Target {
    Target::Tls {
        address: address.to_owned(),
        connector: connector(certificates, &[ALPN]).expect("a configuration"),
        name: dialled_name(Role::DataNode, Some(NodeId::from_u128(node))),
    }
}

#[tokio::test]
async fn mutual_tls_carries_calls_to_the_node_that_is_meant() {
    let pki = Pki::new(7);
    let address = serve_tls(&pki.issue(7, Role::DataNode, 1)).await;
    let admin = pki.issue(7, Role::Admin, 100);
    let client = connect(target(&address, &admin, 1))
        .await
        .expect("node 1 answers");
    let status = client
        .cluster()
        .status(StatusRequest {})
        .await
        .expect("an answer");
    assert_eq!(status.into_inner().cluster_name, "metro");

    let error = connect(target(&address, &admin, 2))
        .await
        .expect_err("it is not node 2");
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_gets_nothing() {
    let address = serve_tls(&Pki::new(7).issue(7, Role::DataNode, 1)).await;
    let foreign = Pki::new(8);
    let admin = foreign.issue(8, Role::Admin, 100);
    let error = connect(target(&address, &admin, 1))
        .await
        .expect_err("another authority");
    assert!(error.to_string().contains(&address), "{error}");
}
