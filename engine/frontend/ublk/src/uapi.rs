//! The kernel's interface, `linux/ublk_cmd.h`, as far as it is used here. Numbers have the byte order of the host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `_IOR('u', number, 32 bytes)` for what only asks, `_IOWR` for what changes something.
const fn encode(number: u32, changes: bool, size: u32) -> u32 {
    let direction = if changes { 3 } else { 2 };
    direction << 30 | size << 16 | (b'u' as u32) << 8 | number
}

/// Commands to /dev/ublk-control.
pub mod control {
    use super::encode;

    const SIZE: u32 = size_of::<super::ControlCommand>() as u32;

    /// What is known of a device.
    pub const GET_DEV_INFO: u32 = encode(0x02, false, SIZE);
    /// Makes a device.
    pub const ADD_DEV: u32 = encode(0x04, true, SIZE);
    /// Removes a stopped one, and waits until nobody has its queue open.
    pub const DEL_DEV: u32 = encode(0x05, true, SIZE);
    /// Lets it have a disk; waits until every tag was asked for.
    pub const START_DEV: u32 = encode(0x06, true, SIZE);
    /// Takes the disk away; what waits fails.
    pub const STOP_DEV: u32 = encode(0x07, true, SIZE);
    /// Before its start: size, blocks, limits.
    pub const SET_PARAMS: u32 = encode(0x08, true, SIZE);
    /// For a device whose server has gone: another may ask for its tags.
    pub const START_USER_RECOVERY: u32 = encode(0x10, true, SIZE);
    /// It has; waits until it has asked for all.
    pub const END_USER_RECOVERY: u32 = encode(0x11, true, SIZE);
    /// What this kernel can do.
    pub const GET_FEATURES: u32 = encode(0x13, false, SIZE);
    /// Another size for a running device, in sectors.
    pub const UPDATE_SIZE: u32 = encode(0x15, true, SIZE);
}

/// Commands to a device's queue.
pub mod io {
    use super::encode;

    const SIZE: u32 = size_of::<super::IoCommand>() as u32;

    /// Asks for the first request of a tag.
    pub const FETCH: u32 = encode(0x20, true, SIZE);
    /// Answers a request and asks for the tag's next.
    pub const COMMIT_AND_FETCH: u32 = encode(0x21, true, SIZE);
}

/// What a device, or the kernel, can do.
pub mod feature {
    /// The device outlives its server.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// And what its server had not answered is handed to the next.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are numbered as those of ioctl.
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    /// Bytes are copied by reads and writes of the queue.
    pub const USER_COPY: u64 = 1 << 7;
    /// A running device can grow.
    pub const UPDATE_SIZE: u64 = 1 << 10;
}

/// States of a device.
pub mod state {
    /// It has no disk.
    pub const DEAD: u16 = 0;
    /// It has one, and a server.
    pub const LIVE: u16 = 1;
    /// Its server has gone; everything waits.
    pub const QUIESCED: u16 = 2;
}

/// Operations of a request: the lowest eight bits of its first word.
pub mod operation {
    /// Give bytes.
    pub const READ: u8 = 0;
    /// Take bytes.
    pub const WRITE: u8 = 1;
    /// What was answered is durable.
    pub const FLUSH: u8 = 2;
    /// The range may be freed.
    pub const DISCARD: u8 = 3;
    /// The range reads as zeroes.
    pub const WRITE_ZEROES: u8 = 5;
}

/// Flags of a request, in its first word.
pub mod flag {
    /// Durable before it is answered.
    pub const FUA: u32 = 1 << 13;
    /// Zeroes that stay allocated.
    pub const NOUNMAP: u32 = 1 << 15;
}

/// `struct ublksrv_ctrl_cmd`: what a command to /dev/ublk-control carries.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ControlCommand {
    /// The device; all ones where there is none yet.
    pub device: u32,
    /// The queue; all ones.
    pub queue: u16,
    /// Bytes of the buffer.
    pub length: u16,
    /// Where the buffer is.
    pub address: u64,
    /// A number, where the command takes one.
    pub data: u64,
    /// For devices of users without privileges.
    pub path_length: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub reserved: u32,
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DeviceInfo {
    /// Queues.
    pub queues: u16,
    /// Tags of each.
    pub depth: u16,
    /// See [`state`].
    pub state: u16,
    /// Zero.
    pub pad0: u16,
    /// Bytes of the longest request.
    pub max_transfer: u32,
    /// Its number; all ones where the kernel is to choose.
    pub device: u32,
    /// Its server's process.
    pub server: i32,
    /// Zero.
    pub pad1: u32,
    /// See [`feature`].
    pub flags: u64,
    /// The server's own: the kernel keeps it and reads nothing in it.
    pub own: u64,
    /// Who made it.
    pub owner_user: u32,
    /// Who made it.
    pub owner_group: u32,
    /// Zero.
    pub reserved: [u64; 2],
}

