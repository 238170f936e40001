//! What the reactor itself costs, in processor time of its thread (meaningful on a busy machine
//! too). Run with `cargo test --release -p lockstep-ring --test ring_cost -- --ignored --nocapture
//! --test-threads=1`. Budgets are loose bounds against regressions, not targets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use lockstep_net::tls::{client_config, server_config};
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, ClusterCa, PeerIdentity, Role, RoleSet, Validity};
use lockstep_ring::disk::{OpenOptionsDisk, create_file};
use lockstep_ring::timer::NEVER;
use lockstep_ring::{
    Address, Config, ConnId, Disk, Event, FrameLengths, Framing, Reactor, Transport,
};
use lockstep_types::{ClusterId, NodeId};

const FRAMING: Framing = Framing {
    head: 64,
    max_rest: 0,
    max_payload: 1 << 20,
    lengths: |head| {
        let payload = u32::from_le_bytes(head[..4].try_into().expect("four"));
        Ok(FrameLengths {
            rest: 0,
            payload: payload as usize,
        })
    },
};

fn frame(payload: &Bytes) -> [Bytes; 2] {
    let mut head = BytesMut::zeroed(64);
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    [head.freeze(), payload.clone()]
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn micros(time: Duration, n: u64) -> f64 {
    time.as_nanos() as f64 / n as f64 / 1000.0
}

#[test]
#[ignore = "a measurement"]
fn durable_batches_to_disk() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("pool");
    create_file(&path, 64 << 20).expect("room");
    let disk = Disk::open(&path, OpenOptionsDisk::default()).expect("opens");
    for at in 0..64 {
        let zeroes = vec![0u8; (1 << 20) + 4096];
        let start = zeroes.as_ptr().align_offset(4096);
        disk.write_blocking(&zeroes[start..start + (1 << 20)], at << 20)
            .expect("writes");
    }
    disk.flush_blocking().expect("flushes");
    let mut ring = Reactor::new(Config::default()).expect("a ring");
    let disk = ring.add_disk(disk);
    let mut events = Vec::new();
    for blocks in [1u64, 16] {
        // As a journal writes: a header and scattered payloads, one batch in flight.
        let parts: Vec<Bytes> = (0..=blocks)
            .map(|_| ring.pool().get(4096).expect("room").freeze())
            .collect();
        let rounds = 2000;
        let before = (cpu(), ring.counters());
        for round in 0..rounds {
            ring.disk_write(disk, (round * 17 * 4096) % (63 << 20), &parts, true, round);
            while events.is_empty() {
                ring.turn(NEVER, &mut events);
            }
            assert!(matches!(
                events.pop(),
                Some(Event::DiskWritten { result: Ok(()), .. })
            ));
        }
        let (spent, after) = (cpu() - before.0, ring.counters());
        let each = micros(spent, rounds * blocks);
        println!(
            "batch of header + {blocks} blocks: {:.1} core-µs a batch, {each:.1} a block, {:.2} enters a batch",
            micros(spent, rounds),
            (after.enters - before.1.enters) as f64 / rounds as f64,
        );
        assert!(each < 100.0);
        assert_eq!(after.bounced_bytes, 0);
    }
}

/// Frames one way and short answers back, at a depth; both rings on this thread, so that its
/// processor time is that of both ends.
fn echo(connect: impl FnOnce(&mut Reactor, &mut Reactor) -> ConnId, what: &str) {
    let config = Config {
        pool: 64 << 20,
        send_bound: 64 << 20,
        ..Config::default()
    };
    let mut a = Reactor::new(config).expect("a ring");
    let mut b = Reactor::new(config).expect("a ring");
    let conn = connect(&mut a, &mut b);
    let mut events = Vec::new();
    for (size, depth, rounds) in [
        (4096usize, 1u64, 20_000u64),
        (4096, 16, 40_000),
        (1 << 20, 4, 400),
    ] {
        let payload = a.pool().get(size).expect("room").freeze();
        let before = (cpu(), a.counters(), b.counters());
        let (mut sent, mut done) = (0, 0);
        while done < rounds {
            while sent < rounds && sent - done < depth {
                a.send(conn, frame(&payload)).expect("room");
                sent += 1;
            }
            // Both on this thread: a turn never waits while the other has something to do.
            a.turn(0, &mut events);
            b.turn(0, &mut events);
            for event in events.drain(..) {
                match event {
                    Event::Frame {
                        conn: from,
                        payload,
                        ..
                    } if payload.len() == size => {
                        b.send(from, [Bytes::from_static(&[0; 64])]).expect("room");
                    }
                    Event::Frame { .. } => done += 1,
                    _ => {}
                }
            }
        }
        let spent = cpu() - before.0;
        let sends = a.counters().sends + b.counters().sends - before.1.sends - before.2.sends;
        let each = micros(spent, rounds);
        println!(
            "{what}: {size} B there, 64 B back, depth {depth}: {each:.1} core-µs both ends with polling, {:.2} sends a round",
            sends as f64 / rounds as f64
        );
    }
}

/// Turns both until the connection is ready at both ends.
fn ready(a: &mut Reactor, b: &mut Reactor) {
    let (mut events, mut count) = (Vec::new(), 0);
    while count < 2 {
        a.turn(0, &mut events);
        b.turn(0, &mut events);
        for event in events.drain(..) {
            assert!(!matches!(event, Event::Closed { .. }), "{event:?}");
            count += u32::from(matches!(event, Event::Connected { .. }));
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn frames_between_rings() {
    echo(
        |a, b| {
            let (x, y) = UnixStream::pair().expect("a pair");
            b.adopt(OwnedFd::from(y), Some(FRAMING)).expect("adopted");
            a.adopt(OwnedFd::from(x), Some(FRAMING)).expect("adopted")
        },
        "unix",
    );
    let any = Address::Tcp(([127, 0, 0, 1], 0).into());
    echo(
        |a, b| {
            let listener = b
                .listen(&any, Transport::Plain, Some(FRAMING))
                .expect("listens");
            let address = b.local_address(listener).expect("bound");
            let conn = a
                .connect(&address, Transport::Plain, Some(FRAMING))
                .expect("dials");
            ready(a, b);
            conn
        },
        "tcp",
    );
    let certificates = certificates();
    echo(
        |a, b| {
            let server = server_config(&certificates, RoleSet::ANY, &[]).expect("config");
            let listener = b
                .listen(&any, Transport::TlsServer(server), Some(FRAMING))
                .expect("listens");
            let address = b.local_address(listener).expect("bound");
            let name = dialled_name(Role::DataNode, Some(NodeId::from_u128(2)));
            let client = client_config(&certificates, &[]).expect("config");
            let transport = Transport::TlsClient(client, name);
            let conn = a
                .connect(&address, transport, Some(FRAMING))
                .expect("dials");
            ready(a, b);
            conn
        },
        "tcp + TLS",
    );
}

fn certificates() -> Arc<Certificates> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let validity = Validity::starting(now, Duration::from_secs(3600));
    let cluster = ClusterId::from_u128(1);
    let ca = ClusterCa::create(cluster, validity).expect("a CA");
    let who = PeerIdentity {
        cluster,
        role: Role::DataNode,
        node: NodeId::from_u128(2),
    };
    let directory = tempfile::tempdir().expect("a directory");
    let issued = ca.issue(who, validity).expect("issued");
    Certificates::install(directory.path(), ca.pem(), &issued).expect("installed")
}
