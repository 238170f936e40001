//! What the tests share: certificates, a client as Go's is, and an extender that knows a small cluster.
#![allow(dead_code, reason = "each test uses some of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lockstep_net::tls::provider;
use lockstep_placement::{Grammar, Space};
use lockstep_scheduler_extender::routes::Answers;
use lockstep_scheduler_extender::server::serve;
use lockstep_scheduler_extender::state::State;
use lockstep_scheduler_extender::tls::{Clients, Tls};
use lockstep_types::{DeviceId, Locality, NodeId, NodeRole, VolumeId};
use lockstep_verdict::claims::{Claim, Class, Key, Persistent, Pod};
use lockstep_verdict::cluster::Machine;
use lockstep_verdict::storage::{Copy, Heard, Member, Storage, Volume};
use metrics_exporter_prometheus::PrometheusBuilder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// An authority that signs servers and clients.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn sign(&self, name: &str) -> Signed {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Signed {
            certificate: signed.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Puts a server's files into a folder.
    pub fn install(&self, folder: &Path) {
        let server = self.sign("127.0.0.1");
        for (name, text) in [
            ("ca.crt", self.pem()),
            ("tls.crt", server.certificate),
            ("tls.key", server.key),
        ] {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }

    /// A client that trusts this authority, and shows a certificate or none.
    pub fn client(&self, shown: Option<Signed>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.pem().as_bytes()).expect("PEM");
        roots.add(root).expect("an authority");
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        match shown {
            None => builder.with_no_client_auth(),
            Some(signed) => {
                let chain = CertificateDer::from_pem_slice(signed.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes());
                builder
                    .with_client_auth_cert(vec![chain.expect("PEM")], key.expect("PEM"))
                    .expect("they belong together")
            }
        }
    }
}

/// A connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects; an error if the server is not who it should be, or the first request shows that this client is
    /// not let in.
    pub async fn open(address: SocketAddr, config: ClientConfig) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let request = Request::post(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(Full::new(body.into()));
        self.send(request.expect("a request"))
            .await
            .expect("answered")
    }

    pub async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("host", "127.0.0.1");
        let request = request.body(Full::default()).expect("a request");
        let (status, body) = self.send(request).await.expect("answered");
        (status, String::from_utf8(body.into()).expect("text"))
    }
}

/// Serves on a port of its own.
pub async fn listen(tls: Arc<Tls>, clients: Clients, routes: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, tls, clients, routes));
    address
}

/// With metrics of its own.
pub fn answers(state: State) -> Answers {
    let recorder = PrometheusBuilder::new().build_recorder();
    Answers {
        state,
        client: None,
        metrics: recorder.handle(),
        token: Some("secret".into()),
    }
}

pub fn member(name: &str, site: &str, number: u128) -> Member {
    Member {
        id: NodeId::from_u128(number),
        name: name.into(),
        site: site.into(),
        zone: String::new(),
        rack: String::new(),
        role: NodeRole::Data,
        answering: true,
        cordoned: false,
        attachments: 0,
        pools: vec![Space {
            device: DeviceId::from_u128(number),
            name: "p0".into(),
            free_extents: 1 << 20,
            has_place: true,
        }],
    }
}

pub fn copy(node: &str) -> Copy {
    Copy {
        node: node.into(),
        certified: true,
        able: true,
        leaving: false,
        sealed_off: false,
        verified: 0,
    }
}

/// Nodes a1, a2, b1 (silent), w; a volume with copies on a1 and b1, bound to shop/data-pg-0, which the pod
/// shop/pg-0 uses.
pub fn small(state: &State) -> Storage {
    let mut members = vec![
        member("a1", "a", 1),
        member("a2", "a", 2),
        member("b1", "b", 3),
    ];
    members[2].answering = false;
    let volume = Volume {
        id: VolumeId::from_u128(1),
        bytes: 1 << 30,
        locality: Locality::Prefer,
        strict: false,
        wanted: Some(Grammar::Count(2)),
        preferred_site: "a".into(),
        primary: String::new(),
        attached: String::new(),
        copies: vec![copy("a1"), copy("b1")],
    };
    state.set_machines(["a1", "a2", "b1", "cp1"].map(|name| Machine {
        name: name.into(),
        member: String::new(),
        ready: true,
    }));
    let key = |name: &str| -> Key { ("shop".into(), name.into()) };
    state.change_claims(|claims| {
        claims.set_classes([("fast".into(), Class::Ours(None))], String::new());
        let ours = Persistent::Ours(Some(VolumeId::from_u128(1)));
        claims.set_persistent([("pv-1".into(), ours)]);
        let claim = Claim {
            class: "fast".into(),
            volume: "pv-1".into(),
            bytes: 1 << 30,
            exclusive: true,
        };
        claims.set_claims([(key("data-pg-0"), claim)]);
        claims.set_pods([Pod {
            key: key("pg-0"),
            uid: "u".into(),
            claims: vec!["data-pg-0".into()],
            ..Pod::default()
        }]);
    });
    Storage::new(Heard {
        at: Some(state.now()),
        members,
        volumes: vec![volume],
        links: Vec::new(),
    })
}
