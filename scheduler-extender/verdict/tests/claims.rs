//! From what Kubernetes tells to what a pod asks for; and who is told when a refusal lapses.

mod common;

use std::sync::Arc;

use common::{GIB, World, certified, volume, wish};
use lockstep_types::{FaultDomain, Locality, VolumeId};
use lockstep_verdict::claims::{Claim, Claims, Class, Key, Persistent, Pod};
use lockstep_verdict::refused::{MOST_PODS, Refused};
use lockstep_verdict::wanted::Source;

fn key(name: &str) -> Key {
    ("ns".into(), name.into())
}

fn pod(name: &str, claims: &[&str]) -> Pod {
    Pod {
        key: key(name),
        uid: format!("uid-{name}"),
        claims: claims.iter().map(|it| it.to_string()).collect(),
        ..Pod::default()
    }
}

fn running(name: &str, claims: &[&str], node: &str) -> Pod {
    Pod {
        node: node.into(),
        ..pod(name, claims)
    }
}

fn claim(class: &str, volume: &str) -> Claim {
    Claim {
        class: class.into(),
        volume: volume.into(),
        bytes: GIB,
        exclusive: true,
    }
}

/// All watches have told what there is: two claims of ours, one bound, one not, and one of somebody else.
fn told() -> Claims {
    let mut claims = Claims::default();
    let ours = Class::Ours(Some(Arc::new(wish(
        "2",
        FaultDomain::Node,
        Locality::Prefer,
    ))));
    claims.set_classes(
        [
            ("fast".into(), ours),
            ("other".into(), Class::Foreign),
            ("bad".into(), Class::Ours(None)),
        ],
        "fast".into(),
    );
    claims.set_persistent([
        (
            "pv-1".into(),
            Persistent::Ours(Some(VolumeId::from_u128(1))),
        ),
        ("pv-x".into(), Persistent::Foreign),
        ("pv-?".into(), Persistent::Ours(None)),
    ]);
    claims.set_claims([
        (key("bound"), claim("fast", "pv-1")),
        (key("new"), claim("fast", "")),
        (key("foreign"), claim("other", "pv-x")),
        (key("foreign-new"), claim("other", "")),
        (key("strange"), claim("fast", "pv-?")),
        (key("early"), claim("fast", "pv-2")),
        (key("bad"), claim("bad", "")),
    ]);
    claims.set_pods([]);
    claims
}

fn sources(claims: &Claims, pod: &Pod) -> Vec<(String, Source)> {
    let wanted = claims.wanted(pod).volumes.into_iter();
    wanted.map(|it| (it.claim, it.source)).collect()
}

#[test]
fn a_pod_asks_for_its_volumes_of_ours_only() {
    let claims = told();
    let all = pod("p", &["new", "foreign", "bound", "foreign-new", "bound"]);
    let found = sources(&claims, &all);
    assert_eq!(found.len(), 2, "{found:?}");
    let id = VolumeId::from_u128(1);
    assert_eq!(found[0], ("bound".into(), Source::Bound(id)));
    assert!(matches!(
        &found[1].1,
        Source::Unbound {
            wish: Some(_),
            bytes: GIB
        }
    ));
    assert!(sources(&claims, &pod("p", &["foreign"])).is_empty());
    let bad = sources(&claims, &pod("p", &["bad"]));
    assert!(matches!(bad[0].1, Source::Unbound { wish: None, .. }));
}

#[test]
fn a_claim_that_is_not_known_passes_and_one_bound_to_what_is_not_known_does_not() {
    let mut claims = told();
    let found = sources(&claims, &pod("p", &["nowhere", "bound"]));
    assert_eq!(found[1], ("nowhere".into(), Source::NotYet));
    assert!(sources(&claims, &pod("p", &["nowhere"])).is_empty());
    for strange in ["strange", "early"] {
        assert_eq!(
            sources(&claims, &pod("p", &[strange]))[0].1,
            Source::Missing
        );
    }
    // Before all volumes have been told, nothing is said of one that was not.
    claims = Claims::default();
    claims.put_claim(key("early"), claim("fast", "pv-2"));
    assert!(sources(&claims, &pod("p", &["early"])).is_empty());
    // Once it is told of, it is what it is.
    let mut claims = told();
    assert!(claims.put_persistent(
        "pv-2".into(),
        Persistent::Ours(Some(VolumeId::from_u128(2)))
    ));
    assert!(!claims.put_persistent(
        "pv-2".into(),
        Persistent::Ours(Some(VolumeId::from_u128(2)))
    ));
    assert!(!claims.put_persistent("pv-3".into(), Persistent::Foreign));
    let id = VolumeId::from_u128(2);
    assert_eq!(
        sources(&claims, &pod("p", &["early"]))[0].1,
        Source::Bound(id)
    );
}

