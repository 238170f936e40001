//! The rules that can be broken on purpose, of every core, under one name each.

/// Whether this build can break rules.
pub const POSSIBLE: bool = cfg!(feature = "mutate");

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Of the replication protocol.
    Protocol(lockstep_protocol::mutate::Mutation),
    /// Of the store.
    Store(lockstep_store::mutate::Mutation),
    /// Of the control state.
    Control(lockstep_control::Mutation),
    /// A rule that the simulator itself keeps in the place of the shell.
    Shell(ShellMutation),
}

/// Rules of the shell that the simulator stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShellMutation {
    /// A pool is opened before the late writes of its predecessor have landed.
    R23NoClaim,
    /// A voter that lost its log starts again under its old id.
    R20VoterReborn,
}

impl Mutation {
    /// All of them, in order.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        all.extend(lockstep_protocol::mutate::Mutation::ALL.map(Self::Protocol));
        all.extend(lockstep_store::mutate::Mutation::ALL.map(Self::Store));
        all.extend(lockstep_control::Mutation::ALL.map(Self::Control));
        all.extend([ShellMutation::R23NoClaim, ShellMutation::R20VoterReborn].map(Self::Shell));
        all
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        match self {
            Self::Protocol(mutation) => format!("protocol-{mutation:?}"),
            Self::Store(mutation) => format!("store-{mutation:?}"),
            Self::Control(mutation) => format!("control-{mutation:?}"),
            Self::Shell(mutation) => format!("shell-{mutation:?}"),
        }
    }

    /// The rule that it breaks, as safety.md and store.md number it.
    pub fn rule(self) -> String {
        let named = match self {
            Self::Protocol(mutation) => format!("{mutation:?}"),
            Self::Store(mutation) => format!("{mutation:?}"),
            Self::Control(mutation) => return rule_of_record(mutation).into(),
            Self::Shell(mutation) => format!("{mutation:?}"),
        };
        let digits = named.chars().skip(1).take_while(char::is_ascii_digit);
        match digits.collect::<String>() {
            number if !number.is_empty() => format!("{}{number}", &named[..1]),
            _ => self.unnumbered().into(),
        }
    }

    /// Finer ones, whose names begin with no number.
    fn unnumbered(self) -> &'static str {
        match self {
            Self::Store(mutation) => {
                use lockstep_store::mutate::Mutation as Of;
                match mutation {
                    Of::VoidForgotten => "R15",
                    Of::FloorNotPersisted => "R11, S4",
                    Of::DiscardIgnored => "S4, R16",
                    Of::LostPageUnnoticed => "on disk",
                    _ => "",
                }
            }
            _ => "",
        }
    }

    /// Where it is looked for: scenarios written for it first, then the world or the store at large.
    pub fn scenarios(self) -> &'static [&'static str] {
        match self {
            Self::Protocol(mutation) => scenarios_of_protocol(mutation),
            Self::Store(mutation) => scenarios_of_store(mutation),
            Self::Control(_) => &["record"],
            Self::Shell(ShellMutation::R23NoClaim) => &["store-late-writes", "store"],
            Self::Shell(ShellMutation::R20VoterReborn) => {
                &["voter-without-its-log", "control", "world"]
            }
        }
    }

    /// Where the rule is kept.
    pub fn about(self) -> &'static str {
        match self {
            Self::Protocol(_) => "the replication protocol (replication/protocol/src/mutate.rs)",
            Self::Store(_) => "the store (engine/store/src/mutate.rs)",
            Self::Control(_) => "the control state (replication/control/src/mutate.rs)",
            Self::Shell(_) => "the shell, which the simulator stands for",
        }
    }
}

/// A store with a broken rule.
#[cfg(feature = "mutate")]
pub fn broken_store(mutation: lockstep_store::mutate::Mutation) -> lockstep_store::mutate::Broken {
    lockstep_store::mutate::Broken::rule(mutation)
}

/// Nothing can be broken in this build.
#[cfg(not(feature = "mutate"))]
pub fn broken_store(_: lockstep_store::mutate::Mutation) -> lockstep_store::mutate::Broken {
    lockstep_store::mutate::Broken::default()
}

/// A protocol with a broken rule.
#[cfg(feature = "mutate")]
pub fn broken_protocol(
    mutation: lockstep_protocol::mutate::Mutation,
) -> lockstep_protocol::mutate::Broken {
    lockstep_protocol::mutate::Broken::rule(mutation)
}

/// Nothing can be broken in this build.
#[cfg(not(feature = "mutate"))]
pub fn broken_protocol(
    _: lockstep_protocol::mutate::Mutation,
) -> lockstep_protocol::mutate::Broken {
    lockstep_protocol::mutate::Broken::default()
}

/// The rules of the control state's switches.
fn rule_of_record(mutation: lockstep_control::Mutation) -> &'static str {
    use lockstep_control::Mutation as Of;
    match mutation {
        Of::CasIgnored => "R1, R9",
        Of::ForeignPrimary => "R1",
        Of::EpochStands | Of::PromoteOutside | Of::CaretakerAnyTime => "R9",
        Of::StrictShrink => "R9, rpo",
        Of::AttachmentIgnored
        | Of::SecondAttachment
        | Of::DetachKeepsEpoch
        | Of::FencedRepublish => "R12",
        Of::EmptyInSync => "R11, R21",
        Of::IncarnationIgnored | Of::IncarnationBack => "R4",
        Of::UnreadyCertified => "R5",
        Of::VoterlessSite => "two sites",
        Of::SizeShrinks => "R8",
        Of::TombstoneUnasked | Of::IdReuse => "R18",
        Of::RebuildTrusts | Of::ForcedKeepsDevice | Of::ForcedKeepsSides => "forced",
    }
}

