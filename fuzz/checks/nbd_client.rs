//! Any bytes at all, as an NBD server may send them: whatever a client makes of them answers a request
//! that it has, once, with as many bytes as it asked for; and after an error nothing. Compiled into the
//! fuzz target of this name and into a property test of `engine/frontend/nbd`.

use bytes::Bytes;
use lockstep_nbd::client::{Connection, Content, Event, Options};
use lockstep_nbd::{Flags, Op, Payload};
use std::collections::BTreeMap;

/// Asked for at once when the handshake is over, so that replies of every kind have a request.
const REQUESTS: [(Op, u64, u32); 4] = [
    (Op::Read, 0, 64 << 10),
    (Op::Read, 4096, 4096),
    (Op::BlockStatus, 0, 1 << 20),
    (Op::Flush, 0, 0),
];

/// Checks `data`: the bits of its first byte say whether the handshake is over, what the client asks
/// for in it, and how the rest is cut.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let options = Options {
        structured: first & 2 != 0,
        allocation: first & 4 != 0,
        ..Options::new("v")
    };
    let mut client = Client {
        connection: Connection::new(options.clone()),
        asked: BTreeMap::new(),
    };
    if first & 1 == 1 && !client.take(&handshake(&options)) {
        panic!("a good handshake is refused");
    }
    for chunk in rest.chunks(usize::from(first >> 3) + 1) {
        if !client.take(chunk) {
            return;
        }
    }
}

/// What a server says that agrees to everything.
pub fn handshake(options: &Options) -> Vec<u8> {
    let mut raw = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let wanted = [
        (8u32, options.structured),
        (10, options.structured && options.allocation),
        (7, true),
    ];
    for (option, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
        raw.extend(0x0003_e889_0455_65a9u64.to_be_bytes());
        raw.extend(option.to_be_bytes());
        raw.extend((1u64 << 32).to_be_bytes());
    }
    raw
}

struct Client {
    connection: Connection,
    /// Requests without an answer, by cookie: bytes of a read.
    asked: BTreeMap<u64, Option<u32>>,
}

impl Client {
    /// Whether the connection is still good.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut events = Vec::new();
        let taken = self
            .connection
            .receive(Bytes::copy_from_slice(bytes), &mut events);
        for event in events {
            match event {
                Event::Send(parts) => assert!(!parts.is_empty()),
                Event::Ready(_) => self.ask(),
                Event::Reply(reply) => {
                    let asked = self.asked.remove(&reply.cookie);
                    let asked = asked.expect("a request is answered once");
                    if let Ok(Content::Data(data)) = reply.result {
                        assert_eq!(asked, Some(data.len() as u32), "as many as asked for");
                    }
                }
            }
        }
        if taken.is_ok() {
            assert_eq!(self.connection.outstanding(), self.asked.len());
            return true;
        }
        let mut more = Vec::new();
        let again = self.connection.receive(Bytes::from_static(b"x"), &mut more);
        assert!(again.is_err() && more.is_empty(), "an error is the end");
        false
    }

    fn ask(&mut self) {
        for (op, offset, length) in REQUESTS {
            let flags = Flags::default();
            let (cookie, _) = self
                .connection
                .submit(op, offset, length, flags, Payload::new());
            self.asked
                .insert(cookie, (op == Op::Read).then_some(length));
        }
    }
}
