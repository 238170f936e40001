//! Devices, by /dev/ublk-control. Every command waits for the kernel, some of them for the device's server: never
//! give one on the thread that serves it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use lockstep_types::BLOCK;
use zerocopy::{FromBytes, IntoBytes};

use crate::uapi::{ControlCommand, DeviceInfo, Params, control as command, feature, state};
use crate::{DEPTH, MAX_TRANSFER};

const PATH: &str = "/dev/ublk-control";
/// No device yet, and no queue.
const NONE: u32 = u32::MAX;
/// What a device of ours is made with.
const FLAGS: u64 = feature::USER_RECOVERY
    | feature::USER_RECOVERY_REISSUE
    | feature::CMD_IOCTL_ENCODE
    | feature::USER_COPY;
/// Bytes of the longest discard: one request is cut into as many pieces as it has extents.
const MAX_DISCARD: u32 = 256 << 20;

/// What a device is made with.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// Takes no writes.
    pub read_only: bool,
    /// Bytes that one request should best have: a power of two, at least 4096.
    pub preferred: u32,
    /// Names the device among all of this host, for who comes later: see [`Control::find`].
    pub own: u64,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("ublk cannot {action}: {source}")]
pub struct Error {
    /// What was to be done, to which device.
    pub action: String,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Error {
    /// Whether the device's last server has not gone yet.
    pub fn is_busy(&self) -> bool {
        self.source.kind() == ErrorKind::ResourceBusy
    }
}

/// Why this process cannot have ublk devices that outlive it; none if it can.
pub fn unavailable() -> Option<String> {
    let mut control = match Control::open() {
        Ok(control) => control,
        Err(error) if error.source.kind() == ErrorKind::NotFound => {
            return Some(
                "the kernel has no ublk ('modprobe ublk_drv' on the host loads it)".into(),
            );
        }
        Err(error) => return Some(error.to_string()),
    };
    match control.features() {
        Ok(features) if features & FLAGS == FLAGS => None,
        Ok(_) => {
            Some("this kernel's ublk keeps no device for its next server (6.5 and later do)".into())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Whether a device in use can grow here (6.16 and later).
pub fn can_grow() -> bool {
    let features = Control::open().and_then(|mut control| control.features());
    features.is_ok_and(|features| features & feature::UPDATE_SIZE != 0)
}

/// /dev/ublk-control, and a ring of its own.
pub struct Control {
    file: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    /// Opens it. Needs root.
    ///
    /// # Errors
    /// The kernel has no ublk, or no io_uring for this process.
    pub fn open() -> Result<Self, Error> {
        let opened = OpenOptions::new().read(true).write(true).open(PATH);
        let file = opened.map_err(failed(format!("open {PATH}")))?;
        let ring = IoUring::builder().dontfork().build(4);
        let ring = ring.map_err(failed("have an io_uring"))?;
        Ok(Self { file, ring })
    }

    /// What this kernel can do: see [`feature`].
    ///
    /// # Errors
    /// The kernel's; before 6.5 it does not say.
    pub fn features(&mut self) -> Result<u64, Error> {
        let mut features = [0_u8; 8];
        self.with_buffer(command::GET_FEATURES, NONE, &mut features)
            .map_err(failed("say what it can do"))?;
        Ok(u64::from_ne_bytes(features))
    }

    /// Makes a device; its number. It has no disk before [`Control::start`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&mut self, parameters: &Parameters) -> Result<u32, Error> {
        let grows = self.features()? & feature::UPDATE_SIZE;
        let mut info = DeviceInfo {
            queues: 1,
            depth: DEPTH,
            max_transfer: MAX_TRANSFER,
            device: NONE,
            server: process(),
            flags: FLAGS | grows,
            own: parameters.own,
            ..Default::default()
        };
        self.with_buffer(command::ADD_DEV, NONE, info.as_mut_bytes())
            .map_err(failed("make a device"))?;
        let number = info.device;
        if let Err(error) = self.set(number, parameters) {
            let _ = self.remove(number);
            return Err(error);
        }
        Ok(number)
    }

    fn set(&mut self, number: u32, parameters: &Parameters) -> Result<(), Error> {
        let read_only = if parameters.read_only {
            Params::READ_ONLY
        } else {
            0
        };
        let shift = BLOCK.trailing_zeros() as u8;
        let mut params = Params {
            length: size_of::<Params>() as u32,
            types: Params::TYPES,
            attributes: Params::VOLATILE_CACHE | Params::FUA | read_only,
            logical_shift: shift,
            physical_shift: shift,
            optimal_shift: parameters.preferred.trailing_zeros() as u8,
            minimal_shift: shift,
            max_sectors: MAX_TRANSFER >> 9,
            sectors: parameters.size >> 9,
            discard_granularity: BLOCK as u32,
            max_discard_sectors: MAX_DISCARD >> 9,
            max_zeroes_sectors: MAX_DISCARD >> 9,
            max_discard_segments: 1,
            ..Default::default()
        };
        self.with_buffer(command::SET_PARAMS, number, params.as_mut_bytes())
            .map_err(failed(format!("set up device {number}")))
    }

    /// Gives a device its disk, `/dev/ublkbN`; waits until its server has asked for every tag.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&mut self, number: u32) -> Result<(), Error> {
        self.with_number(command::START_DEV, number, process() as u64)
            .map_err(failed(format!("start device {number}")))
    }

    /// Takes a device's disk away: what waits fails. The server is told of the end of every tag.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self, number: u32) -> Result<(), Error> {
        self.with_number(command::STOP_DEV, number, 0)
            .map_err(failed(format!("stop device {number}")))
    }

    /// Removes a stopped device; waits until its server has let go of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, number: u32) -> Result<(), Error> {
        self.with_number(command::DEL_DEV, number, 0)
            .map_err(failed(format!("remove device {number}")))
    }

