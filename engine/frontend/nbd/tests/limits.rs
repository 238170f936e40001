//! Bad and greedy clients: every bound holds, and every end has a reason a person can read.

use bytes::{BufMut, Bytes, BytesMut};
use lockstep_nbd::{
    CloseReason, Done, ExportInfo, IoError, Limits, Op, Out, ReadPart, Request, Session, Tls,
};

const SIZE: u64 = 1 << 40;

struct Server {
    session: Session,
    requests: Vec<Request>,
    sent: BytesMut,
    closed: Option<CloseReason>,
    tls: bool,
    /// Whether what is to be sent is reported sent at once.
    drains: bool,
    unsent: usize,
}

impl Server {
    fn new(limits: Limits) -> Self {
        let mut server = Self {
            session: Session::new(limits),
            requests: Vec::new(),
            sent: BytesMut::new(),
            closed: None,
            tls: false,
            drains: true,
            unsent: 0,
        };
        let mut out = Vec::new();
        server.session.start(&mut out);
        server.run(out);
        server.sent.clear();
        server
    }

    /// Past the handshake, with simple replies.
    fn open(limits: Limits) -> Self {
        let mut server = Self::new(limits);
        server.receive(option(1, b"v"), Some(3));
        server.sent.clear();
        server
    }

    fn receive(&mut self, bytes: impl Into<Bytes>, flags: Option<u32>) {
        let mut out = Vec::new();
        if let Some(flags) = flags {
            self.session
                .receive(flags.to_be_bytes().to_vec().into(), &mut out);
        }
        self.session.receive(bytes.into(), &mut out);
        self.run(out);
    }

    fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32) {
        self.receive(request(flags, command, offset, length), None);
    }

    fn complete(&mut self, index: usize, answer: lockstep_nbd::Answer) {
        let mut out = Vec::new();
        let tag = self.requests.remove(index).tag;
        self.session.complete(tag, answer, &mut out);
        self.run(out);
    }

    fn run(&mut self, out: Vec<Out>) {
        for next in out {
            let mut more = Vec::new();
            assert_eq!(self.closed, None, "nothing follows the close");
            match next {
                Out::Request(request) => self.requests.push(request),
                Out::Close(reason) => self.closed = Some(reason),
                Out::StartTls => self.tls = true,
                Out::WantList => self.session.list(&[], &mut more),
                Out::WantExport { .. } => self.session.export(Ok(export()), &mut more),
                send => {
                    let bytes = send.into_sent().expect("nothing else is left");
                    self.unsent += bytes.len();
                    if self.drains {
                        self.session
                            .sent(std::mem::take(&mut self.unsent), &mut more);
                    }
                    self.sent.extend_from_slice(&bytes);
                }
            }
            self.run(more);
        }
    }

    /// The error of the one simple reply sent.
    fn error(&mut self) -> Option<IoError> {
        let sent = self.sent.split();
        assert_eq!(sent.len(), 16, "one simple reply");
        let errno = u32::from_be_bytes(sent[4..8].try_into().expect("four bytes"));
        (errno != 0).then(|| IoError::from_errno(errno))
    }
}

fn export() -> ExportInfo {
    ExportInfo {
        size: SIZE,
        read_only: false,
        preferred_block: 4096,
        multi_conn: false,
        fast_zero: false,
        description: String::new(),
    }
}

fn option(option: u32, data: &[u8]) -> BytesMut {
    let mut raw = BytesMut::from(&b"IHAVEOPT"[..]);
    raw.put_u32(option);
    raw.put_u32(data.len() as u32);
    raw.put_slice(data);
    raw
}

fn request(flags: u16, command: u16, offset: u64, length: u32) -> BytesMut {
    let mut raw = BytesMut::new();
    raw.put_u32(0x2560_9513);
    raw.put_u16(flags);
    raw.put_u16(command);
    raw.put_u64(77);
    raw.put_u64(offset);
    raw.put_u32(length);
    raw
}

