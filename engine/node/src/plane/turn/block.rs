//! Block devices on the data plane's thread: their messages to the sessions, and their end.

use std::os::fd::OwnedFd;

use lockstep_fuse::{Received, Session};
use lockstep_logic::io::Ticket;
use lockstep_ring::{ConnId, DriverId, Reactor};
use lockstep_types::{AttachmentId, VolumeId};
use lockstep_ublk::Queue;

use crate::plane::ublk::Told;

use super::{Client, DataPlane, Flow, Order, PlaneReport, ServeDevice};

/// Messages read from one device before others have their turn.
const READS: usize = 64;

impl DataPlane {
    /// Orders about block devices.
    pub(super) fn device_order(&mut self, order: Order, reactor: &mut Reactor) {
        match order {
            Order::Serve { ticket, serve } => self.serve(ticket, *serve, reactor),
            Order::ServeKernel {
                ticket,
                volume,
                attachment,
                socket,
            } => self.serve_kernel(ticket, (volume, attachment), socket, reactor),
            Order::ServeUblk {
                ticket,
                volume,
                attachment,
                queue,
                size,
            } => self.serve_ublk(ticket, (volume, attachment), (*queue, size), reactor),
            Order::FailDevice(attachment) => {
                if let Some(client) = self.queues.of_publication(attachment) {
                    self.exports.ublk_failed(client, &mut self.actions);
                }
            }
            Order::Unserve(attachment) => self.unserve(attachment, reactor),
            other => unreachable!("{other:?} is not about a device"),
        }
    }

    fn serve(&mut self, ticket: Ticket, serve: ServeDevice, reactor: &mut Reactor) {
        let ServeDevice {
            volume,
            attachment,
            device,
            file,
            agreed,
        } = serve;
        let client = match self.devices.add(ticket, attachment, device, reactor) {
            Ok(client) => client,
            Err(error) => {
                let why = format!("/dev/fuse cannot be watched: {error}");
                return self.report(PlaneReport::DeviceEnded {
                    ticket,
                    attachment,
                    why,
                });
            }
        };
        let limits = lockstep_fuse::Limits::default();
        let session = match agreed {
            None => Session::new(file, limits),
            Some(agreed) => {
                let mut outs = Vec::new();
                let session = Session::resumed(file, limits, agreed, &mut outs);
                for out in outs {
                    if let lockstep_fuse::Out::Send(parts) = out {
                        self.devices.send(client, &parts);
                    }
                }
                session
            }
        };
        self.exports
            .open_device(client, volume, attachment, session);
    }

    /// Has a session with the kernel's NBD client over this socket.
    fn serve_kernel(
        &mut self,
        ticket: Ticket,
        (volume, attachment): (VolumeId, AttachmentId),
        socket: OwnedFd,
        reactor: &mut Reactor,
    ) {
        match reactor.adopt(socket, None) {
            Ok(conn) => {
                self.kernel.insert(conn, (ticket, attachment));
                self.clients.insert(conn, Flow::default());
                let client = Client::Socket(conn);
                let actions = &mut self.actions;
                self.exports
                    .connected_by_kernel(client, volume, attachment, actions);
                self.settle(reactor);
            }
            Err(error) => self.report(PlaneReport::DeviceEnded {
                ticket,
                attachment,
                why: error.to_string(),
            }),
        }
    }

    /// Serves a ublk device from now on.
    fn serve_ublk(
        &mut self,
        ticket: Ticket,
        (volume, attachment): (VolumeId, AttachmentId),
        (queue, size): (Queue, u64),
        reactor: &mut Reactor,
    ) {
        let depth = queue.tags().end;
        match self.queues.add(ticket, attachment, queue, reactor) {
            Ok(client) => {
                let session = lockstep_ublk::Session::new(size, false, depth);
                self.exports.open_ublk(client, volume, attachment, session);
            }
            Err(error) => self.report(PlaneReport::DeviceEnded {
                ticket,
                attachment,
                why: error.to_string(),
            }),
        }
    }

    /// The kernel said something of a tag of a ublk device.
    pub(super) fn ublk_told(
        &mut self,
        driver: DriverId,
        tag: u16,
        result: i32,
        reactor: &mut Reactor,
    ) {
        match self.queues.told(driver, tag, result, reactor) {
            Told::Request {
                client,
                tag,
                descriptor,
                payload,
            } => {
                let actions = &mut self.actions;
                self.exports
                    .ublk_received(client, tag, &descriptor, payload, actions);
            }
            Told::Ended(client) => {
                let Some((ticket, attachment)) = self.queues.order(client) else {
                    return;
                };
                self.queues.remove(attachment, reactor);
                self.exports.closed(client);
                self.report(PlaneReport::DeviceEnded {
                    ticket,
                    attachment,
                    why: "its disk was taken away".into(),
                });
            }
            Told::Nothing => {}
        }
    }

    /// A connection is over; if it was the kernel's, that is told.
    pub(super) fn kernel_left(&mut self, conn: ConnId, why: String) {
        if let Some((ticket, attachment)) = self.kernel.remove(&conn) {
            self.report(PlaneReport::DeviceEnded {
                ticket,
                attachment,
                why,
            });
        }
    }

    /// Lets go of a device.
    fn unserve(&mut self, attachment: AttachmentId, reactor: &mut Reactor) {
        if let Some(client) = self.devices.remove(attachment, reactor) {
            self.exports.closed(client);
        }
        if let Some(client) = self.queues.remove(attachment, reactor) {
            self.exports.closed(client);
        }
        for (conn, (_, served)) in &self.kernel {
            if *served == attachment {
                reactor.close(*conn);
            }
        }
    }

    /// Reads what the devices have, as far as their sessions want it.
    pub(super) fn read_devices(&mut self, reactor: &mut Reactor) {
        for client in self.devices.clients() {
            if !self.exports.device_wants_more(client) {
                continue;
            }
            for _ in 0..READS {
                match self.devices.receive(client, reactor) {
                    Some(Received::Message(message)) => {
                        self.exports
                            .device_received(client, message, &mut self.actions);
                        self.settle(reactor);
                    }
                    Some(Received::Nothing) | None => break,
                    Some(Received::Unmounted) => {
                        self.device_ended(client, "it was unmounted".into(), reactor);
                        break;
                    }
                    Some(Received::Aborted) => {
                        self.device_ended(client, "its connection was aborted".into(), reactor);
                        break;
                    }
                }
                if !self.exports.device_wants_more(client) {
                    // Looked at again after the next event: something must be answered first.
                    break;
                }
            }
            self.devices
                .yield_turn(client, self.exports.device_wants_more(client), reactor);
        }
        self.settle(reactor);
    }

    pub(super) fn device_ended(&mut self, client: Client, why: String, reactor: &mut Reactor) {
        let Some((ticket, attachment)) = self.devices.order(client) else {
            return;
        };
        self.devices.remove(attachment, reactor);
        self.exports.closed(client);
        self.report(PlaneReport::DeviceEnded {
            ticket,
            attachment,
            why,
        });
    }
}
