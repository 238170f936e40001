//! Plain sockets: framing and raw bytes, big sends under back-pressure, endings of every kind.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bytes::{Bytes, BytesMut};
use common::{both, reactor, until};
use lockstep_ring::{
    Address, CloseReason, Config, ConnId, Event, FrameLengths, Framing, ListenerId, Reactor,
    SendError, SocketError, Transport, boottime,
};

/// Head: magic, rest length (4), payload length (4).
const FRAMING: Framing = Framing {
    head: 12,
    max_rest: 4096,
    max_payload: 1 << 20,
    lengths: |head| {
        if head[..4] != *b"TEST" {
            return Err("magic");
        }
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

fn listen(reactor: &mut Reactor, framing: Option<Framing>) -> (ListenerId, Address) {
    let any = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = reactor
        .listen(&any, Transport::Plain, framing)
        .expect("listens");
    let address = reactor.local_address(listener).expect("bound");
    (listener, address)
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("{other} is not TCP"),
    }
}

fn accepted(reactor: &mut Reactor) -> ConnId {
    let mut accepted = None;
    until(reactor, |event| match event {
        Event::Accepted { conn, .. } => {
            accepted = Some(conn);
            None
        }
        Event::Connected {
            conn,
            certificate: None,
        } => {
            assert_eq!(accepted, Some(conn));
            Some(conn)
        }
        other => panic!("unexpected {other:?}"),
    })
}

fn closed(reactor: &mut Reactor, expected: ConnId) -> CloseReason {
    until(reactor, |event| match event {
        Event::Closed { conn, reason } => {
            assert_eq!(conn, expected);
            Some(reason)
        }
        Event::Writable { .. } => None,
        other => panic!("unexpected {other:?}"),
    })
}

fn frames_between(a: &mut Reactor, b: &mut Reactor, address: &Address) {
    let conn = a
        .connect(address, Transport::Plain, Some(FRAMING))
        .expect("dials");
    let shapes: Vec<(usize, usize)> = (0..200)
        .map(|i| match i % 5 {
            0 => (0, 0),
            1 => (i, 4096),
            2 => (52, 4096 * 16),
            3 => (7, 1 << 20),
            _ => (4096, 1),
        })
        .collect();
    let next = RefCell::new(0);
    let echoed = RefCell::new(0);
    let sent = RefCell::new(0);
    let send_more = |a: &mut Reactor| {
        let mut i = sent.borrow_mut();
        while *i < shapes.len() {
            let (rest, length) = shapes[*i];
            match a.send(conn, [head(rest, length), payload(length, *i)]) {
                Ok(()) => *i += 1,
                Err(SendError::Full) => break,
                Err(SendError::Closed) => panic!("closed"),
            }
        }
    };
    both(
        a,
        b,
        |a, event| match event {
            Event::Connected { .. } | Event::Writable { .. } => send_more(a),
            Event::Frame {
                head: got,
                payload: data,
                ..
            } => {
                let mut i = echoed.borrow_mut();
                let (rest, length) = shapes[*i];
                assert!(
                    got == head(rest, length) && data == payload(length, *i),
                    "frame {i}"
                );
                *i += 1;
            }
            other => panic!("unexpected {other:?}"),
        },
        |b, event| match event {
            Event::Accepted { .. } | Event::Connected { .. } | Event::Writable { .. } => {}
            Event::Frame {
                conn,
                head: got,
                payload: data,
            } => {
                let mut i = next.borrow_mut();
                let (rest, length) = shapes[*i];
                assert!(
                    got == head(rest, length) && data == payload(length, *i),
                    "frame {i}"
                );
                assert!(data.is_empty() || (data.as_ptr() as usize).is_multiple_of(4096));
                assert!(data.is_empty() || b.pool().locate(&data).is_some());
                *i += 1;
                // The echo's bound is below: the peer's bound keeps it from being reached.
                b.send(conn, [got, data]).expect("room");
            }
            other => panic!("unexpected {other:?}"),
        },
        || *echoed.borrow() == shapes.len(),
    );
    assert!(
        a.counters().direct_payload_bytes > 0,
        "big payloads land directly"
    );
    assert!(
        a.counters().sends < 2 * shapes.len() as u64,
        "parts are gathered"
    );
    a.close(conn);
    let mut reasons = (None, None);
    let reasons_cell = RefCell::new(&mut reasons);
    both(
        a,
        b,
        |_, event| match event {
            Event::Closed { reason, .. } => reasons_cell.borrow_mut().0 = Some(reason),
            Event::Writable { .. } => {}
            other => panic!("unexpected {other:?}"),
        },
        |_, event| match event {
            Event::Closed { reason, .. } => reasons_cell.borrow_mut().1 = Some(reason),
            Event::Writable { .. } => {}
            other => panic!("unexpected {other:?}"),
        },
        || {
            let reasons = reasons_cell.borrow();
            reasons.0.is_some() && reasons.1.is_some()
        },
    );
    assert_eq!(reasons, (Some(CloseReason::Local), Some(CloseReason::Peer)));
    assert_eq!(a.send(conn, [head(0, 0)]), Err(SendError::Closed));
}

fn roomy() -> Reactor {
    let config = Config {
        pool: 64 << 20,
        send_bound: 8 << 20,
        ..Config::default()
    };
    Reactor::new(config).expect("a ring")
}

#[test]
fn frames_over_tcp() {
    let (mut a, mut b) = (
        roomy(),
        Reactor::new(Config {
            send_bound: 1 << 30,
            ..Config::default()
        })
        .expect("a ring"),
    );
    let (_, address) = listen(&mut b, Some(FRAMING));
    frames_between(&mut a, &mut b, &address);
    assert_eq!(
        b.pool().free_bytes(),
        b.pool().size(),
        "every buffer came home"
    );
}

#[test]
fn frames_over_tcp_on_a_plain_ring_without_registration() {
    let config = Config {
        send_bound: 1 << 30,
        register: false,
        modern_setup: false,
        ..Config::default()
    };
    let mut b = Reactor::new(config).expect("a ring");
    let mut a = Reactor::new(Config {
        send_bound: 8 << 20,
        ..config
    })
    .expect("a ring");
    let (_, address) = listen(&mut b, Some(FRAMING));
    frames_between(&mut a, &mut b, &address);
}

#[test]
fn frames_over_a_unix_socket_whose_path_a_dead_process_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound, then abandoned"));
    let address = Address::Unix(path.clone());
    let (mut a, mut b) = (
        roomy(),
        Reactor::new(Config {
            send_bound: 1 << 30,
            ..Config::default()
        })
        .expect("a ring"),
    );
    b.listen(&address, Transport::Plain, Some(FRAMING))
        .expect("replaces it");
    frames_between(&mut a, &mut b, &address);
    let again = a.listen(&address, Transport::Plain, None);
    assert!(
        matches!(
            again,
            Err(SocketError::System {
                action: "listen at",
                ..
            })
        ),
        "in use"
    );
    let long = Address::Unix("x".repeat(108).into());
    assert!(matches!(
        a.listen(&long, Transport::Plain, None),
        Err(SocketError::PathTooLong { .. })
    ));
}

