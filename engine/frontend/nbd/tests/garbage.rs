//! Arbitrary bytes from either side neither panic nor allocate beyond the bounds. A counting
//! allocator says what is alive.

#[path = "../../../../fuzz/checks/nbd_client.rs"]
mod nbd_client;
#[path = "../../../../fuzz/checks/nbd_session.rs"]
mod nbd_session;

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_nbd::client::{Connection, Event, Options};
use lockstep_nbd::{Flags, Op, Payload};
use nbd_session::converse;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that is ending has no counters any more, and nothing left to measure.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only
// thread-local cells that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// More than a connection with the limits below may ever hold.
const BOUND: usize = 384 << 10;

/// Bytes that grew alive at most while `work` ran.
fn peak<R>(work: impl FnOnce() -> R) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    drop(work());
    (PEAK.get() - before) as usize
}

/// Bytes that look enough like NBD to get past the first checks.
#[derive(Clone, Debug)]
enum Piece {
    Noise(Vec<u8>),
    /// The length may be another than the data's.
    Option(u32, u32, Vec<u8>),
    /// `payload` bytes follow.
    Request {
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        payload: u32,
    },
}

impl Piece {
    fn write(&self, raw: &mut BytesMut) {
        match self {
            Self::Noise(bytes) => raw.put_slice(bytes),
            Self::Option(option, length, data) => {
                raw.put_slice(b"IHAVEOPT");
                raw.put_u32(*option);
                raw.put_u32(*length);
                raw.put_slice(data);
            }
            Self::Request {
                flags,
                command,
                offset,
                length,
                payload,
            } => {
                raw.put_u32(0x2560_9513);
                raw.put_u16(*flags);
                raw.put_u16(*command);
                raw.put_u64(9);
                raw.put_u64(*offset);
                raw.put_u32(*length);
                raw.put_bytes(7, *payload as usize);
            }
        }
    }
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..40)
}

/// Options, mostly of the right shape: a name, then 16-bit or 32-bit counted things.
fn option() -> impl Strategy<Value = Piece> {
    let honest = |option, data: Vec<u8>| Piece::Option(option, data.len() as u32, data);
    let shaped =
        (6u32..12, 0u32..3, 0u32..4, noise()).prop_map(move |(option, name, count, tail)| {
            let mut data = name.to_be_bytes().to_vec();
            data.extend(&b"vvv"[..name as usize]);
            match option {
                6 | 7 => {
                    data.extend((count as u16).to_be_bytes());
                    (0..count as u16).for_each(|kind| data.extend(kind.to_be_bytes()));
                }
                _ => {
                    data.extend(count.to_be_bytes());
                    (0..count).for_each(|_| data.extend(b"\0\0\0\x0fbase:allocation"));
                }
            }
            if tail.len() == 1 {
                data.extend(&tail);
            }
            honest(option, data)
        });
    prop_oneof![
        6 => shaped,
        2 => Just(Piece::Option(8, 0, Vec::new())),
        2 => (0u32..13, noise()).prop_map(move |(option, data)| honest(option, data)),
        1 => (0u32..13, any::<u32>(), noise()).prop_map(|(option, length, data)| Piece::Option(option, length, data)),
        1 => noise().prop_map(Piece::Noise),
    ]
}

