//! Descriptors that the caller reads itself: told of once when armed, and not after removal.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use common::reactor;
use lockstep_ring::{Event, WatchId, boottime};

/// The watch that the next turn tells of; none if nothing comes within `millis`.
fn next(reactor: &mut lockstep_ring::Reactor, millis: u64) -> Option<WatchId> {
    let mut events = Vec::new();
    reactor.turn(boottime() + millis * 1_000_000, &mut events);
    events.into_iter().find_map(|event| match event {
        Event::Readable { watch } => Some(watch),
        _ => None,
    })
}

#[test]
fn an_armed_watch_tells_once_of_what_is_there_or_comes() {
    let mut reactor = reactor();
    let (mut near, mut far) = UnixStream::pair().expect("a pair");
    let watch = reactor.add_watch(near.try_clone().expect("a descriptor").into());
    far.write_all(&[1]).expect("written");
    assert_eq!(next(&mut reactor, 10), None, "it was not armed");
    reactor.arm_watch(watch);
    assert_eq!(next(&mut reactor, 10_000), Some(watch), "what was there");
    near.read_exact(&mut [0]).expect("read");
    far.write_all(&[2]).expect("written");
    assert_eq!(next(&mut reactor, 10), None, "once");
    near.read_exact(&mut [0]).expect("read");
    reactor.arm_watch(watch);
    reactor.arm_watch(watch);
    let writer = std::thread::spawn(move || far.write_all(&[3]).map(|()| far));
    assert_eq!(next(&mut reactor, 10_000), Some(watch), "what came");
    drop(writer.join().expect("no panic").expect("written"));
}

#[test]
fn a_removed_watch_is_silent_and_lets_go_of_its_descriptor() {
    let mut reactor = reactor();
    let (near, mut far) = UnixStream::pair().expect("a pair");
    let watch = reactor.add_watch(near.into());
    reactor.arm_watch(watch);
    assert_eq!(next(&mut reactor, 10), None);
    reactor.remove_watch(watch);
    // The cancellation goes in with one turn and is answered by a later one.
    while far.write_all(&[1]).is_ok() {
        assert_eq!(next(&mut reactor, 10), None);
    }
    // Its place is taken by the next.
    let (near, mut far) = UnixStream::pair().expect("a pair");
    assert_eq!(reactor.add_watch(near.into()), watch);
    far.write_all(&[1]).expect("written");
    reactor.arm_watch(watch);
    assert_eq!(next(&mut reactor, 10_000), Some(watch));
}
