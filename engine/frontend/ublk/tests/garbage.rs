//! Requests of the kernel: any at all.

#[path = "../../../../fuzz/checks/ublk_session.rs"]
mod ublk_session;

use proptest::prelude::*;

proptest! {
    #[test]
    fn any_requests_are_answered_once_each(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        ublk_session::check(&data);
    }

    #[test]
    fn sensible_requests_are_answered_once_each(
        requests in prop::collection::vec((0_u8..7, 0_u32..40, 0_u32..2000, any::<[u8; 2]>()), 0..40)
    ) {
        let mut data = Vec::new();
        for (operation, sectors, start, dice) in requests {
            data.extend(u32::from(operation).to_ne_bytes());
            data.extend(sectors.to_ne_bytes());
            data.extend(start.to_ne_bytes());
            data.extend([0; 10]);
            data.extend(dice);
        }
        ublk_session::check(&data);
    }
}
