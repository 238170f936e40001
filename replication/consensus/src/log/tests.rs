//! The log's bytes, frozen; and that no crash and no rot goes by unnoticed.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use raft_proto::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};

use super::*;

const CLUSTER: ClusterId = ClusterId::from_u128(0x0c);
const NODE: NodeId = NodeId::from_u128(0x0d);

fn identity() -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        raft_id: 7,
        incarnation: 9,
    }
}

fn entry(index: u64, term: u64, size: usize) -> Entry {
    let data = Bytes::from(vec![(index % 251) as u8 + 1; size]);
    Entry {
        index,
        term,
        data,
        context: Bytes::from_static(b"mark"),
        ..Entry::default()
    }
}

fn snapshot_at(index: u64, term: u64) -> Snapshot {
    let conf_state = Some(ConfState::from((vec![1, 2, 3], vec![])));
    let data = Bytes::from(format!("state at {index}"));
    Snapshot {
        data,
        metadata: Some(SnapshotMetadata {
            conf_state,
            index,
            term,
        }),
    }
}

/// A folder whose segments are only as long as they need to be.
#[derive(Clone, Default)]
struct Folder(BTreeMap<String, Vec<u8>>);

impl Folder {
    fn carry_out(&mut self, ops: &[DiskOp]) {
        for op in ops {
            match op {
                DiskOp::WriteSnapshot { index, bytes } => {
                    self.0.insert(snapshot_name(*index), bytes.to_vec());
                }
                DiskOp::CreateSegment { number, header } => {
                    let mut file = header.to_vec();
                    file.resize(4 * LOG_BLOCK, 0);
                    self.0.insert(segment_name(*number), file);
                }
                DiskOp::Append {
                    segment,
                    offset,
                    bytes,
                } => self.write(*segment, *offset as usize, bytes),
                DiskOp::ZeroTail { segment, from } => {
                    self.segment(*segment)[*from as usize..].fill(0)
                }
                DiskOp::Flush { .. } => {}
                DiskOp::RemoveSegment { number } => {
                    assert!(self.0.remove(&segment_name(*number)).is_some())
                }
                DiskOp::RemoveSnapshot { index } => {
                    assert!(self.0.remove(&snapshot_name(*index)).is_some())
                }
            }
        }
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) {
        let file = self.segment(segment);
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn segment(&mut self, number: u64) -> &mut Vec<u8> {
        self.0
            .get_mut(&segment_name(number))
            .expect("the segment is there")
    }

    fn recover(&self) -> Result<Option<RecoveredLog>, LogCorrupt> {
        let file =
            |(name, bytes): (&String, &Vec<u8>)| (name.clone(), Bytes::copy_from_slice(bytes));
        let files: Vec<(String, Bytes)> = self.0.iter().map(file).collect();
        let segments = files.iter().filter_map(|(name, bytes)| {
            Some(SegmentFile {
                number: parse_segment_name(name)?,
                bytes: bytes.clone(),
            })
        });
        let snapshots = files.iter().filter_map(|(name, bytes)| {
            Some(SnapshotFile {
                index: parse_snapshot_name(name)?,
                bytes: bytes.clone(),
            })
        });
        recover(
            CLUSTER,
            NODE,
            &segments.collect::<Vec<_>>(),
            &snapshots.collect::<Vec<_>>(),
        )
    }
}

/// What the log should amount to.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Model {
    fn of(log: &RecoveredLog) -> Self {
        let snapshot = log.snapshot.clone().unwrap_or_default();
        Self {
            hard_state: log.hard_state.clone(),
            snapshot,
            entries: log.entries.clone(),
        }
    }

    fn base(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    fn last(&self) -> (u64, u64) {
        let metadata = self.snapshot.get_metadata();
        self.entries
            .last()
            .map_or((metadata.index, metadata.term), |entry| {
                (entry.index, entry.term)
            })
    }
}

/// What raft might want written.
#[derive(Clone, Debug)]
enum Wish {
    Append { count: u64, size: usize },
    Overwrite { back: u64, count: u64 },
    Vote,
    Compact { back: u64 },
    Install { ahead: u64 },
    Mark,
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        4 => (1..6u64, 0..3000usize).prop_map(|(count, size)| Wish::Append { count, size }),
        1 => (1..10u64, 1..4u64).prop_map(|(count, size)| Wish::Append { count, size: size as usize * 600_000 }),
        2 => (0..6u64, 1..4u64).prop_map(|(back, count)| Wish::Overwrite { back, count }),
        1 => Just(Wish::Vote),
        1 => (0..5u64).prop_map(|back| Wish::Compact { back }),
        1 => (1..9u64).prop_map(|ahead| Wish::Install { ahead }),
        1 => Just(Wish::Mark),
    ]
}