fn scenarios_of_store(mutation: lockstep_store::mutate::Mutation) -> &'static [&'static str] {
    use lockstep_store::mutate::Mutation as Of;
    match mutation {
        Of::S1AckBeforeDurable
        | Of::S2NoFlushAfterData
        | Of::S2TailBeforeDeltas
        | Of::S3OldestWins => &["store-every-step", "store"],
        Of::S5PinnedRecordDropped | Of::S5TailPassesUnflushedCopy => &["store-pinned", "store"],
        Of::S5OrderIgnored => &["store-overtaken-discard", "store"],
        Of::R24CopiesUnmarked => &["certified-and-torn", "world"],
        Of::R11SupersededTooEarly => &["store-cut-while-rolling", "store"],
        Of::S4ReuseWhileWritten => &["store-void-in-flight", "store"],
        Of::S3OlderRecordWins => &["store-direct-over-waiting", "store"],
        Of::S8KeyNotChecked => &["store-forged", "store"],
        Of::LostPageUnnoticed => &["store-lost-page", "store"],
        Of::R25DestageAboveFloor => &["store-void-after-rest", "store"],
        Of::S9NotReadAgain => &["store-racing-reads"],
        Of::S6NoReservation => &["store-full", "store"],
        _ => &["store", "world"],
    }
}

fn scenarios_of_protocol(mutation: lockstep_protocol::mutate::Mutation) -> &'static [&'static str] {
    use lockstep_protocol::mutate::Mutation as Of;
    match mutation {
        Of::R1RemoveBeforeCommit => &["removal-not-committed", "world"],
        Of::R1JoinBeforeRequired | Of::R1UnknownForgotten => &["certified-unheard", "world"],
        Of::R2AckWithoutOne => &["durable-on-one", "world"],
        Of::R3EpochNotChecked => &["late-seals", "late-appends", "world"],
        Of::R3PromiseNotPersisted => &["dies-sealed", "world"],
        Of::R4IncarnationNotChecked => &["blank-device-alone", "blank-device", "world"],
        Of::R4OldRecordTrusted => &["blank-device-and-old-log", "world"],
        Of::R5GapAccepted => &["spoiled-appends", "world"],
        Of::R5CertifiedBehind => &["lagging-joiner", "world"],
        Of::R6OverlapIgnored => &["two-writes-of-a-block", "world"],
        Of::R8ResizeNotSequenced => &["grows-while-primary-dies", "world"],
        Of::R9OneSealEnough => &["torn-and-alone", "world"],
        Of::R9PromoteWithoutProbe => &["role-on-an-old-record", "world"],
        Of::R9IncompleteSealedAgain => &["strict-incomplete", "world"],
        Of::R10SealDoesNotWait => &["seal-during-flush", "world"],
        Of::R11LowestFloor => &["behind-the-floor", "world"],
        Of::R11FloorBeforeOpen => &["dies-while-rolled-to", "two-crashes-in-one-reconcile"],
        Of::R11TailNotRolled => &["two-crashes-in-one-reconcile", "world"],
        Of::R12AttachmentIgnored => &["held-requests", "world"],
        Of::R13NoLeaseOnRead => &["reads-on-after-the-cut", "world"],
        Of::R13NoLeaseOnWrite => &["late-acks", "world"],
        Of::R13NoClearWait => &["diskless-primary-cut-off", "world"],
        Of::R13LocalPromiseIgnored => &["local-promise", "world"],
        Of::R15HistoryIgnored => &["comes-back-with-its-own-tail", "world"],
        Of::R15TailNotVoided => &["comes-back-in-silence", "world"],
        Of::R15FirstFloorUntold => &["strict-exchanged-in-silence", "world"],
        Of::R16CopyOutsideOrder | Of::R16StaleCopyAccepted => {
            &["joined-and-alone", "resync-under-writes", "world"]
        }
        Of::R16NoDigest => &["resync-under-writes", "discard-while-away", "world"],
        Of::R17OlderWins | Of::R17NeverCompared => &["lost-write", "world"],
        Of::R17EqualRepaired => &["equal-stamps", "world"],
        Of::R18UnrecordedDeleted => &["copy-without-a-record", "world"],
        Of::R24LossServes => &["lost-the-middle", "world"],
        Of::R24OpenedUntold => &["lost-while-opening", "world"],
        Of::R7NoReservation => &["full-on-one", "world"],
        Of::R14ReadDoesNotWait => &["read-before-its-end", "world"],
        Of::R14NotTakenAgain => &["read-again-elsewhere", "world"],
        Of::R22GapCountsAsSilence => &["stopped-primary", "world"],
        Of::R24FailureForgotten => &["failed-device-lost-writes", "world"],
        Of::S10HolesNotCopied => &["discard-while-away", "world"],
        Of::R19AckNeedsControl => &["control-plane-stands-still", "world"],
        Of::R21SuspectServes => &[
            "suspect-sole-survivor",
            "rotted-tail-of-only-sealed",
            "world",
        ],
    }
}
