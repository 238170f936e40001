//! Whoever may not speak here, or says nonsense: certificates of other clusters and other times,
//! frames that are none, NBD clients that send garbage. Each is refused in words, and the volume
//! under load never notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::fleet::PATIENCE;
use e2e::{Fleet, Setup, wait_for};
use lockstep_drive::{Load, Plan};
use lockstep_frontend::{Flags, Op, Payload};
use lockstep_nbd::client::{Blocking, ClientError, Options};
use lockstep_net::ca::{ClusterCa, Validity};
use lockstep_net::identity::{PeerIdentity, Role};
use lockstep_net::tls::client_config;
use lockstep_net::verify::dialled_name;
use lockstep_net::{Certificates, wrap};
use lockstep_types::{BLOCK, ClusterId, Epoch, Incarnation, NodeId, ReplicaId, VolumeId};
use lockstep_wire::{Hello, Message, ReplicaRequest, ReplyBody, RequestBody, VERSION};

const PG: &str = "pg";
const BYTES: u64 = 16 << 20;
const ALPN: &[u8] = b"lockstep-data/1";
const DAY: u64 = 86_400;

/// A volume in both sites under load, attached on a1.
fn under_load() -> (Fleet, Load, VolumeId) {
    let fleet = Fleet::stand(Setup::default());
    let size = BYTES.to_string();
    let made = fleet.json(
        "a1",
        &["volume", "create", PG, "--size", &size, "--copies", "*=1"],
    );
    let id: VolumeId = made["id"].as_str().expect("an id").parse().expect("an id");
    fleet.sooner_or_later("a1", &["volume", "attach", PG, "--node", "a1"]);
    let plan = Plan::new(id, BYTES / BLOCK as u64 - 1, 2, 1);
    let load = Load::start(plan, &fleet.socket("a1", PG));
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    fleet.wait_until_healthy("a1", PG);
    (fleet, load, id)
}

fn ends_well(fleet: &mut Fleet, load: Load) {
    assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    for name in ["a1", "b1", "w1"] {
        assert!(!fleet.has_ended(name), "{name} ended: {}", fleet.logs());
    }
    fleet.wait_until_healthy("a1", PG);
    let seen = load.finish(&fleet.socket("a1", PG)).expect("it is read");
    assert_eq!((seen.wrong, seen.unknown), (0, 0), "{seen:?}");
}

/// A connection to a1's replication port as b1.
fn dial(fleet: &Fleet) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let certificates = Certificates::open(&fleet.home("b1").join("certs")).expect("b1's");
    let config = client_config(&certificates, &[ALPN]).expect("a configuration");
    let name = dialled_name(Role::DataNode, None);
    let connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let socket = TcpStream::connect(fleet.addresses("a1").0).expect("a1 listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    rustls::StreamOwned::new(connection, socket)
}

fn hello(fleet: &Fleet) -> Message {
    let certificates = Certificates::open(&fleet.home("b1").join("certs")).expect("b1's");
    let me = certificates.current().identity();
    Message::Hello(Hello {
        cluster: me.cluster,
        node: me.node,
        boot: 77,
        oldest: VERSION,
        newest: VERSION,
    })
}

fn bytes(message: &Message) -> Vec<u8> {
    lockstep_wire::encode(message).head.to_vec()
}

/// The next message of a1.
fn receive(stream: &mut impl Read) -> std::io::Result<Message> {
    let mut head = vec![0; lockstep_wire::HEADER];
    stream.read_exact(&mut head)?;
    let lengths = lockstep_wire::peek(&head).expect("a frame").expect("whole");
    let mut rest = vec![0; lengths.total() - head.len()];
    stream.read_exact(&mut rest)?;
    head.extend_from_slice(&rest[..lengths.body]);
    let payload = bytes::Bytes::copy_from_slice(&rest[lengths.body..]);
    Ok(lockstep_wire::decode(&head, payload).expect("a message"))
}

/// Reads until a1 closes the connection.
fn is_closed(stream: &mut impl Read) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn frames_that_are_none_close_the_link_and_nothing_else() {
    let (mut fleet, load, volume) = under_load();
    let good = bytes(&hello(&fleet));
    let changed = |at: usize, to: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + to.len()].copy_from_slice(to);
        frame
    };
    let checksum = u32::from_le_bytes(good[60..64].try_into().expect("four"));
    let after_hello = |frame: Vec<u8>| [good.clone(), frame].concat();
    let nonsense: Vec<u8> = (0..4096u32).map(|at| (at * 7 + 3) as u8).collect();
    for (what, sent) in [
        ("a wrong magic", changed(0, b"HTTP")),
        ("a wrong version", changed(4, &99u16.to_le_bytes())),
        (
            "a wrong checksum",
            changed(60, &(checksum ^ 1).to_le_bytes()),
        ),
        ("a wrong body length", changed(12, &u32::MAX.to_le_bytes())),
        (
            "a wrong payload length",
            changed(16, &0x7fff_f000u32.to_le_bytes()),
        ),
        (
            "another version's first frame",
            changed(4, &0u16.to_le_bytes()),
        ),
        ("nonsense", nonsense.clone()),
        ("nonsense after a hello", after_hello(nonsense)),
        (
            "a second hello of a wrong length",
            after_hello(changed(12, &3u32.to_le_bytes())),
        ),
    ] {
        let mut stream = dial(&fleet);
        stream.write_all(&sent).expect("sent");
        assert!(is_closed(&mut stream), "{what} was taken");
        assert!(
            load.wait_for_write(PATIENCE).is_some(),
            "after {what}: {}",
            fleet.logs()
        );
    }
    let said = fleet.said("a1");
    assert!(
        said.contains("replication frame"),
        "nothing was logged: {said}"
    );
    a_frame_of_an_old_epoch_is_refused(&fleet, volume);
    ends_well(&mut fleet, load);
}

