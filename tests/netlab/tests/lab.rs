//! The lab itself: what a link is told is what packets meet, and nothing is left behind.

use netlab::{Direction, Lab, Node, is_root};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
/// Any: while another test forks, a closed socket of ours may still hold its port for a moment.
const PORT: u16 = 0;

/// Says so and returns if there is no root; on the test machine there is.
macro_rules! needs_root {
    () => {
        if !is_root() {
            eprintln!("skipped: a network lab needs root");
            return;
        }
    };
}

/// Sites a, b and w with a node each.
fn three_sites(name: &str) -> (Lab, [Node; 3]) {
    let mut lab = Lab::new(name).expect("root can make a lab");
    let nodes = ["a", "b", "w"].map(|site| {
        lab.site(site).expect("a new site");
        lab.node(site, &format!("{site}1")).expect("a new node")
    });
    (lab, nodes)
}

fn socket(node: &Node) -> UdpSocket {
    let address = (node.address(), PORT);
    let socket = node
        .run(move || UdpSocket::bind(address).expect("the node's own address"))
        .join()
        .expect("binding does not panic");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    socket
}

fn send(from: &UdpSocket, to: &UdpSocket, word: &str) {
    let address = to.local_addr().expect("a bound socket has one");
    from.send_to(word.as_bytes(), address)
        .expect("a small datagram leaves");
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The fastest of some exchanges of a datagram: what the link adds, without the machine's load.
fn round_trip(from: &Node, to: &Node) -> Duration {
    let (here, there) = (socket(from), socket(to));
    let echoing = there.try_clone().expect("a socket can be held twice");
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = echoing.recv_from(&mut buffer) {
            if &buffer[..length] == b"end" {
                break;
            }
            echoing
                .send_to(&buffer[..length], peer)
                .expect("an answer leaves");
        }
    });
    let times = (0..20).map(|_| {
        let start = Instant::now();
        send(&here, &there, "echo");
        assert_eq!(receive(&here), "echo");
        start.elapsed()
    });
    let best = times.min().expect("twenty exchanges");
    send(&here, &there, "end");
    echo.join().expect("the echo ends");
    best
}

#[test]
fn a_round_trip_takes_the_delay_both_ways() {
    needs_root!();
    let (lab, [a, b, w]) = three_sites("delay");
    let idle = round_trip(&a, &b);
    assert!(idle < Duration::from_millis(5), "without delay: {idle:?}");
    let link = lab.link("a", "b");
    link.set_delay(Direction::Forth, Duration::from_millis(15));
    link.set_delay(Direction::Back, Duration::from_millis(5));
    let (slow, fast) = (round_trip(&b, &a), round_trip(&a, &w));
    assert!(
        (20..30).contains(&slow.as_millis()),
        "15 ms there and 5 back: {slow:?}"
    );
    assert!(
        fast < Duration::from_millis(5),
        "another link has no delay: {fast:?}"
    );
    eprintln!("{idle:?} without delay, {slow:?} with 20 ms");
    link.set_delay(Direction::Both, Duration::ZERO);
    assert!(
        round_trip(&a, &b) < Duration::from_millis(5),
        "the delay was taken away"
    );
}

#[test]
fn ping_runs_inside_a_node() {
    needs_root!();
    let (lab, [a, b, _]) = three_sites("ping");
    lab.link("b", "a")
        .set_delay(Direction::Both, Duration::from_millis(10));
    let mut ping = Command::new("ping");
    ping.args(["-c", "3", "-i", "0.05", "-q", &b.address().to_string()])
        .stdout(Stdio::piped());
    let child = lab
        .exec(&a, ping)
        .expect("ping is installed (iputils-ping)");
    let output = child.wait_with_output().expect("ping ends");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains(" 0% packet loss"), "{words}");
    // rtt min/avg/max/mdev = 20.081/20.110/20.140/0.024 ms
    let least = words
        .split(" = ")
        .nth(1)
        .and_then(|times| times.split('/').next());
    let least: f64 = least
        .and_then(|least| least.parse().ok())
        .expect("ping prints its times");
    assert!((20.0..30.0).contains(&least), "{words}");
}

