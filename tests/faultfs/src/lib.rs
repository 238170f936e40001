//! A disk that fails on request: a FUSE file system in memory, under the real daemon with its real
//! io_uring. It reports errors, is slow or full, changes bytes, and loses its power at any moment
//! with everything that was not flushed dropped, kept or torn ([`Recording`]). For tests; needs root.
#![forbid(unsafe_code)]

mod cut;
mod image;
mod rules;
mod server;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lockstep_fuse::{Device, Mount};

pub use cut::{Cut, Recording};
pub use image::Image;
pub use rules::{Fault, On, Rule};

use image::Change;

/// A mounted image. Dropping it aborts the mount: whoever uses it gets errors from then on.
#[derive(Debug)]
pub struct FaultFs {
    mount: Option<Mount>,
    thread: Option<JoinHandle<io::Result<()>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) image: Image,
    recording: Option<Recording>,
    rules: Vec<Rule>,
    /// Times that a rule was met.
    met: u64,
    /// Pages that may be written in all.
    room: Option<u64>,
}

impl FaultFs {
    /// Mounts an image on a directory.
    ///
    /// # Errors
    /// The caller is not root, or the system's.
    pub fn mount(target: &Path, image: Image) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State {
            image,
            recording: None,
            rules: Vec::new(),
            met: 0,
            room: None,
        }));
        let device = Device::open()?;
        let mount = Mount::new(&device, target).map_err(io::Error::other)?;
        let own = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("faultfs".into())
            .spawn(move || server::serve(device, &own))?;
        Ok(Self {
            mount: Some(mount),
            thread: Some(thread),
            state,
        })
    }

    /// What goes wrong from now on, and nothing else.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let mut state = self.lock();
        state.rules = rules;
        state.met = 0;
    }

    /// How often a rule has been met since they were set.
    pub fn met(&self) -> u64 {
        self.lock().met
    }

    /// From now on there is room for so many more bytes; what has been written may be overwritten.
    pub fn leave_room(&self, bytes: u64) {
        let mut state = self.lock();
        state.room = Some(state.image.pages() + bytes / image::PAGE as u64);
    }

    /// There is room again.
    pub fn free_room(&self) {
        self.lock().room = None;
    }

    /// Changes bits of a byte behind the user's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn flip(&self, path: &str, offset: u64, bits: u8) {
        let mut state = self.lock();
        let file = state.image.find(path).expect("a file");
        let content = state.image.file(file).expect("a file");
        let byte = content.read(offset, 1)[0] ^ bits;
        state.image.apply(&Change::Write {
            file,
            offset,
            bytes: bytes::Bytes::copy_from_slice(&[byte]),
            durable: true,
        });
    }

    /// Bytes of a file, past the mount.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn read(&self, path: &str, offset: u64, size: usize) -> Vec<u8> {
        let state = self.lock();
        let file = state.image.find(path).expect("a file");
        state.image.file(file).expect("a file").read(offset, size)
    }

    /// Records every change from now on; what is there counts as durable.
    pub fn record(&self) {
        let mut state = self.lock();
        state.recording = Some(Recording {
            base: state.image.clone(),
            changes: Vec::new(),
        });
    }

    /// Changes recorded so far.
    pub fn recorded(&self) -> usize {
        self.lock().recording.as_ref().map_or(0, Recording::len)
    }

    /// Ends the recording and hands it over.
    ///
    /// # Panics
    /// If there is none.
    pub fn take_recording(&self) -> Recording {
        self.lock().recording.take().expect("it records")
    }

    /// Everything as it is now, flushed or not.
    pub fn image(&self) -> Image {
        self.lock().image.clone()
    }

    /// Ends the mount; errors for whoever still uses it.
    pub fn end(mut self) {
        self.finish();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&mut self) {
        if let Some(mount) = self.mount.take() {
            let aborted = mount.abort();
            let served = self.thread.take().map(|thread| thread.join());
            if !std::thread::panicking() {
                aborted.expect("a mount of ours can be aborted");
                if let Some(Ok(served)) = served {
                    served.expect("/dev/fuse is served to the end");
                }
            }
        }
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.finish();
    }
}

impl State {
    /// Does something to the image, and notes it.
    fn change(&mut self, change: Change) {
        self.image.apply(&change);
        if let Some(recording) = &mut self.recording {
            recording.changes.push(change);
        }
    }

    /// Whether so many pages more can be written.
    fn has_room(&self, pages: u64) -> Result<(), i32> {
        match self.room {
            Some(room) if pages > 0 && self.image.pages() + pages > room => Err(libc::ENOSPC),
            _ => Ok(()),
        }
    }

    fn fault(&mut self, inode: u64, on: On, range: Range<u64>) -> Option<Fault> {
        if self.rules.is_empty() {
            return None;
        }
        let path = self.image.path(inode)?;
        let met = self
            .rules
            .iter()
            .find(|rule| rule.meets(&path, on, &range))?;
        self.met += 1;
        Some(met.fault)
    }
}
