//! The frozen bytes of whole conversations. A difference here is a difference on the wire.

use bytes::Bytes;
use lockstep_nbd::client::{Connection, Event, Options};
use lockstep_nbd::{
    Done, ExportError, ExportInfo, Flags, IoError, Limits, Listed, Op, Out, Payload, ReadPart, Run,
    Session,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex")
    };
    digits.chunks_exact(2).map(pair).collect()
}

fn export() -> ExportInfo {
    ExportInfo {
        size: 1 << 30,
        read_only: false,
        preferred_block: 1 << 18,
        multi_conn: true,
        fast_zero: false,
        description: "d".to_owned(),
    }
}

/// A server that knows the export "v" and prints what it sends.
struct Server {
    session: Session,
    closed: Option<String>,
    requests: Vec<lockstep_nbd::Request>,
}

impl Server {
    fn new() -> (Self, String) {
        let mut server = Self {
            session: Session::new(Limits::default()),
            closed: None,
            requests: Vec::new(),
        };
        let mut out = Vec::new();
        server.session.start(&mut out);
        let greeting = server.run(out);
        (server, greeting)
    }

    fn receive(&mut self, text: &str) -> String {
        let mut out = Vec::new();
        self.session.receive(unhex(text), &mut out);
        self.run(out)
    }

    fn complete(&mut self, answer: lockstep_nbd::Answer) -> String {
        let mut out = Vec::new();
        let request = self.requests.remove(0);
        self.session.complete(request.tag, answer, &mut out);
        self.run(out)
    }

    fn run(&mut self, out: Vec<Out>) -> String {
        let mut sent = String::new();
        for next in out {
            let mut more = Vec::new();
            match next {
                Out::WantExport { name, .. } => {
                    let answer = if name == "v" {
                        Ok(export())
                    } else {
                        Err(ExportError::Unknown { name })
                    };
                    self.session.export(answer, &mut more);
                }
                Out::WantList => {
                    let one = Listed {
                        name: "v".to_owned(),
                        description: "d".to_owned(),
                    };
                    self.session.list(&[one], &mut more);
                }
                Out::Request(request) => self.requests.push(request),
                Out::Close(reason) => self.closed = Some(reason.to_string()),
                Out::StartTls => panic!("there is no TLS"),
                send => sent += &hex(&send.into_sent().expect("nothing else is left")),
            }
            sent += &self.run(more);
        }
        sent
    }
}

const GREETING: &str = "4e42444d41474943 49484156454f5054 0003";
const FLAGS: &str = "00000003";
const MAGIC: &str = "49484156454f5054";
const REPLY: &str = "0003e889045565a9";

/// The reply of the server to one option after the flags.
fn option(text: &str) -> String {
    let (mut server, _) = Server::new();
    assert_eq!(server.receive(FLAGS), "");
    server.receive(&format!("{MAGIC}{text}"))
}

fn expect(found: &str, expected: &str) {
    assert_eq!(found, hex(&unhex(expected)));
}

#[test]
fn greeting() {
    expect(&Server::new().1, GREETING);
}

#[test]
fn go() {
    // "v", asking for NAME, DESCRIPTION, BLOCK_SIZE.
    let found = option("00000007 0000000d 00000001 76 0003 0001 0002 0003");
    expect(
        &found,
        &format!(
            "{REPLY} 00000007 00000003 0000000c 0000 0000000040000000 016d
         {REPLY} 00000007 00000003 00000003 0001 76
         {REPLY} 00000007 00000003 00000003 0002 64
         {REPLY} 00000007 00000003 0000000e 0003 00001000 00040000 02000000
         {REPLY} 00000007 00000001 00000000"
        ),
    );
}

#[test]
fn info_leaves_the_handshake_going() {
    let (mut server, _) = Server::new();
    server.receive(FLAGS);
    let found = server.receive(&format!("{MAGIC} 00000006 00000007 00000001 76 0000"));
    expect(
        &found,
        &format!(
            "{REPLY} 00000006 00000003 0000000c 0000 0000000040000000 016d
         {REPLY} 00000006 00000003 0000000e 0003 00001000 00040000 02000000
         {REPLY} 00000006 00000001 00000000"
        ),
    );
    // ABORT is acknowledged, and ends it.
    let found = server.receive(&format!("{MAGIC} 00000002 00000000"));
    expect(&found, &format!("{REPLY} 00000002 00000001 00000000"));
    assert_eq!(
        server.closed.as_deref(),
        Some("the client aborted the handshake")
    );
}

