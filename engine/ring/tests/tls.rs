//! TLS on the ring with the cluster's own verifiers: both ways, big, refused, cut off.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use common::{both, until};
use lockstep_net::tls::{client_config, server_config};
use lockstep_net::verify::dialled_name;
use lockstep_net::{
    Certificates, ClusterCa, PeerIdentity, PeerRefused, Role, RoleSet, Validity, refusal,
};
use lockstep_ring::{
    Address, CloseReason, Config, ConnId, Event, FrameLengths, Framing, Reactor, SendError,
    Transport, boottime,
};
use lockstep_types::{ClusterId, NodeId};

const FRAMING: Framing = Framing {
    head: 12,
    max_rest: 4096,
    max_payload: 1 << 20,
    lengths: |head| {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        Ok(FrameLengths {
            rest: word(4) as usize,
            payload: word(8) as usize,
        })
    },
};

fn head(rest: usize, payload: usize) -> Bytes {
    let mut head = BytesMut::from(&b"TEST"[..]);
    head.extend_from_slice(&(rest as u32).to_le_bytes());
    head.extend_from_slice(&(payload as u32).to_le_bytes());
    head.extend((0..rest).map(|i| i as u8));
    head.freeze()
}

fn payload(length: usize, seed: usize) -> Bytes {
    (0..length)
        .map(|i| (i / 5 + seed) as u8)
        .collect::<Vec<u8>>()
        .into()
}

struct Node {
    certificates: Arc<Certificates>,
    _directory: tempfile::TempDir,
}

