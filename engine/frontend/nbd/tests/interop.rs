//! Against the world's NBD clients, and our own, over real sockets. A tool that is not installed is
//! skipped by name; with CI=true its absence is a failure.

#[path = "../examples/memory/server.rs"]
mod server;

use bytes::Bytes;
use lockstep_nbd::client::{Blocking, ClientError, Content, Options};
use lockstep_nbd::{Flags, IoError, Op, Payload};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(20);

/// A server on a socket of its own; its threads end with the test's process.
struct Served {
    directory: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(directory.path().join("nbd")).expect("a socket");
        let volume = server::Volume::new("memory", SIZE);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let volume = volume.clone();
                std::thread::spawn(move || server::serve(socket, &volume));
            }
        });
        Self { directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///memory?socket={}", self.socket().display())
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn connect(&self, options: Options) -> Blocking {
        Blocking::connect_unix(self.socket(), options, TIMEOUT).expect("the server is there")
    }
}

/// Runs a tool and returns what it printed; `None` if it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<String> {
    let paths = std::env::var("PATH").unwrap_or_default();
    if !paths
        .split(':')
        .any(|place| Path::new(place).join(tool).is_file())
    {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "{tool} is not installed"
        );
        eprintln!("SKIPPED: {tool} is not installed");
        return None;
    }
    let output = Command::new("timeout")
        .arg("60")
        .arg(tool)
        .args(arguments)
        .output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {said}\n{complained}"
    );
    Some(said)
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed)
        .collect()
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let served = Served::new();
    let Some(said) = run("nbdinfo", &["--json", &served.uri()]) else {
        return;
    };
    for expected in [
        "\"structured\": true",
        "\"export-size\": 67108864",
        "\"description\": \"a volume in memory\"",
        "\"base:allocation\"",
        "\"is_read_only\": false",
        "\"can_df\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"can_multi_conn\": true",
        "\"can_cache\": false",
        "\"block_size_minimum\": 4096",
        "\"block_size_preferred\": 262144",
        "\"block_size_maximum\": 33554432",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    let list = run("nbdinfo", &["--list", &served.uri()]).expect("it was there before");
    assert!(list.contains("export=\"memory\""), "{list}");
}

#[test]
fn nbdinfo_maps_holes_and_data() {
    let served = Served::new();
    let mut client = served.connect(Options::new("memory"));
    client.write(1 << 20, pattern(8192, 1)).expect("a write");
    client.trim((1 << 20) + 4096, 4096).expect("a trim");
    let Some(said) = run("nbdinfo", &["--map", &served.uri()]) else {
        return;
    };
    let rows: Vec<Vec<&str>> = said
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    let found: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[2])).collect();
    assert_eq!(
        found,
        [
            ("0", "1048576", "3"),
            ("1048576", "4096", "0"),
            ("1052672", "66056192", "3")
        ]
    );
}

#[test]
fn nbdcopy_and_qemu_img_there_and_back() {
    let served = Served::new();
    let (from, back, qcow) = (
        served.file("from"),
        served.file("back"),
        served.file("image.qcow2"),
    );
    let mut image = vec![0; SIZE as usize];
    image[5 << 20..9 << 20].copy_from_slice(&pattern(4 << 20, 7));
    image[SIZE as usize - 4096..].copy_from_slice(&pattern(4096, 9));
    std::fs::write(&from, &image).expect("a file");
    if run("nbdcopy", &[&from, &served.uri()]).is_some() {
        run("nbdcopy", &[&served.uri(), &back]);
        assert!(
            std::fs::read(&back).expect("copied") == image,
            "nbdcopy brings other bytes back"
        );
    }
    if run(
        "qemu-img",
        &["convert", "-n", "-O", "raw", &from, &served.uri()],
    )
    .is_some()
    {
        run(
            "qemu-img",
            &["convert", "-O", "qcow2", &served.uri(), &qcow],
        );
        let said = run("qemu-img", &["compare", &from, &qcow]).expect("it was there before");
        assert!(said.contains("identical"), "{said}");
        run("qemu-img", &["compare", &from, &served.uri()]);
    }
}

#[test]
fn qemu_io_writes_zeroes_discards_and_verifies() {
    let served = Served::new();
    let uri = served.uri();
    let script = [
        "-f",
        "raw",
        &uri,
        "-c",
        "write -P 0x5a 0 1M",
        "-c",
        "write -f -P 0x77 252k 8k",
        "-c",
        "write -z 64k 64k",
        "-c",
        "discard 128k 64k",
        "-c",
        "flush",
        "-c",
        "read -P 0x5a 0 64k",
        "-c",
        "read -P 0 64k 128k",
        "-c",
        "read -P 0x5a 192k 60k",
        "-c",
        "read -P 0x77 252k 8k",
        "-c",
        "write -P 0x11 7M 32M",
        "-c",
        "read -P 0x11 7M 32M",
    ];
    let Some(said) = run("qemu-io", &script) else {
        return;
    };
    assert!(
        !said.contains("failed") && !said.contains("error"),
        "{said}"
    );
}

