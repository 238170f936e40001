//! A real block device over a volume in memory, on the kernel that runs this.

mod support;

use lockstep_frontend::{Answer, Done, IoError, Op, ReadPart, Request};
use lockstep_fuse::{
    CloseReason, Completer, Device, Driver, Ended, Handler, Limits, LoopDevice, LoopError, Mount,
    Session, Volume,
};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use support::{Place, installed, possible, run};

const SIZE: u64 = 64 << 20;

/// What the handlers of a test share.
#[derive(Clone)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<Vec<(Op, u64, u32)>>>,
    /// Answers come from this thread, in an order of its own; otherwise from the driver's.
    other: Option<Sender<(Request, Completer)>>,
    /// Everything fails.
    broken: bool,
}

impl Memory {
    fn new() -> Self {
        let bytes = Arc::new(Mutex::new(vec![0; 2 * SIZE as usize]));
        Self {
            bytes,
            seen: Arc::default(),
            other: None,
            broken: false,
        }
    }

    /// Answers two at a time, the later one first.
    fn on_another_thread(mut self) -> Self {
        let (sender, receiver) = channel::<(Request, Completer)>();
        let memory = self.clone();
        self.other = Some(sender);
        std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                for (request, completer) in receiver.try_recv().into_iter().chain([first]) {
                    completer.complete(request.tag, memory.answer(&request));
                }
            }
        });
        self
    }

    fn answer(&self, request: &Request) -> Answer {
        if self.broken {
            return Err(IoError::Io);
        }
        self.seen.lock().expect("no holder panics").push((
            request.op,
            request.offset,
            request.length,
        ));
        let mut bytes = self.bytes.lock().expect("no holder panics");
        let start = request.offset as usize;
        let place = &mut bytes[start..start + request.length as usize];
        match request.op {
            Op::Read if place.iter().all(|byte| *byte == 0) => Ok(Done::Read(
                [ReadPart::Zeroes(request.length)].into_iter().collect(),
            )),
            Op::Read => {
                // In two parts, as from two blocks of a store.
                let (first, second) = place.split_at(4096.min(place.len()));
                let part = |bytes: &[u8]| ReadPart::Data(bytes.to_vec().into());
                Ok(Done::Read(
                    [part(first), part(second)].into_iter().collect(),
                ))
            }
            Op::Write => {
                request.payload.copy_to(place);
                Ok(Done::Plain)
            }
            Op::Trim | Op::WriteZeroes => {
                place.fill(0);
                Ok(Done::Plain)
            }
            Op::Flush => Ok(Done::Plain),
            Op::BlockStatus => panic!("FUSE asks for no status"),
        }
    }

    fn saw(&self, op: Op) -> Vec<(u64, u32)> {
        let seen = self.seen.lock().expect("no holder panics");
        let those = seen.iter().filter(|(found, _, _)| *found == op);
        those
            .map(|(_, offset, length)| (*offset, *length))
            .collect()
    }
}

impl Handler for Memory {
    fn submit(&mut self, request: Request, completer: &Completer) -> Option<Answer> {
        match &self.other {
            None => Some(self.answer(&request)),
            Some(other) => {
                other
                    .send((request, completer.clone()))
                    .expect("the thread is there");
                None
            }
        }
    }
}

struct Attached {
    mount: Mount,
    driver: Driver,
    backing: File,
    device: LoopDevice,
}

fn volume(read_only: bool) -> Volume {
    Volume {
        name: "volume".to_owned(),
        size: SIZE,
        read_only,
    }
}

impl Attached {
    fn new(place: &Place, memory: &Memory, volume: &Volume) -> Self {
        let device = Device::open().expect("/dev/fuse");
        let mount = Mount::new(&device, place.fuse()).expect("a mount");
        let session = Session::new(volume.clone(), Limits::default());
        let driver = Driver::spawn(device, session, Vec::new(), memory.clone()).expect("a thread");
        let backing = mount.open_volume(volume).expect("the file");
        let device = LoopDevice::attach(&backing, "lockstep:test", volume.read_only);
        Self {
            mount,
            driver,
            backing,
            device: device.expect("a loop device"),
        }
    }

    fn path(&self) -> String {
        self.device.path().display().to_string()
    }

