//! Disks: real files, and where the tests run as root real block devices and full filesystems.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use common::{is_root, reactor, until};
use lockstep_ring::disk::{DiskKind, OpenOptionsDisk, create_file};
use lockstep_ring::{Config, Disk, DiskError, DiskId, Event, IoError, IoErrorKind, Reactor};

const MIB: usize = 1 << 20;

fn scratch() -> tempfile::TempDir {
    // Not /tmp: it may be memory without direct I/O.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn file_in(directory: &Path, length: u64) -> PathBuf {
    let path = directory.join("pool");
    create_file(&path, length).expect("room");
    path
}

fn open(path: &Path) -> Disk {
    Disk::open(path, OpenOptionsDisk::default()).expect("opens")
}

fn filled(reactor: &Reactor, length: usize, seed: u8) -> Bytes {
    let mut buffer = reactor.pool().get(length).expect("room");
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = (i / 7) as u8 ^ seed;
    }
    buffer.freeze()
}

fn written(reactor: &mut Reactor) -> (u64, Result<(), IoError>) {
    until(reactor, |event| match event {
        Event::DiskWritten { token, result } => Some((token, result)),
        other => panic!("unexpected {other:?}"),
    })
}

fn read(reactor: &mut Reactor, disk: DiskId, at: u64, length: usize) -> Result<Bytes, IoError> {
    reactor.disk_read(disk, at, length, 99).expect("a buffer");
    until(reactor, |event| match event {
        Event::DiskRead { token: 99, result } => Some(result),
        other => panic!("unexpected {other:?}"),
    })
}

/// Writes many shapes and reads them back, through the ring and from outside it.
fn exercise(mut reactor: Reactor) -> Reactor {
    let directory = scratch();
    let path = file_in(directory.path(), 8 * MIB as u64);
    let disk = open(&path);
    assert_eq!((disk.kind(), disk.size()), (DiskKind::File, 8 * MIB as u64));
    assert!(disk.is_direct());
    let disk = reactor.add_disk(disk);
    let header = filled(&reactor, 4096, 1);
    let payload = filled(&reactor, 65_536, 2);
    let heap = Bytes::from(vec![0x77u8; 10_000]);
    let shapes: Vec<Vec<Bytes>> = vec![
        vec![header.clone()],
        vec![header.clone(), payload.clone()],
        vec![
            header.clone(),
            payload.slice(4096..8192),
            payload.slice(40_960..65_536),
        ],
        vec![heap.slice(1..4097)],
        vec![
            heap.slice(3..1003),
            header.clone(),
            heap.slice(0..3096),
            payload.clone(),
        ],
        vec![filled(&reactor, MIB, 3)],
        (0..1500)
            .map(|i| payload.slice((i % 16) * 4096..(i % 16) * 4096 + 4096))
            .collect(),
    ];
    for (i, parts) in shapes.iter().enumerate() {
        let expected: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        for durable in [true, false] {
            let offset = 4096 * (i as u64 + u64::from(durable));
            reactor.disk_write(disk, offset, parts, durable, i as u64);
            assert_eq!(written(&mut reactor), (i as u64, Ok(())), "shape {i}");
            let mut got = Vec::new();
            while got.len() < expected.len() {
                let take = (expected.len() - got.len()).min(MIB);
                let at = offset + got.len() as u64;
                got.extend_from_slice(&read(&mut reactor, disk, at, take).expect("reads"));
            }
            assert!(got == expected, "shape {i} durable {durable} reads back");
            let outside = std::fs::read(&path).expect("reads");
            assert!(
                outside[offset as usize..][..expected.len()] == expected,
                "shape {i}"
            );
        }
    }
    reactor.disk_flush(disk, 5);
    until(&mut reactor, |event| match event {
        Event::Flushed { token: 5, result } => {
            result.expect("flushes");
            Some(())
        }
        other => panic!("unexpected {other:?}"),
    });
    let counters = reactor.counters();
    assert!(
        counters.bounced_runs > 0 && counters.bounced_bytes < 200_000,
        "{counters:?}"
    );
    let end = read(&mut reactor, disk, 8 * MIB as u64, 4096).expect_err("beyond the end");
    assert_eq!((end.kind, end.done), (IoErrorKind::BeyondEnd, 0));
    reactor
}

#[test]
fn registered_buffers_and_files() {
    let reactor = exercise(reactor());
    if is_root() {
        assert!(reactor.has_fixed_buffers());
        assert!(reactor.counters().disk_fixed > 0);
    }
}

#[test]
fn without_registration_and_on_a_plain_ring() {
    let config = Config {
        pool: 16 << 20,
        register: false,
        modern_setup: false,
        ..Config::default()
    };
    let reactor = exercise(Reactor::new(config).expect("a ring"));
    assert!(!reactor.has_fixed_buffers());
    assert_eq!(reactor.counters().disk_fixed, 0);
}

