//! What is given is given back, by another connection too, and nothing else is understood.

#[path = "../../../fuzz/checks/keeper_message.rs"]
mod keeper_message;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lockstep_keeper::{Keeper, KeeperError, serve};
use proptest::prelude::*;

struct Rig {
    _place: tempfile::TempDir,
    path: PathBuf,
    server: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Rig {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("keeper.sock");
        let own = path.clone();
        let server = std::thread::spawn(move || serve(&own));
        while !path.exists() {
            assert!(!server.is_finished(), "it listens");
            std::thread::yield_now();
        }
        Self {
            _place: place,
            path,
            server,
        }
    }

    fn connect(&self) -> Keeper {
        Keeper::connect(&self.path).expect("it listens")
    }
}

fn file_saying(text: &str) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn text_of(descriptor: &std::os::fd::OwnedFd) -> String {
    let mut file = File::from(descriptor.try_clone().expect("a descriptor"));
    let mut text = String::new();
    file.rewind().expect("rewound");
    file.read_to_string(&mut text).expect("read");
    text
}

#[test]
fn descriptors_outlive_who_gave_them() {
    let rig = Rig::new();
    let mode = std::fs::metadata(&rig.path).expect("there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let daemon = rig.connect();
    let (one, two) = (file_saying("one"), file_saying("two"));
    daemon
        .put("a", b"of a", &[one.as_fd(), two.as_fd()])
        .expect("kept");
    daemon.put("b", b"of b", &[]).expect("kept");
    drop((daemon, one, two));
    let next = rig.connect();
    let entries = next.list().expect("listed");
    let keys: Vec<_> = entries
        .iter()
        .map(|e| (e.key.as_str(), &e.text[..]))
        .collect();
    assert_eq!(keys, [("a", &b"of a"[..]), ("b", b"of b")]);
    let kept: Vec<_> = entries[0].descriptors.iter().map(text_of).collect();
    assert_eq!(kept, ["one", "two"]);
    // New words leave the descriptors, new descriptors take their place.
    next.put("a", b"changed", &[]).expect("changed");
    let entries = next.list().expect("listed");
    assert_eq!(entries[0].text, b"changed");
    assert_eq!(entries[0].descriptors.len(), 2);
    next.put("a", b"", &[file_saying("three").as_fd()])
        .expect("changed");
    let entries = next.list().expect("listed");
    assert_eq!(text_of(&entries[0].descriptors[0]), "three");
    assert_eq!(entries[0].descriptors.len(), 1);
    next.remove("a").expect("gone");
    next.remove("a").expect("gone already");
    assert_eq!(next.list().expect("listed").len(), 1);
    assert!(!next.has_ended());
    let watching = rig.connect();
    next.stop().expect("stopped");
    rig.server.join().expect("no panic").expect("in order");
    assert!(
        watching.has_ended(),
        "whoever is connected learns of its end"
    );
    assert!(matches!(
        Keeper::connect(&rig.path),
        Err(KeeperError::Gone { .. })
    ));
}

#[test]
fn two_connections_see_the_same_and_one_end_is_not_the_other_s() {
    let rig = Rig::new();
    let (first, second) = (rig.connect(), rig.connect());
    assert_eq!(first.pid().expect("known"), std::process::id() as i32);
    first.put("a", b"x", &[]).expect("kept");
    assert_eq!(second.list().expect("listed").len(), 1);
    drop(first);
    second.put("b", b"y", &[]).expect("kept");
    assert_eq!(second.list().expect("listed").len(), 2);
    second.stop().expect("stopped");
    rig.server.join().expect("no panic").expect("in order");
}

#[test]
fn what_is_wrong_is_refused_and_costs_nothing() {
    let rig = Rig::new();
    let keeper = rig.connect();
    assert!(keeper.put("two words", b"", &[]).is_err());
    assert!(keeper.put("a", &vec![0; 1 << 20], &[]).is_err());
    assert!(matches!(
        keeper.put("", b"", &[]),
        Err(KeeperError::Refused { .. })
    ));
    keeper.put("a", b"fits", &[]).expect("it still listens");
    keeper.stop().expect("stopped");
    rig.server.join().expect("no panic").expect("in order");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_can_be_given_back(line in "[a-z]{1,6}( [a-z0-9 ]{0,12})?\n?", text in prop::collection::vec(any::<u8>(), 0..60)) {
        keeper_message::check(&[line.as_bytes(), &text].concat());
    }

    #[test]
    fn noise_is_no_message(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        keeper_message::check(&noise);
    }
}