#[test]
fn who_uses_a_volume_is_told_without_the_pod_itself_and_those_that_end() {
    let mut claims = told();
    let new = pod("p", &["bound"]);
    let users = |claims: &Claims| claims.wanted(&new).volumes[0].users.clone();
    claims.put_pod(new.clone());
    claims.put_pod(running("a", &["bound", "foreign"], "n1"));
    claims.put_pod(running("b", &["bound"], "n1"));
    claims.put_pod(running("c", &["new"], "n2"));
    claims.put_pod(pod("d", &["bound"]));
    assert_eq!(users(&claims), ["n1"]);
    let other = Pod {
        key: ("elsewhere".into(), "e".into()),
        ..running("e", &["bound"], "n3")
    };
    claims.put_pod(other);
    assert_eq!(
        users(&claims),
        ["n1"],
        "a claim of that name elsewhere is another"
    );
    claims.put_pod(Pod {
        ending: true,
        ..running("a", &["bound"], "n1")
    });
    assert_eq!(users(&claims), ["n1"]);
    claims.remove_pod(&key("b"));
    assert!(users(&claims).is_empty());
    // The pod itself, already on a node (asked again by 'explain').
    claims.put_pod(running("p", &["bound"], "n1"));
    assert!(users(&claims).is_empty());
    // What many nodes may use at once is no reason.
    claims.put_pod(running("b", &["bound"], "n1"));
    claims.put_claim(
        key("bound"),
        Claim {
            exclusive: false,
            ..claim("fast", "pv-1")
        },
    );
    assert!(users(&claims).is_empty());
}

#[test]
fn a_list_replaces_what_was_told_before() {
    let mut claims = told();
    claims.put_pod(running("a", &["bound"], "n1"));
    claims.put_pod(pod("no-claims", &[]));
    assert_eq!(claims.counts(), (7, 3, 1));
    claims.set_pods([running("b", &["new"], "n1")]);
    claims.set_claims([(key("new"), claim("fast", ""))]);
    claims.set_persistent([]);
    assert_eq!(claims.counts(), (1, 0, 1));
    assert!(claims.pod("ns", "a").is_none() && claims.pod("ns", "b").is_some());
    claims.remove_claim(&key("new"));
    assert_eq!(claims.is_ours("ns", "new"), None);
}

#[test]
fn whose_a_claim_is() {
    let claims = told();
    let whose = |name| claims.is_ours("ns", name);
    assert_eq!(whose("bound"), Some(true));
    assert_eq!(whose("new"), Some(true));
    assert_eq!(whose("foreign"), Some(false));
    assert_eq!(whose("foreign-new"), Some(false));
    assert_eq!(whose("nowhere"), None);
    assert_eq!(claims.is_class_ours(""), Some(true), "the default class");
    assert_eq!(claims.is_class_ours("gone"), None);
}

#[test]
fn annotations_that_mean_nothing_are_passed_over() {
    let claims = told();
    let with = |text: &str| {
        claims
            .wanted(&Pod {
                locality: text.into(),
                ..pod("p", &["bound"])
            })
            .locality
    };
    assert_eq!(with("require"), Some(Locality::Require));
    assert_eq!(with("none"), Some(Locality::None));
    assert_eq!((with(""), with("Require")), (None, None));
}

#[test]
fn a_node_is_told_of_once_a_refusal_has_lapsed() {
    let mut world = World::metro(vec![volume(1, 1, vec![certified("a-r1-1")])]);
    world.member("a-r1-2").answering = false;
    let mut claims = told();
    let new = pod("p", &["bound"]);
    claims.put_pod(new.clone());
    let mut refused = Refused::default();
    refused.note(&new, vec!["a-r1-2".into(), "nowhere".into()]);
    let lapsed = |refused: &mut Refused, world: &World, claims: &Claims| {
        refused.lapsed(&world.cluster(), claims, world.now, 10)
    };
    assert!(lapsed(&mut refused, &world, &claims).is_empty());
    assert_eq!(refused.len(), 1);
    world.member("a-r1-2").answering = true;
    assert_eq!(lapsed(&mut refused, &world, &claims), ["a-r1-2"]);
    assert!(lapsed(&mut refused, &world, &claims).is_empty(), "once");
    // Who runs, ends or was followed by another of its name waits for nothing.
    for after in [
        running("p", &["bound"], "a-r1-1"),
        Pod {
            ending: true,
            ..new.clone()
        },
        Pod {
            uid: "another".into(),
            ..new.clone()
        },
    ] {
        refused.note(&new, vec!["a-r1-2".into()]);
        claims.put_pod(after);
        assert!(lapsed(&mut refused, &world, &claims).is_empty());
        assert!(refused.is_empty());
    }
    // Nothing was refused the next time it was asked for.
    refused.note(&new, vec!["a-r1-2".into()]);
    refused.note(&new, vec![]);
    assert!(refused.is_empty());
}

#[test]
fn what_is_remembered_is_bounded_and_hints_are_few_at_a_time() {
    let world = World::metro(vec![volume(1, 1, vec![certified("a-r1-1")])]);
    let claims = told();
    let mut refused = Refused::default();
    let nodes = ["a-r1-1", "a-r1-2", "b-r1-1"];
    for n in 0..=MOST_PODS {
        let pod = pod(&format!("p{n:04}"), &["bound"]);
        refused.note(&pod, vec![nodes[n % 3].into()]);
    }
    assert_eq!(refused.len(), MOST_PODS, "the oldest was forgotten");
    let mut lapsed = || refused.lapsed(&world.cluster(), &claims, world.now, 2);
    let (first, second) = (lapsed(), lapsed());
    assert_eq!((first.len(), second.len()), (2, 1));
    assert!(
        !first.contains(&second[0]),
        "the others were told of at once"
    );
    assert!(refused.is_empty());
}
