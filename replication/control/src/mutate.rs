//! Switches that break one rule each, so that the simulator can show that it would notice.

/// A rule broken on purpose; only builds with the feature `mutate` can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mutation {
    /// Changes of membership do not compare (epoch, version) (R1, R9).
    CasIgnored,
    /// Any node changes the in-sync set, not only the epoch's primary (R1).
    ForeignPrimary,
    /// A promotion leaves the epoch as it was (R9).
    EpochStands,
    /// A promotion's attachment id is not compared with the record's (R12).
    AttachmentIgnored,
    /// A node that holds no certified copy becomes a caretaker (R9).
    PromoteOutside,
    /// A caretaker takes over while the attached primary answers (R9).
    CaretakerAnyTime,
    /// The in-sync set may become empty (R11).
    EmptyInSync,
    /// A replica is certified whatever its incarnation (R4).
    IncarnationIgnored,
    /// A replica whose space does not exist is certified (R5).
    UnreadyCertified,
    /// `strict` drops a site's last copy (R9).
    StrictShrink,
    /// A site without a voter gets its replicas certified.
    VoterlessSite,
    /// A volume shrinks (R8).
    SizeShrinks,
    /// A replica that merely left the in-sync set is deleted (R18).
    TombstoneUnasked,
    /// Ids of deleted objects may be used again (R18).
    IdReuse,
    /// A second attachment beside the first (R12).
    SecondAttachment,
    /// Detaching leaves the epoch with the old primary (R12).
    DetachKeepsEpoch,
    /// A node gets the volume again while its fenced device exists (R12).
    FencedRepublish,
    /// An incarnation goes back (R4).
    IncarnationBack,
    /// After a forced rebuild the recorded in-sync sets are trusted.
    RebuildTrusts,
    /// After a forced rebuild or promotion old devices go on (R12).
    ForcedKeepsDevice,
    /// A forced promotion leaves the overwritten side free to rejoin.
    ForcedKeepsSides,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::CasIgnored,
        Self::ForeignPrimary,
        Self::EpochStands,
        Self::AttachmentIgnored,
        Self::PromoteOutside,
        Self::CaretakerAnyTime,
        Self::EmptyInSync,
        Self::IncarnationIgnored,
        Self::UnreadyCertified,
        Self::StrictShrink,
        Self::VoterlessSite,
        Self::SizeShrinks,
        Self::TombstoneUnasked,
        Self::IdReuse,
        Self::SecondAttachment,
        Self::DetachKeepsEpoch,
        Self::FencedRepublish,
        Self::IncarnationBack,
        Self::RebuildTrusts,
        Self::ForcedKeepsDevice,
        Self::ForcedKeepsSides,
    ];
}
