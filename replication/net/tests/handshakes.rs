//! Real handshakes over real sockets: who gets in, who does not, and what each side is told.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_net::tls::{
    acceptor, client_config, connector, join_client_config, join_server_config, provider,
};
use lockstep_net::verify::{dialled_name, refusal_of_io};
use lockstep_net::{
    Certificates, ClusterCa, Issued, NetError, NodeRequest, PeerIdentity, PeerRefused, Role,
    RoleSet, Validity, wrap,
};
use lockstep_types::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

fn identity(cluster: u128, role: Role, node: u128) -> PeerIdentity {
    PeerIdentity {
        cluster: ClusterId::from_u128(cluster),
        role,
        node: NodeId::from_u128(node),
    }
}

fn new_ca(cluster: u128) -> ClusterCa {
    ClusterCa::create(
        ClusterId::from_u128(cluster),
        Validity::starting(now(), 10 * YEAR),
    )
    .expect("a CA")
}

struct Node {
    certificates: Arc<Certificates>,
    directory: tempfile::TempDir,
}

fn node_valid(ca: &ClusterCa, who: PeerIdentity, validity: Validity) -> Node {
    let directory = tempfile::tempdir().expect("a directory");
    let issued = ca.issue(who, validity).expect("issued");
    let certificates =
        Certificates::install(directory.path(), ca.pem(), &issued).expect("installed");
    Node {
        certificates,
        directory,
    }
}

fn node(ca: &ClusterCa, who: PeerIdentity) -> Node {
    node_valid(ca, who, Validity::starting(now(), YEAR))
}

/// Both ends' results after an exchange of one byte each way (in TLS 1.3 a client learns of its
/// refusal only with its first read), and the certificate the server saw.
async fn meet(
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
) -> (io::Result<Option<Vec<u8>>>, io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound");
    let server = async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        let seen = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain[0].to_vec());
        Ok(seen)
    };
    let client = async move {
        let stream = TcpStream::connect(address).await?;
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        Ok(())
    };
    tokio::join!(server, client)
}

/// A hostile client's verifier: whoever answers will do.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn dial(
    server: &Node,
    allowed: RoleSet,
    client: &Node,
    name: ServerName<'static>,
) -> (io::Result<Option<Vec<u8>>>, io::Result<()>) {
    let acceptor = acceptor(&server.certificates, allowed, &[]).expect("config");
    let connector = connector(&client.certificates, &[]).expect("config");
    meet(acceptor, connector, name).await
}

fn why<T: std::fmt::Debug>(result: io::Result<T>) -> PeerRefused {
    let error = result.expect_err("must be refused");
    refusal_of_io(&error).unwrap_or_else(|| panic!("no typed refusal in {error:?}"))
}

#[tokio::test]
async fn two_nodes_of_a_cluster_meet_and_know_each_other() {
    let ca = new_ca(1);
    let (a, b) = (
        node(&ca, identity(1, Role::DataNode, 10)),
        node(&ca, identity(1, Role::Witness, 11)),
    );
    let name = dialled_name(Role::DataNode, Some(NodeId::from_u128(10)));
    let (seen, client) = dial(&a, RoleSet::DAEMONS, &b, name).await;
    client.expect("let in");
    let seen = seen.expect("let in").expect("a client certificate");
    assert_eq!(
        PeerIdentity::from_cert(&seen),
        Ok(identity(1, Role::Witness, 11))
    );
    let any = dialled_name(Role::DataNode, None);
    dial(&a, RoleSet::DAEMONS, &b, any)
        .await
        .1
        .expect("any data node");
}

