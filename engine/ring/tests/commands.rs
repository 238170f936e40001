//! Commands of drivers: each end is told with its token and the driver's words, and none after the removal.

mod common;

use std::fs::File;

use common::reactor;
use lockstep_ring::{DriverId, Event, Reactor, boottime};

/// The ends that come within 10 s, as many as wanted.
fn ends(reactor: &mut Reactor, wanted: usize) -> Vec<(DriverId, u16, i32)> {
    let deadline = boottime() + 10_000_000_000;
    let mut found = Vec::new();
    while found.len() < wanted && boottime() < deadline {
        let mut events = Vec::new();
        reactor.turn(deadline, &mut events);
        found.extend(events.into_iter().filter_map(|event| match event {
            Event::Commanded {
                driver,
                token,
                result,
            } => Some((driver, token, result)),
            _ => None,
        }));
    }
    found
}

#[test]
fn every_end_is_told_with_its_token() {
    let mut reactor = reactor();
    // It takes any command, and does what it does with everything.
    let null = File::open("/dev/null").expect("there on every host");
    let driver = reactor.add_driver(null.into());
    for token in [0, 7, u16::MAX] {
        reactor.command(driver, 3, [0; 16], token);
    }
    let mut found = ends(&mut reactor, 3);
    found.sort();
    assert_eq!(
        found,
        [(driver, 0, 0), (driver, 7, 0), (driver, u16::MAX, 0)]
    );
}

#[test]
fn what_takes_no_commands_says_so() {
    let mut reactor = reactor();
    let file = tempfile::tempfile().expect("a file");
    let driver = reactor.add_driver(file.into());
    reactor.command(driver, 3, [0; 16], 1);
    let found = ends(&mut reactor, 1);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1), (driver, 1));
    assert!(found[0].2 < 0, "an errno: {}", found[0].2);
}

#[test]
fn a_removed_driver_is_silent_and_its_place_is_taken_again() {
    let mut reactor = reactor();
    let null = || File::open("/dev/null").expect("there on every host").into();
    let first = reactor.add_driver(null());
    reactor.command(first, 3, [0; 16], 1);
    reactor.remove_driver(first);
    // Not before its last command has ended.
    let second = reactor.add_driver(null());
    assert_ne!(first, second);
    reactor.command(second, 3, [0; 16], 2);
    assert_eq!(ends(&mut reactor, 1), [(second, 2, 0)]);
    assert_eq!(reactor.add_driver(null()), first);
}