#[test]
fn export_name_with_and_without_zeroes() {
    let found = option("00000001 00000001 76");
    expect(&found, "0000000040000000 016d");
    let (mut server, _) = Server::new();
    let found = server.receive(&format!("00000001 {MAGIC} 00000001 00000001 76"));
    expect(
        &found,
        &format!("0000000040000000 016d {}", "00".repeat(124)),
    );
}

#[test]
fn list() {
    expect(
        &option("00000003 00000000"),
        &format!(
            "{REPLY} 00000003 00000002 00000006 00000001 76 64
         {REPLY} 00000003 00000001 00000000"
        ),
    );
}

#[test]
fn refusals() {
    let text = |kind: &str, option: &str, message: &str| {
        format!(
            "{REPLY} {option} {kind} {:08x} {}",
            message.len(),
            hex(message.as_bytes())
        )
    };
    // STARTTLS, an unknown option, a GO for an unknown export, a malformed GO.
    let no_tls = text(
        "80000001",
        "00000005",
        "this socket is local and has no TLS",
    );
    expect(&option("00000005 00000000"), &no_tls);
    let unknown = text(
        "80000001",
        "0000000b",
        "this server does not know the option",
    );
    expect(&option("0000000b 00000000"), &unknown);
    let message = "no volume 'w' is attached to this node: `lockstep volume list` shows what is";
    let found = option("00000007 00000007 00000001 77 0000");
    expect(&found, &text("80000006", "00000007", message));
    let malformed = text("80000003", "00000007", "malformed name or requests");
    expect(&option("00000007 00000007 00000009 77 0000"), &malformed);
    let contexts = text(
        "80000003",
        "0000000a",
        "metadata contexts need STRUCTURED_REPLY first",
    );
    expect(&option("0000000a 00000009 00000001 76 00000000"), &contexts);
}

/// Structured replies and base:allocation agreed, "v" open.
fn open_structured() -> Server {
    let (mut server, _) = Server::new();
    server.receive(FLAGS);
    let found = server.receive(&format!("{MAGIC} 00000008 00000000"));
    expect(&found, &format!("{REPLY} 00000008 00000001 00000000"));
    let query = "0000000f 626173653a616c6c6f636174696f6e";
    let found = server.receive(&format!("{MAGIC} 00000009 00000009 00000001 76 00000000"));
    expect(
        &found,
        &format!(
            "{REPLY} 00000009 00000004 00000013 00000000 626173653a616c6c6f636174696f6e
         {REPLY} 00000009 00000001 00000000"
        ),
    );
    let found = server.receive(&format!(
        "{MAGIC} 0000000a 0000001c 00000001 76 00000001 {query}"
    ));
    expect(
        &found,
        &format!(
            "{REPLY} 0000000a 00000004 00000013 00000001 626173653a616c6c6f636174696f6e
         {REPLY} 0000000a 00000001 00000000"
        ),
    );
    let found = server.receive(&format!("{MAGIC} 00000007 00000007 00000001 76 0000"));
    assert!(
        found.contains(&hex(&unhex("0000 0000000040000000 01ed"))),
        "DF is offered now"
    );
    server
}

#[test]
fn simple_replies() {
    let (mut server, _) = Server::new();
    server.receive(FLAGS);
    server.receive(&format!("{MAGIC} 00000001 00000001 76"));
    let write = format!(
        "25609513 0001 0001 0000000000000011 0000000000001000 00001000 {}",
        "ab".repeat(4096)
    );
    assert_eq!(server.receive(&write), "");
    let request = &server.requests[0];
    assert_eq!(
        (request.op, request.offset, request.length),
        (Op::Write, 4096, 4096)
    );
    assert!(request.flags.fua && request.payload == Payload::from(Bytes::from(vec![0xab; 4096])));
    expect(
        &server.complete(Ok(Done::Plain)),
        "67446698 00000000 0000000000000011",
    );
    server.receive("25609513 0000 0000 0000000000000012 0000000000000000 00001000");
    let data = ReadPart::Data(Bytes::from(vec![0xcd; 4096]));
    let found = server.complete(Ok(Done::Read([data].into_iter().collect())));
    expect(
        &found,
        &format!("67446698 00000000 0000000000000012 {}", "cd".repeat(4096)),
    );
    server.receive("25609513 0000 0003 0000000000000013 0000000000000000 00000000");
    expect(
        &server.complete(Err(IoError::Io)),
        "67446698 00000005 0000000000000013",
    );
    assert_eq!(
        server.receive("25609513 0000 0002 0000000000000014 0000000000000000 00000000"),
        ""
    );
    assert_eq!(server.closed.as_deref(), Some("the client disconnected"));
}