#[tokio::test]
async fn a_foreign_cluster_is_refused_on_both_sides() {
    let (ours, theirs) = (new_ca(1), new_ca(2));
    let server = node(&ours, identity(1, Role::DataNode, 10));
    let stranger = node(&theirs, identity(2, Role::DataNode, 20));
    let name = dialled_name(Role::DataNode, None);
    // The stranger itself refuses the server first.
    let (at_server, at_client) = dial(&server, RoleSet::ANY, &stranger, name.clone()).await;
    assert_eq!(
        why(at_client),
        PeerRefused::ForeignCluster { claimed: None }
    );
    assert!(matches!(why(at_server), PeerRefused::RefusedUs { .. }));
    // A stranger that looks away and shows its own cluster's certificate is refused by us.
    let credulous = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::clone(&stranger.certificates) as _);
    let acceptor = acceptor(&server.certificates, RoleSet::ANY, &[]).expect("config");
    let connector = TlsConnector::from(Arc::new(credulous));
    let (at_server, at_client) = meet(acceptor, connector, name.clone()).await;
    assert_eq!(
        why(at_server),
        PeerRefused::ForeignCluster { claimed: None }
    );
    assert!(matches!(why(at_client), PeerRefused::RefusedUs { .. }));
    // And under a CA that two clusters share by mistake, the identity still tells them apart.
    let same_ca = ClusterCa::from_parts(ClusterId::from_u128(3), ours.pem(), ours.key_der())
        .expect("the same pair");
    let confused = node(&same_ca, identity(3, Role::DataNode, 30));
    let (at_server, at_client) = dial(&server, RoleSet::ANY, &confused, name).await;
    let claimed = Some(ClusterId::from_u128(1));
    assert_eq!(why(at_client), PeerRefused::ForeignCluster { claimed });
    assert!(at_server.is_err());
}

#[tokio::test]
async fn wrong_role_and_wrong_node_are_told_apart() {
    let ca = new_ca(1);
    let server = node(&ca, identity(1, Role::DataNode, 10));
    let admin = node(&ca, identity(1, Role::Admin, 99));
    let any = dialled_name(Role::DataNode, None);
    let (at_server, at_client) = dial(&server, RoleSet::DAEMONS, &admin, any).await;
    let expected = PeerRefused::WrongRole {
        allowed: RoleSet::DAEMONS,
        found: Role::Admin,
    };
    assert_eq!(why(at_server), expected);
    assert!(matches!(why(at_client), PeerRefused::RefusedUs { .. }));

    let other = dialled_name(Role::DataNode, Some(NodeId::from_u128(11)));
    let (_, at_client) = dial(&server, RoleSet::ANY, &admin, other).await;
    let expected = PeerRefused::WrongNode {
        expected: NodeId::from_u128(11),
        found: NodeId::from_u128(10),
    };
    assert_eq!(why(at_client), expected);

    let witness = dialled_name(Role::Witness, Some(NodeId::from_u128(10)));
    let (_, at_client) = dial(&server, RoleSet::ANY, &admin, witness).await;
    assert!(matches!(
        why(at_client),
        PeerRefused::WrongRole {
            found: Role::DataNode,
            ..
        }
    ));

    let dns = ServerName::try_from("example.org").expect("a name");
    let (_, at_client) = dial(&server, RoleSet::ANY, &admin, dns).await;
    assert!(matches!(why(at_client), PeerRefused::NoIdentity { .. }));
}

