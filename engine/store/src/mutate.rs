//! Switches that break one rule of the store each, for the mutation gate. Without the feature
//! `mutate` every question is answered "no" at compile time.

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Mutation {
    S1AckBeforeDurable,
    S2NoFlushAfterData,
    S2TailBeforeDeltas,
    S3OlderRecordWins,
    S3OldestWins,
    R25DestageAboveFloor,
    S5PinnedRecordDropped,
    S6NoReservation,
    S8KeyNotChecked,
    S9CorruptServed,
    S9NotReadAgain,
    DiscardIgnored,
    LostPageUnnoticed,
    R24TruncateSilently,
    VoidForgotten,
    FloorNotPersisted,
    S4ReuseWhileWritten,
    S5TailPassesUnflushedCopy,
    S5OrderIgnored,
    R11SupersededTooEarly,
    R11FloorForgotten,
    R24CopiesUnmarked,
}

impl Mutation {
    /// All of them, in order.
    pub const ALL: [Self; 22] = [
        Self::S1AckBeforeDurable,
        Self::S2NoFlushAfterData,
        Self::S2TailBeforeDeltas,
        Self::S3OlderRecordWins,
        Self::S3OldestWins,
        Self::R25DestageAboveFloor,
        Self::S5PinnedRecordDropped,
        Self::S6NoReservation,
        Self::S8KeyNotChecked,
        Self::S9CorruptServed,
        Self::S9NotReadAgain,
        Self::DiscardIgnored,
        Self::LostPageUnnoticed,
        Self::R24TruncateSilently,
        Self::VoidForgotten,
        Self::FloorNotPersisted,
        Self::S4ReuseWhileWritten,
        Self::S5TailPassesUnflushedCopy,
        Self::S5OrderIgnored,
        Self::R11SupersededTooEarly,
        Self::R11FloorForgotten,
        Self::R24CopiesUnmarked,
    ];
}

/// Which rule is broken, if any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Broken {
    #[cfg(feature = "mutate")]
    rule: Option<Mutation>,
}

impl Broken {
    /// Breaks one rule.
    #[cfg(feature = "mutate")]
    pub fn rule(rule: Mutation) -> Self {
        Self { rule: Some(rule) }
    }

    /// Whether this rule is broken.
    #[cfg(feature = "mutate")]
    pub fn is(self, rule: Mutation) -> bool {
        self.rule == Some(rule)
    }

    /// Whether this rule is broken: never, without the feature.
    #[cfg(not(feature = "mutate"))]
    pub const fn is(self, _rule: Mutation) -> bool {
        false
    }
}
