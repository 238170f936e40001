//! Whatever an operator pastes: the check that the fuzz target runs too.

#[path = "../../../fuzz/checks/join_token.rs"]
mod join_token;

use proptest::prelude::*;

const GOLDEN: &str = include_str!("golden/join-token-v1.txt");

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mistyped_token_is_refused_or_another(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = GOLDEN.trim().as_bytes().to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        join_token::check(&bytes);
    }

    #[test]
    fn noise_is_no_token(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        join_token::check(&noise);
    }
}