#[test]
fn a_peer_that_does_not_read_pushes_back_and_relief_is_told() {
    let mut ring = Reactor::new(Config {
        send_bound: 1 << 20,
        ..Config::default()
    })
    .expect("ok");
    let (_, address) = listen(&mut ring, None);
    let mut peer = TcpStream::connect(tcp(&address)).expect("connects");
    let conn = accepted(&mut ring);
    let part = payload(65_536, 3);
    let mut sent = 0usize;
    let mut events = Vec::new();
    // Fill the kernel's buffers and ours.
    loop {
        match ring.send(conn, [part.clone()]) {
            Ok(()) => sent += part.len(),
            Err(SendError::Full) => {
                let before = ring.unsent(conn);
                ring.turn(boottime() + 50_000_000, &mut events);
                let full = events.drain(..).all(|e| matches!(e, Event::Timer));
                if full && ring.unsent(conn) == before {
                    break;
                }
            }
            Err(SendError::Closed) => panic!("closed"),
        }
    }
    assert!(ring.unsent(conn) >= 1 << 20);
    assert!(
        ring.unsent(conn) <= (1 << 20) + part.len(),
        "the bound holds"
    );
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; sent];
        peer.read_exact(&mut got).expect("all of it");
        (got, peer)
    });
    until(&mut ring, |event| match event {
        Event::Writable { conn: relieved } => (relieved == conn).then_some(()),
        other => panic!("unexpected {other:?}"),
    });
    ring.close(conn);
    let mut events = Vec::new();
    while !reader.is_finished() {
        ring.turn(boottime() + 1_000_000, &mut events);
    }
    let (got, peer) = reader.join().expect("no panic");
    assert!(
        got.chunks(65_536).all(|chunk| chunk == part),
        "in order and whole"
    );
    drop(peer);
    if !events.iter().any(|e| matches!(e, Event::Closed { .. })) {
        assert_eq!(closed(&mut ring, conn), CloseReason::Local);
    }
}