#[test]
fn misshapen_requests_are_refused_and_the_connection_goes_on() {
    let mut server = Server::open(Limits::default());
    let (read, flush, trim, cache, zeroes, status) = (0, 3, 4, 5, 6, 7);
    for (flags, command, offset, length, expected) in [
        (0, read, 512, 4096, IoError::Invalid),
        (0, read, 0, 4097, IoError::Invalid),
        (0, read, 0, 0, IoError::Invalid),
        (0, read, SIZE, 4096, IoError::Invalid),
        (0, read, u64::MAX - 4095, 4096, IoError::Invalid),
        (0, read, 0, (32 << 20) + 4096, IoError::Invalid),
        (0, read, 0, u32::MAX, IoError::Invalid),
        (4, read, 0, 4096, IoError::Invalid),
        (0, flush, 4096, 0, IoError::Invalid),
        (0, trim, SIZE - 4096, 8192, IoError::Invalid),
        (0, zeroes, SIZE - 4096, 8192, IoError::NoSpace),
        (16, zeroes, 0, 4096, IoError::Unsupported),
        (32, trim, 0, 4096, IoError::Invalid),
        (0, cache, 0, 4096, IoError::Invalid),
        (0, status, 0, 4096, IoError::Invalid),
        (0, 999, 0, 4096, IoError::Invalid),
    ] {
        server.request(flags, command, offset, length);
        let error = server.error();
        assert_eq!(error, Some(expected), "{flags} {command} {offset} {length}");
    }
    server.request(0, read, SIZE - 4096, 4096);
    assert_eq!((server.requests.len(), server.closed), (1, None));
}

#[test]
fn the_payload_of_a_refused_write_is_skipped() {
    let mut server = Server::open(Limits::default());
    let write = 1;
    for (offset, length, expected) in [
        (SIZE, 4096, IoError::NoSpace),
        (4097, 4096, IoError::Invalid),
        (0, (32 << 20) + 4096, IoError::Invalid),
    ] {
        server.request(0, write, offset, length);
        let mut left = length as usize;
        while left > 0 {
            let take = left.min(1 << 20);
            assert!(server.sent.is_empty() && server.session.wants_more());
            server.receive(vec![0; take], None);
            assert_eq!(server.session.buffered(), 0, "nothing of it is kept");
            left -= take;
        }
        assert_eq!(server.error(), Some(expected));
    }
    server.request(0, 3, 0, 0);
    assert_eq!(server.requests.len(), 1);
}

#[test]
fn four_gibibytes_are_refused_at_once() {
    let mut server = Server::open(Limits::default());
    server.request(0, 1, 0, u32::MAX - 4095);
    let reason = CloseReason::WriteTooLong {
        length: u32::MAX - 4095,
        max: 32 << 20,
    };
    assert_eq!(server.closed, Some(reason));
    assert!(!server.session.wants_more());
    let mut server = Server::open(Limits::default());
    server.request(0, 4, 0, u32::MAX - 4095);
    assert_eq!(
        server.requests[0].length,
        u32::MAX - 4095,
        "a trim of that size is fine"
    );
}

#[test]
fn a_payload_is_handed_up_without_a_copy() {
    let mut server = Server::open(Limits::default());
    server.request(0, 1, 8192, 65536);
    assert_eq!(server.session.payload_missing(), 65536);
    let buffers = [Bytes::from(vec![1; 40000]), Bytes::from(vec![2; 25536])];
    let addresses: Vec<_> = buffers.iter().map(|buffer| buffer.as_ptr()).collect();
    for buffer in buffers {
        server.receive(buffer, None);
    }
    let payload = &server.requests[0].payload;
    assert_eq!(payload.len(), 65536);
    let found: Vec<_> = payload.parts().iter().map(|part| part.as_ptr()).collect();
    assert_eq!(found, addresses);
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut server = Server::open(Limits {
        max_in_flight: 4,
        ..Limits::default()
    });
    let mut many = BytesMut::new();
    (0..10).for_each(|_| many.unsplit(request(0, 0, 0, 4096)));
    server.receive(many, None);
    assert_eq!(
        (server.requests.len(), server.session.wants_more()),
        (4, false)
    );
    for done in 1..=10 {
        let data = ReadPart::Data(Bytes::from(vec![0; 4096]));
        server.complete(0, Ok(Done::Read([data].into_iter().collect())));
        assert_eq!(server.session.in_flight(), (10 - done).min(4));
    }
    assert!(server.session.wants_more());
}

