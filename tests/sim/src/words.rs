//! Messages and inputs in words a person can read; payloads are left out.

use lockstep_wire::{Message, ReplyBody, RequestBody};
use std::fmt::Debug;

/// A message on a link.
pub fn message(message: &Message) -> String {
    let (header, body) = match message {
        Message::Request(request) => (request.header, request_body(&request.body)),
        Message::Reply(reply) => (reply.header, reply_body(&reply.body)),
        other => return short(other),
    };
    format!(
        "{:?} e{} {:?} {body}",
        header.replica, header.epoch, header.incarnation
    )
}

/// Anything, cut to a line.
pub fn short(thing: &impl Debug) -> String {
    let mut text = format!("{thing:?}");
    if text.len() > 600 {
        let end = (0..=600)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .expect("0 is a boundary");
        text.truncate(end);
        text.push('…');
    }
    text
}

fn request_body(body: &RequestBody) -> String {
    match body {
        RequestBody::Append {
            record,
            floor,
            roll,
            ..
        } => {
            let rolled = if *roll { " roll" } else { "" };
            format!(
                "Append{rolled} {} {:?} {}..{} floor {floor}",
                record.stamp,
                record.kind,
                record.range.start,
                record.range.end()
            )
        }
        RequestBody::Copy {
            id,
            resync,
            read_at,
            kind,
            range,
            ..
        } => {
            format!(
                "Copy #{id} {resync:?} read at {read_at} {kind:?} {}..{}",
                range.start,
                range.end()
            )
        }
        other => short(other),
    }
}

fn reply_body(body: &ReplyBody) -> String {
    match body {
        ReplyBody::Sealed(sealed) => format!(
            "Sealed gap {:?} floor {} last {} tail {:?} clear in {} ms joining {}",
            sealed.gap,
            sealed.floor,
            sealed.last,
            sealed
                .tail
                .iter()
                .map(|entry| entry.stamp.to_string())
                .collect::<Vec<_>>(),
            sealed.clear_in / 1_000_000,
            sealed.joining
        ),
        ReplyBody::ReadDone { id, result } => format!(
            "ReadDone #{id} {}",
            if result.is_ok() { "ok" } else { "failed" }
        ),
        ReplyBody::FetchedRecord { id, record } => {
            format!(
                "FetchedRecord #{id} {:?}",
                record.as_ref().map(|record| record.stamp)
            )
        }
        ReplyBody::ExtentSummed { id, newest, result } => {
            format!(
                "ExtentSummed #{id} newest {newest} {:?}",
                result.as_ref().map(|content| content.present)
            )
        }
        other => short(other),
    }
}
