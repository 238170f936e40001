//! What holds for every topology and request.

use lockstep_placement::{
    Choice, Domain, Fitness, Grammar, Host, Refusal, Request, Space, Topology, add_one, choose,
    explain, replace,
};
use lockstep_types::{DeviceId, FaultDomain, NodeId, NodeRole};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn level() -> impl Strategy<Value = FaultDomain> {
    prop::sample::select(vec![
        FaultDomain::Site,
        FaultDomain::Zone,
        FaultDomain::Rack,
        FaultDomain::Node,
    ])
}

fn host() -> impl Strategy<Value = Host> {
    let fitness = prop::sample::select(vec![
        Fitness::Usable,
        Fitness::Usable,
        Fitness::Usable,
        Fitness::Cordoned,
        Fitness::Down,
    ]);
    let role = prop::sample::select(vec![
        NodeRole::Data,
        NodeRole::Data,
        NodeRole::Data,
        NodeRole::Witness,
    ]);
    (
        0..3u8,
        0..3u8,
        0..3u8,
        fitness,
        role,
        prop::collection::vec(0..40u64, 0..3),
    )
        .prop_map(|(site, zone, rack, fitness, role, free)| Host {
            id: NodeId::NONE,
            name: String::new(),
            site: format!("s{site}"),
            zone: if zone == 0 {
                String::new()
            } else {
                format!("z{zone}")
            },
            rack: if rack == 0 {
                String::new()
            } else {
                format!("r{rack}")
            },
            role,
            fitness,
            pools: free
                .into_iter()
                .map(|free_extents| Space {
                    device: DeviceId::NONE,
                    name: String::new(),
                    free_extents,
                    has_place: true,
                })
                .collect(),
        })
}

fn topology() -> impl Strategy<Value = Topology> {
    prop::collection::vec(host(), 0..12).prop_map(|mut hosts| {
        let mut device = 0;
        for (at, host) in hosts.iter_mut().enumerate() {
            host.id = NodeId::from_u128(at as u128 + 1);
            host.name = format!("n{}", at + 1);
            for pool in &mut host.pools {
                device += 1;
                pool.device = DeviceId::from_u128(device);
            }
        }
        Topology { hosts }
    })
}

fn grammar() -> impl Strategy<Value = Grammar> {
    prop_oneof![
        (1..=8u32).prop_map(Grammar::Count),
        (1..=3u32).prop_map(Grammar::EachSite),
        prop::collection::btree_map("s[0-3]", 1..=3u32, 1..3).prop_map(Grammar::Sites),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    (grammar(), level(), 1..30u64).prop_map(|(copies, fault_domain, extents)| Request {
        copies,
        fault_domain,
        extents,
        local: None,
    })
}

/// Copies that could be placed by any means: distinct domains with a usable node that has room.
fn domains_with_room<'a>(
    request: &Request,
    topology: &'a Topology,
    site: Option<&str>,
) -> BTreeSet<Domain<'a>> {
    let hosts = topology.hosts.iter().filter(|host| {
        host.role == NodeRole::Data
            && host.fitness == Fitness::Usable
            && site.is_none_or(|site| host.site == site)
            && host
                .pools
                .iter()
                .any(|pool| pool.free_extents >= request.extents)
    });
    hosts
        .map(|host| host.domain(request.fault_domain))
        .collect()
}