#[test]
fn a_client_that_never_reads_is_not_served_for_ever() {
    let limits = Limits {
        max_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut server = Server::open(limits);
    server.drains = false;
    for _ in 0..1000 {
        server.request(0, 0, 0, 512 << 10);
        while !server.requests.is_empty() {
            server.complete(
                0,
                Ok(Done::Read(
                    [ReadPart::Zeroes(512 << 10)].into_iter().collect(),
                )),
            );
        }
    }
    assert!(server.unsent < 2 << 20 && !server.session.wants_more());
    assert!(server.session.buffered() > 900 * 28, "the rest waits");
    let mut out = Vec::new();
    server.session.sent(server.unsent, &mut out);
    assert!(
        matches!(out[0], Out::Request(_)),
        "and goes on when the client reads"
    );
    // The same with requests that are refused.
    let mut server = Server::open(limits);
    server.drains = false;
    (0..100_000).for_each(|_| server.request(0, 0, 1, 1));
    assert!(server.unsent <= (1 << 20) + 16);
}

#[test]
fn goodbye_waits_for_the_answers() {
    let mut server = Server::open(Limits::default());
    server.request(0, 3, 0, 0);
    server.request(0, 2, 0, 0);
    assert!(server.closed.is_none() && !server.session.wants_more());
    server.complete(0, Ok(Done::Plain));
    assert_eq!(server.error(), None);
    assert_eq!(server.closed, Some(CloseReason::ClientDisconnected));
}

#[test]
fn shutdown_answers_what_is_in_flight_and_nothing_new() {
    let mut server = Server::open(Limits::default());
    server.request(0, 3, 0, 0);
    let mut out = Vec::new();
    server.session.shutdown(&mut out);
    assert!(out.is_empty());
    server.request(0, 3, 0, 0);
    assert_eq!(server.error(), Some(IoError::Shutdown));
    server.complete(0, Ok(Done::Plain));
    assert_eq!(server.error(), None);
    assert_eq!(server.closed, Some(CloseReason::Shutdown));
}

#[test]
fn an_answer_after_the_end_is_dropped() {
    let mut server = Server::open(Limits::default());
    server.request(0, 3, 0, 0);
    server.receive(vec![0; 28], None);
    assert_eq!(
        server.closed,
        Some(CloseReason::BadRequestMagic { magic: 0 })
    );
    server.complete(0, Ok(Done::Plain));
    assert!(server.sent.is_empty() && server.session.in_flight() == 0);
}

#[test]
fn garbage_handshakes_are_named() {
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], "not an NBD client"),
        (
            b"\0\0\0\x03SSH-2.0-OpenSSH_9.2",
            "garbage in the handshake: 0x5353482d322e302d",
        ),
        (
            b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
            "option 7 with 4294967295 bytes",
        ),
        (b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x01\xff", "not UTF-8"),
        (
            b"\0\0\0\0IHAVEOPT\0\0\0\x03\0\0\0\0",
            "does not speak fixed newstyle",
        ),
    ] {
        let mut server = Server::new(Limits::default());
        server.receive(bytes, None);
        let reason = server.closed.expect("it ends").to_string();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn an_option_that_is_too_long_is_skipped() {
    let mut server = Server::new(Limits::default());
    server.receive(option(3, &vec![0; 100_000]), Some(3));
    assert_eq!(server.sent[12..16], 0x8000_0009_u32.to_be_bytes());
    server.sent.clear();
    server.receive(option(3, b""), None);
    assert_eq!(
        server.sent[12..16],
        1_u32.to_be_bytes(),
        "the next one is heard"
    );
}

#[test]
fn tls_comes_first_where_it_is_required() {
    let limits = Limits {
        tls: Tls::Required,
        ..Limits::default()
    };
    let mut server = Server::new(limits);
    server.receive(option(3, b""), Some(3));
    assert_eq!(server.sent[12..16], 0x8000_0005_u32.to_be_bytes());
    server.sent.clear();
    server.receive(option(5, b""), None);
    assert!(server.tls && server.sent[12..16] == 1_u32.to_be_bytes());
    server.receive(option(1, b"v"), None);
    server.request(0, 3, 0, 0);
    assert_eq!(server.requests.len(), 1);

    let mut server = Server::new(limits);
    server.receive(option(1, b"v"), Some(3));
    assert_eq!(server.closed, Some(CloseReason::TlsRequired));

    let mut server = Server::new(limits);
    let mut injected = option(5, b"");
    injected.unsplit(option(1, b"v"));
    server.receive(injected, Some(3));
    assert!(matches!(
        server.closed,
        Some(CloseReason::BytesBeforeTls { .. })
    ));
}

#[test]
fn a_volume_that_grew_takes_requests_there() {
    let mut server = Server::open(Limits::default());
    server.request(0, 0, SIZE, 4096);
    assert_eq!(server.error(), Some(IoError::Invalid));
    server.session.grown(SIZE + 4096);
    server.request(0, 0, SIZE, 4096);
    assert_eq!(server.requests[0].op, Op::Read);
}
