//! The smallest scope of the model, to the last state: what is explored on every change.

use sim::model::{SCOPES, Search, explore};

/// Two epochs and two writes, in the plainest order of what is under way.
#[test]
fn the_scope_move_holds_in_every_state() {
    let (.., scope) = SCOPES
        .iter()
        .find(|(name, ..)| *name == "move")
        .expect("there is a scope of that name");
    let search = Search {
        scope: *scope,
        broken: Default::default(),
        states: 1_000_000,
    };
    let report = explore(search, |_| ());
    assert!(report.broken.is_none(), "{report}");
    assert!(report.emptied, "{report}");
    assert!(report.reopened > 0, "no second epoch ever opened: {report}");
}