    /// Another server is to come for a device whose last one has gone.
    ///
    /// # Errors
    /// The kernel's; [`Error::is_busy`] while the last one is still going.
    pub fn start_recovery(&mut self, number: u32) -> Result<(), Error> {
        self.with_number(command::START_USER_RECOVERY, number, 0)
            .map_err(failed(format!("give device {number} another server")))
    }

    /// It has come; waits until it has asked for every tag. What was not answered is handed to it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end_recovery(&mut self, number: u32) -> Result<(), Error> {
        self.with_number(command::END_USER_RECOVERY, number, process() as u64)
            .map_err(failed(format!("go on with device {number}")))
    }

    /// A device in use has `size` bytes from now on.
    ///
    /// # Errors
    /// The kernel's; before 6.16 it cannot.
    pub fn resize(&mut self, number: u32, size: u64) -> Result<(), Error> {
        self.with_number(command::UPDATE_SIZE, number, size >> 9)
            .map_err(failed(format!("resize device {number}")))
    }

    /// What is known of a device.
    ///
    /// # Errors
    /// There is none.
    pub fn info(&mut self, number: u32) -> Result<DeviceInfo, Error> {
        let mut info = [0_u8; size_of::<DeviceInfo>()];
        self.with_buffer(command::GET_DEV_INFO, number, &mut info)
            .map_err(failed(format!("say what device {number} is")))?;
        Ok(DeviceInfo::read_from_bytes(&info).expect("as many bytes as it has"))
    }

    /// The device that was made with this in [`Parameters::own`].
    pub fn find(&mut self, own: u64) -> Option<u32> {
        let listed = fs::read_dir("/sys/class/ublk-char").ok()?;
        let numbers: Vec<u32> = listed
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("ublkc")?
                    .parse()
                    .ok()
            })
            .collect();
        numbers
            .into_iter()
            .find(|number| self.info(*number).is_ok_and(|info| info.own == own))
    }

    /// Whether a device has a disk, with or without a server.
    pub fn has_disk(&mut self, number: u32) -> bool {
        self.info(number)
            .is_ok_and(|info| info.state != state::DEAD)
    }

    fn with_buffer(&mut self, which: u32, number: u32, buffer: &mut [u8]) -> io::Result<()> {
        let carried = ControlCommand {
            device: number,
            queue: u16::MAX,
            length: buffer.len() as u16,
            address: buffer.as_mut_ptr() as u64,
            ..Default::default()
        };
        self.give(which, &carried)
    }

    fn with_number(&mut self, which: u32, number: u32, data: u64) -> io::Result<()> {
        let carried = ControlCommand {
            device: number,
            queue: u16::MAX,
            data,
            ..Default::default()
        };
        self.give(which, &carried)
    }

    /// Gives one command and waits for its end. What `carried` points to is borrowed by the caller until then.
    fn give(&mut self, which: u32, carried: &ControlCommand) -> io::Result<()> {
        let mut bytes = [0; 80];
        bytes[..size_of::<ControlCommand>()].copy_from_slice(carried.as_bytes());
        let file = types::Fd(self.file.as_raw_fd());
        let entry = opcode::UringCmd80::new(file, which).cmd(bytes).build();
        // SAFETY: the kernel copies the command when it is submitted; the buffer it may point to is borrowed, mutably,
        // by the callers above until this returns, which is after the completion.
        unsafe { self.ring.submission().push(&entry) }.expect("the ring is empty between commands");
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if let Some(completion) = self.ring.completion().next() {
                return match completion.result() {
                    0.. => Ok(()),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// The node of a device's disk.
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

fn process() -> i32 {
    std::process::id() as i32
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error { action, source }
}
