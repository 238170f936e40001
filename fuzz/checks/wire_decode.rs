//! Any bytes at all, as a receiver of the data plane sees them: they are refused or are one
//! message, and then they are the very bytes that this message encodes to. Compiled into the fuzz
//! target of this name and into a property test of `replication/wire`.

use bytes::Bytes;
use lockstep_wire::{FrameLengths, HEADER, MAX_BODY, MAX_PAYLOAD, decode, encode, peek};

/// Where the header keeps its checksum.
const CHECKSUM: usize = 60;

/// Checks `data` twice: as it is, and with lengths and checksum made right, without which hardly
/// any input would come as far as the body.
pub fn check(data: &[u8]) {
    if let Ok(Some(lengths)) = peek(data)
        && data.len() >= lengths.total()
    {
        check_frame(data, lengths);
    }
    let Some((header, rest)) = data.split_at_checked(HEADER) else {
        assert_eq!(
            peek(data),
            Ok(None),
            "a header is 64 bytes, fewer are never judged"
        );
        return;
    };
    let mut frame = header.to_vec();
    let stated = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
    let payload = stated as usize % (MAX_PAYLOAD + 1) / 4096 * 4096;
    let body = &rest[..rest.len().min(MAX_BODY)];
    frame[..6].copy_from_slice(b"LSWF\x01\x00");
    frame[7..12].copy_from_slice(&[0, 64, 0, 0, 0]);
    frame[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    frame[16..20].copy_from_slice(&(payload as u32).to_le_bytes());
    frame[20..24].fill(0);
    frame[48..60].fill(0);
    frame.extend_from_slice(body);
    seal(&mut frame);
    frame.resize(frame.len() + payload, 0x5a);
    if let Ok(Some(lengths)) = peek(&frame) {
        assert_eq!(
            lengths,
            FrameLengths {
                body: body.len(),
                payload
            }
        );
        check_frame(&frame, lengths);
    }
}

/// Makes the checksum of a head right.
pub fn seal(head: &mut [u8]) {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..CHECKSUM]), &head[HEADER..]);
    head[CHECKSUM..HEADER].copy_from_slice(&sum.to_le_bytes());
}

fn check_frame(frame: &[u8], lengths: FrameLengths) {
    assert!(lengths.body <= MAX_BODY && lengths.payload <= MAX_PAYLOAD);
    let (head, rest) = frame.split_at(lengths.head());
    let payload = Bytes::copy_from_slice(&rest[..lengths.payload]);
    let Ok(message) = decode(head, payload.clone()) else {
        return;
    };
    let again = encode(&message);
    assert_eq!(again.head, head, "a frame is canonical: {message:?}");
    assert_eq!(
        again.payload.concat(),
        payload,
        "the payload is passed through: {message:?}"
    );
}