/// Turns a wish into what has to be written, and into what the log then amounts to.
fn wanted(wish: &Wish, model: &mut Model) -> Unwritten {
    let mut unwritten = Unwritten::default();
    let (last, last_term) = model.last();
    match wish {
        Wish::Append { count, size } => {
            unwritten.entries = (1..=*count)
                .map(|n| entry(last + n, last_term.max(model.hard_state.term), *size))
                .collect();
            model.hard_state.commit = model.hard_state.commit.max(model.base());
        }
        Wish::Overwrite { back, count } => {
            model.hard_state.term += 1;
            let from = last
                .saturating_sub(*back)
                .max(model.base())
                .max(model.hard_state.commit)
                + 1;
            unwritten.entries = (0..*count)
                .map(|n| entry(from + n, model.hard_state.term, 10))
                .collect();
            unwritten.hard_state_due = true;
        }
        Wish::Vote => {
            model.hard_state.term += 1;
            model.hard_state.vote = 3;
            unwritten.hard_state_due = true;
        }
        Wish::Compact { back } => {
            let index = last.saturating_sub(*back).max(model.base());
            let term = model
                .entries
                .iter()
                .find(|entry| entry.index == index)
                .map(|entry| entry.term);
            let term = term.unwrap_or(model.snapshot.get_metadata().term);
            model.hard_state.commit = model.hard_state.commit.max(index);
            unwritten.compacted = Some(snapshot_at(index, term));
        }
        Wish::Install { ahead } => {
            let index = last + ahead;
            model.hard_state.term += 1;
            model.hard_state.commit = index;
            unwritten.installed = Some(snapshot_at(index, model.hard_state.term));
            model.entries.clear();
            unwritten.hard_state_due = true;
        }
        Wish::Mark => unwritten.mark = true,
    }
    if let Some(first) = unwritten.entries.first() {
        model.entries.retain(|entry| entry.index < first.index);
        model.entries.extend(unwritten.entries.iter().cloned());
    }
    if let Some(snapshot) = unwritten
        .installed
        .as_ref()
        .or(unwritten.compacted.as_ref())
    {
        model.snapshot = snapshot.clone();
        let base = model.base();
        model.entries.retain(|entry| entry.index > base);
    }
    unwritten
}

fn new_log() -> (Folder, LogWriter, Model) {
    let mut folder = Folder::default();
    folder.carry_out(&create(identity(), Some(&snapshot_at(1, 1))));
    let log = folder.recover().expect("sound").expect("a log");
    assert_eq!(log.cleanup, [DiskOp::Flush { segment: 1 }]);
    (folder, log.writer.clone(), Model::of(&log))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written, and whenever the power fails, the log is what it was before or after.
    #[test]
    fn a_crash_leaves_the_log_before_or_after(
        wishes in prop::collection::vec((wish(), any::<u64>(), any::<bool>()), 1..25)
    ) {
        let (mut folder, mut writer, mut model) = new_log();
        for (wish, dice, crash) in wishes {
            let before = model.clone();
            let unwritten = wanted(&wish, &mut model);
            let ops = writer.encode(&model.hard_state, unwritten);
            if crash {
                tear(&mut folder, &ops, dice);
            } else {
                folder.carry_out(&ops);
            }
            let log = folder.recover().expect("a crash is no corruption").expect("a log");
            let found = Model::of(&log);
            if crash {
                prop_assert!(found == before || found == model, "{wish:?}: {found:?}");
            } else {
                prop_assert_eq!(&found, &model, "{:?}", wish);
                prop_assert_eq!(&log.torn, &None);
            }
            model = found;
            // What the writer knows and what recovery finds are the same.
            if !crash {
                prop_assert_eq!(&log.writer, &writer);
            }
            writer = log.writer;
            folder.carry_out(&log.cleanup);
            let again = folder.recover().expect("sound").expect("a log");
            prop_assert_eq!(again.torn, None, "what was torn is gone for good");
            prop_assert_eq!(&again.writer, &writer);
        }
    }
}