#[test]
fn structured_replies() {
    let mut server = open_structured();
    // A read of data, hole, data; the same with DF; then one that fails.
    let parts = || {
        let data = |byte| ReadPart::Data(Bytes::from(vec![byte; 4096]));
        Done::Read(
            [data(1), data(2), ReadPart::Zeroes(4096), data(3)]
                .into_iter()
                .collect(),
        )
    };
    server.receive("25609513 0000 0000 00000000000000aa 0000000000010000 00004000");
    let (one, two, three) = ("01".repeat(4096), "02".repeat(4096), "03".repeat(4096));
    expect(
        &server.complete(Ok(parts())),
        &format!(
            "668e33ef 0000 0001 00000000000000aa 00002008 0000000000010000 {one}{two}
         668e33ef 0000 0002 00000000000000aa 0000000c 0000000000012000 00001000
         668e33ef 0001 0001 00000000000000aa 00001008 0000000000013000 {three}"
        ),
    );
    server.receive("25609513 0004 0000 00000000000000ab 0000000000010000 00004000");
    let zero = "00".repeat(4096);
    expect(
        &server.complete(Ok(parts())),
        &format!(
            "668e33ef 0001 0001 00000000000000ab 00004008 0000000000010000 {one}{two}{zero}{three}"
        ),
    );
    server.receive("25609513 0000 0000 00000000000000ac 0000000000010000 00001000");
    let message = "input/output error: `lockstep volume explain` says why";
    expect(
        &server.complete(Err(IoError::Io)),
        &format!(
            "668e33ef 0001 8001 00000000000000ac {:08x} 00000005 {:04x} {}",
            6 + message.len(),
            message.len(),
            hex(message.as_bytes())
        ),
    );
    // A status: two runs, and with REQ_ONE the first of them.
    let runs = || {
        let run = |length, allocated| Run { length, allocated };
        Done::Status(
            [run(4096, true), run(4096, true), run(8192, false)]
                .into_iter()
                .collect(),
        )
    };
    server.receive("25609513 0000 0007 00000000000000ad 0000000000000000 00004000");
    expect(
        &server.complete(Ok(runs())),
        "668e33ef 0001 0005 00000000000000ad 00000014 00000001 00002000 00000000 00002000 00000003",
    );
    server.receive("25609513 0008 0007 00000000000000ae 0000000000000000 00004000");
    expect(
        &server.complete(Ok(runs())),
        "668e33ef 0001 0005 00000000000000ae 0000000c 00000001 00002000 00000000",
    );
}

#[test]
fn client() {
    let mut client = Connection::new(Options::new("v"));
    let mut say = |text: &str| {
        let mut events = Vec::new();
        client
            .receive(unhex(text), &mut events)
            .expect("a good server");
        let sent = events.into_iter().filter_map(|event| match event {
            Event::Send(parts) => Some(hex(&parts.concat())),
            _ => None,
        });
        sent.collect::<String>()
    };
    expect(
        &say(GREETING),
        &format!("{FLAGS} {MAGIC} 00000008 00000000"),
    );
    expect(
        &say(&format!("{REPLY} 00000008 00000001 00000000")),
        &format!(
            "{MAGIC} 0000000a 0000001c 00000001 76 00000001 0000000f 626173653a616c6c6f636174696f6e"
        ),
    );
    expect(
        &say(&format!("{REPLY} 0000000a 00000001 00000000")),
        &format!("{MAGIC} 00000007 00000009 00000001 76 0001 0003"),
    );
    assert_eq!(
        say(&format!(
            "{REPLY} 00000007 00000003 0000000c 0000 0000000040000000 01ed
         {REPLY} 00000007 00000001 00000000"
        )),
        ""
    );
    let flags = Flags {
        fua: true,
        no_hole: true,
        ..Flags::default()
    };
    let (_, parts) = client.submit(Op::WriteZeroes, 4096, 8192, flags, Payload::new());
    expect(
        &hex(&parts.concat()),
        "25609513 0003 0006 0000000000000001 0000000000001000 00002000",
    );
}
