//! Which nodes go, reason by reason, and what never makes one go.

mod common;

use common::{HEARD, World, bound, certified, member, pod, resyncing, unbound, volume, wish};
use lockstep_types::{FaultDomain, Locality, NodeRole, seconds};
use lockstep_verdict::cluster::Machine;
use lockstep_verdict::reason::Reason;
use lockstep_verdict::storage::{Link, LinkState};
use lockstep_verdict::wanted::{Source, Wanted};

fn one_volume() -> (World, Wanted) {
    let copies = vec![certified("a-r1-1"), certified("b-r1-1")];
    let world = World::metro(vec![volume(1, 1, copies)]);
    (world, pod(vec![bound(1)]))
}

#[test]
fn a_healthy_volume_refuses_nothing() {
    let (world, wanted) = one_volume();
    assert_eq!(world.stay(&wanted).len(), 8);
    assert_eq!(world.stay(&pod(vec![])).len(), 8);
}

#[test]
fn a_node_without_a_daemon_that_serves_goes() {
    let (mut world, wanted) = one_volume();
    world.member("a-r1-1").answering = false;
    world.member("a-r1-2").role = NodeRole::Witness;
    world.machines.push(Machine {
        name: "gpu-1".into(),
        member: String::new(),
        ready: true,
    });
    for node in ["a-r1-1", "a-r1-2", "gpu-1", "never-heard-of"] {
        let refused = world.refusal(&wanted, node);
        assert_eq!(refused, Some(Reason::NoDaemon), "{node}");
        assert_eq!(
            world.refusal(&pod(vec![]), node),
            None,
            "{node}: not for others"
        );
    }
    assert_eq!(world.refusal(&wanted, "b-r1-1"), None);
}

#[test]
fn nodes_are_known_by_their_label_and_without_one_by_their_name() {
    let (mut world, wanted) = one_volume();
    world.machines = vec![Machine {
        name: "ip-10-0-0-1".into(),
        member: "a-r1-1".into(),
        ready: true,
    }];
    assert_eq!(world.refusal(&wanted, "ip-10-0-0-1"), None);
    assert_eq!(world.score(&wanted, "ip-10-0-0-1"), 10);
    world.machines[0].member = "somebody-else".into();
    let refused = world.refusal(&wanted, "ip-10-0-0-1");
    assert_eq!(refused, Some(Reason::NoDaemon));
    world.machines.clear();
    assert_eq!(world.score(&wanted, "a-r1-1"), 10, "not told of yet");
}

#[test]
fn a_cordoned_node_goes_unless_everything_is_attached_there_already() {
    let (mut world, wanted) = one_volume();
    world.member("a-r1-1").cordoned = true;
    let refused = world.refusal(&wanted, "a-r1-1");
    assert_eq!(refused, Some(Reason::Cordoned));
    world.heard.volumes[0].attached = "a-r1-1".into();
    assert_eq!(world.refusal(&wanted, "a-r1-1"), None);
    let copies = vec![certified("a-r1-1")];
    world.heard.volumes.push(volume(2, 1, copies));
    let both = pod(vec![bound(1), bound(2)]);
    assert_eq!(world.refusal(&both, "a-r1-1"), Some(Reason::Cordoned));
}

#[test]
fn every_node_goes_while_no_certified_copy_can_serve() {
    let (mut world, wanted) = one_volume();
    world.heard.volumes[0].copies = vec![resyncing("a-r1-1", 999), resyncing("b-r1-1", 0)];
    assert!(world.stay(&wanted).is_empty());
    let refused = world.refusal(&wanted, "a-r2-1");
    assert_eq!(refused, Some(Reason::OutOfReach));
}

#[test]
fn a_site_that_is_cut_off_from_every_copy_goes() {
    let (mut world, wanted) = one_volume();
    world.heard.volumes[0].copies.pop();
    world.heard.links = vec![Link {
        sites: ("a".into(), "b".into()),
        state: LinkState::Cut,
    }];
    assert_eq!(world.refusal(&wanted, "a-r2-1"), None);
    let refused = world.refusal(&wanted, "b-r2-1");
    assert_eq!(refused, Some(Reason::OutOfReach));
}

