//! Switches that break one safety rule each, for the mutation gate. Without the feature `mutate`
//! every question is answered "no" at compile time.

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Mutation {
    R1RemoveBeforeCommit,
    R1JoinBeforeRequired,
    R1UnknownForgotten,
    R2AckWithoutOne,
    R3EpochNotChecked,
    R3PromiseNotPersisted,
    R4IncarnationNotChecked,
    R4OldRecordTrusted,
    R5GapAccepted,
    R5CertifiedBehind,
    R6OverlapIgnored,
    R7NoReservation,
    R8ResizeNotSequenced,
    R9OneSealEnough,
    R9PromoteWithoutProbe,
    R9IncompleteSealedAgain,
    R10SealDoesNotWait,
    R11LowestFloor,
    R11TailNotRolled,
    R11FloorBeforeOpen,
    R12AttachmentIgnored,
    R13NoLeaseOnRead,
    R13NoLeaseOnWrite,
    R13NoClearWait,
    R13LocalPromiseIgnored,
    R14ReadDoesNotWait,
    R14NotTakenAgain,
    R15HistoryIgnored,
    R15TailNotVoided,
    R15FirstFloorUntold,
    R16StaleCopyAccepted,
    R16CopyOutsideOrder,
    R16NoDigest,
    R17OlderWins,
    R17NeverCompared,
    R17EqualRepaired,
    R18UnrecordedDeleted,
    R19AckNeedsControl,
    R21SuspectServes,
    R22GapCountsAsSilence,
    R24FailureForgotten,
    R24LossServes,
    R24OpenedUntold,
    S10HolesNotCopied,
}

impl Mutation {
    /// All of them, in order.
    pub const ALL: [Self; 44] = [
        Self::R1RemoveBeforeCommit,
        Self::R1JoinBeforeRequired,
        Self::R1UnknownForgotten,
        Self::R2AckWithoutOne,
        Self::R3EpochNotChecked,
        Self::R3PromiseNotPersisted,
        Self::R4IncarnationNotChecked,
        Self::R4OldRecordTrusted,
        Self::R5GapAccepted,
        Self::R5CertifiedBehind,
        Self::R6OverlapIgnored,
        Self::R7NoReservation,
        Self::R8ResizeNotSequenced,
        Self::R9OneSealEnough,
        Self::R9PromoteWithoutProbe,
        Self::R9IncompleteSealedAgain,
        Self::R10SealDoesNotWait,
        Self::R11LowestFloor,
        Self::R11TailNotRolled,
        Self::R11FloorBeforeOpen,
        Self::R12AttachmentIgnored,
        Self::R13NoLeaseOnRead,
        Self::R13NoLeaseOnWrite,
        Self::R13NoClearWait,
        Self::R13LocalPromiseIgnored,
        Self::R14ReadDoesNotWait,
        Self::R14NotTakenAgain,
        Self::R15HistoryIgnored,
        Self::R15TailNotVoided,
        Self::R15FirstFloorUntold,
        Self::R16StaleCopyAccepted,
        Self::R16CopyOutsideOrder,
        Self::R16NoDigest,
        Self::R17OlderWins,
        Self::R17NeverCompared,
        Self::R17EqualRepaired,
        Self::R18UnrecordedDeleted,
        Self::R19AckNeedsControl,
        Self::R21SuspectServes,
        Self::R22GapCountsAsSilence,
        Self::R24FailureForgotten,
        Self::R24LossServes,
        Self::R24OpenedUntold,
        Self::S10HolesNotCopied,
    ];
}

/// Which rule is broken, if any. A field of the machines, so that runs do not disturb each other.
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
