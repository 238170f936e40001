//! Servers that are killed with writes read and unanswered, under a verifying load on the block
//! device: as long as the descriptor is kept, the next server has them again, and nobody sees an
//! error. The servers are processes of their own: this test's program, started again.

mod support;

use lockstep_frontend::{Answer, Done, IoError, Op, ReadPart, Request};
use lockstep_fuse::protocol::Negotiated;
use lockstep_fuse::{
    Completer, Device, Driver, Handler, Limits, LoopDevice, Mount, Session, Volume,
};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use support::{Place, installed, possible};

const SIZE: u64 = 64 << 20;
/// Writes that a server answers before it only reads.
const ANSWERED: u32 = 3000;
/// Writes read and unanswered when it is killed.
const HELD: u32 = 9;

fn volume() -> Volume {
    Volume {
        name: "volume".to_owned(),
        size: SIZE,
        read_only: false,
    }
}

/// The file behind the volume.
fn store(place: &Place) -> PathBuf {
    place.files().join("store")
}

/// A volume in a file, so that it survives its server.
struct Stored {
    file: File,
    /// Writes still to answer; then none is.
    left: Option<u32>,
    held: u32,
}

impl Stored {
    fn answer(&self, request: &Request) -> std::io::Result<Done> {
        let Request { offset, length, .. } = *request;
        match request.op {
            Op::Read => {
                let mut bytes = vec![0; length as usize];
                self.file.read_exact_at(&mut bytes, offset)?;
                return Ok(Done::Read(
                    [ReadPart::Data(bytes.into())].into_iter().collect(),
                ));
            }
            Op::Write => {
                let mut at = offset;
                for part in request.payload.parts() {
                    self.file.write_all_at(part, at)?;
                    at += part.len() as u64;
                }
            }
            Op::Trim | Op::WriteZeroes => {
                self.file.write_all_at(&vec![0; length as usize], offset)?;
            }
            Op::Flush | Op::BlockStatus => {}
        }
        Ok(Done::Plain)
    }
}

impl Handler for Stored {
    fn submit(&mut self, request: Request, _: &Completer) -> Option<Answer> {
        match &mut self.left {
            Some(0) => {
                // Half of them happened, half did not: the next server cannot know.
                if request.op == Op::Write {
                    self.held += 1;
                    if self.held.is_multiple_of(2) {
                        self.answer(&request).expect("the file is writable");
                    }
                }
                say(&format!("held {}", self.held));
                return None;
            }
            Some(left) if request.op == Op::Write => *left -= 1,
            _ => {}
        }
        Some(self.answer(&request).map_err(|_| IoError::Io))
    }

    fn ready(&mut self, agreed: Negotiated) {
        say(&format!("ready {} {}", agreed.minor, agreed.flags));
    }
}

/// A line on the real standard output, whatever the test harness does with it.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "SERVER {line}")
        .and_then(|()| output.flush())
        .expect("the parent reads");
}

/// Not a test of its own: what the processes started below run.
#[test]
fn server_process() {
    let Ok(descriptor) = std::env::var("TEST_FUSE_DESCRIPTOR") else {
        return;
    };
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    // SAFETY: the parent left this descriptor open for this process alone to take.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor.parse().expect("a number")) };
    let device = Device::adopt(descriptor).expect("it is /dev/fuse");
    let path = std::env::var("TEST_FILE").expect("given");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file");
    let left = number("TEST_ANSWERED").map(|left: u64| left as u32);
    let mut first = Vec::new();
    let session = match (number("TEST_MINOR"), number("TEST_FLAGS")) {
        (Some(minor), Some(flags)) => {
            let agreed = Negotiated {
                minor: minor as u32,
                flags,
            };
            Session::resumed(volume(), Limits::default(), agreed, &mut first)
        }
        _ => Session::new(volume(), Limits::default()),
    };
    let driver = Driver::spawn(
        device,
        session,
        first,
        Stored {
            file,
            left,
            held: 0,
        },
    );
    say(&format!("ended {}", driver.expect("a thread").join()));
}

