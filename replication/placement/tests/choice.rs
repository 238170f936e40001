//! Placement by example.

use lockstep_placement::{
    Choice, Fitness, Grammar, Host, Local, Refusal, Request, Space, Topology, add_one, choose,
    explain, replace,
};
use lockstep_types::{DeviceId, FaultDomain, NodeId, NodeRole};

fn host(id: u128, site: &str, zone: &str, rack: &str, free: &[u64]) -> Host {
    Host {
        id: NodeId::from_u128(id),
        name: format!("{site}{id}"),
        site: site.into(),
        zone: zone.into(),
        rack: rack.into(),
        role: NodeRole::Data,
        fitness: Fitness::Usable,
        pools: (0..)
            .zip(free)
            .map(|(at, free)| Space {
                device: DeviceId::from_u128(id * 10 + at),
                name: format!("p{at}"),
                free_extents: *free,
                has_place: true,
            })
            .collect(),
    }
}

fn request(copies: &str, fault_domain: FaultDomain) -> Request {
    Request {
        copies: copies.parse::<Grammar>().expect("a grammar"),
        fault_domain,
        extents: 10,
        local: None,
    }
}

fn nodes(choices: &[Choice]) -> Vec<u128> {
    let mut all: Vec<_> = choices.iter().map(|choice| choice.node.as_u128()).collect();
    all.sort_unstable();
    all
}

fn metro() -> Topology {
    let mut witness = host(9, "w", "", "", &[1000]);
    witness.role = NodeRole::Witness;
    Topology {
        hosts: vec![
            host(1, "a", "", "", &[100]),
            host(2, "a", "", "", &[200, 50]),
            host(3, "b", "", "", &[100]),
            host(4, "b", "", "", &[90]),
            witness,
        ],
    }
}

#[test]
fn two_copies_stand_in_two_sites_on_the_freest_nodes() {
    let choices = choose(&request("2", FaultDomain::Node), &metro()).expect("room");
    assert_eq!(nodes(&choices), [2, 3]);
    assert!(choices.contains(&Choice {
        node: NodeId::from_u128(2),
        device: DeviceId::from_u128(20)
    }));
}

#[test]
fn three_copies_are_two_and_one_and_four_are_two_and_two() {
    assert_eq!(
        nodes(&choose(&request("3", FaultDomain::Node), &metro()).expect("room")),
        [1, 2, 3]
    );
    assert_eq!(
        nodes(&choose(&request("4", FaultDomain::Node), &metro()).expect("room")),
        [1, 2, 3, 4]
    );
}

#[test]
fn named_sites_and_each_site_get_their_copies_and_a_witness_none() {
    assert_eq!(
        nodes(&choose(&request("a=2,b=1", FaultDomain::Node), &metro()).expect("room")),
        [1, 2, 3]
    );
    assert_eq!(
        nodes(&choose(&request("*=1", FaultDomain::Site), &metro()).expect("room")),
        [2, 3]
    );
    let refusal = choose(&request("w=1", FaultDomain::Node), &metro()).expect_err("a witness");
    assert_eq!(
        refusal,
        Refusal::UnknownSite {
            site: "w".into(),
            known: vec!["a".into(), "b".into()]
        }
    );
}

#[test]
fn inside_a_site_zones_and_racks_are_spread_before_space_counts() {
    let topology = Topology {
        hosts: vec![
            host(1, "a", "z1", "r1", &[900]),
            host(2, "a", "z1", "r2", &[800]),
            host(3, "a", "z2", "r1", &[20]),
            host(4, "a", "z2", "r1", &[30]),
        ],
    };
    assert_eq!(
        nodes(&choose(&request("2", FaultDomain::Node), &topology).expect("room")),
        [1, 4]
    );
    assert_eq!(
        nodes(&choose(&request("3", FaultDomain::Node), &topology).expect("room")),
        [1, 2, 4]
    );
    // Rack r1 of zone z1 is not rack r1 of zone z2.
    assert_eq!(
        nodes(&choose(&request("3", FaultDomain::Rack), &topology).expect("room")),
        [1, 2, 4]
    );
    let refusal = choose(&request("4", FaultDomain::Rack), &topology).expect_err("three racks");
    let text = explain(&refusal);
    assert!(
        text.contains("3 racks") && text.contains("4 are needed") && text.contains("a3"),
        "{text}"
    );
}

#[test]
fn nodes_without_a_rack_label_count_as_one_rack() {
    let refusal =
        choose(&request("a=2", FaultDomain::Rack), &metro()).expect_err("one unnamed rack");
    assert!(matches!(refusal, Refusal::TooFew(_)));
}

