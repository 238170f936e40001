//! What a node's place is worth: the bands, one by one, and what decides inside them.

mod common;

use common::{World, bound, certified, member, pod, resyncing, unbound, volume, wish};
use lockstep_types::{FaultDomain, Locality, millis, seconds};
use lockstep_verdict::storage::{Link, LinkState};

#[test]
fn a_certified_copy_counts_most_then_rack_then_zone_then_site_then_the_other_site() {
    let mut world = World::metro(vec![volume(1, 1, vec![certified("a-r1-1")])]);
    world.heard.members.push(member("a-z2", "a/z2/r9"));
    world.machines = World::new(world.heard.members.clone(), vec![]).machines;
    let wanted = pod(vec![bound(1)]);
    let scores = ["a-r1-1", "a-r1-2", "a-r2-1", "a-z2", "b-r1-1"];
    let scores = scores.map(|node| world.score(&wanted, node));
    assert_eq!(scores, [10, 7, 5, 4, 1]);
}

#[test]
fn the_first_to_take_over_is_better_than_the_other_copies() {
    let copies = vec![certified("a-r1-1"), certified("b-r1-1")];
    let mut world = World::metro(vec![volume(1, 1, copies)]);
    let wanted = pod(vec![bound(1)]);
    let both = |world: &World| ["a-r1-1", "b-r1-1"].map(|node| world.score(&wanted, node));
    world.heard.volumes[0].preferred_site = "b".into();
    assert_eq!(both(&world), [9, 10], "the preferred site's copy is next");
    world.heard.volumes[0].primary = "a-r1-1".into();
    assert_eq!(both(&world), [10, 9], "who has the volume comes before");
    world.heard.volumes[0].copies[0].leaving = true;
    assert_eq!(both(&world), [8, 10], "unless its copy is leaving");
}

#[test]
fn a_site_with_silent_nodes_loses_ties() {
    let copies = vec![certified("a-r1-1"), certified("b-r1-1")];
    let mut world = World::metro(vec![volume(1, 1, copies)]);
    world.heard.volumes[0].preferred_site = "a".into();
    for silent in ["a-r2-1", "a-r2-2", "a-r1-2"] {
        world.member(silent).answering = false;
    }
    let wanted = pod(vec![bound(1)]);
    assert_eq!(world.score(&wanted, "b-r1-2"), 7);
    assert!(world.score(&wanted, "a-r1-1") < 10);
    assert_eq!(world.score(&wanted, "a-r1-2"), 0, "nothing is served there");
}

#[test]
fn a_resyncing_copy_counts_by_what_is_verified_and_at_most_five() {
    let score = |verified| {
        let copies = vec![certified("b-r1-1"), resyncing("a-r1-1", verified)];
        World::metro(vec![volume(1, 1, copies)]).score(&pod(vec![bound(1)]), "a-r1-1")
    };
    let scores = [0, 300, 500, 900, 1000, 1001, u16::MAX].map(score);
    assert_eq!(scores, [1, 2, 3, 5, 5, 5, 5], "half a point counts as one");
    // Beside a certified copy in its rack, which alone would be worth more.
    let copies = vec![certified("a-r1-2"), resyncing("a-r1-1", 100)];
    let world = World::metro(vec![volume(1, 1, copies)]);
    assert_eq!(world.score(&pod(vec![bound(1)]), "a-r1-1"), 5);
}

#[test]
fn what_cannot_serve_is_no_certified_copy() {
    let mut unable = certified("a-r1-1");
    unable.able = false;
    let mut sealed = certified("a-r2-1");
    sealed.sealed_off = true;
    let copies = vec![certified("b-r1-1"), unable, sealed];
    let world = World::metro(vec![volume(1, 1, copies)]);
    let wanted = pod(vec![bound(1)]);
    assert_eq!(world.score(&wanted, "a-r1-1"), 1);
    assert_eq!(world.score(&wanted, "a-r2-1"), 1);
    // A witness, and a node that the volume is attached to without a copy, have none either.
    let mut world = World::metro(vec![volume(1, 1, vec![certified("b-r1-1")])]);
    world.heard.volumes[0].attached = "a-r1-1".into();
    world.heard.volumes[0].primary = "a-r1-1".into();
    assert_eq!(world.score(&wanted, "a-r1-1"), 1);
    world.member("b-r1-1").role = lockstep_types::NodeRole::Witness;
    assert_eq!(world.score(&wanted, "b-r1-1"), 0);
}

