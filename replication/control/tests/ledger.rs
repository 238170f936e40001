//! The ledger and the explanations.

mod common;
use common::*;
use lockstep_control::{Bound, Command, PrimaryReport, Report, Rpo, Status, View, explain};
use lockstep_types::{Epoch, Gap, Incarnation, NodeRole, Sequence, Stamp};
use std::collections::BTreeSet;

const DEGRADE: Rpo = Rpo::WitnessedDegrade;

fn note(bound: Bound, sequence: u64) -> Command {
    Command::NoteSequence {
        volume: V,
        bound,
        stamp: Stamp::new(Epoch::new(0, 1), Sequence(sequence)),
    }
}

#[test]
fn every_interval_in_one_site_is_written_down_with_its_stamps() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    let other_of_a = log.change(&[2], &[]);
    log.ok(other_of_a);
    assert_eq!(log.state.ledger.iter().count(), 0, "both sites hold a copy");
    let lost_b = log.change(&[3], &[]);
    log.ok(lost_b);
    let begun = log.state.ledger.open(V).expect("open").clone();
    assert_eq!(
        (begun.site.as_str(), begun.begin_index, begun.begin_unix_ms),
        ("a", log.index, log.at)
    );
    log.ok(note(Bound::Begin, 41));
    log.ok(note(Bound::Begin, 99));
    let more_of_a = log.change(&[], &[2]);
    log.ok(more_of_a);
    let back = log.change(&[], &[3]);
    log.ok(back);
    log.ok(note(Bound::End, 77));
    let all: Vec<_> = log.state.ledger.iter().collect();
    assert_eq!(all.len(), 1);
    assert_eq!(
        all[0].begin.map(|stamp| stamp.sequence),
        Some(Sequence(41)),
        "the first word counts"
    );
    assert_eq!(all[0].end.map(|stamp| stamp.sequence), Some(Sequence(77)));
    assert!(all[0].end_index > Some(all[0].begin_index));
}

#[test]
fn a_late_note_of_the_beginning_reaches_a_closed_interval() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    for (remove, add) in [(&[3][..], &[][..]), (&[], &[3])] {
        let change = log.change(remove, add);
        log.ok(change);
    }
    log.ok(note(Bound::Begin, 5));
    let interval = log.state.ledger.iter().next().expect("one");
    assert_eq!(
        (interval.begin.map(|stamp| stamp.sequence), interval.end),
        (Some(Sequence(5)), None)
    );
}

#[test]
fn a_volume_promised_one_site_has_no_intervals() {
    let mut log = Log::opened("a=2", DEGRADE, &[1, 2]);
    let shrink = log.change(&[2], &[]);
    log.ok(shrink);
    assert_eq!(log.state.ledger.iter().count(), 0);
}

#[test]
fn a_counted_volume_is_promised_the_sites_it_was_placed_in() {
    let mut log = Log::opened("2", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert_eq!(
        log.state
            .ledger
            .open(V)
            .map(|interval| interval.site.as_str()),
        Some("a")
    );
}

#[test]
fn a_site_more_begins_an_interval_of_what_is_promised_everywhere() {
    let mut log = Log::empty();
    log.ok(Command::InitCluster {
        id: lockstep_types::ClusterId::from_u128(1),
        name: "c".into(),
        ca_certificate: Vec::new(),
        sealed_ca_key: Vec::new(),
    });
    log.ok(Command::PutNode(node(1, "a", NodeRole::Data)));
    log.ok(Command::PutPool(pool(1, 100)));
    log.ok(create(V, "vol", "*=1", DEGRADE, &[1]));
    log.ready(1);
    assert!(log.state.ledger.open(V).is_none());
    log.ok(Command::PutNode(node(3, "b", NodeRole::Data)));
    assert!(log.state.ledger.open(V).is_some());
}

#[test]
fn deleting_and_forcing_close_intervals() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    let expected = log.expected();
    log.ok(Command::ForcePromote {
        volume: V,
        expected,
        replica: r(3),
        incarnation: Incarnation(1),
        may_rejoin: BTreeSet::new(),
        operator: String::new(),
    });
    let sites: Vec<_> = log
        .state
        .ledger
        .iter()
        .map(|interval| interval.site.as_str())
        .collect();
    // Its only unsealed copy now stands in b; the volume is still promised both.
    assert_eq!(sites, ["a", "b"]);
    log.ok(Command::DeleteVolume { volume: V });
    assert!(log.state.ledger.open(V).is_none());
}

#[test]
fn the_rings_are_bounded() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    for _ in 0..3000 {
        for (remove, add) in [(&[3][..], &[][..]), (&[], &[3])] {
            let change = log.change(remove, add);
            log.index += 1;
            let applied = log.state.apply(log.index, &change.into());
            assert!(applied.result.is_ok());
        }
    }
    for _ in 0..2000 {
        for (remove, add) in [(&[3][..], &[][..]), (&[], &[3])] {
            let change = log.change(remove, add);
            log.index += 1;
            assert!(log.state.apply(log.index, &change.into()).result.is_ok());
        }
    }
    assert_eq!(log.state.ledger.iter().count(), 4096);
    assert_eq!(log.state.ledger.forgotten(), 5000 - 4096);
    assert_eq!(log.state.events.iter().count(), 1024);
}

