//! Who is refused on the replication port, on either side of it, and that log and counter say whom and
//! why.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_net::tls::{client_config, provider, server_config};
use lockstep_net::{Certificates, ClusterCa, RoleSet, Validity};
use lockstep_ring::{Config, Event, boottime};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime};

use super::*;

const CLUSTER: ClusterId = ClusterId::from_u128(1);
const ELSEWHERE: ClusterId = ClusterId::from_u128(2);
/// The node under test, and those that call it or are called by it.
const ME: NodeId = NodeId::from_u128(0x11);
const OTHER: NodeId = NodeId::from_u128(0x10);
const ABSENT: NodeId = NodeId::from_u128(0x12);
/// Reached only by a hang.
const PATIENCE: Nanos = 20_000_000_000;
const COUNTED: &str = "lockstep_connections_refused_total 1";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn an_hour() -> Validity {
    Validity::starting(now(), Duration::from_secs(3600))
}

fn over() -> Validity {
    Validity {
        not_before: now() - 7200,
        not_after: now() - 3600,
    }
}

/// An authority, and for which cluster it speaks.
type Authority = (ClusterCa, ClusterId);

fn ca(cluster: ClusterId) -> Authority {
    let ca = ClusterCa::create(cluster, an_hour()).expect("a CA");
    (ca, cluster)
}

struct Node {
    certificates: Arc<Certificates>,
    _directory: tempfile::TempDir,
}

fn node((ca, cluster): &Authority, role: Role, node: NodeId, validity: Validity) -> Node {
    let who = PeerIdentity {
        cluster: *cluster,
        role,
        node,
    };
    let issued = ca.issue(who, validity).expect("issued");
    let directory = tempfile::tempdir().expect("a directory");
    let certificates = Certificates::install(directory.path(), ca.pem(), &issued);
    Node {
        certificates: certificates.expect("installed"),
        _directory: directory,
    }
}

impl Node {
    /// Links as the daemon makes them, on a port of their own.
    fn links(&self, me: NodeId, reactor: &mut Reactor) -> Links {
        let data_nodes = RoleSet::of(&[Role::DataNode]);
        let server = server_config(&self.certificates, data_nodes, &[ALPN_DATA]);
        let config = LinkConfig {
            cluster: CLUSTER,
            node: me,
            boot: 1,
            client: self.client(),
            server: server.expect("a configuration"),
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Links::listen(config, any, reactor).expect("it listens")
    }

    fn client(&self) -> Arc<ClientConfig> {
        client_config(&self.certificates, &[ALPN_DATA]).expect("a configuration")
    }

    /// A client that shows this certificate and takes whoever answers.
    fn credulous_client(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_cert_resolver(Arc::clone(&self.certificates) as _);
        config.alpn_protocols = vec![ALPN_DATA.to_vec()];
        Arc::new(config)
    }
}

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

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Keeps what is logged and counted.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `work` logs, and the counters after it.
fn told(work: impl FnOnce()) -> (String, String) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let counters = recorder.handle();
    tracing::subscriber::with_default(subscriber, || {
        metrics::with_local_recorder(&recorder, work);
    });
    let bytes = log.0.lock().expect("nobody panicked").clone();
    let text = String::from_utf8(bytes).expect("text");
    (text, counters.render())
}

fn reactor() -> Reactor {
    Reactor::new(Config::default()).expect("io_uring is there")
}

/// Does with an event of the ring what the data plane does.
fn hand_in(links: &mut Links, event: Event, reactor: &mut Reactor) -> Vec<Input> {
    let mut inputs = Vec::new();
    match event {
        Event::Accepted { conn, peer, .. } => links.accepted(conn, peer.to_string()),
        Event::Connected { conn, certificate } => {
            links.connected(conn, certificate.as_ref(), reactor);
        }
        Event::Frame {
            conn,
            head,
            payload,
        } => links.frame(conn, &head, payload, reactor, &mut inputs),
        Event::Closed { conn, reason } => links.closed(conn, &reason, &mut inputs),
        _ => {}
    }
    inputs
}

/// A stranger calls until it is shut out; with `hello` it says that once it is let in. Nothing comes of
/// it at the node called.
fn shut_out(
    links: &mut Links,
    mine: &mut Reactor,
    client: Arc<ClientConfig>,
    hello: Option<NodeId>,
) {
    let mut theirs = reactor();
    let address = mine.local_address(links.listener).expect("bound");
    let name = dialled_name(Role::DataNode, Some(ME));
    let transport = Transport::TlsClient(client, name);
    theirs
        .connect(&address, transport, Some(framing()))
        .expect("dials");
    let (mut over_here, mut over_there) = (false, false);
    let until = boottime() + PATIENCE;
    let mut events = Vec::new();
    while !(over_here && over_there) {
        assert!(boottime() < until, "nobody was shut out");
        theirs.turn(boottime() + millis(1), &mut events);
        for event in events.drain(..) {
            match (event, hello) {
                (Event::Closed { .. }, _) => over_there = true,
                (Event::Connected { conn, .. }, Some(node)) => {
                    let hello = Message::Hello(Hello {
                        cluster: CLUSTER,
                        node,
                        boot: 1,
                        oldest: Versions::SUPPORTED.oldest,
                        newest: VERSION,
                    });
                    send_on(&mut theirs, conn, &hello).expect("room");
                }
                _ => {}
            }
        }
        mine.turn(boottime() + millis(1), &mut events);
        for event in std::mem::take(&mut events) {
            over_here |= matches!(event, Event::Closed { .. });
            let inputs = hand_in(links, event, mine);
            assert!(inputs.is_empty(), "a stranger causes nothing");
        }
        over_here |= hello.is_some() && links.connections.is_empty();
    }
}

