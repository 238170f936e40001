//! No frame makes a receiver allocate more than the caps allow, however it lies about its lists.

use bytes::Bytes;
use lockstep_types::{Gap, Incarnation, ReplicaId, Sequence, Stamp, VolumeId};
use lockstep_wire::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged; the count beside it is a
// thread's own, allocates nothing and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` by `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated in all while decoding; freed ones count too.
fn allocated_by_decoding(head: &[u8]) -> (usize, Result<Message, WireError>) {
    let before = ALLOCATED.get();
    let result = decode(head, Bytes::new());
    (ALLOCATED.get() - before, result)
}

fn extents(count: usize) -> Vec<u8> {
    let extents = (0..count as u32)
        .map(|index| (index, Sequence(1)))
        .collect();
    encode(&reply(ReplyBody::Extents {
        id: 1,
        extents,
        next: None,
    }))
    .head
    .to_vec()
}

fn reply(body: ReplyBody) -> Message {
    let header = Header {
        volume: VolumeId::from_u128(1),
        replica: ReplicaId::from_u128(2),
        incarnation: Incarnation(3),
        epoch: lockstep_types::Epoch(4),
    };
    Message::Reply(ReplicaReply { header, body })
}

fn seal(head: &mut [u8]) {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..60]), &head[HEADER..]);
    head[60..64].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_count_beyond_the_cap_or_the_body_allocates_nothing() {
    const COUNT_AT: usize = HEADER + 24 + 8 + 5;
    for (count, expected) in [
        (u32::MAX, "wire-list"),
        (65_537, "wire-list"),
        (65_536, "wire-body-ends"),
    ] {
        let mut head = extents(3);
        head[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_le_bytes());
        seal(&mut head);
        let (bytes, result) = allocated_by_decoding(&head);
        assert_eq!(result.map_err(|error| error.code()), Err(expected));
        assert_eq!(bytes, 0, "{count} extents promised");
    }
}

#[test]
fn the_longest_messages_cost_about_their_own_length() {
    let (bytes, result) = allocated_by_decoding(&extents(MAX_EXTENTS));
    result.expect("as long as the cap is allowed");
    assert_eq!(bytes, MAX_EXTENTS * size_of::<(u32, Sequence)>());

    let entry = TailEntry {
        stamp: Stamp::ZERO,
        kind: lockstep_types::RecordKind::Write,
        range: lockstep_types::BlockRange::of_extent(0),
        checksums: (0..64).collect(),
    };
    let sealed = Sealed {
        gap: Gap::None,
        floor: Stamp::ZERO,
        last: Stamp::ZERO,
        history: vec![Default::default(); lockstep_types::MAX_HISTORY],
        blocks: 1,
        tail: vec![entry; MAX_TAIL],
        clear_in: 0,
        joining: false,
    };
    let (bytes, result) = allocated_by_decoding(&encode(&reply(ReplyBody::Sealed(sealed))).head);
    result.expect("as long as the cap is allowed");
    assert!(bytes <= 2 * MAX_BODY, "{bytes} bytes for the longest tail");
}

#[test]
fn a_small_append_allocates_nothing() {
    let payload = Bytes::from(vec![7; 16 * 4096]);
    let record = lockstep_types::Record {
        stamp: Stamp::ZERO,
        kind: lockstep_types::RecordKind::Write,
        range: lockstep_types::BlockRange::new(0, 16),
        checksums: lockstep_types::checksum_blocks(&payload),
        payload: payload.clone(),
    };
    let body = RequestBody::Append {
        record,
        floor: Stamp::ZERO,
        roll: false,
        charged: false,
    };
    let Message::Reply(ReplicaReply { header, .. }) = reply(ReplyBody::Failed) else {
        unreachable!()
    };
    let message = Message::Request(ReplicaRequest { header, body });
    let mut heads = Vec::with_capacity(1024);
    let before = ALLOCATED.get();
    let sent = encode_into(&message, &mut heads);
    let decoded = decode(&heads, payload.clone()).expect("what encodes decodes");
    assert_eq!(
        ALLOCATED.get() - before,
        0,
        "bytes allocated on the path of a write"
    );
    assert_eq!(
        sent[0].as_ptr(),
        payload.as_ptr(),
        "the payload is sent from where it lies"
    );
    let Message::Request(ReplicaRequest {
        body: RequestBody::Append { record, .. },
        ..
    }) = decoded
    else {
        panic!("an append came back as something else")
    };
    assert_eq!(
        record.payload.as_ptr(),
        payload.as_ptr(),
        "and kept where it was received"
    );
}