fn assert_good(request: &Request, topology: &Topology, choices: &[Choice]) {
    let hosts: Vec<_> = choices
        .iter()
        .map(|choice| topology.host(choice.node).expect("known"))
        .collect();
    for (choice, host) in choices.iter().zip(&hosts) {
        assert!(host.role == NodeRole::Data && host.fitness == Fitness::Usable);
        let pool = host
            .pools
            .iter()
            .find(|pool| pool.device == choice.device)
            .expect("its own pool");
        assert!(pool.free_extents >= request.extents);
    }
    let domains: BTreeSet<_> = hosts
        .iter()
        .map(|host| host.domain(request.fault_domain))
        .collect();
    assert_eq!(domains.len(), choices.len(), "no two copies in one domain");
    let mut by_site: BTreeMap<&str, u32> = BTreeMap::new();
    for host in &hosts {
        *by_site.entry(&host.site).or_default() += 1;
    }
    match &request.copies {
        Grammar::Count(n) => assert_eq!(choices.len() as u32, *n),
        Grammar::Sites(wanted) => {
            assert_eq!(
                by_site,
                wanted.iter().map(|(site, n)| (site.as_str(), *n)).collect()
            );
        }
        Grammar::EachSite(n) => {
            assert_eq!(by_site.len(), topology.data_sites().len());
            assert!(by_site.values().all(|have| have == n));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_choice_is_good_and_a_refusal_is_true(request in request(), topology in topology()) {
        match choose(&request, &topology) {
            Ok(choices) => assert_good(&request, &topology, &choices),
            Err(Refusal::TooFew(_)) => {
                let enough = match &request.copies {
                    Grammar::Count(n) => domains_with_room(&request, &topology, None).len() >= *n as usize,
                    Grammar::Sites(wanted) => wanted.iter().all(|(site, n)| {
                        domains_with_room(&request, &topology, Some(site)).len() >= *n as usize
                    }),
                    Grammar::EachSite(n) => topology.data_sites().iter().all(|site| {
                        domains_with_room(&request, &topology, Some(site)).len() >= *n as usize
                    }),
                };
                prop_assert!(!enough, "refused though there is room");
            }
            Err(_) => prop_assert!(request.copies.check(request.fault_domain, &topology.data_sites()).is_err()),
        }
    }

    #[test]
    fn the_order_in_which_things_are_listed_is_of_no_consequence(
        request in request(),
        (topology, shuffled) in topology().prop_flat_map(|topology| {
            let hosts = Just(topology.hosts.clone()).prop_shuffle();
            (Just(topology), hosts)
        }),
    ) {
        let mut other = Topology { hosts: shuffled };
        for host in &mut other.hosts {
            host.pools.reverse();
        }
        prop_assert_eq!(choose(&request, &topology), choose(&request, &other));
    }

    #[test]
    fn counted_copies_are_even_over_sites_with_room(count in 1..=8u32, topology in topology()) {
        let request = Request {
            copies: Grammar::Count(count), fault_domain: FaultDomain::Node, extents: 5, local: None,
        };
        if let Ok(choices) = choose(&request, &topology) {
            let mut by_site: BTreeMap<String, usize> = BTreeMap::new();
            for choice in &choices {
                *by_site.entry(topology.host(choice.node).expect("known").site.clone()).or_default() += 1;
            }
            let most = by_site.values().copied().max().unwrap_or(0);
            for site in topology.data_sites() {
                let have = by_site.get(&site).copied().unwrap_or(0);
                let room = domains_with_room(&request, &topology, Some(&site)).len();
                prop_assert!(have + 1 >= most || have == room, "{site}: {have} of {room}, elsewhere {most}");
            }
        }
    }

    #[test]
    fn copies_added_one_by_one_and_replaced_stay_apart(request in request(), topology in topology()) {
        let Ok(mut held) = choose(&request, &topology) else { return Ok(()); };
        prop_assert_eq!(add_one(&held, &request, &topology), Err(Refusal::Satisfied));
        held.remove(0);
        let added = add_one(&held, &request, &topology);
        prop_assert!(added.is_ok(), "the place of the one taken away is free again");
        held.push(added.expect("just checked"));
        assert_good(&request, &topology, &held);
        if let Ok(moved) = replace(&held, *held.last().expect("one"), &request, &topology) {
            prop_assert_ne!(moved.device, held.last().expect("one").device);
            held.pop();
            held.push(moved);
            assert_good(&request, &topology, &held);
        }
    }

    #[test]
    fn every_refusal_has_words(request in request(), topology in topology()) {
        if let Err(refusal) = choose(&request, &topology) {
            let text = explain(&refusal);
            prop_assert!(text.len() > 20 && text.len() < 1000, "{text}");
        }
    }

    #[test]
    fn parsing_never_panics_and_prints_what_it_reads(text in "[ -~a*=,0-9é]{0,40}") {
        if let Ok(grammar) = text.parse::<Grammar>() {
            prop_assert_eq!(grammar.to_string().parse::<Grammar>(), Ok(grammar));
        }
    }

    #[test]
    fn grammars_survive_print_and_parse(grammar in grammar()) {
        prop_assume!(grammar.copies(1) <= 8);
        prop_assert_eq!(grammar.to_string().parse::<Grammar>(), Ok(grammar));
    }
}
