//! Rules that the simulator switches off one at a time, to see that it notices.
//!
//! Without the feature `mutants`, which is for nothing else, [`is`] is false at
//! compile time and nothing of this is left.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A life whose disk is an older image goes on under an incarnation that was used.
    SameIncarnation,
    /// A merge takes the union of both sides, whatever either has seen.
    PlainUnion,
    /// A contribution goes when it is reset, not when its owner closes it.
    DroppedAtReset,
    /// A contribution that begins anew has the old birth.
    NoBirths,
    /// A removal of what has not been seen is forgotten.
    NotParked,
    /// A parked removal takes a dot from all cells.
    ParkedByDot,
    /// A merge leaves out what the other side has parked.
    ParkedLeftBehind,
    /// A SET leaves the counters it saw.
    SetWithoutReset,
    /// Messages leave before the records that they rest on are written.
    SentBeforeLogged,
    /// A request that is not answered is waited for without end.
    PatientPull,
    /// Of versions with equal stamps the one that came last is shown.
    TiesUnbroken,
    /// A clock that was set back issues smaller stamps.
    ClockGoesBack,
    /// A merge's context is seen before its blocks have come.
    SeenTooEarly,
    /// A snapshot goes on over a merge.
    SnapshotOverMerge,
    /// A snapshot gives what there is when it comes to it.
    SnapshotOfLater,
    /// Ops of an actor are applied with gaps between.
    GapsApplied,
    /// What came ahead of its turn is left there when a merge brings the turn.
    LeftAhead,
    /// A stopped engine keeps to deadlines that it cannot meet.
    StoppedSpins,
    /// Fingerprints leave out baselines and parked removals.
    FingerprintWithoutR,
    /// Fingerprints are the XOR of rows that do not name their element: two adds of one op cancel.
    FingerprintByXor,
    /// A range that a merge skipped is not looked at again before it takes place.
    SkippedNotChecked,
    /// The end of one fetch of a merge is taken for that of another.
    FetchesUnnumbered,
    /// A removal of a whole set that has not been seen in full is forgotten.
    ClearNotParked,
    /// What answers a request for ops leaves out values that are no longer live at the sender:
    /// such a write goes as an erase of what it superseded.
    ValuesLeftOut,
    /// An increment moves what earlier incarnations of the node have standing into the own contribution.
    Folding,
    /// Blocks of a merge are merged as they come, but for what has been applied meanwhile, which is
    /// remembered in memory only; the vectors unite at the end.
    VolatileFilter,
    /// What was queued for a peer is sent with a later context. In this engine that is the context of
    /// a snapshot: its blocks are of the moment at which the peer asked, and here its vector is of the
    /// moment at which the message leaves.
    StalePayload,
    /// The log that a checkpoint covers is cut before that checkpoint is durable.
    LogCutEarly,
    /// An owner's close takes with it what is spent of that node's earlier incarnations.
    BuriedEarly,
    /// A second context of a merge takes the place of the first, whose blocks have come.
    SecondContext,
    /// A merge needs room for all that the other side has parked, even for what it settles.
    RoomBeforeUnion,
    /// What a peer held is taken for what it holds in its next life.
    CursorOfAnotherLife,
    /// What an earlier session has left is taken for what the peer holds now.
    LeftoverNotCompared,
    /// What another member holds of a range is taken for what the snapshot holds there that is merged.
    SourceNotCompared,
    /// A quorum read ends when so many have answered, before what they had has come.
    ReadBeforeCovered,
    /// What a peer says in an exchange that began before a quorum read counts for the read.
    ReadOfEarlier,
    /// Overwritten values are left out of a message that ends before what superseded the last of them.
    ElidedFreely,
    /// An op without its value is applied by itself, and what superseded it when it comes.
    ElidedAlone,
    /// Ops without their values are read from the log, for others, without what superseded them.
    BundlesCut,
    /// What has rotted goes to the disk and to peers as if it were whole.
    RotPassedOn,
    /// What an audit finds rotten stays as it is.
    RotLeft,
    /// That two have seen the same and differ is counted, and that is all.
    DifferenceLeft,
    /// Of two contents of one write each side keeps its own.
    ContentsKept,
    /// What has been worked out of a merge stands, whatever ops have touched since.
    PreparedKept,
    /// Values are left out of blocks whether or not the reader has seen their writes.
    LeanFreely,
}

#[cfg(feature = "mutants")]
mod active {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks one rule on this thread, or none.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether that rule is broken.
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    impl Mutant {
        /// All of them.
        pub const ALL: [Self; 45] = [
            Self::SameIncarnation,
            Self::PlainUnion,
            Self::DroppedAtReset,
            Self::NoBirths,
            Self::NotParked,
            Self::ParkedByDot,
            Self::ParkedLeftBehind,
            Self::SetWithoutReset,
            Self::SentBeforeLogged,
            Self::PatientPull,
            Self::TiesUnbroken,
            Self::ClockGoesBack,
            Self::SeenTooEarly,
            Self::SnapshotOverMerge,
            Self::SnapshotOfLater,
            Self::GapsApplied,
            Self::LeftAhead,
            Self::StoppedSpins,
            Self::FingerprintWithoutR,
            Self::FingerprintByXor,
            Self::SkippedNotChecked,
            Self::FetchesUnnumbered,
            Self::ClearNotParked,
            Self::ValuesLeftOut,
            Self::Folding,
            Self::VolatileFilter,
            Self::StalePayload,
            Self::LogCutEarly,
            Self::BuriedEarly,
            Self::SecondContext,
            Self::RoomBeforeUnion,
            Self::CursorOfAnotherLife,
            Self::LeftoverNotCompared,
            Self::SourceNotCompared,
            Self::ReadBeforeCovered,
            Self::ReadOfEarlier,
            Self::ElidedFreely,
            Self::ElidedAlone,
            Self::BundlesCut,
            Self::RotPassedOn,
            Self::RotLeft,
            Self::DifferenceLeft,
            Self::ContentsKept,
            Self::PreparedKept,
            Self::LeanFreely,
        ];
    }
}

#[cfg(feature = "mutants")]
pub use active::{is, set};

/// Whether that rule is broken: never.
#[cfg(not(feature = "mutants"))]
pub const fn is(_: Mutant) -> bool {
    false
}
