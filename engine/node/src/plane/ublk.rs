//! The queues of ublk devices that this thread serves: each tag is a command that the kernel ends when it has a
//! request, and that is given again with the answer.

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use lockstep_frontend::{Payload, ReadParts};
use lockstep_logic::io::Ticket;
use lockstep_ring::{DriverId, Pool, Reactor};
use lockstep_types::AttachmentId;
use lockstep_ublk::uapi::Descriptor;
use lockstep_ublk::{Queue, Session};

use super::turn::Client;

/// EIO, as an answer.
const FAILED: i32 = -5;

/// Devices of one data-plane thread.
#[derive(Debug, Default)]
pub(super) struct Queues {
    served: BTreeMap<u64, Served>,
    drivers: BTreeMap<DriverId, u64>,
    last: u64,
}

#[derive(Debug)]
struct Served {
    ticket: Ticket,
    attachment: AttachmentId,
    queue: Queue,
    driver: DriverId,
    /// Tags that the kernel has not given up.
    tags: u16,
}

/// What the kernel said of a tag.
pub(super) enum Told {
    /// It has a request.
    Request {
        /// Whose.
        client: Client,
        /// The tag.
        tag: u16,
        /// What.
        descriptor: Descriptor,
        /// The bytes of a write.
        payload: Payload,
    },
    /// It gave up the last tag: the device has no disk any more.
    Ended(Client),
    /// Nothing to be done.
    Nothing,
}

impl Queues {
    /// Serves a queue: asks for the first request of every tag.
    pub(super) fn add(
        &mut self,
        ticket: Ticket,
        attachment: AttachmentId,
        queue: Queue,
        reactor: &mut Reactor,
    ) -> io::Result<Client> {
        let driver = reactor.add_driver(queue.duplicate()?);
        for tag in queue.tags() {
            let (which, carried) = Queue::fetch(tag);
            reactor.command(driver, which, carried, tag);
        }
        self.last += 1;
        self.drivers.insert(driver, self.last);
        let served = Served {
            ticket,
            attachment,
            tags: queue.tags().end,
            queue,
            driver,
        };
        self.served.insert(self.last, served);
        Ok(Client::Ublk(self.last))
    }

    /// The device of a publication.
    pub(super) fn of_publication(&self, attachment: AttachmentId) -> Option<Client> {
        self.key(attachment).map(Client::Ublk)
    }

    fn key(&self, attachment: AttachmentId) -> Option<u64> {
        let mut served = self.served.iter();
        let found = served.find(|(_, served)| served.attachment == attachment)?;
        Some(*found.0)
    }

    /// Lets go of a device.
    pub(super) fn remove(
        &mut self,
        attachment: AttachmentId,
        reactor: &mut Reactor,
    ) -> Option<Client> {
        let key = self.key(attachment)?;
        let served = self.served.remove(&key).expect("just found");
        self.drivers.remove(&served.driver);
        reactor.remove_driver(served.driver);
        Some(Client::Ublk(key))
    }

    /// The order that a device is served by, and its publication.
    pub(super) fn order(&self, client: Client) -> Option<(Ticket, AttachmentId)> {
        let served = self.of(client)?;
        Some((served.ticket, served.attachment))
    }

    /// A command has ended.
    pub(super) fn told(
        &mut self,
        driver: DriverId,
        tag: u16,
        result: i32,
        reactor: &mut Reactor,
    ) -> Told {
        let Some(key) = self.drivers.get(&driver).copied() else {
            return Told::Nothing;
        };
        let client = Client::Ublk(key);
        let served = self
            .served
            .get_mut(&key)
            .expect("a driver's device is served");
        if result < 0 {
            served.tags -= 1;
            return if served.tags == 0 {
                Told::Ended(client)
            } else {
                Told::Nothing
            };
        }
        let descriptor = served.queue.descriptor(tag);
        match payload(&served.queue, tag, &descriptor, reactor.pool()) {
            Ok(payload) => Told::Request {
                client,
                tag,
                descriptor,
                payload,
            },
            Err(error) => {
                tracing::warn!(attachment = %served.attachment, %error, "the bytes of a write cannot be had");
                let (which, carried) = Queue::commit(tag, FAILED);
                reactor.command(driver, which, carried, tag);
                Told::Nothing
            }
        }
    }

    /// Answers a request.
    pub(super) fn commit(
        &self,
        client: Client,
        tag: u16,
        (data, result): (&ReadParts, i32),
        reactor: &mut Reactor,
    ) {
        let Some(served) = self.of(client) else {
            return;
        };
        let result = match served.queue.write(tag, data) {
            Ok(()) => result,
            Err(error) => {
                tracing::warn!(attachment = %served.attachment, %error, "the kernel did not take the bytes of a read");
                FAILED
            }
        };
        let (which, carried) = Queue::commit(tag, result);
        reactor.command(served.driver, which, carried, tag);
    }

    fn of(&self, client: Client) -> Option<&Served> {
        match client {
            Client::Ublk(key) => self.served.get(&key),
            Client::Socket(_) | Client::Device(_) => None,
        }
    }
}

/// The bytes of a write, in an aligned buffer of the pool, or of the heap when that has none left.
fn payload(queue: &Queue, tag: u16, descriptor: &Descriptor, pool: &Pool) -> io::Result<Payload> {
    let length = Session::payload_of(descriptor);
    if length == 0 {
        return Ok(Payload::new());
    }
    let bytes: Bytes = match pool.get(length) {
        Ok(mut buffer) => {
            queue.read(tag, &mut buffer[..length])?;
            buffer.freeze()
        }
        Err(_) => {
            let mut buffer = BytesMut::zeroed(length);
            queue.read(tag, &mut buffer)?;
            buffer.freeze()
        }
    };
    Ok(bytes.into())
}
