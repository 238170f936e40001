//! The oracle against a definition: every order of the operations tried one by one, on one block.

use lockstep_load::{Action, Operation, Oracle, Stamp};
use lockstep_types::{BLOCK, BlockRange, VolumeId};
use proptest::prelude::*;

const VOLUME: VolumeId = VolumeId::from_u128(1);
const ONLY: BlockRange = BlockRange { start: 0, count: 1 };

/// What a script does next; the number picks among what there is.
#[derive(Clone, Copy, Debug)]
enum Event {
    Write,
    Zeroes,
    Read,
    /// Ends one operation in flight; a read with the value of one of the writes begun so far.
    End(usize, usize),
    Fail(usize),
    Fence,
}

/// One operation, for the definition.
#[derive(Clone, Copy, Debug)]
struct Plain {
    begun: usize,
    /// `None`: it has not ended, or failed.
    ended: Option<usize>,
    /// A write's own value, a read's result; 0 is zeroes.
    value: u64,
    read: bool,
    /// If it happened, then before this.
    before: usize,
}

/// Whether some order explains all reads that ended: operations that precede each other in time
/// keep that order, and a write without an acknowledgement may be left out.
fn explained(operations: &[Plain]) -> bool {
    fn go(operations: &[Plain], placed: u32, value: u64) -> bool {
        let due = |at: usize| placed & 1 << at == 0;
        let must = |plain: &Plain| plain.ended.is_some();
        if (0..operations.len()).all(|at| !due(at) || !must(&operations[at])) {
            return true;
        }
        (0..operations.len()).filter(|at| due(*at)).any(|at| {
            let plain = operations[at];
            // Nothing that ended before it began may still be due.
            let first = (0..operations.len())
                .filter(|other| due(*other))
                .all(|other| {
                    let end = operations[other].ended;
                    end.is_none_or(|end| end > plain.begun)
                });
            // A write that never ended may have been cut off by a fence: it then comes before all
            // that began afterwards.
            let cut = (0..operations.len())
                .all(|other| due(other) || operations[other].begun < plain.before);
            if !first || !cut || (plain.read && (plain.value != value || plain.ended.is_none())) {
                return false;
            }
            go(
                operations,
                placed | 1 << at,
                if plain.read { value } else { plain.value },
            )
        })
    }
    go(operations, 0, 0)
}

struct Run {
    oracle: Oracle,
    plain: Vec<Plain>,
    in_flight: Vec<(usize, Operation)>,
    clock: usize,
}

impl Run {
    fn begin(&mut self, action: Action) {
        let operation = self.oracle.begin(1, action);
        let read = matches!(action, Action::Read(_));
        let value = if matches!(action, Action::Write(_)) {
            operation.number
        } else {
            0
        };
        let before = usize::MAX;
        self.plain.push(Plain {
            begun: self.clock,
            ended: None,
            value,
            read,
            before,
        });
        self.in_flight.push((self.plain.len() - 1, operation));
    }

    /// Whether the oracle objects.
    fn end(&mut self, pick: usize, value: usize) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let (at, operation) = self.in_flight.remove(pick % self.in_flight.len());
        self.plain[at].ended = Some(self.clock);
        if !self.plain[at].read {
            self.oracle.acknowledge(operation);
            return false;
        }
        let mut values = vec![0];
        values.extend(
            self.plain
                .iter()
                .filter(|plain| !plain.read)
                .map(|plain| plain.value),
        );
        values.dedup();
        let value = values[value % values.len()];
        self.plain[at].value = value;
        let mut bytes = vec![0; BLOCK];
        if value != 0 {
            Stamp {
                volume: VOLUME,
                block: 0,
                operation: value,
                client: 1,
            }
            .fill(&mut bytes);
        }
        self.oracle.verify_read(operation, &bytes).is_err()
    }

    fn fail(&mut self, pick: usize) {
        if !self.in_flight.is_empty() {
            let (_, operation) = self.in_flight.remove(pick % self.in_flight.len());
            self.oracle.fail(operation);
        }
    }

    fn fence(&mut self) {
        if self.in_flight.is_empty() {
            self.oracle.fence();
            for plain in &mut self.plain {
                if !plain.read && plain.ended.is_none() {
                    plain.before = plain.before.min(self.clock);
                }
            }
        }
    }
}

/// Runs a script to the first read that the oracle or the definition objects to; both verdicts.
fn judge(script: &[Event]) -> (bool, bool) {
    let mut run = Run {
        oracle: Oracle::new(VOLUME, 1),
        plain: Vec::new(),
        in_flight: Vec::new(),
        clock: 0,
    };
    for event in script {
        run.clock += 1;
        let objects = match *event {
            Event::Write => {
                run.begin(Action::Write(ONLY));
                false
            }
            Event::Zeroes => {
                run.begin(Action::Zeroes(ONLY));
                false
            }
            Event::Read => {
                run.begin(Action::Read(ONLY));
                false
            }
            Event::End(pick, value) => run.end(pick, value),
            Event::Fail(pick) => {
                run.fail(pick);
                false
            }
            Event::Fence => {
                run.fence();
                false
            }
        };
        let wrong = !explained(&run.plain);
        if objects || wrong {
            return (objects, wrong);
        }
    }
    (false, false)
}

fn script(zeroes: u32, fence: u32) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Write),
        zeroes => Just(Event::Zeroes),
        4 => Just(Event::Read),
        8 => (0usize..8, 0usize..8).prop_map(|(pick, value)| Event::End(pick, value)),
        1 => (0usize..8).prop_map(Event::Fail),
        fence => Just(Event::Fence),
    ];
    proptest::collection::vec(event, 4..18)
}

/// How many scripts each verdict had, so that a change that makes the test empty is seen.
fn tally(cases: u32, zeroes: u32, fence: u32) -> (u32, u32, u32, u32) {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let (mut right, mut caught, mut missed, mut false_alarms) = (0, 0, 0, 0);
    for _ in 0..cases {
        let tree = script(zeroes, fence)
            .new_tree(&mut runner)
            .expect("nothing is rejected");
        let script = tree.current();
        match judge(&script) {
            (false, false) => right += 1,
            (true, true) => caught += 1,
            (false, true) => missed += 1,
            (true, false) => {
                eprintln!("false alarm: {script:?}");
                false_alarms += 1;
            }
        }
    }
    (right, caught, missed, false_alarms)
}

#[test]
fn with_distinct_writes_the_oracle_is_exact() {
    let (right, caught, missed, false_alarms) = tally(20_000, 0, 0);
    assert_eq!((missed, false_alarms), (0, 0));
    assert!(
        right > 4000 && caught > 2500,
        "{right} right, {caught} caught"
    );
}

#[test]
fn with_fences_too() {
    let (right, caught, missed, false_alarms) = tally(20_000, 0, 2);
    assert_eq!((missed, false_alarms), (0, 0));
    assert!(
        right > 4000 && caught > 2500,
        "{right} right, {caught} caught"
    );
}

#[test]
fn with_zeroes_it_never_raises_a_false_alarm_and_misses_little() {
    let (right, caught, missed, false_alarms) = tally(20_000, 3, 1);
    assert_eq!(false_alarms, 0);
    assert!(
        right > 4000 && caught > 900,
        "{right} right, {caught} caught"
    );
    assert!(missed * 50 < caught, "{missed} missed of {caught}");
}
