//! Mistakes that tests plant, to see that they would be found.
//!
//! They exist with the feature `planted` only, which nothing but tests asks for, and then none is made until a test
//! plants it, for the NameNodes of its own thread.

/// A mistake that somebody could make in the shell or in the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Promises and votes are told before the log has them.
    TellsBeforeStored,
    /// A checkpoint says that it holds one slot more than it does.
    CheckpointLacksLastSlot,
    /// A checkpoint lacks some rows.
    CheckpointLacksRows,
    /// The NameNode whose folder has this nonce does not do what every 40th slot says.
    LeavesOutSlots(u64),
    /// Votes for slots are dropped that no checkpoint holds.
    TruncatesTooFar,
    /// Whoever leads answers reads without looking at its lease.
    ReadsWithoutLease,
    /// The last slot that is known to be decided is not applied again after a start.
    ReplayLeavesOutLast,
    /// A slot is noted as decided before it is.
    NotesAppliedTooSoon,
    /// A new folder is given this nonce: that of one that was lost.
    MadeAgainAs(u64),
    /// A rule file says something else: what, and what instead.
    Rule(&'static str, &'static str),
}

#[cfg(feature = "planted")]
mod thread {
    use super::Mistake;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Plants a mistake in the NameNodes of this thread, in the place of any before it.
    pub fn plant(mistake: Option<Mistake>) {
        PLANTED.set(mistake);
    }

    pub(crate) fn planted() -> Option<Mistake> {
        PLANTED.get()
    }
}

#[cfg(feature = "planted")]
pub use thread::plant;
#[cfg(feature = "planted")]
pub(crate) use thread::planted;

/// What is planted: nothing, where nothing can be.
#[cfg(not(feature = "planted"))]
pub(crate) const fn planted() -> Option<Mistake> {
    None
}

/// Whether this mistake is to be made.
pub(crate) fn makes(mistake: Mistake) -> bool {
    planted() == Some(mistake)
}