#[test]
fn fio_verifies_what_it_wrote() {
    let served = Served::new();
    let uri = format!("--uri={}", served.uri());
    for job in [
        &["--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=32"][..],
        &[
            "--rw=randrw",
            "--bsrange=4k-1m",
            "--blockalign=4k",
            "--iodepth=8",
        ],
        &["--rw=randtrimwrite", "--bs=64k", "--iodepth=4"],
    ] {
        let mut arguments = vec!["--name=verify", "--ioengine=nbd", &uri, "--size=32M"];
        if !job[0].contains("trim") {
            arguments.extend([
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
            ]);
        }
        arguments.extend(job);
        if run("fio", &arguments).is_none() {
            return;
        }
    }
}

#[test]
fn our_client_reads_what_it_wrote_however_it_negotiates() {
    for (structured, allocation) in [(true, true), (true, false), (false, false)] {
        let served = Served::new();
        let options = Options {
            export: "memory".to_owned(),
            structured,
            allocation,
        };
        let mut client = served.connect(options.clone());
        assert_eq!(client.export().size, SIZE);
        assert_eq!(client.export().minimum_block, 4096);
        let bytes = pattern(3 << 20, 3);
        client.write(252 << 10, bytes.clone()).expect("a write");
        client
            .write_zeroes(1 << 20, 1 << 20, Flags::default())
            .expect("zeroes");
        client.flush().expect("a flush");
        let mut expected = bytes.to_vec();
        expected[(1 << 20) - (252 << 10)..(2 << 20) - (252 << 10)].fill(0);
        let mut second = served.connect(options);
        let found = second.read(252 << 10, 3 << 20).expect("a read");
        assert!(found == expected, "another connection sees the same");
        match second.block_status(0, 4 << 20) {
            Ok(runs) => {
                let lengths: Vec<_> = runs.iter().map(|run| (run.length, run.allocated)).collect();
                let (at, mib) = (252 << 10, 1 << 20);
                let expected = [
                    (at, false),
                    (mib - at, true),
                    (mib, false),
                    (mib + at, true),
                    (mib - at, false),
                ];
                assert!(allocation && lengths == expected, "{lengths:?}");
            }
            Err(ClientError::Failed(error)) => {
                assert!(!allocation && error == IoError::Invalid, "{error}");
            }
            Err(error) => panic!("{error}"),
        }
        client.disconnect().expect("goodbye");
    }
}

#[test]
fn errors_leave_the_connection_good() {
    let served = Served::new();
    let mut client = served.connect(Options::new(""));
    let failure = |result: Result<(), ClientError>| match result {
        Err(ClientError::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(failure(client.read(1, 4096).map(drop)), IoError::Invalid);
    assert_eq!(failure(client.read(SIZE, 4096).map(drop)), IoError::Invalid);
    assert_eq!(
        failure(client.read(0, u32::MAX - 4095).map(drop)),
        IoError::Invalid
    );
    assert_eq!(
        failure(client.write(SIZE - 4096, pattern(8192, 0))),
        IoError::NoSpace
    );
    assert_eq!(
        failure(client.write(0, pattern((32 << 20) + 4096, 0))),
        IoError::Invalid
    );
    assert_eq!(failure(client.trim(512, 4096)), IoError::Invalid);
    client
        .write(0, pattern(32 << 20, 5))
        .expect("the largest write");
    assert!(client.read(0, 32 << 20).expect("the largest read") == pattern(32 << 20, 5));
    let refused = Blocking::connect_unix(served.socket(), Options::new("other"), TIMEOUT);
    let error = refused.expect_err("there is no such volume").to_string();
    assert!(
        error.contains("'other'") && error.contains("volume list"),
        "{error}"
    );
}

/// Far more in flight than sockets hold, both ways at once: neither side may stand still.
#[test]
fn deep_pipelines_do_not_deadlock() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let volume = server::Volume::new("memory", SIZE);
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a client");
        socket.set_nodelay(true).expect("a socket option");
        server::serve(socket, &volume)
    });
    let mut client =
        Blocking::connect_tcp(address, Options::new("memory"), TIMEOUT).expect("connected");
    let bytes = pattern(1 << 20, 1);
    client.write(0, bytes.clone()).expect("a write");
    for _ in 0..64 {
        client
            .submit(Op::Read, 0, 1 << 20, Flags::default(), Payload::new())
            .expect("sent");
        let payload = Payload::from(bytes.clone());
        client
            .submit(Op::Write, 8 << 20, 1 << 20, Flags::default(), payload)
            .expect("sent");
    }
    let mut reads = 0;
    while client.outstanding() > 0 {
        match client
            .next_reply()
            .expect("an answer")
            .result
            .expect("a good one")
        {
            Content::Data(found) => {
                assert!(found == bytes);
                reads += 1;
            }
            other => assert_eq!(other, Content::Plain),
        }
    }
    assert_eq!(reads, 64);
}
