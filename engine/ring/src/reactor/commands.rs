//! Commands of drivers (`IORING_OP_URING_CMD`), as ublk's queues take them: each waits for the driver, often for
//! ever, and points to no memory of ours.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::{Event, Kind, Reactor};

/// A descriptor that takes commands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DriverId(u16);

pub(super) struct Driver {
    descriptor: OwnedFd,
    /// Commands without an end.
    in_flight: u32,
    removed: bool,
}

/// Bits of a token.
const TOKEN: u32 = 16;

impl Reactor {
    /// Takes a descriptor of a driver.
    pub fn add_driver(&mut self, descriptor: OwnedFd) -> DriverId {
        let driver = Driver {
            descriptor,
            in_flight: 0,
            removed: false,
        };
        let slot = match self.drivers.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.drivers.push(None);
                self.drivers.len() - 1
            }
        };
        self.drivers[slot] = Some(driver);
        DriverId(u16::try_from(slot).expect("fewer drivers than descriptors"))
    }

    /// Gives a command; [`Event::Commanded`] tells of its end. `carried` points to no memory.
    ///
    /// # Panics
    /// If the driver was removed.
    pub fn command(&mut self, id: DriverId, which: u32, carried: [u8; 16], token: u16) {
        let driver = self.drivers[usize::from(id.0)]
            .as_mut()
            .filter(|driver| !driver.removed)
            .expect("commands come before the removal");
        driver.in_flight += 1;
        let fd = types::Fd(driver.descriptor.as_raw_fd());
        let entry = opcode::UringCmd16::new(fd, which).cmd(carried).build();
        let slot = u32::from(id.0) << TOKEN | u32::from(token);
        // SAFETY: the command is copied when it is submitted and points to no memory; the descriptor stays open until
        // its completion.
        unsafe { self.submit(entry, Kind::Command.tag(slot)) };
        // Nothing of ours is lent to it, and it may never end: nobody waits for it at the end of the ring.
        self.in_flight -= 1;
    }

    /// Gives up a driver; nothing of it is reported any more. Its descriptor is closed when the last of its commands
    /// has ended.
    pub fn remove_driver(&mut self, id: DriverId) {
        let slot = &mut self.drivers[usize::from(id.0)];
        match slot {
            Some(driver) if driver.in_flight > 0 => driver.removed = true,
            _ => *slot = None,
        }
    }

    pub(super) fn on_command(&mut self, tag: usize, result: i32, events: &mut Vec<Event>) {
        let (slot, token) = (tag >> TOKEN, tag as u16);
        let driver = self.drivers[slot]
            .as_mut()
            .expect("a command under way keeps its driver's slot");
        driver.in_flight -= 1;
        if !driver.removed {
            let driver = DriverId(slot as u16);
            events.push(Event::Commanded {
                driver,
                token,
                result,
            });
        } else if driver.in_flight == 0 {
            self.drivers[slot] = None;
        }
    }
}
