//! Beacons go between pairs of nodes and carry all their volumes: leases (R13) and floors (R11).

use crate::io::{NodeEvent, Output};
use crate::node::Node;
use lockstep_types::{NodeId, VolumeId};
use lockstep_wire::{Beacon, BeaconReply, BeaconVolume, Message, ReplicaReply, ReplyBody};
use std::collections::BTreeMap;

/// Volumes of one beacon at most.
const VOLUMES: usize = 8192;

impl Node {
    /// One beacon a node, with all volumes that we are primary of and it has members of.
    pub(crate) fn send_beacons(&mut self, out: &mut Vec<Output>) {
        let mut entries: BTreeMap<NodeId, Vec<BeaconVolume>> = BTreeMap::new();
        let open = self.volumes.iter().filter_map(|(id, v)| {
            let running = v.running.as_ref()?;
            Some((*id, &running.primary))
        });
        let mut floors = Vec::new();
        for (volume, primary) in open.filter(|(_, primary)| primary.leads()) {
            for node in primary.nodes() {
                entries
                    .entry(node)
                    .or_default()
                    .extend(primary.beacons_for(node));
            }
            if primary.is_open() {
                floors.push((volume, primary.status(self.now).floor.sequence));
            }
        }
        self.beacons_due.clear();
        self.send_entries(entries, out);
        for (volume, sequence) in floors {
            let state = self.volumes.get_mut(&volume).expect("listed above");
            if state.told_floor != sequence {
                state.told_floor = sequence;
                out.push(Output::Event(NodeEvent::Floor { volume, sequence }));
            }
        }
    }

    /// Beacons for one volume, at once.
    pub(crate) fn send_beacons_of(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let running = self.volumes.get(&volume).and_then(|v| v.running.as_ref());
        let Some(running) = running else { return };
        let primary = &running.primary;
        let nodes = primary.nodes().into_iter();
        let entries = nodes.map(|node| (node, primary.beacons_for(node).collect()));
        let entries = entries.collect();
        self.send_entries(entries, out);
    }

    fn send_entries(
        &mut self,
        entries: BTreeMap<NodeId, Vec<BeaconVolume>>,
        out: &mut Vec<Output>,
    ) {
        let sent = self.now;
        for (to, volumes) in entries {
            if to == self.me {
                // No lease is needed here, but the floor is.
                for entry in volumes {
                    self.tell_floor(entry, out);
                }
            } else if self.is_reachable(to) {
                for chunk in volumes.chunks(VOLUMES) {
                    let volumes = chunk.to_vec();
                    let message = Message::Beacon(Beacon { sent, volumes });
                    out.push(Output::Send { to, message });
                }
            }
        }
    }

    fn tell_floor(&mut self, entry: BeaconVolume, out: &mut Vec<Output>) {
        let me = self.me;
        self.with_secondary(entry.header.replica, out, |secondary, now, store, _| {
            secondary.on_beacon(now, me, me, &entry, store);
        });
    }

    /// A peer's primaries ask for their leases.
    pub(crate) fn on_beacon(&mut self, from: NodeId, beacon: &Beacon, out: &mut Vec<Output>) {
        let me = self.me;
        let mut volumes = Vec::with_capacity(beacon.volumes.len());
        for entry in &beacon.volumes {
            let header = entry.header;
            let Some(local) = self.replicas.get(&header.replica) else {
                self.beacon_for_absent(from, entry, out);
                continue;
            };
            if !local.answers || local.volume != header.volume {
                continue;
            }
            let mut failed = false;
            self.with_secondary(header.replica, out, |secondary, now, store, _| {
                volumes.push(secondary.on_beacon(now, from, me, entry, store));
                failed = secondary.is_failed();
            });
            if failed {
                let body = ReplyBody::Failed;
                self.send_reply(from, ReplicaReply { header, body }, out);
            }
        }
        let reply = BeaconReply {
            sent: beacon.sent,
            volumes,
        };
        out.push(Output::Send {
            to: from,
            message: Message::BeaconReply(reply),
        });
    }

    /// A primary believes in a replica that is lost: it is told, if that is certain (R4).
    fn beacon_for_absent(&mut self, from: NodeId, entry: &BeaconVolume, out: &mut Vec<Output>) {
        let header = entry.header;
        if let Some(body) = self.absence(&header) {
            self.send_reply(from, ReplicaReply { header, body }, out);
        }
    }

    /// The echo, which is the lease (R13).
    pub(crate) fn on_beacon_reply(
        &mut self,
        from: NodeId,
        reply: &BeaconReply,
        out: &mut Vec<Output>,
    ) {
        let sent = reply.sent;
        if sent > self.now {
            return; // never sent by us
        }
        for answer in &reply.volumes {
            let header = answer.header;
            let recorded = self
                .volumes
                .get(&header.volume)
                .and_then(|v| v.record.replicas.get(&header.replica));
            if recorded.is_some_and(|replica| replica.node == from) {
                self.with_primary(header.volume, out, |primary, now, present, pushed| {
                    primary.on_beacon_answer(now, sent, answer, present, pushed);
                });
            }
        }
    }
}
