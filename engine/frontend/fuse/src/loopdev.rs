//! The loop device on the volume's file: /dev/loopN, what the pod gets.
//!
//! What LOOP_CONFIGURE takes, `struct loop_config`, 304 bytes, native byte order:
//!
//! | offset | field |
//! |---|---|
//! | 0 | backing descriptor u32 |
//! | 4 | block size u32 |
//! | 8 | `loop_info64`: device, inode, rdevice, offset, size limit u64 · 48: number, encrypt type, key size, flags u32 · 64: file name 64 bytes · 128: crypt name 64 bytes · 192: key 32 bytes · 224: init 2 × u64 |
//! | 240 | zero, 8 × u64 |

use crate::sys::{self, Passed};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_MAJOR: u32 = 7;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How often another process may take the free device before us.
const TRIES: u32 = 64;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// No loop control.
    #[error("cannot open /dev/loop-control: {0} (is the loop driver there?)")]
    Control(io::Error),
    /// No device was free.
    #[error("no free loop device: {0}")]
    NoneFree(io::Error),
    /// A device cannot be opened.
    #[error("cannot open {path}: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel refuses to attach, grow or detach.
    #[error("cannot {what} {path}: {error}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel attached it without direct I/O: the page cache would be kept twice, and a failed
    /// write would be noticed late.
    #[error("{path} was attached without direct I/O")]
    NotDirect {
        /// Which.
        path: PathBuf,
    },
    /// The device is another's.
    #[error("{path} holds '{found}', not '{expected}'")]
    Another {
        /// Which.
        path: PathBuf,
        /// Its label.
        found: String,
        /// The label wanted.
        expected: String,
    },
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<Info>() == 232);
// SAFETY: integers and bytes without padding, and `loop_info64` of <linux/loop.h>, which
// LOOP_GET_STATUS64 fills.
unsafe impl Passed for Info {}

#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    descriptor: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);
// SAFETY: integers and bytes without padding, and `loop_config` of <linux/loop.h>, which
// LOOP_CONFIGURE reads.
unsafe impl Passed for Config {}

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A loop device that this process has open. It is detached when the last that has it open closes
/// it: a process that died leaves none behind, and one that restarts must have a keeper (or a
/// mounted file system) hold it meanwhile.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    file: File,
}

impl LoopDevice {
    /// Attaches a free device to `backing`, opened for direct I/O, with blocks of 4096 bytes.
    /// `label` names it for [`LoopDevice::adopt`], cut at 63 bytes. `backing` may be closed
    /// afterwards, the device has its own hold on it. The session behind `backing` must be
    /// answering: never call it on the thread that runs it.
    pub fn attach(backing: &File, label: &str, read_only: bool) -> Result<Self, LoopError> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(LoopError::Control)?;
        let read_only = if read_only { READ_ONLY } else { 0 };
        let flags = DIRECT_IO | AUTOCLEAR | read_only;
        let info = Info {
            flags,
            file_name: file_name(label),
            ..NO_INFO
        };
        for _ in 0..TRIES {
            let number = sys::ioctl(&control, LOOP_CTL_GET_FREE, 0).map_err(LoopError::NoneFree)?;
            let device = Self::open(u32::try_from(number).expect("checked to be no error"))?;
            let descriptor =
                u32::try_from(backing.as_raw_fd()).expect("a descriptor is not negative");
            let mut config = Config {
                descriptor,
                block_size: 4096,
                info,
                reserved: [0; 8],
            };
            match sys::ioctl_with(&device.file, LOOP_CONFIGURE, &mut config) {
                Ok(_) => return device.checked(),
                // Another process was faster.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(device.refused("attach", error)),
            }
        }
        Err(LoopError::NoneFree(io::Error::from_raw_os_error(
            libc::EBUSY,
        )))
    }

    /// Opens a device that an earlier process attached, if it still holds `label`.
    pub fn adopt(number: u32, label: &str) -> Result<Self, LoopError> {
        let device = Self::open(number)?;
        let found = device.info()?.file_name;
        if found != file_name(label) {
            let (path, expected) = (device.path(), text(&file_name(label)));
            return Err(LoopError::Another {
                path,
                found: text(&found),
                expected,
            });
        }
        Ok(device)
    }

    /// The label of a device, whoever attached it; empty if nothing is attached.
    pub fn label_of(number: u32) -> Result<String, LoopError> {
        let device = Self::open(number)?;
        match device.info() {
            Ok(info) => Ok(text(&info.file_name)),
            Err(LoopError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENXIO) => {
                Ok(String::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its node.
    pub fn path(&self) -> PathBuf {
        path(self.number)
    }

    /// The open device: a keeper holds a duplicate of it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the file's new size, after [`crate::Session::grown`]. The session must be
    /// answering: never call it on the thread that runs it.
    pub fn grow(&self, backing: &File) -> Result<(), LoopError> {
        // The loop driver looks at what the kernel last heard of the file: make it ask.
        sys::refresh(backing.as_fd())
            .map_err(|error| self.refused("ask the size behind", error))?;
        sys::ioctl(&self.file, LOOP_SET_CAPACITY, 0)
            .map_err(|error| self.refused("grow", error))?;
        Ok(())
    }

    /// Detaches. While others have the device open it stays until the last closes it.
    pub fn detach(self) -> Result<(), LoopError> {
        sys::ioctl(&self.file, LOOP_CLR_FD, 0).map_err(|error| self.refused("detach", error))?;
        Ok(())
    }

    fn open(number: u32) -> Result<Self, LoopError> {
        let path = path(number);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let file = match open() {
            // A container's /dev does not show what appeared after its start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = CString::new(path.display().to_string()).expect("no NUL in a number");
                sys::make_block_node(&text, LOOP_MAJOR, number).and_then(|()| open())
            }
            other => other,
        };
        let file = file.map_err(|error| LoopError::Open {
            path: path.clone(),
            error,
        })?;
        Ok(Self { number, file })
    }

    fn checked(self) -> Result<Self, LoopError> {
        if self.info()?.flags & DIRECT_IO == 0 {
            let path = self.path();
            self.detach()?;
            return Err(LoopError::NotDirect { path });
        }
        Ok(self)
    }

    fn info(&self) -> Result<Info, LoopError> {
        let mut info = NO_INFO;
        sys::ioctl_with(&self.file, LOOP_GET_STATUS64, &mut info)
            .map_err(|error| self.refused("ask for the status of", error))?;
        Ok(info)
    }

    fn refused(&self, what: &'static str, error: io::Error) -> LoopError {
        LoopError::Refused {
            what,
            path: self.path(),
            error,
        }
    }
}

fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Up to the first NUL.
fn text(name: &[u8]) -> String {
    let end = name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn file_name(label: &str) -> [u8; 64] {
    let mut name = [0; 64];
    let length = label.len().min(63);
    name[..length].copy_from_slice(&label.as_bytes()[..length]);
    name
}
