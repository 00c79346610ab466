//! Overlog queries: once, or as a subscription.

use crate::link::Asking;
use crate::{Error, errno};
use boomfs_wire::Failure;
use tokio::sync::mpsc;

/// The rows of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One JSON array a row.
    pub rows: Vec<String>,
    /// The run of the rules after which this held.
    pub run: u64,
}

/// A change of a watched query's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Rows that came, one JSON array each.
    pub added: Vec<String>,
    /// Rows that went.
    pub removed: Vec<String>,
    /// The run of the rules after which this holds.
    pub run: u64,
    /// True for the first change, and for the first after a reconnect: forget all rows of before, `added` is where it
    /// starts again.
    pub restarted: bool,
    /// Names of the columns.
    pub columns: Vec<String>,
}

/// What the link tells a [`Watch`].
#[derive(Debug)]
pub(crate) enum Told {
    Change(Change),
    Ended(Option<Failure>),
}

/// A query that stays. Dropping it ends it.
pub struct Watch {
    told: mpsc::Receiver<Told>,
    failure: Option<Error>,
    /// Takes the query back when the watch is dropped.
    _asking: Asking,
}

impl Watch {
    pub(crate) fn new(told: mpsc::Receiver<Told>, asking: Asking) -> Watch {
        Watch {
            told,
            failure: None,
            _asking: asking,
        }
    }

    /// Waits for the next change, without a deadline; the first holds all rows. `None`: the query has ended, and
    /// [`Watch::failure`] says why.
    pub async fn next(&mut self) -> Option<Change> {
        if self.failure.is_some() {
            return None;
        }
        match self.told.recv().await {
            Some(Told::Change(change)) => Some(change),
            Some(Told::Ended(failure)) => {
                self.failure = failure.map(Error::from);
                self.told.close();
                None
            }
            None => {
                self.failure = Some(Error::Data {
                    errno: errno::ENOBUFS,
                    what: "watched query".to_owned(),
                    why: "it was ended, for its changes came faster than they were taken, or the client was closed; \
                          ask again"
                        .to_owned(),
                });
                None
            }
        }
    }

    /// Why the query ended, when it did not end by itself.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}
