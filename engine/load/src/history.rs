//! What one block may hold, given all that was observed of it: an online test for linearizability
//! of one register.
//!
//! Every write is one [`Value`] with a *zone*: `first_end` is the earliest moment at which an
//! operation that proves the value ended (its write, or a read that returned it), `last_begin` the
//! latest moment at which one began. If `first_end < last_begin` the zone is *forward*: the block
//! held the value throughout. Otherwise it is *backward*: all those operations overlap, and the
//! value may have been there for an instant only. A history in which every write is distinct is
//! linearizable if and only if no two forward zones overlap and no backward zone lies inside a
//! forward one (Gibbons and Korach, 1997).
//!
//! Zeroes are not distinct: the start, discards and zeroes all read alike. A read of zeroes is
//! counted to the one write it can come from; where several are possible it becomes a nameless
//! zone, which conflicts with data only. That never raises a false alarm.

use smallvec::{SmallVec, smallvec};

/// A moment of the oracle's own clock; every event has its own.
pub(crate) type Moment = u64;
const NEVER: Moment = Moment::MAX;

/// What a write puts there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Data,
    Zeroes,
    /// Zeroes seen by a read, from a write that cannot be told.
    Nameless,
}

/// How far a write is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    InFlight,
    Acknowledged,
    /// It failed, or nobody knows: it may have happened or may happen yet.
    Unknown,
}

/// One write, or the zeroes of the start (operation 0).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Value {
    pub operation: u64,
    pub client: u32,
    pub kind: Kind,
    pub state: State,
    /// A read has returned it.
    pub observed: bool,
    begun: Moment,
    first_end: Moment,
    last_begin: Moment,
}

impl Value {
    fn new(operation: u64, client: u32, kind: Kind, begun: Moment) -> Self {
        let state = State::InFlight;
        let observed = false;
        let (first_end, last_begin) = (NEVER, begun);
        Self {
            operation,
            client,
            kind,
            state,
            observed,
            begun,
            first_end,
            last_begin,
        }
    }

    /// Whether it surely happened, so that others must fit around it.
    fn happened(&self) -> bool {
        self.observed || self.state == State::Acknowledged
    }

    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }

    fn low(&self) -> Moment {
        self.first_end.min(self.last_begin)
    }

    fn high(&self) -> Moment {
        self.first_end.max(self.last_begin)
    }

    /// Whether both cannot have been in one register.
    fn conflicts(&self, other: &Self) -> bool {
        if self.may_be(other) {
            return false;
        }
        let inside = |outer: &Self, inner: &Self| {
            outer.first_end < inner.low() && inner.high() < outer.last_begin
        };
        match (self.is_forward(), other.is_forward()) {
            (true, true) => {
                self.first_end.max(other.first_end) < self.last_begin.min(other.last_begin)
            }
            (true, false) => inside(self, other),
            (false, true) => inside(other, self),
            (false, false) => false,
        }
    }

    /// Whether one of the two is nameless and may be the other.
    fn may_be(&self, other: &Self) -> bool {
        let nameless = self.kind == Kind::Nameless || other.kind == Kind::Nameless;
        nameless && self.kind != Kind::Data && other.kind != Kind::Data
    }

    /// With a read of it from `began` to `ended`.
    fn seen(mut self, began: Moment, ended: Moment) -> Self {
        self.observed = true;
        self.first_end = self.first_end.min(ended);
        self.last_begin = self.last_begin.max(began);
        self
    }
}

/// Why a read cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conflict {
    /// No write that could still be there put this.
    Gone,
    /// `by` came after it, and was there.
    Replaced { by: Value },
}

/// The writes a block may still hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct History {
    values: SmallVec<[Value; 1]>,
}

impl Default for History {
    /// A block never written: zeroes from the start.
    fn default() -> Self {
        let mut start = Value::new(0, 0, Kind::Zeroes, 0);
        start.state = State::Acknowledged;
        start.first_end = 0;
        Self {
            values: smallvec![start],
        }
    }
}

impl History {
    pub fn begin(&mut self, operation: u64, client: u32, kind: Kind, now: Moment) {
        self.values.push(Value::new(operation, client, kind, now));
    }

