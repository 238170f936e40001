//! Driving a reactor in tests: turn it until what is expected has happened, or fail loudly.
#![allow(dead_code, reason = "each test file uses its part")]

use lockstep_ring::{Config, Event, Reactor, boottime};

/// Long enough for any machine; reached only by a hang.
const PATIENCE: u64 = 20_000_000_000;

pub fn reactor() -> Reactor {
    Reactor::new(Config {
        pool: 16 << 20,
        ..Config::default()
    })
    .expect("io_uring is there")
}

/// Turns until `done` answers for an event; other events go to it too, in order.
pub fn until<T>(reactor: &mut Reactor, mut done: impl FnMut(Event) -> Option<T>) -> T {
    let give_up = boottime() + PATIENCE;
    let mut events = Vec::new();
    loop {
        reactor.turn(give_up, &mut events);
        let mut answer = None;
        for event in events.drain(..) {
            assert!(
                answer.is_none(),
                "an event after the expected one: {event:?}"
            );
            assert!(!matches!(event, Event::Timer), "nothing happened any more");
            answer = done(event);
        }
        if let Some(answer) = answer {
            return answer;
        }
    }
}

/// Turns two reactors in alternation until `done` says so after a round.
pub fn both(
    a: &mut Reactor,
    b: &mut Reactor,
    mut on_a: impl FnMut(&mut Reactor, Event),
    mut on_b: impl FnMut(&mut Reactor, Event),
    mut done: impl FnMut() -> bool,
) {
    let give_up = boottime() + PATIENCE;
    let mut events = Vec::new();
    while !done() {
        assert!(boottime() < give_up, "nothing happened any more");
        let soon = boottime() + 1_000_000;
        a.turn(soon, &mut events);
        events
            .drain(..)
            .filter(|e| !matches!(e, Event::Timer))
            .for_each(|e| on_a(a, e));
        b.turn(soon, &mut events);
        events
            .drain(..)
            .filter(|e| !matches!(e, Event::Timer))
            .for_each(|e| on_b(b, e));
    }
}

pub fn is_root() -> bool {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() == 0 }
}