#[test]
fn a_strict_volume_needs_a_certified_copy_in_two_sites() {
    let (mut world, wanted) = one_volume();
    world.heard.volumes[0].strict = true;
    assert_eq!(world.refusal(&wanted, "a-r1-1"), None);
    world.heard.volumes[0].copies[1] = resyncing("b-r1-1", 500);
    let refused = world.refusal(&wanted, "a-r1-1");
    assert_eq!(refused, Some(Reason::OutOfReach), "its writes would wait");
    world.heard.volumes[0].strict = false;
    assert_eq!(world.refusal(&wanted, "a-r1-1"), None);
}

#[test]
fn a_volume_in_use_keeps_pods_on_that_node() {
    let (mut world, mut wanted) = one_volume();
    wanted.volumes[0].users = vec!["a-r1-1".into()];
    assert_eq!(world.stay(&wanted), ["a-r1-1"], "one node, many pods");
    let refused = world.refusal(&wanted, "b-r1-1");
    assert_eq!(refused, Some(Reason::InUse));
    // A dead node keeps nobody: neither kubelet nor the daemon is heard from.
    world.machines[0].ready = false;
    assert_eq!(world.stay(&wanted), ["a-r1-1"], "its daemon still serves");
    world.member("a-r1-1").answering = false;
    assert_eq!(world.stay(&wanted).len(), 7);
    // Used on two live nodes, none will do.
    wanted.volumes[0].users = vec!["a-r2-1".into(), "b-r1-1".into()];
    assert!(world.stay(&wanted).is_empty());
}

#[test]
fn use_is_known_from_kubernetes_alone() {
    let (mut world, mut wanted) = one_volume();
    wanted.volumes[0].users = vec!["a-r1-1".into()];
    world.heard = lockstep_verdict::storage::Heard::default();
    assert_eq!(world.stay(&wanted), ["a-r1-1"]);
}

#[test]
fn locality_require_keeps_pods_on_nodes_with_a_copy() {
    let (mut world, mut wanted) = one_volume();
    world.heard.volumes[0].locality = Locality::Require;
    assert_eq!(world.stay(&wanted), ["a-r1-1", "b-r1-1"]);
    assert_eq!(world.refusal(&wanted, "a-r1-2"), Some(Reason::NoCopyHere));
    wanted.locality = Some(Locality::None);
    assert_eq!(
        world.stay(&wanted),
        ["a-r1-1", "b-r1-1"],
        "a pod cannot ask for less: its volume would not be attached elsewhere"
    );
    world.heard.volumes[0].locality = Locality::Prefer;
    wanted.locality = Some(Locality::Require);
    assert_eq!(world.stay(&wanted), ["a-r1-1", "b-r1-1"], "but for more");
    // As ControllerPublishVolume has it: a copy that stays, resynced or not.
    world.heard.volumes[0].copies.push(resyncing("a-r2-1", 10));
    world.heard.volumes[0].copies[1].leaving = true;
    assert_eq!(world.stay(&wanted), ["a-r1-1", "a-r2-1"]);
    // Of two volumes, both must have one.
    let copies = vec![certified("a-r2-1"), certified("b-r1-1")];
    world.heard.volumes.push(volume(2, 1, copies));
    wanted.volumes.push(bound(2));
    assert_eq!(world.stay(&wanted), ["a-r2-1"]);
}

#[test]
fn a_bound_volume_that_is_not_known_refuses_and_a_claim_that_is_not_known_does_not() {
    let (world, _) = one_volume();
    let refused = world.refusal(&pod(vec![bound(77)]), "a-r1-1");
    assert_eq!(refused, Some(Reason::UnknownVolume));
    let mut missing = bound(1);
    missing.source = Source::Missing;
    let refused = world.refusal(&pod(vec![missing]), "a-r1-1");
    assert_eq!(refused, Some(Reason::UnknownVolume));
    let mut not_yet = bound(1);
    not_yet.source = Source::NotYet;
    assert_eq!(world.stay(&pod(vec![not_yet])).len(), 8);
}

