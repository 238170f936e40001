//! What must hold in every state of the model, and what the client saw.

use super::{Model, NAMES, NODES, index_of, payload};
use crate::stamp;
use lockstep_types::{Epoch, RequestError, Response};
use std::collections::{BTreeMap, BTreeSet};

/// What a client asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// This value is written.
    Write(u64),
    /// And this one was read, once it is answered; 0 is what stood there at first.
    Read(Option<u64>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Seen {
    Starts(u64),
    Ends(u64),
}

/// The client: one device at a time, requests that may overlap, and all that it saw, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// Where its device is, if there is one.
    pub node: Option<usize>,
    /// Publications so far.
    pub attachments: u8,
    operations: BTreeMap<u64, Operation>,
    outstanding: BTreeMap<u64, usize>,
    history: Vec<Seen>,
    newest_opened: Epoch,
    openings: u8,
    opened_twice: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            node: Some(0),
            attachments: 0,
            operations: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            history: Vec::new(),
            newest_opened: Epoch::ZERO,
            openings: 0,
            opened_twice: false,
        }
    }
}

impl Client {
    /// The value that the next write brings.
    pub fn next_value(&self) -> u64 {
        let writes = self.operations.values();
        let written = writes.filter(|op| matches!(op, Operation::Write(_)));
        written.count() as u64 + 1
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        let reads = self.operations.values();
        reads.filter(|op| matches!(op, Operation::Read(_))).count() as u64
    }

    /// How often an epoch has opened.
    pub fn openings(&self) -> u8 {
        self.openings
    }

    pub(super) fn starts(&mut self, tag: u64, operation: Operation, node: usize) {
        self.operations.insert(tag, operation);
        self.outstanding.insert(tag, node);
        self.history.push(Seen::Starts(tag));
    }

    /// Whatever was asked through the device of a node is unknown from now on.
    pub(super) fn device_gone(&mut self, node: usize) {
        self.outstanding.retain(|_, at| *at != node);
        if self.node == Some(node) {
            self.node = None;
        }
    }

    pub(super) fn moves_to(&mut self, node: usize, number: u8) {
        self.outstanding.clear();
        self.node = Some(node);
        self.attachments = number;
    }

    pub(super) fn opened(&mut self, epoch: Epoch) {
        self.opened_twice |= epoch == self.newest_opened;
        self.openings += 1;
        self.newest_opened = self.newest_opened.max(epoch);
    }

    /// Whether some order explains all that was answered: each block a register.
    fn is_linearizable(&self) -> bool {
        let done: BTreeSet<u64> = self
            .operations
            .keys()
            .copied()
            .filter(|tag| self.history.contains(&Seen::Ends(*tag)))
            .collect();
        let left: BTreeSet<u64> = self.operations.keys().copied().collect();
        self.explain(0, &left, &done)
    }

    fn explain(&self, value: u64, left: &BTreeSet<u64>, done: &BTreeSet<u64>) -> bool {
        if left.intersection(done).next().is_none() {
            return true; // what was not answered may never have happened
        }
        for tag in left {
            // Nothing that ended before it began may come after it.
            let start = self.at(Seen::Starts(*tag));
            let too_early = left
                .iter()
                .any(|other| other != tag && self.at(Seen::Ends(*other)) < start);
            if too_early {
                continue;
            }
            let after = match self.operations[tag] {
                Operation::Write(written) => written,
                Operation::Read(Some(read)) if read == value => value,
                Operation::Read(Some(_)) => continue,
                Operation::Read(None) => continue,
            };
            let mut rest = left.clone();
            rest.remove(tag);
            if self.explain(after, &rest, done) {
                return true;
            }
        }
        false
    }

    fn at(&self, seen: Seen) -> usize {
        let found = self.history.iter().position(|known| *known == seen);
        found.unwrap_or(usize::MAX)
    }

    /// Values whose writes were acknowledged.
    fn acknowledged(&self) -> impl Iterator<Item = u64> + '_ {
        self.history.iter().filter_map(|seen| match seen {
            Seen::Ends(tag) => match self.operations[tag] {
                Operation::Write(value) => Some(value),
                Operation::Read(_) => None,
            },
            Seen::Starts(_) => None,
        })
    }

    /// Whether a block that holds `found` has lost the acknowledged `value`: it was there first.
    fn is_lost(&self, value: u64, found: u64) -> bool {
        if found == value {
            return false;
        }
        found == 0 || self.at(Seen::Ends(found)) < self.at(Seen::Starts(value))
    }
}

/// The value of a block's bytes.
pub(super) fn value_of(bytes: Option<&bytes::Bytes>) -> u64 {
    bytes.map_or(0, |bytes| {
        stamp::value_of(bytes, 1, 0).expect("the model's own bytes")
    })
}

