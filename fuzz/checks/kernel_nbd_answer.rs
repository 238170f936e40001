//! Any bytes at all, as they may come by netlink: read without a panic, and nothing outside of them. Compiled into the
//! fuzz target of this name and into a property test of `engine/frontend/kernel-nbd`.

use lockstep_kernel_nbd::message::{Answer, answers, value};

/// Checks `data` as a datagram of answers to request 1.
pub fn check(data: &[u8]) {
    for answer in answers(data, 1) {
        if let Answer::Attributes(attributes) = answer {
            assert!(data.as_ptr_range().contains(&attributes.as_ptr()) || attributes.is_empty());
            for kind in 0..12 {
                if let Some(value) = value(attributes, kind) {
                    assert!(value.len() <= attributes.len());
                }
            }
        }
    }
}