/// A user's memory limit refuses the registration; the reactor works on.
#[test]
fn a_refused_registration_is_no_failure() {
    // The limit binds only threads without CAP_IPC_LOCK, and counts a user's whole memory: this
    // thread becomes a user of its own (keeping root's access to files) and gives up everything.
    let dropped = std::thread::spawn(|| {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Data {
            effective: u32,
            permitted: u32,
            inheritable: u32,
        }
        let header = Header {
            version: 0x2008_0522,
            pid: 0,
        };
        let none = [Data {
            effective: 0,
            permitted: 0,
            inheritable: 0,
        }; 2];
        let limit = libc::rlimit {
            rlim_cur: 8 << 20,
            rlim_max: 8 << 20,
        };
        // SAFETY: the calls read structures of the layout the kernel documents; as raw system
        // calls setresuid, setfsuid and capset act on this thread alone.
        unsafe {
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
            if is_root() {
                assert_eq!(libc::syscall(libc::SYS_setresuid, 47_113, 47_113, 0), 0);
                libc::syscall(libc::SYS_setfsuid, 0);
            }
            assert_eq!(libc::syscall(libc::SYS_capset, &header, none.as_ptr()), 0);
        }
        let reactor = exercise(common::reactor());
        assert!(
            !reactor.has_fixed_buffers(),
            "a user's 8 MiB do not hold the pool"
        );
    });
    dropped.join().expect("no panic");
}

#[test]
fn many_in_flight_complete_once_each_with_one_enter_a_turn() {
    let directory = scratch();
    let path = file_in(directory.path(), 16 * MIB as u64);
    let mut reactor = reactor();
    let disk = reactor.add_disk(open(&path));
    let part = filled(&reactor, 4096, 9);
    let mut open_tokens: std::collections::BTreeSet<u64> = (0..300).collect();
    for token in 0..300 {
        reactor.disk_write(disk, token * 8192, std::slice::from_ref(&part), true, token);
    }
    let before = reactor.counters();
    until(&mut reactor, |event| match event {
        Event::DiskWritten { token, result } => {
            result.expect("writes");
            assert!(open_tokens.remove(&token), "{token} twice");
            open_tokens.is_empty().then_some(())
        }
        other => panic!("unexpected {other:?}"),
    });
    let after = reactor.counters();
    assert!(after.enters - before.enters <= after.turns - before.turns);
    // More than the submission queue holds.
    for token in 0..2000 {
        reactor.disk_write(
            disk,
            token * 4096,
            std::slice::from_ref(&part),
            false,
            token,
        );
    }
    let mut left = 2000;
    until(&mut reactor, |event| match event {
        Event::DiskWritten { result: Ok(()), .. } => {
            left -= 1;
            (left == 0).then_some(())
        }
        other => panic!("unexpected {other:?}"),
    });
}

#[test]
fn dropping_a_reactor_waits_for_the_kernel() {
    let directory = scratch();
    let path = file_in(directory.path(), MIB as u64);
    let mut reactor = reactor();
    let disk = reactor.add_disk(open(&path));
    let part = filled(&reactor, 65_536, 4);
    reactor.disk_write(disk, 0, std::slice::from_ref(&part), true, 1);
    reactor
        .disk_read(disk, 65_536, 65_536, 2)
        .expect("a buffer");
    drop(reactor); // submits, waits
    assert!(std::fs::read(&path).expect("reads")[..65_536] == part[..]);
    open(&path); // the claim went with it, at once
}

#[test]
fn a_claimed_file_is_refused_to_others() {
    let directory = scratch();
    let path = file_in(directory.path(), 8192);
    let holder = open(&path);
    let second = Disk::open(&path, OpenOptionsDisk::default());
    assert!(
        matches!(second, Err(DiskError::Claimed { .. })),
        "{second:?}"
    ); // R23
    let looking = OpenOptionsDisk {
        claim: false,
        writable: false,
        require_direct: true,
    };
    Disk::open(&path, looking).expect("a tool may look");
    drop(holder);
    open(&path);
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = scratch();
    let folder = Disk::open(directory.path(), OpenOptionsDisk::default());
    assert!(matches!(folder, Err(DiskError::NotADisk { .. })));
    let device = Disk::open(Path::new("/dev/null"), OpenOptionsDisk::default());
    assert!(matches!(device, Err(DiskError::NotADisk { .. })));
    let missing = Disk::open(&directory.path().join("none"), OpenOptionsDisk::default());
    assert!(matches!(
        missing,
        Err(DiskError::System {
            action: "look at",
            ..
        })
    ));
    let huge = directory.path().join("huge");
    let refused = create_file(&huge, 1 << 60);
    assert!(
        matches!(refused, Err(DiskError::NoRoom { .. })),
        "{refused:?}"
    );
    assert!(!huge.exists(), "nothing is left behind");
    let path = file_in(directory.path(), 4096);
    assert!(
        create_file(&path, 4096).is_err(),
        "an existing file is not overwritten"
    );
}

