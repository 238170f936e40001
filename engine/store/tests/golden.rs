//! The bytes of every structure, frozen: pools made by a released Lockstep must stay readable.
//!
//! A golden file says how many bytes there are and lists the rows of 32 that are not all zero.

mod samples;

use std::fmt::Write;

const GOLDEN: [(&str, &str); 13] = [
    ("superblock", include_str!("golden/superblock.hex")),
    ("anchor", include_str!("golden/anchor.hex")),
    ("replica_free", include_str!("golden/replica_free.hex")),
    ("replica_live", include_str!("golden/replica_live.hex")),
    (
        "replica_deleted",
        include_str!("golden/replica_deleted.hex"),
    ),
    (
        "replica_two_layers",
        include_str!("golden/replica_two_layers.hex"),
    ),
    ("replica_full", include_str!("golden/replica_full.hex")),
    ("batch", include_str!("golden/batch.hex")),
    ("batch_long", include_str!("golden/batch_long.hex")),
    ("delta", include_str!("golden/delta.hex")),
    ("map_two_layers", include_str!("golden/map_two_layers.hex")),
    ("checksum", include_str!("golden/checksum.hex")),
    ("directory", include_str!("golden/directory.hex")),
];

#[test]
fn every_structure_has_a_golden_file() {
    let samples: Vec<_> = samples::all().iter().map(|s| s.name).collect();
    assert_eq!(samples, GOLDEN.map(|(name, _)| name));
}

#[test]
fn what_is_written_has_not_changed() {
    for (sample, (name, golden)) in samples::all().iter().zip(GOLDEN) {
        let now = render(&sample.bytes);
        assert!(
            now == golden,
            "{name}: the bytes on disk have changed, and pools in the field have the old ones. Give \
             the structure a new version and keep a reader for the old, or leave the format alone: \
             nothing else will do. Written now:\n{now}"
        );
    }
}

#[test]
fn what_was_written_is_read() {
    for (sample, (name, golden)) in samples::all().iter().zip(GOLDEN) {
        let old = parse(golden);
        let again = (sample.read)(&old).unwrap_or_else(|why| {
            panic!(
                "{name}: bytes that were written once are refused ({why}); keep a reader for them"
            )
        });
        assert_eq!(again, old, "{name}");
    }
}

fn render(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (row, chunk) in bytes.chunks(32).enumerate() {
        if chunk.iter().any(|b| *b != 0) {
            write!(text, "{:04x} ", row * 32).expect("strings take all");
            chunk
                .iter()
                .for_each(|b| write!(text, "{b:02x}").expect("strings take all"));
            text.push('\n');
        }
    }
    text
}

fn parse(text: &str) -> Vec<u8> {
    let (first, rows) = text
        .split_once('\n')
        .expect("a golden file has a first line");
    let length = first
        .strip_prefix("length ")
        .and_then(|n| n.parse().ok())
        .expect("it says the length");
    let mut bytes = vec![0; length];
    for row in rows.lines() {
        let (at, hex) = row.split_once(' ').expect("an offset and bytes");
        let at = usize::from_str_radix(at, 16).expect("an offset");
        for (i, pair) in hex.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
            bytes[at + i] = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
        }
    }
    bytes
}