    /// Takes everything apart; nothing may be left.
    fn detach(self, place: &Place) {
        let path = self.device.path();
        self.device.detach().expect("detached");
        drop(self.backing);
        self.mount.unmount().expect("unmounted");
        let ended = self.driver.join();
        assert!(
            matches!(ended, Ended::Closed(CloseReason::Unmounted)),
            "{ended}"
        );
        assert!(place.is_clean(), "{} is left behind", path.display());
    }

    /// The device without the page cache.
    fn direct(&self) -> File {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .clone();
        options.open(self.device.path()).expect("the device opens")
    }
}

/// Bytes at an address that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; 8192]);

#[test]
fn a_file_system_lives_on_it() {
    if !possible() || !installed("mkfs.ext4") {
        return;
    }
    for memory in [Memory::new(), Memory::new().on_another_thread()] {
        let place = Place::new();
        let attached = Attached::new(&place, &memory, &volume(false));
        run("mkfs.ext4", &["-q", "-E", "nodiscard", &attached.path()]);
        let files = place.files().display().to_string();
        run("mount", &[&attached.path(), &files]);
        let content: Vec<u8> = (0..5_000_000_u32).flat_map(|at| at.to_le_bytes()).collect();
        let mut file = File::create(place.files().join("file")).expect("a file");
        file.write_all(&content).expect("written");
        file.sync_all().expect("synced");
        drop(file);
        assert!(
            !memory.saw(Op::Flush).is_empty(),
            "fsync reaches the volume"
        );
        run("umount", &[&files]);
        run("e2fsck", &["-fn", &attached.path()]);
        attached.detach(&place);
        // The same bytes, attached anew.
        let attached = Attached::new(&place, &memory, &volume(false));
        run("mount", &[&attached.path(), &files]);
        let mut found = Vec::new();
        let mut file = File::open(place.files().join("file")).expect("the file");
        file.read_to_end(&mut found).expect("read");
        drop(file);
        assert!(found == content, "other bytes");
        run("umount", &[&files]);
        attached.detach(&place);
    }
}

#[test]
fn direct_io_reaches_the_volume_as_it_is() {
    if !possible() {
        return;
    }
    let (place, memory) = (Place::new(), Memory::new());
    let attached = Attached::new(&place, &memory, &volume(false));
    let file = attached.direct();
    let mut buffer = Box::new(Aligned([7; 8192]));
    file.write_at(&buffer.0, 1 << 20).expect("written");
    assert!(
        memory.saw(Op::Write).contains(&(1 << 20, 8192)),
        "one write, not split, not cached"
    );
    assert_eq!(
        memory.bytes.lock().expect("no holder panics")[(1 << 20) + 8191],
        7
    );
    buffer.0.fill(0);
    file.read_at(&mut buffer.0, 1 << 20).expect("read");
    assert!(buffer.0.iter().all(|byte| *byte == 7));
    file.sync_all().expect("synced");
    drop(file);
    attached.detach(&place);
}

#[test]
fn discards_and_zeroes_reach_the_volume() {
    if !possible() || !installed("blkdiscard") {
        return;
    }
    let (place, memory) = (Place::new(), Memory::new());
    memory.bytes.lock().expect("no holder panics").fill(9);
    let attached = Attached::new(&place, &memory, &volume(false));
    let (offset, length) = ("1048576", "2097152");
    run(
        "blkdiscard",
        &["-o", offset, "-l", length, &attached.path()],
    );
    assert_eq!(memory.saw(Op::Trim), [(1 << 20, 2 << 20)]);
    run(
        "blkdiscard",
        &["-z", "-o", "8388608", "-l", length, &attached.path()],
    );
    assert_eq!(memory.saw(Op::WriteZeroes), [(8 << 20, 2 << 20)]);
    attached.detach(&place);
}

#[test]
fn a_read_only_volume_refuses_writes() {
    if !possible() {
        return;
    }
    let (place, memory) = (Place::new(), Memory::new());
    let attached = Attached::new(&place, &memory, &volume(true));
    // The kernel itself says no.
    let opened = OpenOptions::new().write(true).open(attached.device.path());
    let written =
        opened.and_then(|file| file.write_at(&[0; 4096], 0).and_then(|_| file.sync_all()));
    assert!(written.is_err());
    assert!(memory.saw(Op::Write).is_empty());
    let mut first = [1; 4096];
    File::open(attached.device.path())
        .expect("opens")
        .read_exact(&mut first)
        .expect("reads");
    attached.detach(&place);
}

