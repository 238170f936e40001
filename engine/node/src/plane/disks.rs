//! The pools' disks on the ring: operations of the stores out, results back.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use lockstep_frontend::InFlight;
use lockstep_logic::io::{Input, NodeEvent};
use lockstep_logic::{Node, ReplicaInspection};
use lockstep_ring::timer::boottime;
use lockstep_ring::{Disk, DiskId, Event, MAX_BUFFER, Reactor};
use lockstep_store::{DiskOp, DiskResult, DiskToken, Store};
use lockstep_types::{DeviceId, ExtentIndex, Gap, Incarnation, ReplicaId};

/// EIO, for failures to which the kernel gave no number.
const EIO: i32 = 5;

/// The disks of one data-plane thread.
#[derive(Debug, Default)]
pub struct Disks {
    disks: BTreeMap<DeviceId, DiskId>,
    operations: InFlight<Operation>,
    /// Reads that found no buffer; nothing overtakes them but operations that need none.
    held: VecDeque<HeldRead>,
}

#[derive(Debug)]
struct Operation {
    device: DeviceId,
    token: DiskToken,
    /// Of a read longer than one buffer: what has come so far and what is still to be read.
    long: Option<LongRead>,
}

#[derive(Debug)]
struct LongRead {
    bytes: BytesMut,
    offset: u64,
    left: usize,
}

#[derive(Debug)]
struct HeldRead {
    operation: u64,
    disk: DiskId,
    offset: u64,
    length: usize,
}

impl Disks {
    /// Takes over a claimed disk (R23).
    pub fn add(&mut self, device: DeviceId, disk: Disk, reactor: &mut Reactor) {
        let disk = reactor.add_disk(disk);
        let twice = self.disks.insert(device, disk);
        assert!(twice.is_none(), "a device is added once");
    }

    /// Carries out an operation of a store.
    pub fn carry_out(&mut self, device: DeviceId, op: DiskOp, reactor: &mut Reactor) {
        let disk = *self
            .disks
            .get(&device)
            .expect("stores are made for disks that were added");
        match op {
            DiskOp::Read {
                token,
                offset,
                length,
            } => {
                let length = length as usize;
                let first = length.min(MAX_BUFFER);
                let long = (length > first).then(|| LongRead {
                    bytes: BytesMut::with_capacity(length),
                    offset: offset + first as u64,
                    left: length - first,
                });
                let operation = self.operations.insert(Operation {
                    device,
                    token,
                    long,
                });
                self.read(
                    HeldRead {
                        operation,
                        disk,
                        offset,
                        length: first,
                    },
                    reactor,
                );
            }
            DiskOp::Write {
                token,
                offset,
                parts,
                durable,
            } => {
                let operation = self.operations.insert(Operation {
                    device,
                    token,
                    long: None,
                });
                reactor.disk_write(disk, offset, &parts, durable, operation);
            }
            DiskOp::Flush { token } => {
                let operation = self.operations.insert(Operation {
                    device,
                    token,
                    long: None,
                });
                reactor.disk_flush(disk, operation);
            }
        }
    }

    /// What a completed operation means to the node; none if it is not complete yet.
    pub fn completed(&mut self, event: Event, reactor: &mut Reactor) -> Option<Input> {
        let (operation, result) = match event {
            Event::DiskWritten { token, result } | Event::Flushed { token, result } => {
                (token, result.map(|()| None))
            }
            Event::DiskRead { token, result } => (token, result.map(Some)),
            _ => unreachable!("only disk events are handed in"),
        };
        let Operation {
            device,
            token,
            long,
        } = self.operations.take(operation);
        let result = match result {
            Err(error) => {
                tracing::warn!(%device, %error, "a disk operation failed");
                DiskResult::Failed(if error.errno == 0 { EIO } else { error.errno })
            }
            Ok(None) => DiskResult::Done,
            Ok(Some(bytes)) => match self.append(device, token, long, bytes, reactor) {
                Some(bytes) => DiskResult::Read(bytes),
                None => return None,
            },
        };
        Some(Input::Disk {
            device,
            token,
            result,
        })
    }

    /// Tries again the reads that found no buffer.
    pub fn retry(&mut self, reactor: &mut Reactor) {
        for _ in 0..self.held.len() {
            let held = self.held.pop_front().expect("as many as counted");
            if reactor
                .disk_read(held.disk, held.offset, held.length, held.operation)
                .is_err()
            {
                self.held.push_front(held);
                return;
            }
        }
    }

    /// Whether reads wait for buffers.
    pub fn is_starved(&self) -> bool {
        !self.held.is_empty()
    }

    /// Operations not answered yet.
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    fn read(&mut self, read: HeldRead, reactor: &mut Reactor) {
        let exhausted = !self.held.is_empty()
            || reactor
                .disk_read(read.disk, read.offset, read.length, read.operation)
                .is_err();
        if exhausted {
            self.held.push_back(read);
        }
    }

    /// The whole of a read, once all of it is there.
    fn append(
        &mut self,
        device: DeviceId,
        token: DiskToken,
        long: Option<LongRead>,
        bytes: Bytes,
        reactor: &mut Reactor,
    ) -> Option<Bytes> {
        let Some(mut long) = long else {
            return Some(bytes);
        };
        long.bytes.extend_from_slice(&bytes);
        if long.left == 0 {
            return Some(long.bytes.freeze());
        }
        let (offset, length) = (long.offset, long.left.min(MAX_BUFFER));
        long.offset += length as u64;
        long.left -= length;
        let disk = self.disks[&device];
        let operation = self.operations.insert(Operation {
            device,
            token,
            long: Some(long),
        });
        self.read(
            HeldRead {
                operation,
                disk,
                offset,
                length,
            },
            reactor,
        );
        None
    }
}

/// Whether these copies, each in the life that is certified, hold no block. One that is not here, lives another
/// life (R4), lost records (R24) or is being resynced might have held some; nor is a pool believed that does
/// not serve.
pub fn are_blank(node: &Node, copies: &[(ReplicaId, Incarnation)]) -> bool {
    let here = node.inspect(boottime()).replicas;
    copies.iter().all(|(id, life)| {
        let whole = |it: &&ReplicaInspection| {
            let sound = !it.failed && !it.sealed_off && it.gap == Gap::None && it.cut.is_none();
            it.replica == *id && it.incarnation == *life && sound
        };
        let copy = here.iter().find(whole);
        let store = copy.and_then(|copy| node.store(copy.device));
        let ready = store.filter(|store| store.is_ready());
        ready.is_some_and(|store| {
            let present = store.extents_present(*id, ExtentIndex::default(), 1);
            present.is_empty()
        })
    })
}

/// The event as people are told it: of a pool that could not be opened, its store knows why.
pub fn in_words(node: &Node, mut event: NodeEvent) -> NodeEvent {
    if let NodeEvent::PoolFailed { device, what, .. } = &mut event
        && let Some(why) = node.store(*device).and_then(Store::refused)
    {
        why.clone_into(what);
    }
    event
}