/// The one line that says that a link was refused.
fn refusal_in(log: &str) -> &str {
    let mut lines = log
        .lines()
        .filter(|line| line.contains("a replication link was refused"));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("nothing of it in:\n{log}"));
    assert_eq!(lines.next(), None, "it is said once:\n{log}");
    line
}

#[test]
fn who_calls_with_a_certificate_that_is_not_good_is_refused_and_told_of() {
    let (ca, foreign, forged) = (ca(CLUSTER), ca(ELSEWHERE), ca(CLUSTER));
    let me = node(&ca, Role::DataNode, ME, an_hour());
    let expired = node(&ca, Role::DataNode, OTHER, over());
    let stranger = node(&foreign, Role::DataNode, OTHER, an_hour());
    let forger = node(&forged, Role::DataNode, OTHER, an_hour());
    let witness = node(&ca, Role::Witness, OTHER, an_hour());
    let admin = node(&ca, Role::Admin, OTHER, an_hour());
    for (client, why) in [
        (expired.client(), "the peer's certificate has expired"),
        (stranger.credulous_client(), "belongs to another cluster"),
        (forger.credulous_client(), "is not one of Lockstep's"),
        (witness.client(), "is a witness; only data-node may connect"),
        (admin.client(), "is a admin; only data-node may connect"),
    ] {
        let (log, counters) = told(|| {
            let mut mine = reactor();
            let mut links = me.links(ME, &mut mine);
            shut_out(&mut links, &mut mine, client, None);
        });
        let line = refusal_in(&log);
        assert!(line.contains(why) && line.contains("127.0.0.1:"), "{line}");
        assert!(counters.contains(COUNTED), "{why}: {counters}");
        // For the cluster's events: whom the certificate names.
        let kept = me.certificates.take_refusals();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(kept[0].whose.map(|who| who.node), Some(OTHER), "{kept:?}");
    }
}

#[test]
fn who_says_to_be_another_than_its_certificate_names_is_refused_and_told_of() {
    let ca = ca(CLUSTER);
    let me = node(&ca, Role::DataNode, ME, an_hour());
    let other = node(&ca, Role::DataNode, OTHER, an_hour());
    let (log, counters) = told(|| {
        let mut mine = reactor();
        let mut links = me.links(ME, &mut mine);
        shut_out(&mut links, &mut mine, other.client(), Some(ABSENT));
    });
    let why = format!("it says it is node {ABSENT}, its certificate says {OTHER}");
    let line = refusal_in(&log);
    assert!(line.contains(&why) && line.contains("127.0.0.1:"), "{line}");
    assert!(counters.contains(COUNTED), "{counters}");
}

/// Calls the peer at an address where somebody else answers, or somebody with a bad certificate.
fn call(me: &Node, answers: &Node, called: NodeId) -> (String, String) {
    told(|| {
        let (mut mine, mut theirs) = (reactor(), reactor());
        let mut there = answers.links(ABSENT, &mut theirs);
        let address = theirs.local_address(there.listener).expect("bound");
        let Address::Tcp(address) = address else {
            panic!("TCP")
        };
        let mut links = me.links(OTHER, &mut mine);
        let peer = DataPeer {
            node: called,
            address,
        };
        links.set_peers(&[peer], &mut mine, &mut Vec::new());
        links.dial(boottime(), &mut mine);
        let until = boottime() + PATIENCE;
        let mut events = Vec::new();
        while links.peers[&called].dialling.is_some() {
            assert!(boottime() < until, "it was let in");
            mine.turn(boottime() + millis(1), &mut events);
            for event in std::mem::take(&mut events) {
                let inputs = hand_in(&mut links, event, &mut mine);
                assert!(inputs.is_empty(), "no link came up");
            }
            theirs.turn(boottime() + millis(1), &mut events);
            // What the other side says of it is not what is asked for here.
            let quiet = tracing::subscriber::NoSubscriber::default();
            tracing::subscriber::with_default(quiet, || {
                let nobody = metrics::NoopRecorder;
                metrics::with_local_recorder(&nobody, || {
                    for event in std::mem::take(&mut events) {
                        hand_in(&mut there, event, &mut theirs);
                    }
                });
            });
        }
    })
}

#[test]
fn who_answers_and_is_not_the_node_that_was_called_is_refused_and_told_of() {
    let (ca, foreign, forged) = (ca(CLUSTER), ca(ELSEWHERE), ca(CLUSTER));
    let me = node(&ca, Role::DataNode, OTHER, an_hour());
    let another = node(&ca, Role::DataNode, ABSENT, an_hour());
    let expired = node(&ca, Role::DataNode, ME, over());
    let stranger = node(&foreign, Role::DataNode, ME, an_hour());
    let forger = node(&forged, Role::DataNode, ME, an_hour());
    let witness = node(&ca, Role::Witness, ME, an_hour());
    let wrong = format!("node {ME} was dialled and node {ABSENT} answered");
    for (answers, why) in [
        (&another, wrong.as_str()),
        (&expired, "the peer's certificate has expired"),
        (&stranger, "belongs to another cluster"),
        (&forger, "is not one of Lockstep's"),
        (&witness, "is a witness; only data-node"),
    ] {
        let (log, counters) = call(&me, answers, ME);
        let line = refusal_in(&log);
        assert!(line.contains(why), "{why}: {line}");
        assert!(line.contains(&ME.to_string()), "who was called: {line}");
        assert!(counters.contains(COUNTED), "{why}: {counters}");
    }
}