#[test]
fn a_class_that_cannot_be_satisfied_refuses_every_node() {
    let (world, _) = one_volume();
    let refused = |copies: &str, level, gib| {
        let wanted = pod(vec![unbound(wish(copies, level, Locality::Prefer), gib)]);
        world.refusal(&wanted, "a-r1-1")
    };
    assert_eq!(refused("2", FaultDomain::Site, 100), None);
    assert_eq!(refused("3", FaultDomain::Site, 1), Some(Reason::NoPlace));
    assert_eq!(refused("2", FaultDomain::Site, 101), Some(Reason::NoPlace));
    assert_eq!(refused("c=1", FaultDomain::Node, 1), Some(Reason::NoPlace));
    let mut bad = unbound(wish("1", FaultDomain::Node, Locality::Prefer), 1);
    bad.source = Source::Unbound {
        wish: None,
        bytes: 1,
    };
    let refused = world.refusal(&pod(vec![bad]), "a-r1-1");
    assert_eq!(refused, Some(Reason::BadClass));
}

#[test]
fn of_several_new_claims_the_largest_decides() {
    let (world, _) = one_volume();
    let class = || wish("2", FaultDomain::Site, Locality::Prefer);
    let wanted = pod(vec![unbound(class(), 1), unbound(class(), 101)]);
    assert_eq!(world.refusal(&wanted, "a-r1-1"), Some(Reason::NoPlace));
    let wanted = pod(vec![unbound(class(), 1), unbound(class(), 99)]);
    assert_eq!(world.refusal(&wanted, "a-r1-1"), None);
}

#[test]
fn a_local_copy_that_is_required_must_fit_on_the_node() {
    let (mut world, _) = one_volume();
    world.member("a-r1-1").pools[0].free_extents = 10;
    world.member("a-r1-2").pools[0].has_place = false;
    let class = |copies| wish(copies, FaultDomain::Node, Locality::Require);
    let wanted = pod(vec![unbound(class("2"), 1)]);
    for node in ["a-r1-1", "a-r1-2"] {
        let refused = world.refusal(&wanted, node);
        assert_eq!(refused, Some(Reason::NoPlaceHere), "{node}");
    }
    assert_eq!(world.stay(&wanted).len(), 6);
    let wanted = pod(vec![unbound(class("b=2"), 1)]);
    assert_eq!(
        world.stay(&wanted).len(),
        4,
        "the class wants none in site a"
    );
}

#[test]
fn old_news_refuses_only_what_would_be_wrong_for_long() {
    let (mut world, wanted) = one_volume();
    world.member("a-r1-1").answering = false;
    let unknown = pod(vec![bound(77)]);
    let class = wish("3", FaultDomain::Site, Locality::Prefer);
    let too_much = pod(vec![unbound(class, 1)]);
    world.now = HEARD + seconds(30);
    assert_eq!(world.stay(&wanted).len(), 7);
    assert!(world.stay(&unknown).is_empty() && world.stay(&too_much).is_empty());
    world.now = HEARD + seconds(31);
    for free in [&wanted, &unknown, &too_much] {
        assert_eq!(world.stay(free).len(), 8, "pods do not wait for Lockstep");
    }
    world.heard.volumes[0].locality = Locality::Require;
    assert_eq!(world.stay(&wanted), ["a-r1-1", "b-r1-1"]);
}

#[test]
fn an_empty_cache_refuses_nothing() {
    let (mut world, wanted) = one_volume();
    world.heard = lockstep_verdict::storage::Heard::default();
    world.machines.clear();
    for node in ["a-r1-1", "anything", ""] {
        assert_eq!(world.refusal(&wanted, node), None);
        assert_eq!(world.score(&wanted, node), 0);
    }
}

#[test]
fn the_gravest_reason_is_told() {
    let (mut world, mut wanted) = one_volume();
    world.heard.members.push(member("z", "a"));
    world.heard.volumes[0].locality = Locality::Require;
    wanted.volumes[0].users = vec!["a-r1-1".into()];
    assert_eq!(world.refusal(&wanted, "z"), Some(Reason::InUse));
    world.member("z").answering = false;
    assert_eq!(world.refusal(&wanted, "z"), Some(Reason::NoDaemon));
}