/// Carries out some ops, the last one in part, sector by sector.
fn tear(folder: &mut Folder, ops: &[DiskOp], dice: u64) {
    let done = (dice % (ops.len() as u64 + 1)) as usize;
    folder.carry_out(&ops[..done]);
    match ops.get(done) {
        Some(DiskOp::Append {
            segment,
            offset,
            bytes,
        }) => {
            let mut torn = bytes.to_vec();
            for (at, sector) in torn.chunks_mut(512).enumerate() {
                match dice.rotate_left(7 + at as u32 * 5) % 7 {
                    0..=2 => sector.fill(0),
                    3 => sector.fill(0xee),
                    _ => {}
                }
            }
            folder.write(*segment, *offset as usize, &torn);
        }
        Some(DiskOp::CreateSegment { number, header }) => {
            let length = (dice as usize >> 9) % (2 * LOG_BLOCK);
            let mut file = header.to_vec();
            file.resize(length, 0);
            folder.0.insert(segment_name(*number), file);
        }
        _ => {}
    }
}

/// Three batches, the last of which is the one whose fate is in question.
fn three_batches() -> (Folder, Folder, Model, Model) {
    let (mut folder, mut writer, mut model) = new_log();
    for wish in [Wish::Append { count: 3, size: 40 }, Wish::Vote] {
        let unwritten = wanted(&wish, &mut model);
        folder.carry_out(&writer.encode(&model.hard_state, unwritten));
    }
    let (before, model_before) = (folder.clone(), model.clone());
    let unwritten = wanted(
        &Wish::Append {
            count: 2,
            size: 3000,
        },
        &mut model,
    );
    folder.carry_out(&writer.encode(&model.hard_state, unwritten));
    (before, folder, model_before, model)
}

#[test]
fn a_batch_cut_off_at_any_byte_is_torn_or_whole() {
    let (before, after, model_before, model_after) = three_batches();
    let name = segment_name(1);
    let (old, new) = (&before.0[&name], &after.0[&name]);
    let start = 4 * LOG_BLOCK;
    let mut whole = 0;
    for cut in start..=new.len() {
        let mut folder = before.clone();
        let mut bytes = new[..cut].to_vec();
        bytes.extend_from_slice(old.get(cut..).unwrap_or(&[]));
        folder.0.insert(name.clone(), bytes);
        let log = folder
            .recover()
            .expect("a crash is no corruption")
            .expect("a log");
        let found = Model::of(&log);
        if found == model_after {
            whole += 1;
        } else {
            assert_eq!(found, model_before, "cut at {cut}");
            assert_eq!(log.torn.is_some(), cut > start, "cut at {cut}");
        }
    }
    // From the last record's last byte on, only padding is missing.
    assert!((1..LOG_BLOCK).contains(&whole), "{whole}");
}

#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    let (_, folder, model_before, model) = three_batches();
    let name = segment_name(1);
    let newest = 4 * LOG_BLOCK;
    let mut found_rot = 0;
    for at in 0..folder.0[&name].len() {
        let mut rotten = folder.clone();
        rotten.segment(1)[at] ^= 1 << (at % 8);
        match rotten.recover() {
            Err(corrupt) => {
                assert_eq!(corrupt.file, name);
                found_rot += 1;
            }
            Ok(log) => {
                let found = Model::of(&log.expect("a log"));
                // Padding is not covered; the newest batch may be torn, as far as anyone can tell.
                assert!(
                    found == model || (at >= newest && found == model_before),
                    "byte {at}"
                );
            }
        }
    }
    assert!(found_rot > LOG_BLOCK + 3 * 64, "{found_rot}");
    let snapshot = snapshot_name(1);
    for at in 0..folder.0[&snapshot].len() {
        let mut rotten = folder.clone();
        rotten.0.get_mut(&snapshot).expect("there")[at] ^= 1 << (at % 8);
        let corrupt = rotten
            .recover()
            .expect_err("a snapshot is checked to the last byte");
        assert_eq!(
            (corrupt.file.as_str(), corrupt.fault),
            (snapshot.as_str(), Fault::Snapshot),
            "byte {at}"
        );
    }
}

/// R24: once the mark stands behind it, the newest batch can rot no more without being missed.
#[test]
fn with_a_mark_behind_it_a_bad_batch_is_corruption() {
    let (_, mut folder, _, _) = three_batches();
    let mut writer = folder.recover().expect("sound").expect("a log").writer;
    let hard_state = writer.state.hard_state.clone();
    let mut rotten = folder.clone();
    rotten.segment(1)[4 * LOG_BLOCK + 40] ^= 1;
    assert!(
        rotten
            .recover()
            .expect("torn, as far as anyone can tell")
            .expect("a log")
            .torn
            .is_some()
    );

    folder.carry_out(&writer.encode(
        &hard_state,
        Unwritten {
            mark: true,
            ..Unwritten::default()
        },
    ));
    let mut rotten = folder.clone();
    rotten.segment(1)[4 * LOG_BLOCK + 40] ^= 1;
    let corrupt = rotten.recover().expect_err("it had been flushed");
    assert_eq!(
        (corrupt.offset, corrupt.fault.clone()),
        (4 * LOG_BLOCK as u64, Fault::Batch)
    );
    assert!(
        corrupt
            .to_string()
            .contains("log-0000000000000001 at byte 16384"),
        "{corrupt}"
    );
    // A lost write, of which nothing at all is left, is no better.
    let mut lost = folder.clone();
    lost.segment(1)[4 * LOG_BLOCK..6 * LOG_BLOCK].fill(0);
    assert_eq!(
        lost.recover().map(|_| ()).map_err(|corrupt| corrupt.fault),
        Err(Fault::Batch)
    );
}

