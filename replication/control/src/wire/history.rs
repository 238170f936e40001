//! What the state remembers: the ledger, events, ids that are used up.

use super::DecodeError;
use super::parts::*;
use crate::event::{Event, Events, Severity};
use crate::ledger::{Interval, Ledger};
use crate::state::Retired;

numbers!(
    put_severity,
    get_severity,
    Severity,
    "severity",
    1 = Severity::Info,
    2 = Severity::Warning,
    3 = Severity::Forced
);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireInterval {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(uint64, tag = "4")]
    begin_index: u64,
    #[prost(uint64, tag = "5")]
    begin_unix_ms: u64,
    #[prost(message, optional, tag = "6")]
    begin: Option<WireStamp>,
    #[prost(uint64, optional, tag = "7")]
    end_index: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    end_unix_ms: Option<u64>,
    #[prost(message, optional, tag = "9")]
    end: Option<WireStamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireEvent {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    at_unix_ms: u64,
    #[prost(uint32, tag = "3")]
    severity: u32,
    #[prost(bytes = "vec", optional, tag = "4")]
    volume: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    node: Option<Vec<u8>>,
    #[prost(string, tag = "6")]
    text: String,
}

impl From<&Interval> for WireInterval {
    fn from(interval: &Interval) -> Self {
        Self {
            volume: put(interval.volume),
            name: interval.name.clone(),
            site: interval.site.clone(),
            begin_index: interval.begin_index,
            begin_unix_ms: interval.begin_unix_ms,
            begin: interval.begin.map(Into::into),
            end_index: interval.end_index,
            end_unix_ms: interval.end_unix_ms,
            end: interval.end.map(Into::into),
        }
    }
}

pub(super) fn get_ledger(intervals: Vec<WireInterval>, forgotten: u64) -> Read<Ledger> {
    let mut ledger = Ledger {
        forgotten,
        ..Ledger::default()
    };
    for wire in intervals {
        let interval = Interval {
            volume: get(&wire.volume, "volume")?,
            name: wire.name,
            site: wire.site,
            begin_index: wire.begin_index,
            begin_unix_ms: wire.begin_unix_ms,
            begin: wire.begin.map(Into::into),
            end_index: wire.end_index,
            end_unix_ms: wire.end_unix_ms,
            end: wire.end.map(Into::into),
        };
        match interval.end_index {
            Some(_) => ledger.closed.push_back(interval),
            None => {
                ledger.open.insert(interval.volume, interval);
            }
        }
    }
    Ok(ledger)
}

impl From<&Event> for WireEvent {
    fn from(event: &Event) -> Self {
        Self {
            index: event.index,
            at_unix_ms: event.at_unix_ms,
            severity: put_severity(event.severity),
            volume: event.volume.map(put),
            node: event.node.map(put),
            text: event.text.clone(),
        }
    }
}

pub(super) fn get_events(mut events: Events, wire: Vec<WireEvent>, forgotten: u64) -> Read<Events> {
    for event in wire {
        events.push(Event {
            index: event.index,
            at_unix_ms: event.at_unix_ms,
            severity: get_severity(event.severity)?,
            volume: event.volume.map(|id| get(&id, "volume")).transpose()?,
            node: event.node.map(|id| get(&id, "node")).transpose()?,
            text: event.text,
        });
    }
    events.forgotten = forgotten;
    Ok(events)
}

pub(super) fn get_retired(bytes: &[u8]) -> Read<Retired> {
    let (ids, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(DecodeError::Field("retired"));
    }
    let mut retired = Retired::default();
    for id in ids {
        retired.push(u128::from_le_bytes(*id));
    }
    Ok(retired)
}