/// R3, R4: what is not of the promised epoch, or of another life, changes nothing.
fn a_frame_of_an_old_epoch_is_refused(fleet: &Fleet, volume: VolumeId) {
    let shown = fleet.json("a1", &["volume", "show", PG]);
    let replicas = shown["replicas"].as_array().expect("a list").iter();
    let on_a1 = replicas.clone().find(|it| it["node"] == "a1").expect("one");
    let replica: ReplicaId = on_a1["id"].as_str().expect("an id").parse().expect("an id");
    let incarnation = Incarnation(on_a1["incarnation"].as_u64().expect("a number"));
    let mut header = lockstep_wire::Header {
        volume,
        replica,
        incarnation,
        epoch: Epoch::ZERO,
    };
    let ask = |header, body| {
        let mut stream = dial(fleet);
        stream.write_all(&bytes(&hello(fleet))).expect("sent");
        let request = Message::Request(ReplicaRequest { header, body });
        stream.write_all(&bytes(&request)).expect("sent");
        loop {
            match receive(&mut stream).expect("an answer") {
                Message::Reply(reply) if reply.header.replica == header.replica => {
                    return reply.body;
                }
                // a1 is this node's primary too, and speaks of other things.
                _ => {}
            }
        }
    };
    let answer = ask(header, RequestBody::Reserve { id: 1, extents: 1 });
    assert!(
        matches!(answer, ReplyBody::Refused { promised } if promised > Epoch::ZERO),
        "{answer:?}"
    );
    header.incarnation = Incarnation(incarnation.0 ^ 1);
    let answer = ask(header, RequestBody::Reserve { id: 2, extents: 1 });
    assert!(matches!(answer, ReplyBody::NoSuchLife { .. }), "{answer:?}");
}

#[test]
fn certificates_of_others_and_of_other_times_are_refused_in_words() {
    let (mut fleet, load, _) = under_load();
    let mine = Certificates::open(&fleet.home("a1").join("certs"))
        .expect("a1's")
        .current();
    let me = mine.identity();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let ca = own_ca(&fleet, me.cluster);
    let foreign_id = ClusterId::from_u128(77);
    let foreign = ClusterCa::create(
        foreign_id,
        Validity::starting(now, Duration::from_secs(DAY)),
    );
    let foreign = foreign.expect("a CA");
    let valid = Validity::starting(now, Duration::from_secs(DAY));
    let expired = Validity {
        not_before: now - 2 * DAY,
        not_after: now - DAY,
    };
    let unborn = Validity {
        not_before: now + DAY,
        not_after: now + 2 * DAY,
    };
    let node = |cluster| PeerIdentity {
        cluster,
        role: Role::DataNode,
        node: NodeId::from_u128(5),
    };
    let us = "refused this node's certificate";
    for (what, ca, identity, validity, expected) in [
        ("expired", &ca, node(me.cluster), expired, us),
        ("unborn", &ca, node(me.cluster), unborn, us),
        (
            "foreign",
            &foreign,
            node(foreign_id),
            valid,
            "another cluster",
        ),
    ] {
        let place = fleet.path().join(what);
        let issued = ca.issue(identity, validity).expect("issued");
        Certificates::install(&place, ca.pem(), &issued).expect("installed");
        let (control, certs) = (fleet.addresses("a1").1, place.to_str().expect("plain"));
        let before = fleet.metric("a1", "lockstep_connections_refused_total");
        let said = fleet.bad("a1", &["status", "--server", control, "--certs", certs]);
        assert!(said.contains(expected), "{what}: {said}");
        wait_for("a refusal that is counted", PATIENCE, || {
            (fleet.metric("a1", "lockstep_connections_refused_total") > before).then_some(())
        });
        assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    }
    for why in ["has expired", "is not valid yet"] {
        wait_for("an event of a refused certificate", PATIENCE, || {
            let told = fleet.good("a1", &["events"]);
            let mut told = told.lines();
            told.any(|line| line.contains("refused the certificate of") && line.contains(why))
                .then_some(())
        });
    }
    a_daemon_with_another_certificate_does_not_start(&mut fleet);
    ends_well(&mut fleet, load);
}