    /// The write has been acknowledged. That alone contradicts nothing: it may have happened just
    /// now, after every read so far.
    pub fn acknowledge(&mut self, operation: u64, now: Moment) {
        let at = self
            .position(operation)
            .expect("a write in flight is remembered");
        let value = &mut self.values[at];
        value.state = State::Acknowledged;
        value.first_end = value.first_end.min(now);
    }

    /// The write failed: unknown.
    pub fn fail(&mut self, operation: u64) {
        let at = self
            .position(operation)
            .expect("a write in flight is remembered");
        self.values[at].state = State::Unknown;
    }

    /// What failed before has happened by now or never will.
    pub fn fence(&mut self, now: Moment) {
        for value in &mut self.values {
            if value.state == State::Unknown {
                value.first_end = value.first_end.min(now);
            }
        }
    }

    /// A read from `began` to `ended` returned the data of `operation`.
    pub fn saw_data(
        &mut self,
        operation: u64,
        began: Moment,
        ended: Moment,
    ) -> Result<(), Conflict> {
        let at = self.position(operation).ok_or(Conflict::Gone)?;
        if self.values[at].kind != Kind::Data {
            return Err(Conflict::Gone);
        }
        self.place(at, self.values[at].seen(began, ended))
    }

    /// A read from `began` to `ended` returned zeroes.
    pub fn saw_zeroes(&mut self, began: Moment, ended: Moment) -> Result<(), Conflict> {
        let mut possible: SmallVec<[usize; 4]> = SmallVec::new();
        let mut refused = Conflict::Gone;
        for (at, value) in self.values.iter().enumerate() {
            if value.kind == Kind::Zeroes {
                match self.fits(at, &value.seen(began, ended)) {
                    Ok(()) => possible.push(at),
                    Err(conflict) => refused = conflict,
                }
            }
        }
        match possible[..] {
            [] => Err(refused),
            [at] => self.place(at, self.values[at].seen(began, ended)),
            _ => {
                let mut nameless = Value::new(0, 0, Kind::Nameless, began).seen(began, ended);
                nameless.state = State::Acknowledged;
                self.fits(self.values.len(), &nameless)?;
                self.values.push(nameless);
                Ok(())
            }
        }
    }

    /// Forgets what no read that ends after now can return any more: `horizon` is the earliest
    /// beginning such a read can have.
    pub fn prune(&mut self, horizon: Moment) {
        if self.values.len() == 1 {
            return;
        }
        let values = self.values.clone();
        let replaced = |value: &Value| {
            // Wholly after it, and over before any such read began.
            values.iter().any(|other| {
                let after = value.high() < other.low() && other.high() < horizon;
                after && other.happened() && !value.may_be(other)
            })
        };
        // A nameless zone only matters to data that was proved before it.
        let idle = |value: &Value| {
            value.kind == Kind::Nameless
                && !values
                    .iter()
                    .any(|other| other.kind == Kind::Data && other.first_end < value.low())
        };
        // A write in flight is kept for its end.
        let ended = |value: &Value| value.state != State::InFlight;
        self.values
            .retain(|value| !(idle(value) || ended(value) && replaced(value)));
    }

    /// What a read may return.
    pub fn possible(&self) -> impl Iterator<Item = &Value> {
        self.values
            .iter()
            .filter(|value| value.kind != Kind::Nameless)
    }

    /// Whether it says no more than that the block was never written.
    pub fn is_start(&self) -> bool {
        matches!(
            self.values[..],
            [Value {
                operation: 0,
                kind: Kind::Zeroes,
                ..
            }]
        )
    }

    fn position(&self, operation: u64) -> Option<usize> {
        let is = |value: &Value| value.operation == operation && value.kind != Kind::Nameless;
        self.values.iter().position(is)
    }

    /// Puts `value` at `at` if it fits there.
    fn place(&mut self, at: usize, value: Value) -> Result<(), Conflict> {
        self.fits(at, &value)?;
        self.values[at] = value;
        Ok(())
    }

    fn fits(&self, at: usize, value: &Value) -> Result<(), Conflict> {
        let others = self
            .values
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != at);
        for (_, other) in others {
            if other.happened() && value.conflicts(other) {
                return Err(Conflict::Replaced { by: *other });
            }
        }
        Ok(())
    }
}

const _: () = assert!(size_of::<Value>() == 40, "a block costs about this");
