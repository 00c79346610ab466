//! Requests that list directories.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

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
        Row {
            name: name.into(),
            offset,
            attr: bare_dir(ino),
            dot: true,
        }
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

/// `.` and `..`, as far as the position is not behind them.
fn dots(ino: Ino, parent: Ino, position: Position) -> Vec<Row> {
    let parent = if parent == Ino::default() {
        ino
    } else {
        parent
    };
    let mut rows = vec![Row::dot(".", 1, ino), Row::dot("..", 2, parent)];
    match position {
        Position::Start => {}
        Position::Parent => drop(rows.remove(0)),
        Position::After(_) => rows.clear(),
    }
    rows
}

impl State {
    /// Rows from a position on, none at the end. `attributes`: they are wanted, and as new as this mount's last change.
    pub(crate) async fn list(
        &self,
        dir: &OpenDir,
        offset: u64,
        attributes: bool,
    ) -> Result<Vec<Row>, Errno> {
        let position = Position::from_offset(offset);
        let cookie = position.cookie();
        let mut page = dir.page.lock().await;
        let mut tries = 0;
        let start_over = position == Position::Start;
        loop {
            // The last page asked for is served, however much this mount is changing meanwhile.
            let changes = (attributes && tries < TRIES).then(|| self.changes());
            let have = if start_over && tries == 0 {
                None
            } else {
                page.after(cookie, changes, Instant::now())
            };
            if let Some(entries) = have {
                let entries = entries.iter().take(ROWS).map(Row::entry);
                return Ok(dots(dir.ino, page.parent, position)
                    .into_iter()
                    .chain(entries)
                    .collect());
            }
            if tries > TRIES {
                // A page that was asked for this moment is always of use, unless the clock stands wrong.
                return Err(Errno::EIO);
            }
            tries += 1;
            self.fetch(dir, &mut page, cookie, start_over).await?;
        }
    }

    async fn fetch(
        &self,
        dir: &OpenDir,
        page: &mut crate::dirs::Page,
        cookie: u64,
        from_start: bool,
    ) -> Result<(), Errno> {
        let changes = self.changes();
        let limit = page.next_limit(from_start);
        match self
            .client
            .readdir(&trusted(), dir.ino, cookie, limit)
            .await
        {
            Ok((parent, entries, end)) => {
                page.fill(cookie, parent, entries, end, changes, Instant::now())
            }
            // Removed while it is open: it has no entries.
            Err(error) if error.errno() == Number::NOENT.raw_os_error() => {
                page.fill(cookie, dir.ino, Vec::new(), true, changes, Instant::now());
            }
            Err(error) => return Err(failed_inode("readdir", &error)),
        }
        Ok(())
    }

    /// The attributes of a row; the kernel gets a reference with all but the dots.
    pub(crate) fn present_row(&self, row: &Row) -> FileAttr {
        if row.dot {
            file_attr(&row.attr)
        } else {
            self.present(row.attr.clone(), true)
        }
    }

    /// The row did not fit: no reference went out.
    pub(crate) fn take_back_row(&self, row: &Row) {
        if !row.dot {
            self.inodes.forget(row.attr.ino, 1);
        }
    }
}
