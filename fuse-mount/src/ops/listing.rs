//! Requests that list directories.

use crate::caller::trusted;
use crate::convert::{file_attr, file_type};
use crate::dirs::{OpenDir, Position, ROWS, offset_behind};
use crate::state::{State, failed_inode};
use boomfs_client::{Attr, Entry, Ino, Kind};
use fuser::{Errno, FileAttr, FileType};
use rustix::io::Errno as Number;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Instant;

/// How often a page is asked for again because this mount changed something meanwhile.
const TRIES: usize = 4;

/// One row of a listing.
pub(crate) struct Row {
    pub name: OsString,
    /// Position behind it.
    pub offset: u64,
    pub attr: Attr,
    /// `.` or `..`: the kernel takes no reference to its inode.
    pub dot: bool,
}

impl Row {
    fn dot(name: &str, offset: u64, ino: Ino) -> Row {
        Row { name: name.into(), offset, attr: bare_dir(ino), dot: true }
    }

    fn entry(entry: &Entry) -> Row {
        Row {
            name: OsString::from_vec(entry.name.clone()),
            offset: offset_behind(entry.cookie),
            attr: entry.attr.clone(),
            dot: false,
        }
    }

    pub(crate) fn file_type(&self) -> FileType {
        file_type(self.attr.kind)
    }
}

/// Enough for the kernel, which reads only number and type of `.` and `..`.
fn bare_dir(ino: Ino) -> Attr {
    Attr {
        ino,
        kind: Kind::Dir,
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
    }
}

impl State {
    /// Rows from a position on, none at the end. `attributes`: they are wanted, and as new as this mount's last change.
    pub(crate) async fn list(&self, dir: &OpenDir, offset: u64, attributes: bool) -> Result<Vec<Row>, Errno> {
        let position = Position::from_offset(offset);
        let cookie = position.cookie();
        let mut page = dir.page.lock().await;
        let mut rows = Vec::new();
        let mut fetched = position == Position::Start && self.fetch(dir, &mut page, 0, true).await?;
        for _ in 0..TRIES {
            let changes = (attributes).then(|| self.changes());
            if page.after(cookie, changes, Instant::now()).is_some() {
                break;
            }
            fetched = self.fetch(dir, &mut page, cookie, false).await?;
        }
        if position == Position::Start {
            rows.push(Row::dot(".", 1, dir.ino));
        }
        if matches!(position, Position::Start | Position::Parent) {
            let parent = if page.parent == Ino::default() { dir.ino } else { page.parent };
            rows.push(Row::dot("..", 2, parent));
        }
        // A page that was asked for just now is served, however much is changing.
        let changes = (attributes && !fetched).then(|| self.changes());
        let entries = page.after(cookie, changes, Instant::now()).unwrap_or_default();
        rows.extend(entries.iter().take(ROWS).map(Row::entry));
        Ok(rows)
    }

    async fn fetch(
        &self,
        dir: &OpenDir,
        page: &mut crate::dirs::Page,
        cookie: u64,
        from_start: bool,
    ) -> Result<bool, Errno> {
        let changes = self.changes();
        let limit = page.next_limit(from_start);
        match self.client.readdir(&trusted(), dir.ino, cookie, limit).await {
            Ok((parent, entries, end)) => page.fill(cookie, parent, entries, end, changes, Instant::now()),
            // Removed while it is open: it has no entries.
            Err(error) if error.errno() == Number::NOENT.raw_os_error() => {
                page.fill(cookie, dir.ino, Vec::new(), true, changes, Instant::now());
            }
            Err(error) => return Err(failed_inode("readdir", &error)),
        }
        Ok(true)
    }

    /// The attributes of a row; the kernel gets a reference with all but the dots.
    pub(crate) fn present_row(&self, row: &Row) -> FileAttr {
        if row.dot { file_attr(&row.attr) } else { self.present(row.attr.clone(), true) }
    }

    /// The row did not fit: no reference went out.
    pub(crate) fn take_back_row(&self, row: &Row) {
        if !row.dot {
            self.inodes.forget(row.attr.ino, 1);
        }
    }
}