/// `struct ublk_params` as far as its discard part, which is what is set.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Params {
    /// Bytes of all.
    pub length: u32,
    /// Which parts there are: [`Params::TYPES`].
    pub types: u32,
    /// See [`Params::READ_ONLY`] and the others.
    pub attributes: u32,
    /// Binary logarithm of a logical block's bytes.
    pub logical_shift: u8,
    /// Of a physical one's.
    pub physical_shift: u8,
    /// Of the best request's.
    pub optimal_shift: u8,
    /// Of the least good request's.
    pub minimal_shift: u8,
    /// Of the longest request.
    pub max_sectors: u32,
    /// Requests do not cross multiples of this; 0: they may.
    pub chunk_sectors: u32,
    /// The size.
    pub sectors: u64,
    /// Zero.
    pub boundary_mask: u64,
    /// Bytes.
    pub discard_alignment: u32,
    /// Bytes.
    pub discard_granularity: u32,
    /// Of the longest discard.
    pub max_discard_sectors: u32,
    /// Of the longest request for zeroes.
    pub max_zeroes_sectors: u32,
    /// Ranges of one discard.
    pub max_discard_segments: u16,
    /// Zero.
    pub reserved: u16,
    /// Zero: what follows is aligned to eight.
    pub pad: u32,
}

impl Params {
    /// Basic and discard.
    pub const TYPES: u32 = 1 | 2;
    /// Takes no writes.
    pub const READ_ONLY: u32 = 1;
    /// Flushes mean something.
    pub const VOLATILE_CACHE: u32 = 4;
    /// So does FUA.
    pub const FUA: u32 = 8;
}

/// `struct ublksrv_io_cmd`: what a command to a queue carries.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IoCommand {
    /// The queue.
    pub queue: u16,
    /// The tag.
    pub tag: u16,
    /// Of an answer: bytes, 0, or an errno, negative.
    pub result: i32,
    /// Zero: bytes are copied otherwise.
    pub address: u64,
}

/// `struct ublksrv_io_desc`: a request, by tag, in memory shared with the kernel.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Descriptor {
    /// See [`operation`] and [`flag`].
    pub operation_and_flags: u32,
    /// How much, of 512 bytes each.
    pub sectors: u32,
    /// Where.
    pub start: u64,
    /// Nothing here.
    pub address: u64,
}

const _: () = {
    assert!(size_of::<ControlCommand>() == 32);
    assert!(size_of::<DeviceInfo>() == 64);
    assert!(size_of::<Params>() == 64);
    assert!(size_of::<IoCommand>() == 16);
    assert!(size_of::<Descriptor>() == 24);
};

/// Where the bytes of a request of queue 0 begin in the queue's file.
pub fn transfer_offset(tag: u16) -> u64 {
    /// `UBLKSRV_IO_BUF_OFFSET`.
    const BASE: u64 = 0x8000_0000;
    /// `UBLK_TAG_OFF`.
    const TAG: u32 = 25;
    BASE + (u64::from(tag) << TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_numbers_of_the_commands() {
        assert_eq!(control::GET_DEV_INFO, 0x8020_7502);
        assert_eq!(control::ADD_DEV, 0xc020_7504);
        assert_eq!(control::START_USER_RECOVERY, 0xc020_7510);
        assert_eq!(control::GET_FEATURES, 0x8020_7513);
        assert_eq!(control::UPDATE_SIZE, 0xc020_7515);
        assert_eq!(io::FETCH, 0xc010_7520);
        assert_eq!(io::COMMIT_AND_FETCH, 0xc010_7521);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn golden_bytes_of_the_structures() {
        let command = IoCommand {
            queue: 1,
            tag: 2,
            result: -5,
            address: 3,
        };
        let bytes: [u8; 16] = [1, 0, 2, 0, 0xfb, 0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(command.as_bytes(), bytes);
        let command = ControlCommand {
            device: 7,
            queue: u16::MAX,
            length: 64,
            address: 0x10,
            data: 0x20,
            ..Default::default()
        };
        let mut bytes: Vec<u8> = vec![
            7, 0, 0, 0, 0xff, 0xff, 64, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20,
        ];
        bytes.resize(32, 0);
        assert_eq!(command.as_bytes(), bytes);
        let info = DeviceInfo {
            queues: 1,
            depth: 64,
            state: state::QUIESCED,
            max_transfer: 0x80000,
            device: 9,
            server: 0x1234,
            flags: 0xd8,
            own: 0x55,
            ..Default::default()
        };
        let mut bytes: Vec<u8> = vec![
            1, 0, 64, 0, 2, 0, 0, 0, 0, 0, 8, 0, 9, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0,
        ];
        bytes.extend([0xd8, 0, 0, 0, 0, 0, 0, 0, 0x55]);
        bytes.resize(64, 0);
        assert_eq!(info.as_bytes(), bytes);
        let params = Params {
            length: 64,
            types: Params::TYPES,
            attributes: Params::FUA,
            logical_shift: 12,
            physical_shift: 13,
            optimal_shift: 14,
            minimal_shift: 15,
            max_sectors: 16,
            sectors: 17,
            discard_granularity: 18,
            max_zeroes_sectors: 19,
            max_discard_segments: 20,
            ..Default::default()
        };
        let mut bytes: Vec<u8> = vec![
            64, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 12, 13, 14, 15, 16, 0, 0, 0, 0, 0, 0, 0,
        ];
        bytes.extend([17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 19, 0, 0, 0, 20]);
        bytes.resize(64, 0);
        assert_eq!(params.as_bytes(), bytes);
    }

    #[test]
    fn a_requests_bytes_lie_where_the_kernel_says() {
        assert_eq!(transfer_offset(0), 0x8000_0000);
        assert_eq!(transfer_offset(3), 0x8000_0000 + 3 * (32 << 20));
    }
}