/// Nor does it touch anything.
fn a_daemon_with_another_certificate_does_not_start(fleet: &mut Fleet) {
    fleet.kill(&["w1".into()]);
    let (certs, kept) = (fleet.home("w1").join("certs"), fleet.path().join("kept"));
    std::fs::rename(&certs, &kept).expect("moved");
    for (what, from) in [
        ("foreign", fleet.path().join("foreign")),
        ("b1's", fleet.home("b1").join("certs")),
    ] {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&from, &certs])
            .status();
        assert!(copied.expect("cp runs").success());
        fleet.start("w1");
        let ended = fleet.wait_for_end("w1");
        assert!(!ended.success(), "{what}: {ended}");
        let said = fleet.said("w1");
        assert!(said.contains("certs/node.pem names"), "{what}: {said}");
        std::fs::remove_dir_all(&certs).expect("removed");
    }
    std::fs::rename(&kept, &certs).expect("moved");
    fleet.start("w1");
    fleet.wait_until_it_stands();
}

/// The cluster's own CA, opened as a data node opens it.
fn own_ca(fleet: &Fleet, cluster: ClusterId) -> ClusterCa {
    let home = fleet.home("a1");
    let read = |name: &str| std::fs::read(home.join(name)).expect("the founder has it");
    let key = wrap::unwrap(
        cluster,
        &read("founding-ca.key.wrapped"),
        &read("cluster-secret"),
    );
    let pem = String::from_utf8(read("founding-ca.pem")).expect("PEM");
    ClusterCa::from_parts(cluster, &pem, &key.expect("it opens")).expect("a CA")
}

#[test]
fn garbage_over_nbd_ends_that_connection_and_nothing_else() {
    let (mut fleet, load, _) = under_load();
    let socket = fleet.socket("a1", PG);
    let open = || {
        let stream = UnixStream::connect(&socket).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    // Before any agreement.
    for garbage in [&[0u8; 64][..], &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = open();
        // It may hang up before it has read all of it.
        let _ = stream.write_all(garbage);
        assert!(is_closed(&mut stream), "{garbage:?} was taken");
        assert!(load.wait_for_write(PATIENCE).is_some(), "{}", fleet.logs());
    }
    // After it: requests that cannot be meant are answered with an error on a link that stays.
    let mut client = Blocking::connect_unix(&socket, Options::new(PG), PATIENCE).expect("agreed");
    let size = client.export().size;
    assert_eq!(size, BYTES);
    for (op, offset, length) in [
        (Op::Read, size, 4096),
        (Op::Read, size - 4096, 8192),
        (Op::Read, u64::MAX - 4095, 4096),
        (Op::Read, 0, u32::MAX - 4095),
        (Op::Trim, size, 4096),
        (Op::WriteZeroes, size - 4096, 1 << 30),
    ] {
        client
            .submit(op, offset, length, Flags::default(), Payload::new())
            .expect("sent");
        let reply = client.next_reply().expect("an answer, and no end");
        assert!(
            reply.result.is_err(),
            "{op:?} {offset} {length}: {:?}",
            reply.result
        );
    }
    let data = bytes::Bytes::from(vec![1; 8192]);
    let past = client.write(size - 4096, data);
    assert!(matches!(past, Err(ClientError::Failed(_))), "{past:?}");
    client
        .write(size - 4096, bytes::Bytes::from(vec![2; 4096]))
        .expect("the last block is there");
    // A write of 4 GiB that never comes: no room is made for it in advance, and it is not waited for.
    let before = resident(&fleet);
    let mut stream = agreed(&socket);
    stream.write_all(&request(1, 0, u32::MAX)).expect("sent");
    assert!(is_closed(&mut stream), "4 GiB were taken");
    let mut stream = agreed(&socket);
    stream.write_all(&[0x5a; 4096]).expect("sent");
    assert!(is_closed(&mut stream), "a request without magic was taken");
    assert!(resident(&fleet) < before + (512 << 20));
    ends_well(&mut fleet, load);
}

/// A connection whose handshake (fixed newstyle, EXPORT_NAME) is done.
fn agreed(socket: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    stream.write_all(&3u32.to_be_bytes()).expect("sent");
    stream.write_all(b"IHAVEOPT").expect("sent");
    stream.write_all(&1u32.to_be_bytes()).expect("sent");
    stream
        .write_all(&(PG.len() as u32).to_be_bytes())
        .expect("sent");
    stream.write_all(PG.as_bytes()).expect("sent");
    let mut export = [0; 10];
    stream.read_exact(&mut export).expect("the export");
    stream
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut raw = 0x2560_9513u32.to_be_bytes().to_vec();
    raw.extend_from_slice(&0u16.to_be_bytes());
    raw.extend_from_slice(&command.to_be_bytes());
    raw.extend_from_slice(&9u64.to_be_bytes());
    raw.extend_from_slice(&offset.to_be_bytes());
    raw.extend_from_slice(&length.to_be_bytes());
    raw
}

/// Bytes resident of a1's daemon.
fn resident(fleet: &Fleet) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.pid("a1")));
    let status = status.expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a line");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kib << 10
}