/// A log of three segments.
fn three_segments() -> (Folder, Model) {
    let (mut folder, mut writer, mut model) = new_log();
    for _ in 0..3 {
        let unwritten = wanted(
            &Wish::Append {
                count: 3,
                size: 1_000_000,
            },
            &mut model,
        );
        folder.carry_out(&writer.encode(&model.hard_state, unwritten));
    }
    assert_eq!(folder.0.len(), 4, "{:?}", folder.0.keys());
    (folder, model)
}

fn fault(folder: &Folder) -> Fault {
    folder.recover().map(|_| ()).expect_err("corrupt").fault
}

#[test]
fn missing_foreign_and_mixed_up_files_are_named() {
    let (folder, model) = three_segments();
    assert_eq!(
        Model::of(&folder.recover().expect("sound").expect("a log")),
        model
    );

    let mut without = folder.clone();
    without.0.remove(&segment_name(2));
    assert_eq!(fault(&without), Fault::MissingSegment(2));
    let mut without = folder.clone();
    without.0.remove(&segment_name(1));
    assert_eq!(fault(&without), Fault::MissingEntries { from: 2, to: 4 });
    let mut without = folder.clone();
    without.0.remove(&snapshot_name(1));
    assert_eq!(fault(&without), Fault::Snapshot);

    let mut swapped = folder.clone();
    let (one, two) = (
        folder.0[&segment_name(1)].clone(),
        folder.0[&segment_name(2)].clone(),
    );
    swapped.0.insert(segment_name(1), two);
    swapped.0.insert(segment_name(2), one);
    assert_eq!(fault(&swapped), Fault::Misnamed(2));

    let mut cut = folder.clone();
    cut.segment(1).truncate(2 * LOG_BLOCK);
    assert!(
        matches!(fault(&cut), Fault::Number { .. }),
        "the end of an older segment is missing"
    );

    let bytes: Vec<SegmentFile> = [SegmentFile {
        number: 1,
        bytes: folder.0[&segment_name(1)].clone().into(),
    }]
    .into();
    let other = ClusterId::from_u128(99);
    let foreign = recover(other, NODE, &bytes, &[]).expect_err("another cluster's");
    assert_eq!(foreign.fault, Fault::Foreign { found: identity() });
}

#[test]
fn a_header_of_another_version_is_refused_as_such() {
    let (mut folder, _, _) = new_log();
    let file = folder.segment(1);
    file[4] = 2;
    let crc = crc32c::crc32c(&file[..LOG_BLOCK - 4]);
    file[LOG_BLOCK - 4..LOG_BLOCK].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(fault(&folder), Fault::Version(2));
}

#[test]
fn a_folder_without_a_finished_log_holds_none() {
    assert_eq!(Folder::default().recover(), Ok(None));
    let ops = create(identity(), Some(&snapshot_at(1, 1)));
    for done in 0..ops.len() {
        let mut folder = Folder::default();
        folder.carry_out(&ops[..done]);
        assert_eq!(folder.recover(), Ok(None), "{done} ops done");
    }
    let mut folder = Folder::default();
    folder.carry_out(&ops[..2]);
    folder.write(1, LOG_BLOCK, b"torn");
    assert_eq!(folder.recover(), Ok(None));
}

#[test]
fn a_voter_without_a_snapshot_waits_for_one() {
    let mut folder = Folder::default();
    folder.carry_out(&create(identity(), None));
    let log = folder.recover().expect("sound").expect("a log");
    assert_eq!(
        (log.snapshot, log.entries.len(), log.hard_state),
        (None, 0, HardState::default())
    );
}