fn ca(cluster: u128) -> ClusterCa {
    let validity = Validity::starting(now(), Duration::from_secs(86_400));
    ClusterCa::create(ClusterId::from_u128(cluster), validity).expect("a CA")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn node(ca: &ClusterCa, cluster: u128, role: Role, id: u128) -> Node {
    let validity = Validity::starting(now(), Duration::from_secs(3600));
    node_valid(ca, cluster, role, id, validity)
}

fn node_valid(ca: &ClusterCa, cluster: u128, role: Role, id: u128, validity: Validity) -> Node {
    let who = PeerIdentity {
        cluster: ClusterId::from_u128(cluster),
        role,
        node: NodeId::from_u128(id),
    };
    let issued = ca.issue(who, validity).expect("issued");
    let directory = tempfile::tempdir().expect("a directory");
    let certificates =
        Certificates::install(directory.path(), ca.pem(), &issued).expect("installed");
    Node {
        certificates,
        _directory: directory,
    }
}

impl Node {
    fn server(&self) -> Transport {
        self.server_for(RoleSet::DAEMONS)
    }

    fn server_for(&self, allowed: RoleSet) -> Transport {
        Transport::TlsServer(server_config(&self.certificates, allowed, &[]).expect("config"))
    }

    fn client(&self, node: u128) -> Transport {
        let name = dialled_name(Role::DataNode, Some(NodeId::from_u128(node)));
        Transport::TlsClient(
            client_config(&self.certificates, &[]).expect("config"),
            name,
        )
    }
}

fn roomy() -> Reactor {
    let config = Config {
        pool: 64 << 20,
        send_bound: 4 << 20,
        ..Config::default()
    };
    Reactor::new(config).expect("a ring")
}

fn listen(ring: &mut Reactor, node: &Node, framing: Option<Framing>) -> Address {
    let any = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = ring.listen(&any, node.server(), framing).expect("listens");
    ring.local_address(listener).expect("bound")
}

#[test]
fn frames_both_ways_between_nodes_that_know_each_other() {
    let ca = ca(1);
    let (na, nb) = (
        node(&ca, 1, Role::DataNode, 10),
        node(&ca, 1, Role::DataNode, 11),
    );
    let (mut a, mut b) = (roomy(), roomy());
    let address = listen(&mut b, &nb, Some(FRAMING));
    let conn = a
        .connect(&address, na.client(11), Some(FRAMING))
        .expect("dials");
    let shapes: Vec<(usize, usize)> = (0..150)
        .map(|i| match i % 6 {
            0 => (0, 0),
            1 => (52, 4096),
            2 => (i, 65_536),
            3 => (4096, 100),
            4 => (1, 1 << 20),
            _ => (0, 16_384),
        })
        .collect();
    // Queued before the handshake: it waits for it.
    a.send(conn, [head(0, 0)]).expect("room");
    let (sent, seen, echoed) = (RefCell::new(1), RefCell::new(0), RefCell::new(0));
    let backlog = RefCell::new(std::collections::VecDeque::<[Bytes; 2]>::new());
    let peers = RefCell::new(Vec::new());
    let check = |i: usize, got: &Bytes, data: &Bytes| {
        let (rest, length) = shapes[i];
        assert!(
            *got == head(rest, length) && *data == payload(length, i),
            "frame {i}"
        );
        assert!(
            data.is_empty() || (data.as_ptr() as usize).is_multiple_of(4096),
            "aligned"
        );
    };
    let echo = |b: &mut Reactor, conn: ConnId| {
        let mut backlog = backlog.borrow_mut();
        while let Some(frame) = backlog.front() {
            match b.send(conn, frame.clone()) {
                Ok(()) => drop(backlog.pop_front()),
                Err(SendError::Full) => break,
                Err(SendError::Closed) => panic!("closed"),
            }
        }
    };
    both(
        &mut a,
        &mut b,
        |a, event| match event {
            Event::Connected { certificate, .. } => {
                let certificate = certificate.expect("TLS");
                peers
                    .borrow_mut()
                    .push(PeerIdentity::from_cert(&certificate).expect("ours").node);
                fill(a, conn, &shapes, &mut sent.borrow_mut());
            }
            Event::Writable { .. } => fill(a, conn, &shapes, &mut sent.borrow_mut()),
            Event::Frame { head, payload, .. } => {
                check(*echoed.borrow(), &head, &payload);
                *echoed.borrow_mut() += 1;
            }
            other => panic!("unexpected {other:?}"),
        },
        |b, event| match event {
            Event::Accepted { .. } => {}
            Event::Connected { certificate, .. } => {
                assert_eq!(*seen.borrow(), 0, "before any data");
                let certificate = certificate.expect("mutual");
                peers
                    .borrow_mut()
                    .push(PeerIdentity::from_cert(&certificate).expect("ours").node);
            }
            Event::Writable { conn } => echo(b, conn),
            Event::Frame {
                conn,
                head,
                payload,
            } => {
                check(*seen.borrow(), &head, &payload);
                *seen.borrow_mut() += 1;
                backlog.borrow_mut().push_back([head, payload]);
                echo(b, conn);
            }
            other => panic!("unexpected {other:?}"),
        },
        || *echoed.borrow() == shapes.len(),
    );
    let mut peers = peers.into_inner();
    peers.sort();
    assert_eq!(peers, [NodeId::from_u128(10), NodeId::from_u128(11)]);
    // In order: goodbye is said and answered.
    a.close(conn);
    let reasons = RefCell::new((None, None));
    both(
        &mut a,
        &mut b,
        |_, event| {
            if let Event::Closed { reason, .. } = event {
                reasons.borrow_mut().0 = Some(reason);
            }
        },
        |_, event| {
            if let Event::Closed { reason, .. } = event {
                reasons.borrow_mut().1 = Some(reason);
            }
        },
        || reasons.borrow().0.is_some() && reasons.borrow().1.is_some(),
    );
    assert_eq!(
        reasons.into_inner(),
        (Some(CloseReason::Local), Some(CloseReason::Peer))
    );
    for ring in [&a, &b] {
        assert_eq!(
            ring.pool().free_bytes(),
            ring.pool().size(),
            "every buffer came home"
        );
    }
}

fn fill(ring: &mut Reactor, conn: ConnId, shapes: &[(usize, usize)], next: &mut usize) {
    while *next < shapes.len() {
        let (rest, length) = shapes[*next];
        match ring.send(conn, [head(rest, length), payload(length, *next)]) {
            Ok(()) => *next += 1,
            Err(SendError::Full) => return,
            Err(SendError::Closed) => panic!("closed"),
        }
    }
}

/// Both ends' reasons when a dial is refused.
fn refused(server: &Node, client: &Node, dialled: u128) -> (CloseReason, CloseReason) {
    refused_between(server.server(), client.client(dialled))
}

fn refused_between(server: Transport, client: Transport) -> (CloseReason, CloseReason) {
    let (mut a, mut b) = (roomy(), roomy());
    let any = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = b.listen(&any, server, None).expect("listens");
    let address = b.local_address(listener).expect("bound");
    let conn = a.connect(&address, client, None).expect("dials");
    let reasons = RefCell::new((None, None));
    both(
        &mut a,
        &mut b,
        |a, event| match event {
            // A client is ready before the server has looked at its certificate.
            Event::Connected { conn, .. } => {
                // May be refused by now.
                let _ = a.send(conn, [Bytes::from_static(b"secret")]);
            }
            Event::Closed { conn: over, reason } => {
                assert_eq!(over, conn);
                reasons.borrow_mut().0 = Some(reason);
            }
            other => panic!("unexpected {other:?}"),
        },
        |_, event| match event {
            Event::Accepted { .. } => {}
            Event::Closed { reason, .. } => reasons.borrow_mut().1 = Some(reason),
            other => panic!("a refused peer must cause nothing: {other:?}"),
        },
        || reasons.borrow().0.is_some() && reasons.borrow().1.is_some(),
    );
    let (at_client, at_server) = reasons.into_inner();
    (at_client.expect("closed"), at_server.expect("closed"))
}

fn why(reason: &CloseReason) -> PeerRefused {
    match reason {
        CloseReason::Tls(error) => refusal(error).unwrap_or_else(|| panic!("untyped {error:?}")),
        other => panic!("not refused by TLS: {other:?}"),
    }
}

#[test]
fn foreign_wrong_role_and_wrong_node_are_refused_with_the_reason_on_both_sides() {
    let (ours, theirs) = (ca(1), ca(2));
    let server = node(&ours, 1, Role::DataNode, 11);
    let stranger = node(&theirs, 2, Role::DataNode, 10);
    let (client, at_server) = refused(&server, &stranger, 11);
    assert_eq!(why(&client), PeerRefused::ForeignCluster { claimed: None });
    assert!(matches!(why(&at_server), PeerRefused::RefusedUs { .. }));

    let admin = node(&ours, 1, Role::Admin, 10);
    let (client, at_server) = refused(&server, &admin, 11);
    assert!(matches!(
        why(&at_server),
        PeerRefused::WrongRole {
            found: Role::Admin,
            ..
        }
    ));
    assert!(
        matches!(why(&client), PeerRefused::RefusedUs { .. }),
        "the alert arrived"
    );

    let member = node(&ours, 1, Role::DataNode, 10);
    let (client, _) = refused(&server, &member, 12);
    let expected = PeerRefused::WrongNode {
        expected: NodeId::from_u128(12),
        found: NodeId::from_u128(11),
    };
    assert_eq!(why(&client), expected);
}

#[test]
fn an_expired_certificate_is_refused_whichever_side_shows_it() {
    let ca = ca(1);
    let past = Validity {
        not_before: now() - 7200,
        not_after: now() - 3600,
    };
    let good = node(&ca, 1, Role::DataNode, 11);
    let old = node_valid(&ca, 1, Role::DataNode, 10, past);
    let (client, at_server) = refused(&good, &old, 11);
    assert_eq!(why(&at_server), PeerRefused::Expired);
    assert!(matches!(why(&client), PeerRefused::RefusedUs { .. }));
    let whose = good.certificates.take_refusals();
    let expected = Some(NodeId::from_u128(10));
    assert_eq!(whose[0].whose.map(|who| who.node), expected, "{whose:?}");

    let (client, at_server) = refused(&old, &good, 10);
    assert_eq!(why(&client), PeerRefused::Expired);
    assert!(matches!(why(&at_server), PeerRefused::RefusedUs { .. }));
}

/// The replication port is for data nodes: a witness of the same cluster is none.
#[test]
fn a_witness_is_refused_where_only_data_nodes_may_connect() {
    let ca = ca(1);
    let server = node(&ca, 1, Role::DataNode, 11);
    let witness = node(&ca, 1, Role::Witness, 10);
    let allowed = RoleSet::of(&[Role::DataNode]);
    let (client, at_server) = refused_between(server.server_for(allowed), witness.client(11));
    let found = Role::Witness;
    assert_eq!(why(&at_server), PeerRefused::WrongRole { allowed, found });
    assert!(matches!(why(&client), PeerRefused::RefusedUs { .. }));
}

#[test]
fn no_plaintext_no_waiting_and_no_silent_cut() {
    let ca = ca(1);
    let server = node(&ca, 1, Role::DataNode, 11);
    let config = Config {
        // Long enough for an honest handshake on a busy machine.
        handshake_timeout: 1_000_000_000,
        ..Config::default()
    };
    let mut ring = Reactor::new(config).expect("a ring");
    let address = listen(&mut ring, &server, None);
    let Address::Tcp(address) = address else {
        panic!("TCP")
    };
    let closed = |ring: &mut Reactor| {
        until(ring, |event| match event {
            Event::Closed { reason, .. } => Some(reason),
            Event::Accepted { .. } => None,
            other => panic!("unexpected {other:?}"),
        })
    };
    // Not TLS at all.
    let mut plain = TcpStream::connect(address).expect("connects");
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    assert!(matches!(closed(&mut ring), CloseReason::Tls(_)));
    drop(plain);
    // Says nothing.
    let silent = TcpStream::connect(address).expect("connects");
    assert_eq!(closed(&mut ring), CloseReason::HandshakeTimeout);
    drop(silent);
    // Goes away in the middle.
    drop(TcpStream::connect(address).expect("connects"));
    assert_eq!(closed(&mut ring), CloseReason::Truncated);

    // A man in the middle who ends the stream after the handshake is noticed.
    let client = node(&ca, 1, Role::DataNode, 10);
    let mut dialler = roomy();
    let relay = TcpListener::bind("127.0.0.1:0").expect("binds");
    let through = Address::Tcp(relay.local_addr().expect("bound"));
    let conn = dialler
        .connect(&through, client.client(11), None)
        .expect("dials");
    let (near, far) = std::thread::scope(|scope| {
        let near = scope.spawn(|| relay.accept().expect("accepts").0);
        let mut events = Vec::new();
        while !near.is_finished() {
            dialler.turn(boottime() + 1_000_000, &mut events);
        }
        (
            near.join().expect("no panic"),
            TcpStream::connect(address).expect("connects"),
        )
    });
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        })
    };
    let clone = |stream: &TcpStream| stream.try_clone().expect("cloned");
    let threads = [
        copy(clone(&near), clone(&far)),
        copy(clone(&far), clone(&near)),
    ];
    let (ready, ended) = (RefCell::new(0), RefCell::new(Vec::new()));
    let note = |event| match event {
        Event::Connected { .. } => *ready.borrow_mut() += 1,
        Event::Closed { reason, .. } => ended.borrow_mut().push(reason),
        _ => {}
    };
    both(
        &mut dialler,
        &mut ring,
        |_, e| note(e),
        |_, e| note(e),
        || *ready.borrow() == 2,
    );
    for stream in [&near, &far] {
        stream.shutdown(std::net::Shutdown::Both).expect("cut");
    }
    both(
        &mut dialler,
        &mut ring,
        |_, e| note(e),
        |_, e| note(e),
        || ended.borrow().len() == 2,
    );
    assert_eq!(
        *ended.borrow(),
        [CloseReason::Truncated, CloseReason::Truncated]
    );
    for thread in threads {
        thread.join().expect("no panic");
    }
    let _ = conn;
}