#[tokio::test]
async fn a_removed_node_is_refused_by_whoever_knows_and_that_is_kept_for_people() {
    let ca = new_ca(7);
    let a = node(&ca, identity(7, Role::DataNode, 1));
    let b = node(&ca, identity(7, Role::DataNode, 2));
    let name = || dialled_name(Role::DataNode, Some(NodeId::from_u128(1)));
    let (served, _) = dial(&a, RoleSet::DAEMONS, &b, name()).await;
    served.expect("a member");
    assert_eq!(a.certificates.take_refusals(), []);
    a.certificates.bar([NodeId::from_u128(2)].into());
    for _ in 0..2 {
        let (served, dialled) = dial(&a, RoleSet::DAEMONS, &b, name()).await;
        assert_eq!(why(served), PeerRefused::Removed(NodeId::from_u128(2)));
        assert!(matches!(why(dialled), PeerRefused::RefusedUs { .. }));
    }
    let kept = a.certificates.take_refusals();
    assert_eq!(kept.len(), 1, "the same one is kept once: {kept:?}");
    assert_eq!(kept[0].whose, Some(identity(7, Role::DataNode, 2)));
    assert!(kept[0].why.contains("removed from the cluster"), "{kept:?}");
    assert_eq!(a.certificates.take_refusals(), []);
    // The one who dials refuses as well.
    let name = dialled_name(Role::DataNode, Some(NodeId::from_u128(2)));
    let (_, dialled) = dial(&b, RoleSet::DAEMONS, &a, name).await;
    assert_eq!(why(dialled), PeerRefused::Removed(NodeId::from_u128(2)));
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused() {
    let ca = new_ca(1);
    let good = node(&ca, identity(1, Role::DataNode, 10));
    let past = Validity {
        not_before: now() - 7200,
        not_after: now() - 3600,
    };
    let future = Validity {
        not_before: now() + 3600,
        not_after: now() + 7200,
    };
    let any = || dialled_name(Role::DataNode, None);
    let old = node_valid(&ca, identity(1, Role::DataNode, 11), past);
    assert_eq!(
        why(dial(&good, RoleSet::ANY, &old, any()).await.0),
        PeerRefused::Expired
    );
    assert_eq!(
        why(dial(&old, RoleSet::ANY, &good, any()).await.1),
        PeerRefused::Expired
    );
    let early = node_valid(&ca, identity(1, Role::DataNode, 12), future);
    assert_eq!(
        why(dial(&good, RoleSet::ANY, &early, any()).await.0),
        PeerRefused::NotYetValid
    );
}

#[tokio::test]
async fn no_certificate_and_no_tls_are_refused() {
    let ca = new_ca(1);
    let server = node(&ca, identity(1, Role::DataNode, 10));
    let anonymous =
        join_client_config(server.certificates.current().ca_sha256(), &[]).expect("config");
    let acceptor = acceptor(&server.certificates, RoleSet::ANY, &[]).expect("config");
    let name = dialled_name(Role::DataNode, None);
    let (at_server, _) = meet(acceptor.clone(), TlsConnector::from(anonymous), name).await;
    assert!(matches!(why(at_server), PeerRefused::NoIdentity { .. }));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound");
    let plain = async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("sent");
    };
    let server = async {
        acceptor
            .accept(listener.accept().await.expect("accepts").0)
            .await
    };
    let ((), refused) = tokio::join!(plain, server);
    assert!(refused.is_err(), "plaintext must not get through");
}