#[test]
fn raw_bytes_then_framing_with_leftover() {
    let mut ring = reactor();
    let (_, address) = listen(&mut ring, None);
    let mut peer = TcpStream::connect(tcp(&address)).expect("connects");
    let conn = accepted(&mut ring);
    // The handshake, and the first frame's beginning right behind it.
    let mut bytes = b"HELLO".to_vec();
    bytes.extend_from_slice(&head(3, 50_000)[..9]);
    peer.write_all(&bytes).expect("sent");
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let data = until(&mut ring, |event| match event {
            Event::Received { data, .. } => Some(data),
            other => panic!("unexpected {other:?}"),
        });
        got.extend_from_slice(&data);
    }
    assert_eq!(got, bytes);
    ring.set_framing(conn, Some(FRAMING), &got[5..]);
    peer.write_all(&head(3, 50_000)[9..]).expect("sent");
    peer.write_all(&payload(50_000, 8)).expect("sent");
    until(&mut ring, |event| match event {
        Event::Frame {
            head: header,
            payload: data,
            ..
        } => {
            assert!(header == head(3, 50_000) && data == payload(50_000, 8));
            Some(())
        }
        other => panic!("unexpected {other:?}"),
    });
    // Large raw data after going back comes whole and in order.
    ring.set_framing(conn, None, &[]);
    let big = payload(300_000, 1);
    let writer = std::thread::spawn({
        let big = big.clone();
        move || peer.write_all(&big).map(|()| peer).expect("sent")
    });
    let mut got = Vec::new();
    while got.len() < big.len() {
        got.extend_from_slice(&until(&mut ring, |event| match event {
            Event::Received { data, .. } => Some(data),
            other => panic!("unexpected {other:?}"),
        }));
    }
    assert!(got == big);
    drop(writer.join().expect("no panic"));
    assert_eq!(closed(&mut ring, conn), CloseReason::Peer);
}

