//! Bytes of proposals and snapshots: frozen, round, refused, and never a panic.

mod common;
#[path = "../../../fuzz/checks/control_decode.rs"]
mod control_decode;
use common::*;
use lockstep_control::{
    Command, DecodeError, MAX_PROPOSAL, Proposal, State, decode_proposal, decode_snapshot,
    encode_proposal, encode_snapshot,
};
use proptest::prelude::*;

const COMMANDS: &str = include_str!("golden/commands.hex");
const SNAPSHOT: &str = include_str!("golden/snapshot.hex");
const HELP: &str = "A committed log would be read otherwise than it was written. Either undo the change, or give \
                    the new meaning a new field or kind, raise VERSION and keep reading the old.";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

fn proposal(command: Command) -> Proposal {
    Proposal {
        at_unix_ms: 1_700_000_000_123,
        command,
    }
}

#[test]
fn the_bytes_of_every_command_are_frozen() {
    let lines: Vec<_> = samples()
        .into_iter()
        .map(|(name, command)| format!("{name} {}", hex(&encode_proposal(&proposal(command)))))
        .collect();
    let frozen: Vec<_> = COMMANDS.lines().collect();
    assert_eq!(
        lines.len(),
        frozen.len(),
        "a command has no frozen bytes:\n{}",
        lines.join("\n")
    );
    for (line, frozen) in lines.iter().zip(frozen) {
        assert_eq!(line, frozen, "{HELP}");
    }
    for ((_, command), line) in samples().into_iter().zip(COMMANDS.lines()) {
        let bytes = unhex(line.split_once(' ').expect("name and bytes").1);
        assert_eq!(decode_proposal(&bytes), Ok(proposal(command)), "{HELP}");
    }
}

#[test]
fn the_bytes_of_a_snapshot_are_frozen() {
    // As in the wire crate: for a format that was never released, and for a file that is not there.
    if std::env::var("LOCKSTEP_GOLDEN").is_ok_and(|mode| mode == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/snapshot.hex");
        if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            std::fs::write(path, hex(&encode_snapshot(&full().state)) + "\n").expect("written");
        }
        return;
    }
    let frozen = decode_snapshot(&unhex(SNAPSHOT.trim())).expect(HELP);
    assert_eq!(hex(&encode_snapshot(&frozen)), SNAPSHOT.trim(), "{HELP}");
    // The words of events may change.
    let mut state = full().state;
    state.events = frozen.events.clone();
    state.audit = frozen.audit.clone();
    assert_eq!(state, frozen, "{HELP}");
}

#[test]
fn an_empty_state_survives_its_snapshot() {
    assert_eq!(
        decode_snapshot(&encode_snapshot(&State::new())),
        Ok(State::new())
    );
}

#[test]
fn a_command_of_an_unknown_kind_is_refused_by_its_name() {
    let good = encode_proposal(&proposal(Command::RemoveVoter { raft_id: 1 }));
    let kind = [0xd0, 0x02]; // field 42, varint
    let at = good
        .windows(2)
        .position(|window| window == kind)
        .expect("the kind's tag");
    let mut unknown = good;
    unknown[at] = 0xd8; // field 1067
    unknown[at + 1] = 0x42;
    assert_eq!(decode_proposal(&unknown), Err(DecodeError::UnknownCommand));
}

#[test]
fn other_formats_and_newer_versions_are_refused() {
    let good = encode_proposal(&proposal(Command::RemoveVoter { raft_id: 1 }));
    assert_eq!(good[..4], [0x08, 1, 0x10, 1]);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        decode_proposal(&bytes)
    };
    assert_eq!(with(1, 2), Err(DecodeError::Format(2)));
    assert_eq!(with(3, 9), Err(DecodeError::TooNew { needs: 9 }));
    assert_eq!(with(3, 0), Err(DecodeError::Field("needs")));
    let mut snapshot = encode_snapshot(&State::new());
    snapshot[3] = 9;
    assert_eq!(
        decode_snapshot(&snapshot),
        Err(DecodeError::TooNew { needs: 9 })
    );
}

#[test]
fn what_is_too_long_or_cut_short_is_refused() {
    let length = MAX_PROPOSAL + 1;
    assert_eq!(
        decode_proposal(&vec![0; length]),
        Err(DecodeError::TooLong {
            length,
            max: MAX_PROPOSAL
        })
    );
    assert!(decode_proposal(&[]).is_err() && decode_snapshot(&[]).is_err());
    for (name, command) in samples() {
        let bytes = encode_proposal(&proposal(command));
        assert!(
            decode_proposal(&bytes[..bytes.len() - 1]).is_err() || name == "Promote",
            "{name}"
        );
    }
}

#[test]
fn a_snapshot_of_a_state_that_no_command_makes_is_refused() {
    let state = full().state;
    let refused = |change: &dyn Fn(&mut State)| {
        let mut state = state.clone();
        change(&mut state);
        decode_snapshot(&encode_snapshot(&state)).expect_err("refused")
    };
    assert_eq!(
        refused(&|s| drop(s.nodes.remove(&n(2)))),
        DecodeError::Field("pool of an unknown node")
    );
    assert_eq!(
        refused(&|s| s.volumes.get_mut(&V).expect("there").blocks = 0),
        DecodeError::Field("blocks")
    );
    let epoch = lockstep_types::Epoch::new(9, 1);
    assert_eq!(
        refused(&|s| s.volumes.get_mut(&V).expect("there").membership.epoch = epoch),
        DecodeError::Field("epoch")
    );
    assert_eq!(
        refused(&|s| s
            .volumes
            .get_mut(&V)
            .expect("there")
            .replicas
            .retain(|id, _| *id != r(3))),
        DecodeError::Field("membership")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        control_decode::check(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic_and_what_is_read_is_written_alike(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let all = samples();
        let mut bytes = encode_proposal(&proposal(all[which.index(all.len())].1.clone()));
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Ok(read) = decode_proposal(&bytes) {
            prop_assert_eq!(decode_proposal(&encode_proposal(&read)), Ok(read));
        }
    }

    #[test]
    fn a_flipped_snapshot_never_panics_and_may_be_applied_to(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_snapshot(&full().state);
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Ok(mut state) = decode_snapshot(&bytes) {
            prop_assert_eq!(decode_snapshot(&encode_snapshot(&state)), Ok(state.clone()));
            if state.applied < u64::MAX {
                let command = Command::CordonNode { node: n(1), cordoned: true };
                let _ = state.apply(state.applied + 1, &command.into());
            }
        }
    }
}
