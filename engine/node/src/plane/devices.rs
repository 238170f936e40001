//! The descriptors of /dev/fuse that this thread serves: read when the ring says that there is
//! something, written at once. One message is one system call either way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use lockstep_fuse::{Device, Parts, Received};
use lockstep_logic::io::Ticket;
use lockstep_ring::{Reactor, WatchId};
use lockstep_types::AttachmentId;

use super::turn::Client;

/// Devices of one data-plane thread.
#[derive(Debug, Default)]
pub(super) struct Devices {
    served: BTreeMap<u64, Served>,
    watches: BTreeMap<WatchId, u64>,
    /// Those that may have something to read: told of by the ring, or new.
    readable: BTreeSet<u64>,
    last: u64,
}

#[derive(Debug)]
struct Served {
    ticket: Ticket,
    attachment: AttachmentId,
    device: Device,
    watch: WatchId,
}

impl Devices {
    pub(super) fn add(
        &mut self,
        ticket: Ticket,
        attachment: AttachmentId,
        device: Device,
        reactor: &mut Reactor,
    ) -> io::Result<Client> {
        let watch = reactor.add_watch(device.duplicate()?);
        self.last += 1;
        self.watches.insert(watch, self.last);
        self.readable.insert(self.last);
        self.served.insert(
            self.last,
            Served {
                ticket,
                attachment,
                device,
                watch,
            },
        );
        Ok(Client::Device(self.last))
    }

    /// Lets go of a device; what the kernel still asks is for whoever else holds it.
    pub(super) fn remove(
        &mut self,
        attachment: AttachmentId,
        reactor: &mut Reactor,
    ) -> Option<Client> {
        let key = self
            .served
            .iter()
            .find(|(_, served)| served.attachment == attachment)
            .map(|(key, _)| *key)?;
        let served = self.served.remove(&key).expect("just found");
        self.watches.remove(&served.watch);
        self.readable.remove(&key);
        reactor.remove_watch(served.watch);
        Some(Client::Device(key))
    }

    pub(super) fn attachment(&self, client: Client) -> Option<AttachmentId> {
        self.of(client).map(|served| served.attachment)
    }

    /// The order that it is served by, and its publication.
    pub(super) fn order(&self, client: Client) -> Option<(Ticket, AttachmentId)> {
        self.of(client)
            .map(|served| (served.ticket, served.attachment))
    }

    /// Those that may have something to read.
    pub(super) fn clients(&self) -> Vec<Client> {
        self.readable
            .iter()
            .map(|key| Client::Device(*key))
            .collect()
    }

    pub(super) fn readable(&mut self, watch: WatchId) {
        if let Some(key) = self.watches.get(&watch) {
            self.readable.insert(*key);
        }
    }

    /// The next message; with none there, the ring is asked to tell of the next.
    pub(super) fn receive(&mut self, client: Client, reactor: &mut Reactor) -> Option<Received> {
        let Client::Device(key) = client else {
            return None;
        };
        let served = self.served.get_mut(&key)?;
        match served.device.receive() {
            Ok(Received::Nothing) => {
                self.readable.remove(&key);
                reactor.arm_watch(served.watch);
                Some(Received::Nothing)
            }
            Ok(received) => Some(received),
            Err(error) => {
                tracing::error!(attachment = %served.attachment, %error, "/dev/fuse cannot be read");
                Some(Received::Aborted)
            }
        }
    }

    /// Others have their turn; `more`: the device may have more that its session takes, of which the
    /// ring tells then.
    pub(super) fn yield_turn(&mut self, client: Client, more: bool, reactor: &mut Reactor) {
        if let Client::Device(key) = client
            && more
            && self.readable.remove(&key)
            && let Some(served) = self.served.get(&key)
        {
            reactor.arm_watch(served.watch);
        }
    }

    pub(super) fn send(&self, client: Client, parts: &Parts) {
        let Some(served) = self.of(client) else {
            return;
        };
        // False: the request is gone with its caller, and nobody waits for the answer.
        if let Err(error) = served.device.send(parts) {
            tracing::warn!(attachment = %served.attachment, %error, "the kernel did not take an answer");
        }
    }

    fn of(&self, client: Client) -> Option<&Served> {
        match client {
            Client::Device(key) => self.served.get(&key),
            Client::Socket(_) | Client::Ublk(_) => None,
        }
    }
}
