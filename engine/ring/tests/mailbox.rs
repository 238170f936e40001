//! Other threads reach a ring: no message is lost, no wake-up is missed, a full box says so.

mod common;

use std::sync::mpsc::TrySendError;

use common::reactor;
use lockstep_ring::timer::NEVER;
use lockstep_ring::{Event, boottime, mailbox};

/// Every message is answered before the next is sent, so that the ring goes to sleep in between
/// and each one hits the moment of falling asleep or just after. A lost wake-up hangs the test.
#[test]
fn no_wake_up_is_lost() {
    let mut reactor = reactor();
    let (send, receive) = mailbox::<(u64, std::sync::mpsc::Sender<u64>)>(4, reactor.waker());
    const ROUNDS: u64 = 20_000;
    let senders: Vec<_> = (0..3)
        .map(|id| {
            let send = send.clone();
            std::thread::spawn(move || {
                let (reply, answer) = std::sync::mpsc::channel();
                for round in 0..ROUNDS {
                    let value = id * ROUNDS + round;
                    send.try_send((value, reply.clone()))
                        .expect("three senders, four places");
                    assert_eq!(answer.recv(), Ok(value + 1));
                    if round % 64 == id {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut left = 3 * ROUNDS;
    let mut events = Vec::new();
    while left > 0 {
        reactor.turn(boottime() + 20_000_000_000, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Mail => {}
                other => panic!("unexpected {other:?}: a wake-up was lost"),
            }
            while let Some((value, reply)) = receive.take() {
                reply.send(value + 1).expect("the sender waits");
                left -= 1;
            }
        }
    }
    for sender in senders {
        sender.join().expect("no panic");
    }
    assert!(receive.take().is_none());
}

#[test]
fn a_ring_that_is_awake_costs_no_system_call_to_wake() {
    let mut reactor = reactor();
    let (send, receive) = mailbox::<u32>(100, reactor.waker());
    let before = reactor.counters().enters;
    let mut events = Vec::new();
    for i in 0..100 {
        send.try_send(i).expect("room");
    }
    assert!(matches!(send.try_send(100), Err(TrySendError::Full(100))));
    reactor.turn(NEVER, &mut events);
    assert!(
        matches!(events[..], [Event::Mail]),
        "one event for all: {events:?}"
    );
    for i in 0..100 {
        assert_eq!(receive.take(), Some(i));
    }
    assert_eq!(receive.take(), None);
    // The first turn submits the standing read of the eventfd; nothing was written to it.
    assert!(reactor.counters().enters - before <= 1);
    events.clear();
    reactor.turn(boottime() + 1_000_000, &mut events);
    assert!(
        matches!(events[..], [Event::Timer]),
        "and not twice: {events:?}"
    );
}

#[test]
fn deadlines_end_a_turn_on_time() {
    let mut reactor = reactor();
    let mut events = Vec::new();
    for wait in [0, 1_000_000, 20_000_000] {
        let deadline = boottime() + wait;
        loop {
            reactor.turn(deadline, &mut events);
            if let Some(event) = events.pop() {
                assert!(matches!(event, Event::Timer), "{event:?}");
                break;
            }
        }
        assert!(boottime() >= deadline, "never early");
    }
    reactor.turn(boottime().saturating_sub(5), &mut events);
    assert!(
        matches!(events[..], [Event::Timer]),
        "a past deadline does not wait"
    );
}
