//! Block devices on the data plane's thread: their messages to the sessions, and their end.

use lockstep_fuse::{Received, Session};
use lockstep_logic::io::Ticket;
use lockstep_ring::Reactor;

use super::{Client, DataPlane, PlaneReport, ServeDevice};

/// Messages read from one device before others have their turn.
const READS: usize = 64;

impl DataPlane {
    pub(super) fn serve(&mut self, ticket: Ticket, serve: ServeDevice, reactor: &mut Reactor) {
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
