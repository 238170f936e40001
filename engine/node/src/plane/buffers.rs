//! Buffers for what clients write.

use bytes::{Bytes, BytesMut};
use lockstep_nbd::Payload;
use lockstep_ring::Pool;

use super::exports::Gather;

/// Aligned buffers of this thread's pool, or of the heap when it has none left: a client's write
/// must not wait for buffers that other half-received writes hold.
pub(super) struct FromPool(pub(super) Pool);

impl Gather for FromPool {
    fn gather(&self, payload: Payload) -> Option<Bytes> {
        let length = payload.len();
        if let [part] = payload.parts()
            && (part.as_ptr() as usize).is_multiple_of(lockstep_types::BLOCK)
        {
            return Some(part.clone());
        }
        match self.0.get(length) {
            Ok(mut buffer) => {
                payload.copy_to(&mut buffer[..length]);
                Some(buffer.freeze())
            }
            Err(_) => {
                metrics::counter!("lockstep_buffers_from_heap_total").increment(1);
                Some(aligned(&payload))
            }
        }
    }
}

/// A copy in aligned memory of the heap.
fn aligned(payload: &Payload) -> Bytes {
    const BLOCK: usize = lockstep_types::BLOCK;
    let mut bytes = BytesMut::zeroed(payload.len() + BLOCK);
    let skip = bytes.as_ptr().align_offset(BLOCK);
    payload.copy_to(&mut bytes[skip..skip + payload.len()]);
    bytes.freeze().slice(skip..skip + payload.len())
}
