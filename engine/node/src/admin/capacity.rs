//! How large a volume could be made now: what placement says, asked again and again.

use lockstep_api::{proto, wish};
use lockstep_types::{EXTENT, EXTENT_BLOCKS, MAX_VOLUME_BLOCKS};
use tonic::Status;

use super::Shared;

impl Shared {
    /// The largest volume of a policy, in whole extents.
    pub(super) fn largest(
        &self,
        request: &proto::CapacityRequest,
    ) -> Result<proto::CapacityReply, Status> {
        let policy = wish::new_policy(&request.policy.clone().unwrap_or_default())?;
        let state = self.control().state();
        let local = wish::local(&state, &request.local_node, request.local_required)?;
        let answering = self.control().answering();
        let place = |extents: u64| {
            let blocks = extents * EXTENT_BLOCKS;
            state.place(&policy, blocks, local, &answering).map(drop)
        };
        let (fits, limit) = largest_that(place, MAX_VOLUME_BLOCKS / EXTENT_BLOCKS);
        Ok(proto::CapacityReply {
            bytes: fits * EXTENT as u64,
            limit: limit.map_or_else(String::new, |refusal| refusal.to_string()),
        })
    }
}

/// The greatest number, from 0 to `most`, that is taken, and why the next one is not. What takes a number
/// takes every smaller one.
fn largest_that<E>(take: impl Fn(u64) -> Result<(), E>, most: u64) -> (u64, Option<E>) {
    let (mut taken, mut refused, mut why) = (0, most + 1, None);
    while refused - taken > 1 {
        let middle = taken + (refused - taken) / 2;
        match take(middle) {
            Ok(()) => taken = middle,
            Err(error) => (refused, why) = (middle, Some(error)),
        }
    }
    (taken, why)
}

#[cfg(test)]
mod tests {
    use super::largest_that;

    #[test]
    fn the_largest_is_found_and_the_next_is_refused() {
        for limit in [0, 1, 2, 7, 99, 100] {
            let take = |n| if n <= limit { Ok(()) } else { Err(n) };
            let expected = (limit < 100).then_some(limit + 1);
            assert_eq!(largest_that(take, 100), (limit, expected));
        }
        assert_eq!(largest_that(Err::<(), u64>, 0), (0, None));
    }
}