#[test]
fn endings_say_why() {
    let mut ring = reactor();
    let (listener, address) = listen(&mut ring, Some(FRAMING));
    // In the middle of a frame.
    let mut peer = TcpStream::connect(tcp(&address)).expect("connects");
    let conn = accepted(&mut ring);
    peer.write_all(&head(0, 5000)).expect("sent");
    drop(peer);
    assert_eq!(closed(&mut ring, conn), CloseReason::Truncated);
    // Not our protocol, with something still to say to it.
    let mut peer = TcpStream::connect(tcp(&address)).expect("connects");
    let conn = accepted(&mut ring);
    ring.send(conn, [Bytes::from_static(b"bye")]).expect("room");
    peer.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    let mut events = Vec::new();
    let mut said = [0; 3];
    peer.set_nonblocking(true).expect("set");
    while peer.read_exact(&mut said).is_err() {
        ring.turn(boottime() + 1_000_000, &mut events);
    }
    assert_eq!(&said, b"bye");
    drop(peer);
    events.retain(|e| matches!(e, Event::Closed { .. }));
    let reason = match events.pop() {
        Some(Event::Closed { reason, .. }) => reason,
        _ => closed(&mut ring, conn),
    };
    assert_eq!(reason, CloseReason::BadFrame("magic"));
    // A reset.
    let peer = TcpStream::connect(tcp(&address)).expect("connects");
    let conn = accepted(&mut ring);
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: pointer and length describe a live structure.
    let set = unsafe {
        use std::os::fd::AsRawFd;
        libc::setsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(set, 0);
    drop(peer);
    assert_eq!(
        closed(&mut ring, conn),
        CloseReason::Broken(libc::ECONNRESET)
    );
    // Nobody there: the port of a listener that has just gone.
    ring.stop_listening(listener);
    let gone = TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("bound");
    let conn = ring
        .connect(&Address::Tcp(gone), Transport::Plain, None)
        .expect("dials");
    let reason = closed(&mut ring, conn);
    assert_eq!(reason, CloseReason::ConnectFailed(libc::ECONNREFUSED));
    assert!(
        TcpStream::connect(tcp(&address)).is_err(),
        "no one listens any more"
    );
    assert_eq!(
        ring.pool().free_bytes(),
        ring.pool().size(),
        "every buffer came home"
    );
}

#[test]
fn dialling_is_given_up_in_time_and_can_be_aborted() {
    let config = Config {
        handshake_timeout: 50_000_000,
        ..Config::default()
    };
    let mut ring = Reactor::new(config).expect("a ring");
    // A listener whose queue is full does not answer.
    let busy = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = busy.local_addr().expect("bound");
    // SAFETY: takes no pointer.
    unsafe {
        use std::os::fd::AsRawFd;
        libc::listen(busy.as_raw_fd(), 0);
    }
    let _waiting = TcpStream::connect(address).expect("the one that fits");
    let conn = ring
        .connect(&Address::Tcp(address), Transport::Plain, None)
        .expect("dials");
    assert_eq!(
        closed(&mut ring, conn),
        CloseReason::ConnectFailed(libc::ETIMEDOUT)
    );
    let conn = ring
        .connect(&Address::Tcp(address), Transport::Plain, None)
        .expect("dials");
    ring.abort(conn);
    assert_eq!(closed(&mut ring, conn), CloseReason::Local);
}

#[test]
fn an_exhausted_pool_holds_the_stream_until_buffers_return() {
    let config = Config {
        pool: 1 << 20,
        receive_buffer: 32 << 10,
        ..Config::default()
    };
    let mut ring = Reactor::new(config).expect("a ring");
    let (ours, mut peer) = UnixStream::pair().expect("a pair");
    ring.adopt(OwnedFd::from(ours), Some(FRAMING))
        .expect("adopted");
    let mut held: Vec<_> = std::iter::from_fn(|| ring.pool().get(65_536).ok()).collect();
    held.extend(std::iter::from_fn(|| ring.pool().get(4096).ok()));
    let writer = std::thread::spawn(move || {
        for i in 0..20 {
            peer.write_all(&head(1, 60_000)).expect("sent");
            peer.write_all(&payload(60_000, i)).expect("sent");
        }
        peer
    });
    let mut events = Vec::new();
    while ring.counters().receive_stalls == 0 {
        ring.turn(boottime() + 1_000_000, &mut events);
    }
    for _ in 0..10 {
        ring.turn(boottime() + 1_000_000, &mut events);
    }
    assert!(
        events.iter().all(|e| matches!(e, Event::Timer)),
        "{events:?}"
    );
    // They come back from another thread, which the ring notices by itself.
    std::thread::spawn(move || drop(held));
    let mut next = 0;
    until(&mut ring, |event| match event {
        Event::Frame { payload: data, .. } => {
            assert!(data == payload(60_000, next));
            next += 1;
            (next == 20).then_some(())
        }
        other => panic!("unexpected {other:?}"),
    });
    drop(writer.join().expect("no panic"));
    assert!(ring.counters().pool_exhausted > 0);
}

#[test]
fn a_paused_connection_receives_nothing() {
    let mut ring = reactor();
    let (ours, mut peer) = UnixStream::pair().expect("a pair");
    let conn = ring.adopt(OwnedFd::from(ours), None).expect("adopted");
    ring.pause(conn, true);
    peer.write_all(b"later").expect("sent");
    let mut events = Vec::new();
    for _ in 0..5 {
        ring.turn(boottime() + 2_000_000, &mut events);
    }
    assert!(
        events.iter().all(|e| matches!(e, Event::Timer)),
        "{events:?}"
    );
    ring.pause(conn, false);
    let data = until(&mut ring, |event| match event {
        Event::Received { data, .. } => Some(data),
        other => panic!("unexpected {other:?}"),
    });
    assert_eq!(data, &b"later"[..]);
}

#[test]
fn too_many_connections_are_turned_away() {
    let config = Config {
        max_connections: 2,
        ..Config::default()
    };
    let mut ring = Reactor::new(config).expect("a ring");
    let (_, address) = listen(&mut ring, None);
    let _first = TcpStream::connect(tcp(&address)).expect("connects");
    let first = accepted(&mut ring);
    let _second = TcpStream::connect(tcp(&address)).expect("connects");
    accepted(&mut ring);
    let mut third = TcpStream::connect(tcp(&address)).expect("connects");
    third.set_nonblocking(true).expect("set");
    let mut events = Vec::new();
    loop {
        ring.turn(boottime() + 1_000_000, &mut events);
        match third.read(&mut [0]) {
            Ok(0) => break,
            Ok(_) => panic!("nobody answers"),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    assert_eq!(ring.counters().refused_connections, 1);
    assert!(
        events.iter().all(|e| matches!(e, Event::Timer)),
        "{events:?}"
    );
    // A place that becomes free is used again, under a new id.
    ring.abort(first);
    assert_eq!(closed(&mut ring, first), CloseReason::Local);
    let _fourth = TcpStream::connect(tcp(&address)).expect("connects");
    assert_ne!(accepted(&mut ring), first);
}
