//! The file system under the tests is itself tested: files are files, faults are met where they were
//! put, and a cut loses exactly what was not flushed.

use faultfs::{Cut, Fault, FaultFs, Image, On, Rule};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

macro_rules! mounted {
    () => {{
        let place = tempfile::tempdir().expect("a directory");
        match FaultFs::mount(place.path(), Image::default()) {
            Ok(fs) => (place.path().to_owned(), fs, place),
            Err(error) => {
                let id = fs::read_to_string("/proc/self/status").expect("readable");
                assert!(!id.contains("\nUid:\t0\t"), "root can mount: {error}");
                eprintln!("skipped: mounting needs root");
                return;
            }
        }
    }};
}

fn durable(path: PathBuf) -> File {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options
        .custom_flags(libc::O_DSYNC)
        .open(path)
        .expect("opened")
}

fn names(root: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(root)
        .expect("listed")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_files() {
    let (root, fs, _place) = mounted!();
    fs::create_dir(root.join("d")).expect("made");
    fs::write(root.join("d/x"), b"hello").expect("written");
    fs::rename(root.join("d/x"), root.join("d/y")).expect("renamed");
    assert_eq!(names(&root.join("d")), ["y"]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.join("d/y"));
    let file = file.expect("opened");
    file.write_all_at(b"J", 0).expect("written");
    file.set_len(3).expect("cut");
    file.set_len(5).expect("grown");
    assert_eq!(fs::read(root.join("d/y")).expect("read"), b"Jel\0\0");
    assert!(fs::remove_dir(root.join("d")).is_err(), "it is not empty");
    fs::remove_file(root.join("d/y")).expect("removed");
    fs::remove_dir(root.join("d")).expect("removed");
    assert!(names(&root).is_empty());
    fs.end();
}

#[test]
fn faults_are_met_where_they_were_put() {
    let (root, fs, _place) = mounted!();
    let file = durable(root.join("f"));
    file.write_all_at(&[7; 8192], 0).expect("written");
    let rule = |on, range| Rule {
        path: "f".into(),
        range,
        on,
        fault: Fault::Error(libc::EIO),
    };
    fs.set_rules(vec![rule(On::Write, 4096..8192), rule(On::Sync, 0..0)]);
    file.write_all_at(&[8; 4096], 0).expect("elsewhere");
    let errno = |result: std::io::Result<()>| result.expect_err("met").raw_os_error();
    assert_eq!(errno(file.write_all_at(&[8; 4096], 4096)), Some(libc::EIO));
    assert_eq!(errno(file.sync_data()), Some(libc::EIO));
    assert_eq!(fs.met(), 2);
    fs.set_rules(Vec::new());
    fs.leave_room(4096);
    file.write_all_at(&[9; 4096], 8192).expect("room for one");
    assert_eq!(
        errno(file.write_all_at(&[9; 4096], 12288)),
        Some(libc::ENOSPC)
    );
    file.write_all_at(&[9; 4096], 0)
        .expect("overwriting needs none");
    fs.flip("f", 3, 0x80);
    assert_eq!(
        fs::read(root.join("f")).expect("read")[..5],
        [9, 9, 9, 9 ^ 0x80, 9]
    );
    fs.end();
}

#[test]
fn a_cut_loses_exactly_what_was_not_flushed() {
    let (root, fs, _place) = mounted!();
    fs.record();
    let file = durable(root.join("f"));
    file.write_all_at(&[1; 4096], 0).expect("written");
    File::open(&root)
        .expect("opened")
        .sync_all()
        .expect("flushed");
    let loose = OpenOptions::new()
        .write(true)
        .open(root.join("f"))
        .expect("opened");
    loose.write_all_at(&[2; 4096], 4096).expect("written");
    file.write_all_at(&[3; 4096], 8192).expect("written");
    let before_flush = fs.recorded();
    loose.sync_data().expect("flushed");
    let recording = fs.take_recording();
    fs.end();
    assert_eq!(recording.len(), before_flush + 1);
    assert_eq!(
        recording.boundaries().len(),
        8,
        "two durable writes, two flushes"
    );
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut dice = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 8
        };
        let image = recording.image(Cut::After(before_flush), &mut dice);
        let place = tempfile::tempdir().expect("a directory");
        let fs = FaultFs::mount(place.path(), image).expect("it could be mounted before");
        let bytes = fs.read("f", 0, 12288);
        assert_eq!(bytes[..4096], [1; 4096], "durable");
        assert_eq!(bytes[8192..], [3; 4096], "durable by itself");
        let sectors: Vec<u8> = bytes[4096..8192].chunks(512).map(|it| it[0]).collect();
        assert!(bytes[4096..8192].chunks(512).all(|it| it == [it[0]; 512]));
        seen.insert(match sectors.iter().filter(|byte| **byte == 2).count() {
            0 => "dropped",
            8 => "kept",
            _ => "torn",
        });
        let whole = recording.image(Cut::After(before_flush + 1), &mut dice);
        fs.end();
        let fs = FaultFs::mount(place.path(), whole).expect("mounted");
        assert_eq!(fs.read("f", 4096, 4096), [2; 4096], "flushed");
        fs.end();
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