/// A read that the kernel itself answers with EIO: nothing is mapped at the start of our memory.
#[test]
fn a_real_eio_is_a_media_error() {
    let options = OpenOptionsDisk {
        require_direct: false,
        claim: false,
        writable: false,
    };
    let disk = Disk::open(Path::new("/proc/self/mem"), options).expect("opens");
    assert!(!disk.is_direct());
    let mut reactor = reactor();
    let disk = reactor.add_disk(disk);
    let error = read(&mut reactor, disk, 0, 4096).expect_err("not mapped");
    assert_eq!((error.kind, error.errno), (IoErrorKind::Media, libc::EIO));
    assert!(error.to_string().contains("read of 4096 bytes at 0"));
}

fn run(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// A sparse file on a filesystem that fills up: part of the write happens, the rest is ENOSPC.
#[test]
fn a_full_filesystem_is_told_as_such() {
    if !is_root() {
        eprintln!("skipped: mounting a filesystem needs root");
        return;
    }
    let test = std::thread::spawn(|| {
        // SAFETY: takes no pointer; gives this thread its own mounts.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let directory = scratch();
        let at = directory.path().to_str().expect("UTF-8");
        run("mount", &["--make-rprivate", "/"]).expect("private mounts");
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "none", at]).expect("a small filesystem");
        let path = directory.path().join("sparse");
        std::fs::File::create(&path)
            .and_then(|f| f.set_len(1 << 20))
            .expect("sparse");
        let options = OpenOptionsDisk {
            require_direct: false,
            ..OpenOptionsDisk::default()
        };
        let mut reactor = reactor();
        let disk = reactor.add_disk(Disk::open(&path, options).expect("opens"));
        let part = filled(&reactor, MIB, 1);
        reactor.disk_write(disk, 0, std::slice::from_ref(&part), true, 1);
        let error = written(&mut reactor).1.expect_err("full");
        assert_eq!(
            (error.kind, error.errno),
            (IoErrorKind::NoSpace, libc::ENOSPC)
        );
        assert!(error.done > 0, "the short part was taken, then continued");
        assert!(reactor.counters().disk_continued > 0);
        let refused = create_file(&directory.path().join("more"), 1 << 20);
        assert!(matches!(refused, Err(DiskError::NoRoom { .. })));
        drop(reactor);
        run("umount", &["--lazy", at]).expect("unmounts");
    });
    test.join().expect("no panic");
}

/// A loop device: exclusive claim, sizes, and an I/O error from the block layer.
#[test]
fn a_block_device_is_claimed_measured_and_fails_as_media() {
    let directory = scratch();
    let backing = directory.path().join("backing");
    create_file(&backing, 4 * MIB as u64).expect("room");
    let path = backing.to_str().expect("UTF-8");
    let device = match is_root()
        .then(|| run("losetup", &["--find", "--show", path]))
        .flatten()
    {
        Some(device) => device,
        None => {
            eprintln!("skipped: no loop devices here");
            return;
        }
    };
    let result = std::panic::catch_unwind(|| {
        let disk = open(Path::new(&device));
        assert_eq!(
            (disk.kind(), disk.size()),
            (DiskKind::BlockDevice, 4 * MIB as u64)
        );
        assert!(disk.block() >= 512 && disk.block() <= 4096);
        let second = Disk::open(Path::new(&device), OpenOptionsDisk::default());
        assert!(
            matches!(second, Err(DiskError::Claimed { .. })),
            "{second:?}"
        ); // R23
        let mut reactor = reactor();
        let disk = reactor.add_disk(disk);
        let part = filled(&reactor, 8192, 5);
        reactor.disk_write(disk, 4096, std::slice::from_ref(&part), true, 1);
        written(&mut reactor).1.expect("writes");
        assert!(read(&mut reactor, disk, 4096, 8192).expect("reads") == part);
        // The medium shrinks under the device.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&backing)
            .expect("opens");
        file.set_len(MIB as u64).expect("truncates");
        let error = read(&mut reactor, disk, 2 * MIB as u64, 4096).expect_err("gone");
        assert_eq!(error.kind, IoErrorKind::Media, "{error}");
    });
    run("losetup", &["--detach", &device]).expect("detaches");
    result.expect("no panic");
}
