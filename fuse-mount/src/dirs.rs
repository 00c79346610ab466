//! Listing directories.
//!
//! A position in a listing is 0 at the start, 1 behind `.`, 2 behind `..`, and 2 + c behind the entry whose cookie in
//! the NameNode is c. Cookies are stable, so a listing that goes on after changes shows every entry that was there
//! all the time exactly once.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use boomfs_client::{Entry, Ino};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// `.` and `..` come before the NameNode's entries.
const DOTS: u64 = 2;
/// Entries of the first question; each that follows asks for four times as many.
const FIRST_PAGE: u32 = 128;
/// The most that one question may ask for.
const LARGEST_PAGE: u32 = 1024;
/// Rows prepared for one reply of the kernel's; more do not fit the usual buffer.
pub(crate) const ROWS: usize = 256;
/// How long the rest of a page may be used.
const PAGE_AGE: Duration = Duration::from_secs(1);

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// At `.`.
    Start,
    /// At `..`.
    Parent,
    /// After the entry with this cookie; 0: at the first.
    After(u64),
}

impl Position {
    pub(crate) fn from_offset(offset: u64) -> Position {
        match offset {
            0 => Position::Start,
            1 => Position::Parent,
            _ => Position::After(offset - DOTS),
        }
    }

    /// The cookie after which the NameNode's entries are wanted.
    pub(crate) fn cookie(self) -> u64 {
        match self {
            Position::Start | Position::Parent => 0,
            Position::After(cookie) => cookie,
        }
    }
}

/// The position behind an entry. The kernel takes offsets as signed.
pub(crate) fn offset_behind(cookie: u64) -> u64 {
    cookie.saturating_add(DOTS).min(i64::MAX as u64)
}

/// One open of a directory.
pub(crate) struct OpenDir {
    pub ino: Ino,
    pub page: Mutex<Page>,
}

impl OpenDir {
    pub(crate) fn new(ino: Ino) -> OpenDir {
        OpenDir {
            ino,
            page: Mutex::new(Page::default()),
        }
    }
}

/// Entries that were asked for ahead: the kernel takes some 25 at a time.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The entries follow this cookie.
    after: u64,
    entries: Vec<Entry>,
    /// None follow them.
    end: bool,
    /// The directory's parent.
    pub parent: Ino,
    /// The mount's count of changes before the entries were asked for.
    changes: u64,
    fetched: Option<Instant>,
    /// Entries to ask for next.
    limit: u32,
}

impl Page {
    /// What follows a cookie; `None` when it is not here. `changes`: where attributes are wanted, the page must not
    /// be older than the mount's last change.
    pub(crate) fn after(
        &self,
        cookie: u64,
        changes: Option<u64>,
        now: Instant,
    ) -> Option<&[Entry]> {
        let age = now.saturating_duration_since(self.fetched?);
        if age > PAGE_AGE
            || cookie < self.after
            || changes.is_some_and(|changes| changes != self.changes)
        {
            return None;
        }
        let from = self.entries.partition_point(|entry| entry.cookie <= cookie);
        let rest = self.entries.get(from..)?;
        (self.end || !rest.is_empty()).then_some(rest)
    }

    /// How many entries to ask for: few at first, since many listings are short or stop early.
    pub(crate) fn next_limit(&mut self, from_start: bool) -> u32 {
        let limit = if from_start {
            FIRST_PAGE
        } else {
            self.limit.clamp(FIRST_PAGE, LARGEST_PAGE)
        };
        self.limit = limit.saturating_mul(4).min(LARGEST_PAGE);
        limit
    }

    /// Puts in an answer of the NameNode.
    pub(crate) fn fill(
        &mut self,
        after: u64,
        parent: Ino,
        entries: Vec<Entry>,
        end: bool,
        changes: u64,
        now: Instant,
    ) {
        self.after = after;
        self.parent = parent;
        self.end = end || entries.is_empty();
        self.entries = entries;
        self.changes = changes;
        self.fetched = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boomfs_client::{Attr, Kind};

    fn entry(cookie: u64) -> Entry {
        let attr = Attr {
            ino: Ino(cookie + 100),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            allocated: 0,
            nlink: 1,
            rdev: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            crtime_ns: 0,
            block_size: 0,
            replication: 0,
        };
        Entry {
            cookie,
            name: b"x".to_vec(),
            attr,
        }
    }

    fn cookies(entries: Option<&[Entry]>) -> Option<Vec<u64>> {
        entries.map(|entries| entries.iter().map(|entry| entry.cookie).collect())
    }

    #[test]
    fn positions_leave_room_for_the_dots() {
        assert_eq!(Position::from_offset(0), Position::Start);
        assert_eq!(Position::from_offset(1), Position::Parent);
        assert_eq!(Position::from_offset(2), Position::After(0));
        assert_eq!(Position::from_offset(offset_behind(7)), Position::After(7));
        assert_eq!(Position::from_offset(1).cookie(), 0);
        assert_eq!(offset_behind(u64::MAX), i64::MAX as u64);
    }

    #[test]
    fn a_page_serves_what_it_has() {
        let now = Instant::now();
        let mut page = Page::default();
        assert_eq!(page.after(0, None, now), None);
        page.fill(
            10,
            Ino(1),
            vec![entry(11), entry(15), entry(20)],
            false,
            5,
            now,
        );
        assert_eq!(
            cookies(page.after(10, Some(5), now)),
            Some(vec![11, 15, 20])
        );
        assert_eq!(cookies(page.after(11, Some(5), now)), Some(vec![15, 20]));
        assert_eq!(cookies(page.after(13, None, now)), Some(vec![15, 20]));
        assert_eq!(cookies(page.after(20, None, now)), None, "more follow: ask");
        assert_eq!(cookies(page.after(9, None, now)), None, "before it: ask");
        assert_eq!(
            cookies(page.after(10, Some(6), now)),
            None,
            "changed since: ask"
        );
        assert_eq!(
            cookies(page.after(10, None, now + PAGE_AGE * 2)),
            None,
            "old: ask"
        );
        page.fill(20, Ino(1), vec![], true, 5, now);
        assert_eq!(cookies(page.after(20, None, now)), Some(vec![]));
    }

    #[test]
    fn pages_grow() {
        let mut page = Page::default();
        assert_eq!(page.next_limit(true), 128);
        assert_eq!(page.next_limit(false), 512);
        assert_eq!(page.next_limit(false), 1024);
        assert_eq!(page.next_limit(false), 1024);
        assert_eq!(page.next_limit(true), 128);
    }
}