/// A pool with room for receive buffers only: encryption goes on from the heap, decrypted
/// payloads wait for buffers, and everything arrives.
#[test]
fn an_exhausted_pool_slows_but_loses_nothing() {
    let ca = ca(1);
    let (na, nb) = (
        node(&ca, 1, Role::DataNode, 10),
        node(&ca, 1, Role::DataNode, 11),
    );
    let config = Config {
        pool: 1 << 20,
        send_bound: 1 << 20,
        ..Config::default()
    };
    let (mut a, mut b) = (
        Reactor::new(config).expect("a ring"),
        Reactor::new(config).expect("a ring"),
    );
    let address = listen(&mut b, &nb, Some(FRAMING));
    let conn = a
        .connect(&address, na.client(11), Some(FRAMING))
        .expect("dials");
    let shapes = vec![(9, 100_000); 40];
    let (sent, seen) = (RefCell::new(0), RefCell::new(0));
    let (held, quiet) = (RefCell::new(Vec::new()), RefCell::new((0, 0)));
    let hoard = RefCell::new(Vec::new());
    both(
        &mut a,
        &mut b,
        |a, event| match event {
            Event::Connected { .. } => {
                hoard
                    .borrow_mut()
                    .extend(std::iter::from_fn(|| a.pool().get(4096).ok()));
                fill(a, conn, &shapes, &mut sent.borrow_mut());
            }
            Event::Writable { .. } => fill(a, conn, &shapes, &mut sent.borrow_mut()),
            other => panic!("unexpected {other:?}"),
        },
        |_, event| match event {
            Event::Frame { payload: data, .. } => {
                let mut seen = seen.borrow_mut();
                assert!(data == payload(100_000, *seen), "frame {seen}");
                *seen += 1;
                held.borrow_mut().push(data);
            }
            Event::Accepted { .. } | Event::Connected { .. } => {}
            other => panic!("unexpected {other:?}"),
        },
        || {
            // The payloads are held until nothing more comes, for want of buffers.
            let mut held = held.borrow_mut();
            let mut quiet = quiet.borrow_mut();
            *quiet = if held.len() == quiet.0 {
                (quiet.0, quiet.1 + 1)
            } else {
                (held.len(), 0)
            };
            if quiet.1 > 20 {
                held.clear();
            }
            *seen.borrow() == shapes.len()
        },
    );
    assert!(a.counters().heap_outputs > 0, "{:?}", a.counters());
    assert!(b.counters().receive_stalls > 0, "{:?}", b.counters());
}
