//! What rustls's unbuffered interface costs a 4 KiB payload beyond the encryption itself: the
//! budget is 3 µs of a core for a write's hop, both ends together. Run with
//! `cargo test --release -p lockstep-ring --test tls_cost -- --ignored --nocapture` on a quiet
//! machine; it prints the figures and fails above the budget.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use lockstep_net::tls::{client_config, server_config};
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, ClusterCa, PeerIdentity, Role, RoleSet, Validity};
use lockstep_types::{ClusterId, NodeId};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

const PAYLOAD: usize = 4096;
const ROUNDS: u32 = 200_000;

/// Runs one side until it waits: input from one vector, output to the other.
macro_rules! step {
    ($side:ident, $input:ident, $output:ident) => {
        loop {
            let UnbufferedStatus { discard, state } = $side.process_tls_records(&mut $input);
            let waits = match state.expect("no error") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut buffer = [0; 20_000];
                    let length = data.encode(&mut buffer).expect("room");
                    $output.extend_from_slice(&buffer[..length]);
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => true,
                other => panic!("unexpected {other:?}"),
            };
            $input.drain(..discard);
            if waits {
                break;
            }
        }
    };
}
fn pair() -> (UnbufferedClientConnection, UnbufferedServerConnection) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let validity = Validity::starting(now, Duration::from_secs(3600));
    let cluster = ClusterId::from_u128(1);
    let node = NodeId::from_u128(2);
    let ca = ClusterCa::create(cluster, validity).expect("a CA");
    let who = PeerIdentity {
        cluster,
        role: Role::DataNode,
        node,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let issued = ca.issue(who, validity).expect("issued");
    let certificates: Arc<Certificates> =
        Certificates::install(directory.path(), ca.pem(), &issued).expect("installed");
    let client = client_config(&certificates, &[]).expect("config");
    let server = server_config(&certificates, RoleSet::ANY, &[]).expect("config");
    let name = dialled_name(Role::DataNode, Some(node));
    let mut client = UnbufferedClientConnection::new(client, name).expect("begins");
    let mut server = UnbufferedServerConnection::new(server).expect("begins");
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() {
        step!(client, to_client, to_server);
        step!(server, to_server, to_client);
    }
    step!(client, to_client, to_server);
    (client, server)
}

#[test]
#[ignore = "a measurement: run it alone, in release"]
fn rustls_costs_little_beyond_the_encryption() {
    let (mut client, mut server) = pair();
    let plain = vec![7u8; PAYLOAD];
    let mut wire = vec![0u8; PAYLOAD + 64];
    let mut landed = vec![0u8; PAYLOAD];
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let length = match client.process_tls_records(&mut []).state.expect("open") {
            ConnectionState::WriteTraffic(mut traffic) => {
                traffic.encrypt(&plain, &mut wire).expect("room")
            }
            other => panic!("unexpected {other:?}"),
        };
        let middle = Instant::now();
        match server
            .process_tls_records(&mut wire[..length])
            .state
            .expect("open")
        {
            ConnectionState::ReadTraffic(mut traffic) => {
                let record = traffic.next_record().expect("one").expect("good");
                landed.copy_from_slice(record.payload);
            }
            other => panic!("unexpected {other:?}"),
        }
        sending += middle - begin;
        receiving += middle.elapsed();
    }
    assert_eq!(landed, plain);

    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[1; 16]).expect("16 bytes"));
    let mut record = plain.clone();
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let nonce = || {
            let mut nonce = [0; 12];
            nonce[..4].copy_from_slice(&round.to_le_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        record.truncate(PAYLOAD);
        let begin = Instant::now();
        let aad = || Aad::from([0u8; 5]);
        key.seal_in_place_append_tag(nonce(), aad(), &mut record)
            .expect("seals");
        let middle = Instant::now();
        key.open_in_place(nonce(), aad(), &mut record)
            .expect("opens");
        sealing += middle - begin;
        opening += middle.elapsed();
    }
    let each = |total: Duration| total.as_nanos() as f64 / f64::from(ROUNDS) / 1000.0;
    let (s, r, se, op) = (each(sending), each(receiving), each(sealing), each(opening));
    println!("4 KiB send    : rustls {s:.2} µs, bare AES-128-GCM {se:.2} µs");
    println!("4 KiB receive : rustls and landing {r:.2} µs, bare AES-128-GCM {op:.2} µs");
    let beyond = s + r - se - op;
    println!("beyond the encryption, both ends: {beyond:.2} µs");
    assert!(
        beyond < 3.0,
        "rustls's own buffering costs {beyond:.2} µs a payload"
    );
}