/// A server in a process of its own, killed when dropped.
struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start(
        place: &Place,
        device: &Device,
        agreed: Option<Negotiated>,
        answered: Option<u32>,
    ) -> Self {
        let kept = device.duplicate().expect("a descriptor");
        // SAFETY: no memory is passed; the flag is cleared so that the child inherits it.
        let cleared = unsafe { libc::fcntl(kept.as_raw_fd(), libc::F_SETFD, 0) };
        assert_eq!(cleared, 0);
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "server_process", "--nocapture"])
            .env("TEST_FUSE_DESCRIPTOR", kept.as_raw_fd().to_string())
            .env("TEST_FILE", store(place))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(agreed) = agreed {
            command.env("TEST_MINOR", agreed.minor.to_string());
            command.env("TEST_FLAGS", agreed.flags.to_string());
        }
        if let Some(answered) = answered {
            command.env("TEST_ANSWERED", answered.to_string());
        }
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// The rest of the next line that begins so.
    fn wait_for(&mut self, word: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            // The harness's own words may stand before ours.
            let said = line.split_once("SERVER ").map_or("", |(_, said)| said);
            if let Some(rest) = said.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("the server ended before it said {word}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_servers_cost_no_error_and_no_byte() {
    if !possible() || !installed("fio") {
        return;
    }
    let place = Place::new();
    File::create(store(&place))
        .and_then(|file| file.set_len(SIZE))
        .expect("a file");
    // This process is the keeper: it has the descriptor, and never reads from it.
    let device = Device::open().expect("/dev/fuse");
    let mount = Mount::new(&device, place.fuse()).expect("a mount");
    let mut server = Server::start(&place, &device, None, Some(ANSWERED));
    let agreed = server.wait_for("ready");
    let (minor, flags) = agreed.split_once(' ').expect("two numbers");
    let agreed = Negotiated {
        minor: minor.parse().expect("a number"),
        flags: flags.parse().expect("a number"),
    };
    if !agreed.can_resend() {
        eprintln!("SKIPPED: this kernel does not send requests again (it needs 6.9)");
        return;
    }
    let backing = mount.open_volume(&volume()).expect("the file");
    let label = "lockstep:restart";
    let looped = LoopDevice::attach(&backing, label, false).expect("a loop device");
    let load = Command::new("timeout")
        .args([
            "100",
            "fio",
            "--name=load",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
        ])
        .args([
            "--ioengine=libaio",
            "--direct=1",
            "--size=64M",
            "--verify=crc32c",
        ])
        .args(["--verify_fatal=1", "--verify_state_save=0"])
        .arg(format!("--filename={}", looped.path().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio runs");
    for kill in 1..=3 {
        while server.wait_for("held").parse::<u32>().expect("a number") < HELD {}
        drop(server);
        let answered = (kill < 3).then_some(ANSWERED);
        server = Server::start(&place, &device, Some(agreed), answered);
    }
    let output = load.wait_with_output().expect("fio ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    looped.detach().expect("detached");
    drop(backing);
    mount.unmount().expect("unmounted");
    assert_eq!(server.wait_for("ended"), "the mount is gone");
    assert!(place.is_clean());
}

#[test]
fn a_server_that_is_not_replaced_can_be_given_up() {
    if !possible() {
        return;
    }
    let place = Place::new();
    File::create(store(&place))
        .and_then(|file| file.set_len(SIZE))
        .expect("a file");
    let device = Device::open().expect("/dev/fuse");
    let mount = Mount::new(&device, place.fuse()).expect("a mount");
    let mut server = Server::start(&place, &device, None, Some(0));
    server.wait_for("ready");
    let backing = mount.open_volume(&volume()).expect("the file");
    let writer = std::thread::spawn(move || {
        #[repr(align(4096))]
        struct Aligned([u8; 4096]);
        backing
            .write_at(&Box::new(Aligned([1; 4096])).0, 0)
            .map(drop)
    });
    server.wait_for("held");
    drop(server);
    assert!(!writer.is_finished(), "it waits for the next server");
    mount.abort().expect("aborted");
    assert!(
        writer.join().expect("no panic").is_err(),
        "the waiting write fails"
    );
    assert!(place.is_clean());
}