/// Requests, mostly good, a write mostly with its payload.
fn request() -> impl Strategy<Value = Piece> {
    let good = (0u16..4, 0u16..8, 0u64..250, 1u32..16).prop_map(|(flags, command, at, count)| {
        // The goodbye (2) is rare enough below.
        let command = if command == 2 { 1 } else { command };
        let flush = command == 3;
        let (offset, length) = if flush {
            (0, 0)
        } else {
            (at * 4096, count * 4096)
        };
        let payload = if command == 1 { length } else { 0 };
        Piece::Request {
            flags: flags & 1,
            command,
            offset,
            length,
            payload,
        }
    });
    let odd = (0u16..64, 0u16..9, any::<u64>(), any::<u32>()).prop_map(
        |(flags, command, offset, length)| {
            let length = length >> (flags % 16);
            let payload = if command == 1 && length < 1 << 17 {
                length
            } else {
                0
            };
            Piece::Request {
                flags,
                command,
                offset,
                length,
                payload,
            }
        },
    );
    prop_oneof![30 => good, 3 => odd, 1 => noise().prop_map(Piece::Noise)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_handshake_survives_anything(
        flags in 0u32..5,
        options in proptest::collection::vec(option(), 1..12),
        requests in proptest::collection::vec(request(), 0..3),
        cuts in 1usize..200,
    ) {
        let mut raw = BytesMut::new();
        raw.put_u32(flags);
        options.iter().chain(&requests).for_each(|piece| piece.write(&mut raw));
        let raw = raw.freeze();
        let most = peak(|| converse(&raw, cuts, false));
        prop_assert!(most < BOUND, "{most} bytes");
    }

    #[test]
    fn a_transmission_survives_anything(
        requests in proptest::collection::vec(request(), 1..30),
        cuts in 1usize..20_000,
    ) {
        let mut raw = BytesMut::new();
        requests.iter().for_each(|piece| piece.write(&mut raw));
        let raw = raw.freeze();
        let most = peak(|| converse(&raw, cuts, true));
        prop_assert!(most < BOUND, "{most} bytes");
    }

    #[test]
    fn noise_survives_too(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        nbd_session::check(&noise);
    }

    #[test]
    fn a_client_takes_only_answers_to_what_it_asked(how: u8, replies in proptest::collection::vec(reply(), 0..8)) {
        let mut raw = vec![how];
        replies.iter().for_each(|reply| raw.extend(reply));
        nbd_client::check(&raw);
    }

    #[test]
    fn a_client_survives_noise(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        nbd_client::check(&noise);
    }

    #[test]
    fn a_client_survives_anything(noise in proptest::collection::vec(any::<u8>(), 0..200), magic: bool, cookie in 0u64..3, cuts in 1usize..50) {
        let mut raw = BytesMut::new();
        if magic {
            raw.put_u32(0x668e_33ef);
            raw.put_u32(u32::from(noise.first().copied().unwrap_or(0)) << 8 | 1);
            raw.put_u64(cookie);
        }
        raw.put_slice(&noise);
        let most = peak(|| {
            let mut client = ready();
            client.submit(Op::Read, 0, 1 << 20, Flags::default(), Payload::new());
            let mut events = Vec::new();
            for chunk in raw.chunks(cuts) {
                if client.receive(Bytes::copy_from_slice(chunk), &mut events).is_err() {
                    break;
                }
            }
        });
        prop_assert!(most < 512 << 10, "{most} bytes");
    }
}

/// A reply or a chunk, mostly of the right shape and for a request that there is.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let simple =
        (prop_oneof![3 => Just(0u32), 1 => 0u32..40], 0u64..6).prop_map(|(errno, cookie)| {
            let mut raw = 0x6744_6698u32.to_be_bytes().to_vec();
            raw.extend(errno.to_be_bytes());
            raw.extend(cookie.to_be_bytes());
            raw
        });
    let kind = prop_oneof![
        Just(0u16),
        Just(1),
        Just(2),
        Just(5),
        Just(1 << 15 | 1),
        any::<u16>()
    ];
    let offset = (0u64..4).prop_map(|at| at * 4096);
    let length = (0u32..18).prop_map(|pages| pages * 4096);
    let chunk = (any::<bool>(), kind, 0u64..6, offset, length, noise()).prop_map(
        |(done, kind, cookie, offset, length, noise)| {
            let data = match kind {
                0 => Vec::new(),
                1 => [offset.to_be_bytes().to_vec(), vec![7; length as usize]].concat(),
                2 => [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat(),
                5 => [1u32, length, 0]
                    .iter()
                    .flat_map(|n| n.to_be_bytes())
                    .collect(),
                _ => noise,
            };
            let mut raw = 0x668e_33efu32.to_be_bytes().to_vec();
            raw.extend(u16::from(done).to_be_bytes());
            raw.extend(kind.to_be_bytes());
            raw.extend(cookie.to_be_bytes());
            raw.extend((data.len() as u32).to_be_bytes());
            raw.extend(data);
            raw
        },
    );
    prop_oneof![4 => chunk, 2 => simple, 1 => noise()]
}

/// A client past its handshake, with structured replies.
fn ready() -> Connection {
    let mut client = Connection::new(Options {
        allocation: false,
        ..Options::new("v")
    });
    let mut raw = BytesMut::from(&b"NBDMAGICIHAVEOPT\0\x03"[..]);
    for option in [8, 7] {
        raw.put_u64(0x0003_e889_0455_65a9);
        raw.put_u32(option);
        raw.put_u64(1 << 32);
    }
    let mut events = Vec::new();
    client
        .receive(raw.freeze(), &mut events)
        .expect("a good handshake");
    assert!(matches!(events.last(), Some(Event::Ready(_))));
    client
}

#[test]
fn a_write_of_four_gibibytes_allocates_nothing() {
    let mut raw = BytesMut::new();
    Piece::Request {
        flags: 0,
        command: 1,
        offset: 0,
        length: u32::MAX - 4095,
        payload: 0,
    }
    .write(&mut raw);
    let raw = raw.freeze();
    assert!(peak(|| converse(&raw, 28, true)) < 64 << 10);
}
