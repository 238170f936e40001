//! The bytes of version 1, frozen. A file a message: its head in hex, and length and CRC32C of its
//! payload.

#[path = "common/samples.rs"]
mod samples;

use bytes::Bytes;
use lockstep_wire::{HEADER, Message, decode, encode, kinds};
use std::collections::BTreeSet;
use std::path::PathBuf;

const WHAT_TO_DO: &str = "
The bytes of a released wire format never change: nodes of the last release could not read them.
- If you did not mean to change the wire, mend the code and leave the file alone.
- If you did, take a new version: a new kind (or a new body under a new kind) beside this one, VERSION
  one higher, and keep reading and writing this one while the other side speaks it (CONTRIBUTING.md,
  'A new message or a new format').
- Before the first release only: delete the file, and run with LOCKSTEP_GOLDEN=write to make it anew.";

#[test]
fn bytes_are_as_frozen() {
    let mut wrong = Vec::new();
    for (name, message) in samples::all() {
        let path = file(&message, name);
        let text = text_of(&message);
        match std::fs::read_to_string(&path) {
            Ok(frozen) if frozen == text => {}
            Ok(frozen) => wrong.push(format!(
                "{} is\n{text}but was frozen as\n{frozen}{WHAT_TO_DO}",
                path.display()
            )),
            Err(_) if std::env::var_os("LOCKSTEP_GOLDEN").is_some() => {
                std::fs::write(&path, text).expect("a golden file can be written")
            }
            Err(_) => wrong.push(format!(
                "{} is missing. For a new kind, make it with LOCKSTEP_GOLDEN=write and commit it; \
                 otherwise bring it back.",
                path.display()
            )),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

#[test]
fn frozen_bytes_are_read() {
    for (name, message) in samples::all() {
        let path = file(&message, name);
        let frozen = std::fs::read_to_string(&path).expect("bytes_are_as_frozen says what to do");
        let payload: Bytes = encode(&message).payload.concat().into();
        let decoded = decode(&head_of(&frozen), payload);
        assert_eq!(
            decoded.as_ref(),
            Ok(&message),
            "{}{WHAT_TO_DO}",
            path.display()
        );
    }
}

#[test]
fn every_kind_and_no_other_has_a_file() {
    let samples: Vec<_> = samples::all();
    let sampled: BTreeSet<u8> = samples
        .iter()
        .map(|(_, message)| kinds::of(message))
        .collect();
    let known: BTreeSet<u8> = kinds::all().map(|row| row.0).collect();
    assert_eq!(
        sampled, known,
        "a kind has no sample in tests/common/samples.rs"
    );
    let expected: BTreeSet<PathBuf> = samples.iter().map(|(name, m)| file(m, name)).collect();
    let found: BTreeSet<PathBuf> = std::fs::read_dir(directory())
        .expect("tests/golden is there")
        .map(|entry| entry.expect("tests/golden can be listed").path())
        .collect();
    assert_eq!(
        found, expected,
        "tests/golden and tests/common/samples.rs differ"
    );
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn file(message: &Message, name: &str) -> PathBuf {
    directory().join(format!("v1-{:02x}-{name}.hex", kinds::of(message)))
}

/// The head, 32 bytes a line; header and body start on lines of their own.
fn text_of(message: &Message) -> String {
    let encoded = encode(message);
    let payload = encoded.payload.concat();
    let (header, body) = encoded.head.split_at(HEADER);
    let mut text = String::new();
    for line in header.chunks(32).chain(body.chunks(32)) {
        text.extend(line.iter().map(|byte| format!("{byte:02x}")));
        text.push('\n');
    }
    text + &format!(
        "payload {} {:08x}\n",
        payload.len(),
        crc32c::crc32c(&payload)
    )
}

fn head_of(text: &str) -> Vec<u8> {
    text.lines()
        .take_while(|line| !line.starts_with("payload"))
        .flat_map(|line| line.as_bytes().as_chunks::<2>().0)
        .map(|digits| {
            let digits = std::str::from_utf8(digits).expect("golden files are ASCII");
            u8::from_str_radix(digits, 16).expect("golden files are hexadecimal")
        })
        .collect()
}