#[test]
fn a_one_way_cut_is_one_way() {
    needs_root!();
    let (lab, [a, b, w]) = three_sites("oneway");
    let (at_a, at_b, at_w) = (socket(&a), socket(&b), socket(&w));
    let link = lab.link("b", "a");
    link.cut(Direction::Forth);
    for number in 0..10 {
        send(&at_b, &at_a, &format!("lost {number}"));
        send(&at_a, &at_b, &format!("kept {number}"));
    }
    for number in 0..10 {
        assert_eq!(
            receive(&at_b),
            format!("kept {number}"),
            "the other way is open"
        );
    }
    send(&at_b, &at_w, "aside");
    assert_eq!(receive(&at_w), "aside", "other links are open");
    // Links keep order: had one of the ten passed, it would come before this one. All have reached
    // the link, since b's datagram to w came after them through the same site.
    wait_until(|| link.counts(Direction::Forth).dropped == 10);
    link.heal();
    send(&at_b, &at_a, "healed");
    assert_eq!(receive(&at_a), "healed");
    assert_eq!(lab.link("a", "b").counts(Direction::Back).dropped, 10);
    assert_eq!(link.counts(Direction::Back).dropped, 0);
}

#[test]
fn what_is_under_way_is_lost_in_a_cut() {
    needs_root!();
    let (lab, [a, b, _]) = three_sites("underway");
    let (at_a, at_b) = (socket(&a), socket(&b));
    let link = lab.link("a", "b");
    link.set_delay(Direction::Forth, Duration::from_secs(3600));
    send(&at_a, &at_b, "never");
    // The way back has no delay and shows that the packet has entered.
    send(&at_b, &at_a, "back");
    assert_eq!(receive(&at_a), "back");
    link.cut(Direction::Both);
    wait_until(|| link.counts(Direction::Forth).dropped == 1);
    link.set_delay(Direction::Forth, Duration::ZERO);
    link.heal();
    send(&at_a, &at_b, "later");
    assert_eq!(receive(&at_b), "later");
}

#[test]
fn loss_is_about_as_asked() {
    needs_root!();
    let (lab, [a, b, _]) = three_sites("loss");
    let (at_a, at_b) = (socket(&a), socket(&b));
    let link = lab.link("a", "b");
    link.set_loss(Direction::Forth, 0.5);
    // One at a time, so that no buffer but the link loses any.
    for number in 1..=200 {
        send(&at_a, &at_b, "dice");
        wait_until(|| {
            let counts = link.counts(Direction::Forth);
            counts.passed + counts.dropped == number
        });
    }
    let kept = link.counts(Direction::Forth).passed;
    assert!((60..140).contains(&kept), "{kept} of 200 kept at half lost");
    link.set_loss(Direction::Forth, 0.0);
    send(&at_a, &at_b, "end");
    let received = std::iter::from_fn(|| Some(receive(&at_b)).filter(|word| word != "end")).count();
    assert_eq!(received as u64, kept);
}

#[test]
fn tcp_runs_at_a_sensible_rate_and_at_the_one_asked_for() {
    needs_root!();
    let (lab, [a, b, _]) = three_sites("tcp");
    let free = megabits(&a, &b, 64 << 20);
    assert!(free > 200.0, "{free:.0} Mbit/s without a limit");
    lab.link("a", "b")
        .set_bandwidth(Direction::Forth, Some(100_000_000));
    let limited = megabits(&a, &b, 8 << 20);
    assert!(
        (50.0..110.0).contains(&limited),
        "{limited:.0} Mbit/s at a limit of 100"
    );
    eprintln!("{free:.0} Mbit/s without a limit, {limited:.0} with one of 100");
}

#[test]
fn a_connection_survives_a_short_cut() {
    needs_root!();
    let (lab, [a, b, _]) = three_sites("survive");
    let (mut client, mut server) = connect(&a, &b);
    let link = lab.link("a", "b");
    link.cut(Direction::Both);
    client
        .write_all(b"through")
        .expect("the kernel takes what it cannot deliver yet");
    wait_until(|| link.counts(Direction::Forth).dropped > 0);
    server
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout above zero");
    let mut word = [0; 7];
    let error = server
        .read(&mut word)
        .expect_err("nothing comes through a cut");
    assert!(
        [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()),
        "{error}"
    );
    link.heal();
    server
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    server.read_exact(&mut word).expect("TCP sends again");
    assert_eq!(&word, b"through");
}

