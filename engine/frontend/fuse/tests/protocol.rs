//! The frozen bytes of every message, and what the session makes of good and bad ones.

#[path = "../../../../fuzz/checks/fuse_session.rs"]
mod fuse_session;

use bytes::Bytes;
use lockstep_frontend::{Done, IoError, Op, Payload, ReadPart};
use lockstep_fuse::protocol::Negotiated;
use lockstep_fuse::{CloseReason, HEAD, Limits, Message, Out, Session, Volume};
use proptest::prelude::*;

const SIZE: u64 = 1 << 30;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex")
    };
    digits.chunks_exact(2).map(pair).collect()
}

fn volume() -> Volume {
    Volume {
        name: "v".to_owned(),
        size: SIZE,
        read_only: false,
    }
}

/// A message as `readv` splits it.
fn message(raw: &[u8]) -> Message {
    let mut head = [0; HEAD];
    let first = raw.len().min(HEAD);
    head[..first].copy_from_slice(&raw[..first]);
    Message {
        head,
        length: raw.len(),
        body: Bytes::copy_from_slice(&raw[first..]),
    }
}

/// A whole message: header and arguments.
fn request(opcode: u32, unique: u64, node: u64, arguments: &[u8]) -> Message {
    let mut raw = Vec::new();
    raw.extend((40 + arguments.len() as u32).to_le_bytes());
    raw.extend(opcode.to_le_bytes());
    raw.extend(unique.to_le_bytes());
    raw.extend(node.to_le_bytes());
    raw.extend([0; 16]);
    raw.extend(arguments);
    message(&raw)
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

struct Kernel {
    session: Session,
    out: Vec<Out>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            session: Session::new(volume(), Limits::default()),
            out: Vec::new(),
        }
    }

    /// After INIT, as Linux 6.18 sends it.
    fn serving() -> Self {
        let mut kernel = Self::new();
        let arguments = unhex("07000000 2d000000 00000200 fbffff7f f7030000").into_iter();
        let arguments: Vec<u8> = arguments.chain([0; 44]).collect();
        kernel.say(request(26, 2, 0, &arguments));
        assert!(matches!(kernel.out.pop(), Some(Out::Ready(agreed)) if agreed.can_resend()));
        kernel.out.clear();
        kernel
    }

    fn say(&mut self, message: Message) {
        self.session.receive(message, &mut self.out);
    }

    /// The one message sent.
    fn sent(&mut self) -> String {
        match self.out.drain(..).collect::<Vec<_>>().as_slice() {
            [Out::Send(parts)] => hex(&parts.concat()),
            other => panic!("{other:?}"),
        }
    }

    fn errno(&mut self) -> i32 {
        let sent = unhex(&self.sent());
        assert_eq!((sent.len(), &sent[..4]), (16, &[16, 0, 0, 0][..]));
        -i32::from_le_bytes(sent[4..8].try_into().expect("four bytes"))
    }

    fn request(&mut self) -> lockstep_frontend::Request {
        match self.out.drain(..).collect::<Vec<_>>().as_slice() {
            [Out::Request(request)] => request.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn complete(&mut self, tag: u64, answer: lockstep_frontend::Answer) -> String {
        self.session.complete(tag, answer, &mut self.out);
        self.sent()
    }
}

fn expect(found: &str, expected: &str) {
    assert_eq!(found, hex(&unhex(expected)));
}

#[test]
fn init() {
    let mut kernel = Kernel::new();
    let arguments = unhex("07000000 2d000000 00000200 fbffff7f f7030000").into_iter();
    let arguments: Vec<u8> = arguments.chain([0; 44]).collect();
    kernel.say(request(26, 2, 0, &arguments));
    // ASYNC_READ, BIG_WRITES, ASYNC_DIO, PARALLEL_DIROPS, ABORT_ERROR, MAX_PAGES, INIT_EXT, and
    // in the high half HAS_RESEND.
    let agreed = Negotiated {
        minor: 41,
        flags: 0x80_4064_8021,
    };
    assert_eq!(kernel.out.pop(), Some(Out::Ready(agreed)));
    expect(
        &kernel.sent(),
        &format!(
            "50000000 00000000 0200000000000000
         07000000 29000000 00000000 21806440 0002 8001 00001000 01000000 0001 0000 80000000 {}",
            "00".repeat(28)
        ),
    );
}

#[test]
fn init_of_other_kernels() {
    let mut kernel = Kernel::new();
    kernel.say(request(
        26,
        2,
        0,
        &unhex("08000000 00000000 00000000 00000000"),
    ));
    assert!(
        kernel
            .sent()
            .starts_with(&hex(&unhex("50000000 00000000 0200000000000000 07000000")))
    );
    kernel.say(request(
        26,
        4,
        0,
        &unhex("07000000 1e000000 00000000 00000000"),
    ));
    let reason = CloseReason::TooOld {
        major: 7,
        minor: 30,
    };
    assert_eq!(kernel.out.pop(), Some(Out::Close(reason)));
    assert_eq!(kernel.errno(), libc::EPROTO);
    // One without HAS_RESEND.
    let mut kernel = Kernel::new();
    kernel.say(request(
        26,
        2,
        0,
        &unhex("07000000 1f000000 00000000 ffffff3f"),
    ));
    assert!(matches!(kernel.out.pop(), Some(Out::Ready(agreed)) if !agreed.can_resend()));
}

const FILE_ATTRIBUTES: &str = "0200000000000000 0000004000000000 0000200000000000
    0000000000000000 0000000000000000 0000000000000000 000000000000000000000000
    80810000 01000000 000000000000000000000000 00100000 00000000";

#[test]
fn names_and_attributes() {
    let mut kernel = Kernel::serving();
    kernel.say(request(1, 4, 1, b"v\0"));
    expect(
        &kernel.sent(),
        &format!(
            "90000000 00000000 0400000000000000
         0200000000000000 0000000000000000 ffffffff00000000 ffffffff00000000 00000000 00000000
         {FILE_ATTRIBUTES}"
        ),
    );
    kernel.say(request(3, 6, 2, &[0; 16]));
    expect(
        &kernel.sent(),
        &format!(
            "78000000 00000000 0600000000000000 ffffffff00000000 00000000 00000000 {FILE_ATTRIBUTES}"
        ),
    );
    kernel.say(request(3, 8, 1, &[0; 16]));
    let root = kernel.sent();
    assert!(
        root.contains(&hex(&unhex("40410000 02000000"))),
        "a directory: {root}"
    );
    for (node, name) in [(1, &b"w\0"[..]), (1, b"\0"), (1, b"v/x\0"), (2, b"v\0")] {
        kernel.say(request(1, 8, node, name));
        assert_eq!(kernel.errno(), libc::ENOENT);
    }
    kernel.say(request(3, 8, 3, &[0; 16]));
    assert_eq!(kernel.errno(), libc::ENOENT);
}

#[test]
fn open_statfs_and_the_rest() {
    let mut kernel = Kernel::serving();
    kernel.say(request(14, 4, 2, &[2, 0x40, 0, 0, 0, 0, 0, 0]));
    expect(
        &kernel.sent(),
        "20000000 00000000 0400000000000000 0000000000000000 61000000 00000000",
    );
    kernel.say(request(17, 6, 1, &[]));
    expect(
        &kernel.sent(),
        &format!(
            "60000000 00000000 0600000000000000 0000040000000000 0000000000000000 0000000000000000
         0200000000000000 0000000000000000 00100000 ff000000 00100000 {}",
            "00".repeat(28)
        ),
    );
    for (opcode, arguments, errno) in [
        (25, vec![0; 24], libc::ENOSYS),
        (18, vec![0; 24], 0),
        // SETATTR of a time, then of a size.
        (4, [numbers(&[1 << 5]), vec![0; 80]].concat(), -1),
        (4, [numbers(&[1 << 3]), vec![0; 80]].concat(), libc::EPERM),
        (36, vec![0; 8], libc::ENOSYS),
        (46, vec![0; 24], libc::ENOSYS),
    ] {
        kernel.say(request(opcode, 8, 2, &arguments));
        if errno < 0 {
            assert_eq!(kernel.sent().len(), 2 * 120);
        } else {
            assert_eq!(kernel.errno(), errno, "{opcode}");
        }
    }
    // FORGET and BATCH_FORGET have no answer.
    kernel.say(request(2, 10, 2, &[0; 8]));
    kernel.say(request(42, 12, 2, &[0; 24]));
    assert!(kernel.out.is_empty());
    kernel.say(request(38, 14, 0, &[]));
    assert_eq!(kernel.out.pop(), Some(Out::Close(CloseReason::Unmounted)));
    assert_eq!(kernel.errno(), 0);
}

#[test]
fn data() {
    let mut kernel = Kernel::serving();
    // A write: its payload is the very buffer that was received.
    let payload = Bytes::from(vec![0xab; 8192]);
    let mut write = request(16, 20, 2, &numbers(&[0, 4096, 8192, 0, 0]));
    write.head[..4].copy_from_slice(&(80 + 8192_u32).to_le_bytes());
    write.length = 80 + 8192;
    write.body = payload.clone();
    kernel.say(write);
    let request_ = kernel.request();
    assert_eq!(
        (request_.op, request_.offset, request_.length),
        (Op::Write, 4096, 8192)
    );
    assert_eq!(request_.payload.parts()[0].as_ptr(), payload.as_ptr());
    expect(
        &kernel.complete(request_.tag, Ok(Done::Plain)),
        "18000000 00000000 1400000000000000 00200000 00000000",
    );
    // A read, with a hole; bit 63 says that it was sent before.
    let unique = 1 << 63 | 22;
    kernel.say(request(15, unique, 2, &numbers(&[0, 8192, 8192, 0, 0])));
    let request_ = kernel.request();
    assert_eq!(
        (request_.op, request_.offset, request_.length),
        (Op::Read, 8192, 8192)
    );
    let parts = [
        ReadPart::Data(vec![0xcd; 4096].into()),
        ReadPart::Zeroes(4096),
    ];
    let sent = kernel.complete(request_.tag, Ok(Done::Read(parts.into_iter().collect())));
    let expected = format!(
        "10200000 00000000 1600000000000080 {}{}",
        "cd".repeat(4096),
        "00".repeat(4096)
    );
    expect(&sent, &expected);
    assert_eq!(kernel.session.resent(), 1);
    // FSYNC, which fails.
    kernel.say(request(20, 24, 2, &[0; 16]));
    let request_ = kernel.request();
    assert_eq!((request_.op, request_.payload), (Op::Flush, Payload::new()));
    let sent = kernel.complete(request_.tag, Err(IoError::Io));
    expect(&sent, "10000000 fbffffff 1800000000000000");
    // FALLOCATE: punch, zero; and what is neither.
    let fallocate =
        |mode: u64, offset, length| request(43, 26, 2, &numbers(&[0, offset, length, mode]));
    kernel.say(fallocate(3, 4096, 1 << 29));
    assert_eq!(kernel.request().op, Op::Trim);
    for mode in [0x10, 0x11] {
        kernel.say(fallocate(mode, 0, 4096));
        let request_ = kernel.request();
        assert!(request_.op == Op::WriteZeroes && request_.flags.no_hole);
    }
    for mode in [0, 1, 2, 8, 0x20, 0x40] {
        kernel.say(fallocate(mode, 0, 4096));
        assert_eq!(kernel.errno(), libc::EOPNOTSUPP);
    }
    kernel.say(fallocate(3, 512, 4096));
    assert_eq!(kernel.errno(), libc::EINVAL);
    kernel.say(fallocate(3, 0, 1 << 40));
    assert_eq!(kernel.errno(), libc::ENOSPC);
}

#[test]
fn reads_at_the_end_are_short_and_writes_refused() {
    let mut kernel = Kernel::serving();
    kernel.say(request(15, 2, 2, &numbers(&[0, SIZE - 4096, 65536, 0, 0])));
    assert_eq!(kernel.request().length, 4096);
    kernel.say(request(15, 2, 2, &numbers(&[0, SIZE, 4096, 0, 0])));
    assert_eq!(kernel.sent().len(), 2 * 16);
    kernel.say(request(15, 2, 2, &numbers(&[0, 1, 4096, 0, 0])));
    assert_eq!(kernel.errno(), libc::EINVAL);
    let write = |offset| {
        request(
            16,
            2,
            2,
            &[numbers(&[0, offset, 4096, 0, 0]), vec![0; 4096]].concat(),
        )
    };
    kernel.say(write(SIZE));
    assert_eq!(kernel.errno(), libc::ENOSPC);
    kernel.say(write(u64::MAX - 4095));
    assert_eq!(kernel.errno(), libc::ENOSPC);
    kernel.say(request(
        16,
        2,
        2,
        &[numbers(&[0, 0, 8192, 0, 0]), vec![0; 4096]].concat(),
    ));
    assert_eq!(
        kernel.errno(),
        libc::EINVAL,
        "a payload that is shorter than it says"
    );
    kernel.session.grown(SIZE + 4096);
    kernel.say(write(SIZE));
    assert_eq!(kernel.request().op, Op::Write);
}

#[test]
fn a_resumed_session_asks_for_everything_again() {
    let mut out = Vec::new();
    let agreed = Negotiated {
        minor: 41,
        flags: 1 << 39,
    };
    let session = Session::resumed(volume(), Limits::default(), agreed, &mut out);
    let mut kernel = Kernel { session, out };
    expect(&kernel.sent(), "10000000 07000000 0000000000000000");
    kernel.say(request(20, 1 << 63 | 9, 2, &[0; 16]));
    assert_eq!(kernel.request().op, Op::Flush);
}

#[test]
fn requests_in_flight_are_bounded() {
    let limits = Limits {
        max_in_flight: 2,
        ..Limits::default()
    };
    let mut kernel = Kernel {
        session: Session::new(volume(), limits),
        ..Kernel::serving()
    };
    let init = unhex("07000000 2d000000 00000200 fbffff7f");
    kernel.say(request(26, 2, 0, &init));
    kernel.out.clear();
    kernel.say(request(20, 4, 2, &[0; 16]));
    let first = kernel.request();
    assert!(kernel.session.wants_more());
    kernel.say(request(20, 6, 2, &[0; 16]));
    assert!(!kernel.session.wants_more());
    kernel.complete_any(first.tag);
    assert!(kernel.session.wants_more());
}

impl Kernel {
    fn complete_any(&mut self, tag: u64) {
        self.session.complete(tag, Ok(Done::Plain), &mut self.out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn anything_is_survived(
        opcode in 0u32..60, node in 0u64..4, ready: bool,
        arguments in proptest::collection::vec(any::<u8>(), 0..200),
        lie in prop_oneof![9 => Just(0u32), 1 => any::<u32>()],
    ) {
        let mut kernel = if ready { Kernel::serving() } else { Kernel::new() };
        let mut message = request(opcode, 8, node, &arguments);
        let said = u32::from_le_bytes(message.head[..4].try_into().expect("four bytes"));
        message.head[..4].copy_from_slice(&(said ^ lie).to_le_bytes());
        kernel.say(message);
        for out in kernel.out {
            match out {
                Out::Request(request) => {
                    let end = request.offset + u64::from(request.length);
                    prop_assert!(end <= SIZE && request.length % 4096 == 0);
                }
                Out::Close(CloseReason::Malformed { .. }) => prop_assert!(lie != 0),
                _ => {}
            }
        }
    }

    #[test]
    fn noise_is_survived(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut kernel = Kernel::serving();
        kernel.say(message(&raw));
        prop_assert!(!kernel.out.is_empty());
    }

    #[test]
    fn a_session_survives_what_looks_like_requests(
        how: u8,
        messages in proptest::collection::vec(
            (prop_oneof![10 => 0u32..50, 1 => any::<u32>()], 0u64..4, 0u64..260, 0u64..20, any::<bool>()),
            0..8,
        ),
    ) {
        let mut raw = vec![how];
        for (opcode, node, at, pages, lies) in messages {
            let (offset, length) = (at * 4096, pages * 4096);
            let mut arguments = numbers(&[0, offset, length, 0x10, 0]);
            if opcode == 16 {
                arguments.resize(40 + (length as usize).min(8000), 1);
            }
            let message = request(opcode, 8, node, &arguments);
            let whole = [&message.head[..], &message.body].concat();
            let whole = &whole[..message.length];
            raw.extend([whole.len() as u8, (whole.len() >> 8) as u8 | u8::from(lies) << 7]);
            raw.extend(whole);
        }
        fuse_session::check(&raw);
    }

    #[test]
    fn a_session_survives_noise(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuse_session::check(&noise);
    }
}
