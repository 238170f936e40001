//! Descriptors that the caller reads and writes itself: the reactor only says when there is
//! something to read. For /dev/fuse, whose messages must be read in one piece.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::{Event, Kind, Reactor};

/// A watched descriptor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WatchId(u32);

pub(super) struct Watch {
    descriptor: OwnedFd,
    armed: bool,
    removed: bool,
}

impl Reactor {
    /// Takes a descriptor to watch; nothing is reported before [`Self::arm_watch`].
    pub fn add_watch(&mut self, descriptor: OwnedFd) -> WatchId {
        let watch = Watch {
            descriptor,
            armed: false,
            removed: false,
        };
        match self.watches.iter().position(Option::is_none) {
            Some(slot) => {
                self.watches[slot] = Some(watch);
                WatchId(slot as u32)
            }
            None => {
                self.watches.push(Some(watch));
                WatchId(self.watches.len() as u32 - 1)
            }
        }
    }

    /// Asks for one [`Event::Readable`], when there is something to read, already or later.
    ///
    /// # Panics
    /// If the watch was removed.
    pub fn arm_watch(&mut self, id: WatchId) {
        let watch = self.watches[id.0 as usize]
            .as_mut()
            .filter(|watch| !watch.removed)
            .expect("a watch is armed before it is removed");
        if std::mem::replace(&mut watch.armed, true) {
            return;
        }
        let fd = types::Fd(watch.descriptor.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
        // SAFETY: a poll points to no memory; the descriptor stays open until its completion.
        unsafe { self.submit(entry, Kind::Watch.tag(id.0)) };
    }

    /// Gives up a watch; nothing of it is reported any more.
    pub fn remove_watch(&mut self, id: WatchId) {
        let slot = &mut self.watches[id.0 as usize];
        match slot {
            Some(watch) if watch.armed => {
                if !std::mem::replace(&mut watch.removed, true) {
                    self.cancel(Kind::Watch.tag(id.0));
                }
            }
            _ => *slot = None,
        }
    }

    pub(super) fn on_watch(&mut self, slot: usize, events: &mut Vec<Event>) {
        let watch = self.watches[slot]
            .as_mut()
            .expect("an armed watch keeps its slot");
        watch.armed = false;
        if watch.removed {
            self.watches[slot] = None;
        } else {
            events.push(Event::Readable {
                watch: WatchId(slot as u32),
            });
        }
    }
}