impl Model {
    pub(super) fn completed(
        &mut self,
        node: usize,
        tag: u64,
        result: Result<Response, RequestError>,
    ) {
        if self.client.value.outstanding.get(&tag) != Some(&node) {
            return; // its device is gone
        }
        let Ok(response) = result else {
            self.client.change(|client| {
                client.outstanding.remove(&tag);
            });
            return;
        };
        let read = match response {
            Response::Data(pieces) => Some(value_of(pieces[0].1.as_ref())),
            Response::Done => None,
        };
        self.client.change(|client| {
            client.outstanding.remove(&tag);
            client.history.push(Seen::Ends(tag));
            if let Some(Operation::Read(value)) = client.operations.get_mut(&tag) {
                *value = read;
            }
        });
        let epoch = self.nodes[node].value.primary().map(|p| p.epoch());
        let newest = self.client.value.newest_opened;
        if epoch.is_some_and(|epoch| epoch < newest) {
            let name = NAMES[node];
            self.fail(format!(
                "V3: {name} answered under epoch {epoch:?} although {newest} has opened"
            ));
        }
        if !self.client.value.is_linearizable() {
            let seen = format!("{:?}", self.client.value.history);
            self.fail(format!(
                "V5: no order explains {:?} in {seen}",
                self.client.value.operations
            ));
        }
    }

    /// Every invariant that one state shows.
    pub(super) fn check(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let verdicts = [
            self.required_covers_members(),
            self.one_lease(),
            self.nothing_acknowledged_is_lost(),
            self.same_at_rest(),
            match self.client.value.opened_twice {
                true => Err("V3: an epoch was opened twice".into()),
                false => Ok(()),
            },
        ];
        for why in verdicts.into_iter().filter_map(Result::err) {
            self.fail(why);
        }
    }

    fn required_covers_members(&self) -> Result<(), String> {
        let membership = &self.volume().membership;
        for (name, node) in NAMES.iter().zip(&self.nodes) {
            let Some(primary) = node.value.primary() else {
                continue;
            };
            if !primary.is_open() || primary.epoch() != membership.epoch {
                continue;
            }
            let required = primary.status(self.now).required;
            if let Some(member) = membership.in_sync.keys().find(|id| !required.contains(id)) {
                return Err(format!(
                    "V1: {member:?} is certified, and {name} does not wait for it"
                ));
            }
        }
        Ok(())
    }

    fn one_lease(&self) -> Result<(), String> {
        let holds = |node: &usize| {
            let primary = self.nodes[*node].value.primary();
            primary.is_some_and(|p| p.is_open() && p.status(self.now).lease_valid)
        };
        let holders: Vec<&str> = (0..NODES).filter(holds).map(|node| NAMES[node]).collect();
        match holders.len() {
            0 | 1 => Ok(()),
            _ => Err(format!("V4: {} hold the lease", holders.join(" and "))),
        }
    }

    /// V2: on every certified copy, or superseded there by what may be newer.
    fn nothing_acknowledged_is_lost(&self) -> Result<(), String> {
        let members = self.volume().membership.in_sync.keys();
        let client = &self.client.value;
        for id in members {
            let node = (id.as_u128() - 0x70) as usize;
            let disk = &self.nodes[node].value.device.disk;
            let found = value_of(disk.content(0));
            for value in client.acknowledged() {
                if client.is_lost(value, found) && !disk.holds(&payload(value)) {
                    return Err(format!(
                        "V2: value {value} was acknowledged, and certified {} holds {found}",
                        NAMES[node]
                    ));
                }
            }
        }
        Ok(())
    }

    /// V6: nothing is on its way anywhere, and an open primary answered all: members are the same.
    fn same_at_rest(&self) -> Result<(), String> {
        let quiet = self.links.iter().flatten().all(|l| l.value.is_empty())
            && self.proposals.value.is_empty()
            && (0..NODES).all(|node| {
                let it = &self.nodes[node].value;
                it.device.ops.is_empty() && it.version() == self.view.value.version
            });
        let primary = self.view.value.primary.map(index_of);
        let open = primary.and_then(|node| self.nodes[node].value.primary());
        let Some(open) = open.filter(|primary| quiet && primary.is_open()) else {
            return Ok(());
        };
        let status = open.status(self.now);
        if status.sequence != status.completed {
            return Ok(());
        }
        let members = self.volume().membership.in_sync.keys();
        let values: Vec<(usize, u64)> = members
            .map(|id| (id.as_u128() - 0x70) as usize)
            .map(|node| {
                (
                    node,
                    value_of(self.nodes[node].value.device.disk.content(0)),
                )
            })
            .collect();
        match values.iter().find(|(_, value)| *value != values[0].1) {
            None => Ok(()),
            Some((node, value)) => Err(format!(
                "V6: at rest {} holds {value} and {} holds {}",
                NAMES[*node], NAMES[values[0].0], values[0].1
            )),
        }
    }
}