#[test]
fn cordoned_down_and_full_nodes_are_passed_over_and_named() {
    let mut topology = metro();
    topology.hosts[2].fitness = Fitness::Down;
    assert_eq!(
        nodes(&choose(&request("a=1,b=1", FaultDomain::Node), &topology).expect("b4")),
        [2, 4]
    );
    topology.hosts[3].pools[0].free_extents = 9;
    let text =
        explain(&choose(&request("a=1,b=1", FaultDomain::Node), &topology).expect_err("b is out"));
    assert_eq!(
        text,
        "site b has 0 nodes with space for a copy of 2.5 MiB; 1 is needed (not answering: b3; too full: b4 (2.2 MiB \
         free)): bring the silent node back, or add a pool or free space, or add a node with space to site b"
    );
    topology.hosts[2].fitness = Fitness::Cordoned;
    topology.hosts[3].pools[0].free_extents = 10;
    let text =
        explain(&choose(&request("a=1,b=2", FaultDomain::Node), &topology).expect_err("one in b"));
    assert!(
        text.starts_with("site b has 1 node with space") && text.contains("2 are needed"),
        "{text}"
    );
    assert!(
        text.contains("cordoned: b3") && text.contains("uncordon"),
        "{text}"
    );
}

#[test]
fn a_pool_that_holds_as_many_copies_as_it_can_is_passed_over_and_said_to() {
    let mut topology = metro();
    topology.hosts[2].pools[0].has_place = false;
    let one_in_each = request("a=1,b=1", FaultDomain::Node);
    assert_eq!(nodes(&choose(&one_in_each, &topology).expect("b4")), [2, 4]);
    topology.hosts[3].pools[0].has_place = false;
    let text = explain(&choose(&one_in_each, &topology).expect_err("b is out"));
    assert_eq!(
        text,
        "site b has 0 nodes with space for a copy of 2.5 MiB; 1 is needed (holding as many copies as they can: b3, \
         b4): add a pool, or make one with a larger journal, or add a node with space to site b"
    );
}

#[test]
fn the_node_that_will_use_it_is_preferred_and_may_be_required() {
    let local = |node: u128, required| {
        Some(Local {
            node: NodeId::from_u128(node),
            required,
        })
    };
    let ask = |local| Request {
        local,
        ..request("2", FaultDomain::Node)
    };
    assert_eq!(
        nodes(&choose(&ask(local(4, false)), &metro()).expect("room")),
        [2, 4]
    );
    assert_eq!(
        nodes(&choose(&ask(local(1, true)), &metro()).expect("room")),
        [1, 3]
    );
    for (node, why) in [(9, "witness"), (77, "not joined")] {
        let text = explain(&choose(&ask(local(node, true)), &metro()).expect_err("not there"));
        assert!(text.contains(why), "{text}");
    }
    let elsewhere = Request {
        local: local(4, true),
        ..request("a=2", FaultDomain::Node)
    };
    assert!(matches!(
        choose(&elsewhere, &metro()),
        Err(Refusal::Local { .. })
    ));
}

#[test]
fn one_more_goes_where_the_grammar_lacks_one() {
    let held = |node: u128| Choice {
        node: NodeId::from_u128(node),
        device: DeviceId::from_u128(node * 10),
    };
    let add =
        |held: &[Choice], copies| add_one(held, &request(copies, FaultDomain::Node), &metro());
    assert_eq!(
        add(&[held(2), held(3)], "a=2,b=1").map(|c| c.node.as_u128()),
        Ok(1)
    );
    assert_eq!(
        add(&[held(2), held(1)], "a=2,b=1").map(|c| c.node.as_u128()),
        Ok(3)
    );
    assert_eq!(add(&[held(2)], "2").map(|c| c.node.as_u128()), Ok(3));
    assert_eq!(add(&[held(2), held(3)], "*=1"), Err(Refusal::Satisfied));
    assert_eq!(
        add(&[held(77)], "2"),
        Err(Refusal::UnknownNode {
            node: NodeId::from_u128(77)
        })
    );
}

#[test]
fn a_replacement_keeps_the_site_and_may_stay_on_the_node_but_not_on_the_pool() {
    let held = |node: u128| Choice {
        node: NodeId::from_u128(node),
        device: DeviceId::from_u128(node * 10),
    };
    let request = request("a=1,b=1", FaultDomain::Node);
    let moved = replace(&[held(3), held(2)], held(3), &request, &metro());
    assert_eq!(moved.map(|c| c.node.as_u128()), Ok(4));
    let mut topology = metro();
    topology.hosts[0].fitness = Fitness::Down;
    let moved = replace(&[held(3), held(2)], held(2), &request, &topology);
    assert_eq!(
        moved,
        Ok(Choice {
            node: NodeId::from_u128(2),
            device: DeviceId::from_u128(21)
        })
    );
}