#[test]
fn errors_reach_the_reader() {
    if !possible() {
        return;
    }
    let (place, memory) = (
        Place::new(),
        Memory {
            broken: true,
            ..Memory::new()
        },
    );
    let attached = Attached::new(&place, &memory, &volume(false));
    let file = attached.direct();
    let mut buffer = Box::new(Aligned([0; 8192]));
    let error = file.read_at(&mut buffer.0, 0).expect_err("it is broken");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let error = file.write_at(&buffer.0, 0).expect_err("it is broken");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    drop(file);
    attached.detach(&place);
}

#[test]
fn a_volume_grows_while_it_is_attached() {
    if !possible() {
        return;
    }
    let (place, memory) = (Place::new(), Memory::new());
    let attached = Attached::new(&place, &memory, &volume(false));
    let size = |attached: &Attached| {
        File::open(attached.device.path()).and_then(|mut file| file.seek(SeekFrom::End(0)))
    };
    assert_eq!(size(&attached).expect("a size"), SIZE);
    assert!(attached.driver.grow(2 * SIZE));
    attached.device.grow(&attached.backing).expect("grown");
    assert_eq!(size(&attached).expect("a size"), 2 * SIZE);
    let file = attached.direct();
    file.write_at(&Box::new(Aligned([3; 8192])).0, 2 * SIZE - 8192)
        .expect("written there");
    drop(file);
    assert!(memory.saw(Op::Write).contains(&(2 * SIZE - 8192, 8192)));
    attached.detach(&place);
}

#[test]
fn an_aborted_connection_fails_at_once_and_leaves_nothing() {
    if !possible() {
        return;
    }
    /// Answers nothing.
    struct Silent(Sender<u64>);
    impl Handler for Silent {
        fn submit(&mut self, request: Request, _: &Completer) -> Option<Answer> {
            if request.op == Op::Write {
                self.0.send(request.tag).expect("the test waits");
                return None;
            }
            let zeroes = ReadPart::Zeroes(request.length);
            Some(Ok(match request.op {
                Op::Read => Done::Read([zeroes].into_iter().collect()),
                _ => Done::Plain,
            }))
        }
    }
    let place = Place::new();
    let fuse = Device::open().expect("/dev/fuse");
    let mount = Mount::new(&fuse, place.fuse()).expect("a mount");
    let session = Session::new(volume(false), Limits::default());
    let (sender, written) = channel();
    let driver = Driver::spawn(fuse, session, Vec::new(), Silent(sender)).expect("a thread");
    let backing = mount.open_volume(&volume(false)).expect("the file");
    let device = LoopDevice::attach(&backing, "lockstep:test", false).expect("a loop device");
    let options = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .clone();
    let file = options.open(device.path()).expect("the device opens");
    let writer =
        std::thread::spawn(move || file.write_at(&Box::new(Aligned([1; 8192])).0, 0).map(drop));
    written.recv().expect("the write arrives");
    mount.abort().expect("aborted");
    let error = writer
        .join()
        .expect("no panic")
        .expect_err("it was aborted");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let ended = driver.join();
    assert!(
        matches!(ended, Ended::Closed(CloseReason::Unmounted)),
        "{ended}"
    );
    device.detach().expect("detached");
    drop(backing);
    assert!(place.is_clean());
}

#[test]
fn a_device_is_adopted_only_under_its_label() {
    if !possible() {
        return;
    }
    let (place, memory) = (Place::new(), Memory::new());
    let attached = Attached::new(&place, &memory, &volume(false));
    let number = attached.device.number();
    let again = LoopDevice::adopt(number, "lockstep:test").expect("it is ours");
    assert_eq!(again.path(), attached.device.path());
    drop(again);
    let error = LoopDevice::adopt(number, "lockstep:other").expect_err("it is not");
    assert!(matches!(error, LoopError::Another { .. }), "{error}");
    assert!(error.to_string().contains("'lockstep:test'"), "{error}");
    attached.detach(&place);
}