#[test]
fn old_segments_and_snapshots_go_when_a_newer_snapshot_is_recorded() {
    let (mut folder, mut model) = three_segments();
    let mut writer = folder.recover().expect("sound").expect("a log").writer;
    let unwritten = wanted(&Wish::Compact { back: 3 }, &mut model);
    let ops = writer.encode(&model.hard_state, unwritten);
    assert!(
        matches!(ops[0], DiskOp::WriteSnapshot { index: 7, .. }),
        "the snapshot is durable first"
    );
    assert!(matches!(ops[1], DiskOp::Append { .. }) || matches!(ops[2], DiskOp::Append { .. }));
    folder.carry_out(&ops);
    assert_eq!(
        Model::of(&folder.recover().expect("sound").expect("a log")),
        model
    );
    assert!(!folder.0.contains_key(&segment_name(1)) && !folder.0.contains_key(&segment_name(2)));
    assert!(!folder.0.contains_key(&snapshot_name(1)) && folder.0.contains_key(&snapshot_name(7)));
}

#[test]
fn commands_are_what_the_state_machine_would_be_given() {
    let (mut folder, mut writer, _) = new_log();
    let leader_s_first = Entry {
        data: Bytes::new(),
        ..entry(2, 2, 0)
    };
    let change = Entry {
        entry_type: EntryType::EntryConfChangeV2 as i32,
        ..entry(4, 2, 3)
    };
    let entries = vec![leader_s_first, entry(3, 2, 5), change, entry(5, 2, 1)];
    let hard_state = HardState {
        term: 2,
        vote: 0,
        commit: 3,
    };
    folder.carry_out(&writer.encode(
        &hard_state,
        Unwritten {
            entries,
            ..Unwritten::default()
        },
    ));
    let log = folder.recover().expect("sound").expect("a log");
    let commands: Vec<(u64, usize)> = log
        .commands()
        .map(|(index, data)| (index, data.len()))
        .collect();
    assert_eq!(commands, [(3, 5), (5, 1)]);
}

#[test]
fn names() {
    assert_eq!(segment_name(0x1f), "log-000000000000001f");
    assert_eq!(snapshot_name(2), "snapshot-0000000000000002");
    assert_eq!(parse_segment_name("log-000000000000001f"), Some(0x1f));
    for bad in [
        "log-1f",
        "log-000000000000001F",
        "log-000000000000001f.tmp",
        "snapshot-000000000000001f",
        "lost+found",
    ] {
        assert_eq!(parse_segment_name(bad), None, "{bad}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Frozen: a log written by any release is read by every later one.
#[test]
fn golden_bytes() {
    let (mut folder, mut writer, _) = new_log();
    let hard_state = HardState {
        term: 2,
        vote: 3,
        commit: 1,
    };
    let entries = vec![entry(2, 2, 5), entry(3, 2, 0)];
    folder.carry_out(&writer.encode(
        &hard_state,
        Unwritten {
            entries,
            ..Unwritten::default()
        },
    ));
    let hard_state = HardState {
        term: 3,
        vote: 3,
        commit: 2,
    };
    let unwritten = Unwritten {
        entries: vec![Entry {
            entry_type: 2,
            context: Bytes::new(),
            ..entry(3, 3, 2)
        }],
        compacted: Some(snapshot_at(2, 2)),
        ..Unwritten::default()
    };
    folder.carry_out(&writer.encode(&hard_state, unwritten));
    folder.carry_out(&writer.encode(
        &hard_state,
        Unwritten {
            mark: true,
            ..Unwritten::default()
        },
    ));
    let hard_state = HardState {
        term: 4,
        vote: 0,
        commit: 9,
    };
    let unwritten = Unwritten {
        installed: Some(snapshot_at(9, 4)),
        ..Unwritten::default()
    };
    folder.carry_out(&writer.encode(&hard_state, unwritten));

    let segment = folder.segment(1).clone();
    let part = |from: usize, length: usize| hex(&segment[from..from + length]);
    let golden = include_str!("golden.txt");
    let lines = [
        ("header", part(0, 72)),
        ("header crc", part(LOG_BLOCK - 4, 4)),
        ("checkpoint", part(LOG_BLOCK, 96)),
        ("entries", part(2 * LOG_BLOCK, 160)),
        ("truncate", part(3 * LOG_BLOCK, 160)),
        ("mark", part(4 * LOG_BLOCK, 48)),
        ("installed", part(5 * LOG_BLOCK, 96)),
        ("snapshot", hex(&folder.0[&snapshot_name(9)])),
    ];
    let now: String = lines
        .iter()
        .map(|(name, hex)| format!("{name}: {hex}\n"))
        .collect();
    assert_eq!(
        now, golden,
        "the bytes of a raft log have changed, and voters in the field have the old ones: give the log a new \
         version and keep a reader for the old, or leave the format alone. Nothing else will do"
    );
}