#[test]
fn an_unplugged_node_is_alone() {
    needs_root!();
    let (mut lab, [a, ..]) = three_sites("unplug");
    let neighbour = lab.node("a", "a2").expect("a new node");
    let (at_a, at_neighbour) = (socket(&a), socket(&neighbour));
    send(&at_neighbour, &at_a, "before");
    assert_eq!(receive(&at_a), "before");
    lab.unplug(&a).expect("the cable can be pulled");
    send(&at_neighbour, &at_a, "lost");
    at_a.set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout above zero");
    at_a.recv(&mut [0; 9])
        .expect_err("nothing comes without a cable");
    lab.plug(&a).expect("and put back");
    at_a.set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    send(&at_neighbour, &at_a, "after");
    assert_eq!(receive(&at_a), "after");
}

#[test]
fn a_panic_leaves_nothing_behind() {
    needs_root!();
    let (tell, told) = mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let (lab, [a, ..]) = three_sites("panic");
        let mut sleeper = Command::new("sleep");
        sleeper.arg("1000");
        let child = lab.exec(&a, sleeper).expect("sleep starts");
        let found = namespaces("panic");
        tell.send((child, found)).expect("the test listens");
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    let (mut child, found) = told.recv().expect("told before the panic");
    assert_eq!(found.len(), 6, "three sites and three nodes: {found:?}");
    let status = child.wait().expect("the process has ended");
    assert!(!status.success(), "it was killed: {status}");
    assert_eq!(namespaces("panic"), [""; 0]);
}

#[test]
fn a_killed_lab_is_cleaned_up_by_name() {
    needs_root!();
    let binary = env!("CARGO_BIN_EXE_netlab");
    let mut up = Command::new(binary)
        .args(["up", "killed", "a=1", "b=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(up.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    while line() != "ready" {}
    let stdin = up.stdin.as_mut().expect("piped");
    for (command, answer) in [
        ("delay a-b 5ms", "ok"),
        ("cut a>b", "ok"),
        ("cut a>c", "error"),
    ] {
        writeln!(stdin, "{command}").expect("the binary listens");
        assert!(line().starts_with(answer), "{command}");
    }
    up.kill().expect("it runs");
    up.wait().expect("it ends");
    assert_eq!(
        namespaces("killed").len(),
        4,
        "a killed lab cannot clean up"
    );
    let (living, _) = three_sites("living");
    let cleaned = Command::new(binary)
        .arg("clean")
        .output()
        .expect("the binary starts");
    assert!(
        cleaned.status.success(),
        "{}",
        String::from_utf8_lossy(&cleaned.stderr)
    );
    assert_eq!(namespaces("killed"), [""; 0]);
    assert_eq!(namespaces("living").len(), 6, "a lab in use is spared");
    drop(living);
}

#[test]
fn bad_names_are_refused_with_words() {
    needs_root!();
    let mut lab = Lab::new("names").expect("a good name");
    lab.site("a").expect("a good name");
    lab.node("a", "a1").expect("a good name");
    for name in ["", "a.b", "../x", "elevenchars"] {
        let words = lab.site(name).expect_err("a bad name").to_string();
        assert!(words.contains("letters and digits"), "{words}");
    }
    assert!(
        lab.site("a")
            .expect_err("taken")
            .to_string()
            .contains("already")
    );
    assert!(
        lab.node("a", "a1")
            .expect_err("taken")
            .to_string()
            .contains("already")
    );
    assert!(
        lab.node("b", "b1")
            .expect_err("no site")
            .to_string()
            .contains("no site 'b'")
    );
}

fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("netlab.{lab}.");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = entries.map(|entry| {
        entry
            .expect("listable")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    names.filter(|name| name.starts_with(&prefix)).collect()
}

fn connect(from: &Node, to: &Node) -> (TcpStream, TcpStream) {
    let address = (to.address(), PORT);
    let listener = to.run(move || TcpListener::bind(address).expect("the node's own address"));
    let listener = listener.join().expect("binding does not panic");
    let address = listener.local_addr().expect("a bound socket has one");
    let client = from.run(move || TcpStream::connect(address).expect("the other site answers"));
    let (server, _) = listener.accept().expect("a connection comes");
    (client.join().expect("connecting does not panic"), server)
}

fn megabits(from: &Node, to: &Node, bytes: usize) -> f64 {
    let (mut client, mut server) = connect(from, to);
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        let chunk = vec![7; 1 << 18];
        (0..bytes / chunk.len())
            .for_each(|_| client.write_all(&chunk).expect("the other side reads"));
    });
    let received = std::io::copy(&mut server, &mut std::io::sink()).expect("the sender closes");
    sender.join().expect("sending does not panic");
    assert_eq!(received as usize, bytes);
    bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

/// Until a condition of the emulator holds, which it tells by counters only.
fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::yield_now();
    }
}