#[test]
fn another_site_counts_by_its_measured_round_trip() {
    let score = |state| {
        let mut world = World::metro(vec![volume(1, 1, vec![certified("a-r1-1")])]);
        world.heard.links = vec![Link {
            sites: ("b".into(), "a".into()),
            state,
        }];
        world.score(&pod(vec![bound(1)]), "b-r1-1")
    };
    assert_eq!(score(LinkState::RoundTrip(millis(1))), 2);
    assert_eq!(score(LinkState::RoundTrip(millis(9))), 1);
    assert_eq!(score(LinkState::RoundTrip(seconds(9))), 1);
    assert_eq!(score(LinkState::Cut), 0);
}

#[test]
fn nodes_without_a_rack_or_zone_are_near_nobody_by_it() {
    let members = vec![member("a1", "a"), member("a2", "a"), member("b1", "b")];
    let world = World::new(members, vec![volume(1, 1, vec![certified("a1")])]);
    let wanted = pod(vec![bound(1)]);
    let scores = ["a1", "a2", "b1"].map(|node| world.score(&wanted, node));
    assert_eq!(scores, [10, 4, 1], "in one site, and no more is known");
    // A rack of the same name elsewhere is another rack.
    let members = vec![member("a1", "a/z1/r1"), member("a2", "a/z2/r1")];
    let world = World::new(members, vec![volume(1, 1, vec![certified("a1")])]);
    assert_eq!(world.score(&wanted, "a2"), 4);
}

#[test]
fn volumes_count_by_their_size() {
    let volumes = vec![
        volume(1, 90, vec![certified("a-r1-1")]),
        volume(2, 10, vec![certified("b-r1-1")]),
    ];
    let world = World::metro(volumes);
    let wanted = pod(vec![bound(1), bound(2)]);
    assert_eq!(world.score(&wanted, "a-r1-1"), 9, "0.9 × 10 + 0.1 × 1");
    assert_eq!(world.score(&wanted, "b-r1-1"), 2, "0.1 × 10 + 0.9 × 1");
}

#[test]
fn where_locality_is_none_no_node_is_better() {
    let mut world = World::metro(vec![volume(1, 1, vec![certified("a-r1-1")])]);
    world.heard.volumes[0].locality = Locality::None;
    let mut wanted = pod(vec![bound(1)]);
    assert_eq!(world.score(&wanted, "a-r1-1"), 0);
    wanted.locality = Some(Locality::Prefer);
    assert_eq!(world.score(&wanted, "a-r1-1"), 10, "the pod says otherwise");
    world.heard.volumes[0].locality = Locality::Prefer;
    wanted.locality = Some(Locality::None);
    assert_eq!(world.score(&wanted, "a-r1-1"), 0, "here too");
}

#[test]
fn a_claim_without_a_volume_prefers_nodes_that_could_hold_a_copy_and_then_free_space() {
    let mut world = World::metro(vec![]);
    world.member("a-r1-2").pools[0].free_extents /= 2;
    world.member("a-r2-1").pools.clear();
    world.member("a-r2-2").cordoned = true;
    for full in ["b-r1-1", "b-r1-2", "b-r2-1", "b-r2-2"] {
        world.member(full).pools.clear();
    }
    let wanted = pod(vec![unbound(
        wish("1", FaultDomain::Node, Locality::Prefer),
        1,
    )]);
    let scores = ["a-r1-1", "a-r1-2", "a-r2-1", "b-r1-1"];
    let scores = scores.map(|node| world.score(&wanted, node));
    assert_eq!(scores, [10, 9, 5, 1]);
    // A class that wants copies in the other site only.
    let elsewhere = wish("b=1", FaultDomain::Node, Locality::Prefer);
    let mut world = World::metro(vec![]);
    let wanted = pod(vec![unbound(elsewhere, 1)]);
    assert_eq!(world.score(&wanted, "a-r1-1"), 1);
    assert_eq!(world.score(&wanted, "b-r1-1"), 10);
    world.member("b-r1-1").pools.clear();
    assert_eq!(world.score(&wanted, "b-r1-1"), 7, "a copy fits in its rack");
}

#[test]
fn old_news_counts_less_and_very_old_news_nothing() {
    let copies = vec![certified("a-r1-1"), resyncing("a-r2-1", 1000)];
    let mut world = World::metro(vec![volume(1, 1, copies)]);
    let wanted = pod(vec![bound(1)]);
    let mut last = 10;
    for age in 0..=600 {
        world.now = common::HEARD + seconds(age);
        let certified = world.score(&wanted, "a-r1-1");
        assert!(certified <= last, "{age} s");
        assert!(
            certified > world.score(&wanted, "a-r2-1"),
            "never equal, also when old: {age} s"
        );
        last = certified;
    }
    assert_eq!(last, 4);
    world.now = common::HEARD + seconds(601);
    assert_eq!(world.score(&wanted, "a-r1-1"), 0);
    world.heard.at = None;
    world.now = common::HEARD;
    assert_eq!(world.score(&wanted, "a-r1-1"), 0, "never heard");
}
