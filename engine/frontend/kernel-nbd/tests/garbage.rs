//! Answers of the kernel, cut off and changed, and any bytes.

#[path = "../../../../fuzz/checks/kernel_nbd_answer.rs"]
mod kernel_nbd_answer;

use lockstep_kernel_nbd::message::{Message, attribute, command};
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
        kernel_nbd_answer::check(&data);
    }

    #[test]
    fn changed_answers_are_read_without_a_panic(at in 0_usize..40, to in any::<u8>(), end in 0_usize..80) {
        let mut data = Message::new(0x1c, command::CONNECT, 1)
            .u32(attribute::INDEX, 3)
            .text(attribute::BACKEND_IDENTIFIER, "lockstep")
            .finish();
        let length = data.len();
        data[at % length] = to;
        data.truncate(end.min(length));
        kernel_nbd_answer::check(&data);
    }
}