#[tokio::test]
async fn reload_serves_new_connections_and_leaves_old_ones() {
    let ca = new_ca(1);
    let (a, b) = (
        node(&ca, identity(1, Role::DataNode, 10)),
        node(&ca, identity(1, Role::DataNode, 11)),
    );
    let acceptor = acceptor(&a.certificates, RoleSet::ANY, &[]).expect("config");
    let connector = TlsConnector::from(client_config(&b.certificates, &[]).expect("config"));
    let name = dialled_name(Role::DataNode, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound");
    let connect = || async {
        let server = async { acceptor.accept(listener.accept().await?.0).await };
        let client = async {
            connector
                .connect(name.clone(), TcpStream::connect(address).await?)
                .await
        };
        let (server, client) = tokio::join!(server, client);
        Ok::<_, io::Error>((server?, client?))
    };
    let (mut old_server, mut old_client) = connect().await.expect("meets");
    let serial = |s: &tokio_rustls::client::TlsStream<TcpStream>| {
        s.get_ref().1.peer_certificates().expect("a chain")[0].to_vec()
    };
    let before = serial(&old_client);
    let issued = ca
        .issue(
            identity(1, Role::DataNode, 10),
            Validity::starting(now(), 2 * YEAR),
        )
        .expect("issued");
    let end = a.certificates.current().not_after();
    a.certificates.renew(ca.pem(), &issued).expect("renewed");
    assert!(a.certificates.current().not_after() > end);
    let (_server, new_client) = connect().await.expect("meets");
    assert_ne!(serial(&new_client), before, "the new certificate is shown");
    old_client.write_all(b"still here").await.expect("sent");
    old_client.flush().await.expect("sent");
    let mut got = [0; 10];
    old_server
        .read_exact(&mut got)
        .await
        .expect("the old connection lives on");
    assert_eq!(&got, b"still here");
}

#[test]
fn the_store_refuses_what_does_not_belong_together() {
    let (ca, other) = (new_ca(1), new_ca(2));
    let a = node(&ca, identity(1, Role::DataNode, 10));
    let path = a.directory.path();
    let issue = |who| {
        ca.issue(who, Validity::starting(now(), YEAR))
            .expect("issued")
    };

    let moved = issue(identity(1, Role::DataNode, 11));
    assert!(matches!(
        a.certificates.renew(ca.pem(), &moved),
        Err(NetError::IdentityChanged { .. })
    ));
    assert_eq!(
        a.certificates.current().identity(),
        identity(1, Role::DataNode, 10)
    );

    let (one, two) = (
        issue(identity(1, Role::DataNode, 10)),
        issue(identity(1, Role::DataNode, 10)),
    );
    let mixed = Issued {
        certificate: one.certificate,
        key: two.key,
    };
    assert!(matches!(
        a.certificates.renew(ca.pem(), &mixed),
        Err(NetError::KeyMismatch)
    ));

    let good = issue(identity(1, Role::DataNode, 10));
    assert!(matches!(
        a.certificates.renew(other.pem(), &good),
        Err(NetError::NotOurCa { .. })
    ));

    a.certificates.renew(ca.pem(), &good).expect("renewed");
    use std::os::unix::fs::PermissionsExt;
    let key = path.join("node.key");
    let mode = |key: &std::path::Path| key.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    assert!(matches!(
        a.certificates.reload(),
        Err(NetError::KeyExposed { mode: 0o640, .. })
    ));
    std::fs::remove_file(&key).expect("removed");
    assert!(matches!(
        Certificates::open(path),
        Err(NetError::File { .. })
    ));
}

#[tokio::test]
async fn a_joiner_authenticates_the_cluster_by_its_ca_hash_and_gets_a_certificate() {
    let ca = new_ca(1);
    let member = node(&ca, identity(1, Role::DataNode, 10));
    let hash = member.certificates.current().ca_sha256();
    assert_eq!(hash, ca.sha256());
    let port = || TlsAcceptor::from(join_server_config(&member.certificates, &[]).expect("config"));
    let joiner = |hash| TlsConnector::from(join_client_config(hash, &[]).expect("config"));
    let name = || ServerName::try_from("join.lockstep").expect("a name");
    let (server, client) = meet(port(), joiner(hash), name()).await;
    assert_eq!(server.expect("let in"), None, "a joiner has no certificate");
    client.expect("let in");
    let (_, client) = meet(port(), joiner([0; 32]), name()).await;
    assert_eq!(why(client), PeerRefused::NotTheTokensCluster);
    // An admin's certificate of the same cluster cannot pose as a member.
    let admin = node(&ca, identity(1, Role::Admin, 9));
    let trap = TlsAcceptor::from(join_server_config(&admin.certificates, &[]).expect("config"));
    let (_, client) = meet(trap, joiner(hash), name()).await;
    assert!(matches!(why(client), PeerRefused::WrongRole { .. }));

    // The key is made on the joiner; only the request travels. What the request asks for by name
    // has no weight.
    let request = NodeRequest::generate().expect("a request");
    let who = identity(1, Role::DataNode, 12);
    let certificate = ca
        .sign(request.pem(), who, Validity::starting(now(), YEAR))
        .expect("signed");
    let directory = tempfile::tempdir().expect("a directory");
    let issued = Issued {
        certificate,
        key: request.key_pem(),
    };
    let joined = Certificates::install(directory.path(), ca.pem(), &issued).expect("installed");
    assert_eq!(joined.current().identity(), who);
    let (_, client) = dial(
        &member,
        RoleSet::DAEMONS,
        &Node {
            certificates: joined,
            directory,
        },
        dialled_name(Role::DataNode, None),
    )
    .await;
    client.expect("let in");
}

#[test]
fn the_ca_survives_its_wrapping() {
    let ca = new_ca(5);
    let cluster = ClusterId::from_u128(5);
    let secret = [42u8; 32];
    let wrapped = wrap::wrap(cluster, ca.key_der(), &secret).expect("wraps");
    assert!(
        !wrapped
            .windows(16)
            .any(|w| ca.key_der().windows(16).any(|k| k == w)),
        "no part of the key in the clear"
    );
    let key = wrap::unwrap(cluster, &wrapped, &secret).expect("unwraps");
    let again = ClusterCa::from_parts(cluster, ca.pem(), &key).expect("the same CA");
    assert_eq!(again.sha256(), ca.sha256());
    let who = identity(5, Role::Csi, 1);
    let directory = tempfile::tempdir().expect("a directory");
    let issued = again
        .issue(who, Validity::starting(now(), YEAR))
        .expect("issued");
    Certificates::install(directory.path(), ca.pem(), &issued).expect("chains to the first");
    let other = new_ca(5);
    assert!(matches!(
        ClusterCa::from_parts(cluster, other.pem(), &key),
        Err(NetError::KeyMismatch)
    ));
}