/// Everyone answers, the primary is open.
fn view(log: &Log) -> View {
    let volume = log.volume();
    View {
        answering: log.state.nodes.keys().copied().collect(),
        quorum: true,
        replicas: volume
            .replicas
            .iter()
            .map(|(id, replica)| {
                let report = Report {
                    incarnation: replica.incarnation,
                    promised: volume.membership.epoch,
                    last: Stamp::new(volume.membership.epoch, Sequence(9)),
                    gap: Gap::None,
                    resync: None,
                    failed: None,
                };
                (*id, report)
            })
            .collect(),
        primary: Some(PrimaryReport {
            epoch: volume.membership.epoch,
            open: true,
            waiting: None,
        }),
    }
}

fn silence(view: &mut View, node: u128) {
    view.answering.remove(&n(node));
    view.replicas.remove(&r(node));
}

fn status(log: &Log, view: &View) -> (Status, String) {
    let explanation = explain(&log.state, log.volume(), view);
    (explanation.status, explanation.headline)
}

#[test]
fn a_healthy_volume_says_so() {
    let log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    let explanation = explain(&log.state, log.volume(), &view(&log));
    assert_eq!(explanation.status, Status::Healthy);
    assert!(
        explanation
            .replicas
            .iter()
            .all(|line| line.certified && line.able)
    );
    assert!(
        explanation
            .notes
            .iter()
            .any(|note| note.contains("attached to node 'a1'"))
    );
}

#[test]
fn it_says_who_must_return() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    log.ok(detach(1));
    let mut seen = view(&log);
    assert_eq!(status(&log, &seen).0, Status::Degraded);
    silence(&mut seen, 1);
    let explanation = explain(&log.state, log.volume(), &seen);
    assert_eq!(explanation.status, Status::Suspended);
    assert_eq!(explanation.must_return, ["a1 (site a)"]);
    assert!(
        explanation
            .remedies
            .iter()
            .any(|remedy| remedy.contains("promote-replica"))
    );
    assert!(
        explanation
            .notes
            .iter()
            .any(|note| note.contains("site 'a' only"))
    );
}

#[test]
fn it_says_why_strict_waits() {
    let log = Log::opened("*=1", Rpo::Strict, &[1, 3]);
    let mut seen = view(&log);
    silence(&mut seen, 3);
    let (status, headline) = status(&log, &seen);
    assert!(
        status == Status::Suspended && headline.contains("strict") && headline.contains("b3"),
        "{headline}"
    );
}

#[test]
fn it_says_when_the_majority_is_missing() {
    let log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let mut seen = view(&log);
    seen.quorum = false;
    assert_eq!(status(&log, &seen).0, Status::Healthy, "I/O goes on (R19)");
    silence(&mut seen, 3);
    let (status, headline) = status(&log, &seen);
    assert!(
        status == Status::Suspended && headline.contains("majority"),
        "{headline}"
    );
}

#[test]
fn it_tells_another_life_a_gap_a_failed_pool_and_a_resync() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    let shrink = log.change(&[2], &[]);
    log.ok(shrink);
    let mut seen = view(&log);
    seen.replicas.get_mut(&r(1)).expect("there").incarnation = Incarnation(7);
    seen.replicas.get_mut(&r(3)).expect("there").gap = Gap::Corrupt;
    seen.replicas.get_mut(&r(2)).expect("there").resync = Some(lockstep_control::Progress {
        done: 5,
        total: 20,
        bytes: 5 << 18,
    });
    let explanation = explain(&log.state, log.volume(), &seen);
    let text = |node: u128| {
        let line = explanation
            .replicas
            .iter()
            .find(|line| line.replica == r(node))
            .expect("there");
        line.text.clone()
    };
    assert!(text(1).contains("another life"), "{}", text(1));
    assert!(text(2).contains("25 %"), "{}", text(2));
    assert!(text(3).contains("damaged"), "{}", text(3));
    assert_eq!(explanation.status, Status::Suspended);
    seen.replicas.get_mut(&r(1)).expect("there").failed = Some("EIO on flush".into());
    assert!(
        explain(&log.state, log.volume(), &seen).replicas[0]
            .text
            .contains("EIO")
    );
}

#[test]
fn it_tells_making_deleting_distrust_and_opening() {
    let mut log = Log::metro();
    log.ok(create(V, "vol", "*=1", DEGRADE, &[1, 3]));
    let (making, headline) = status(&log, &view(&log));
    assert!(
        making == Status::Creating && headline.contains("a1, b3"),
        "{headline}"
    );
    log.ready(1);
    log.ready(3);
    log.ok(attach(1, 1));
    let (opening, headline) = status(&log, &view(&log));
    assert!(
        opening == Status::Suspended && headline.contains("not opened"),
        "{headline}"
    );
    let promote = log.promote(1, Some(1));
    log.ok(promote);
    let mut seen = view(&log);
    seen.primary.as_mut().expect("one").open = false;
    seen.primary.as_mut().expect("one").waiting = Some("b3 has not answered SEAL".into());
    assert!(status(&log, &seen).1.contains("SEAL"));
    seen.answering.remove(&n(1));
    seen.replicas.remove(&r(1));
    let (silent, headline) = status(&log, &seen);
    assert!(
        silent == Status::Suspended && headline.contains("attached to node 'a1'"),
        "{headline}"
    );
    log.ok(Command::RebuildGeneration {
        generation: 1,
        barred_voters: BTreeSet::new(),
        operator: String::new(),
    });
    assert_eq!(status(&log, &seen).0, Status::Distrusted);
    log.ok(Command::DeleteVolume { volume: V });
    assert_eq!(status(&log, &seen).0, Status::Deleting);
}
