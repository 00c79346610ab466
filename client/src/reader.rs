//! Reading a file.

use crate::client::Inner;
use crate::fetch::Fetch;
use crate::layout::{Layout, read_end};
use crate::pool::nanos;
use crate::retry::Deadline;
use crate::{Error, describe, limits};
use boomfs_io::watch;
use boomfs_wire::Ino;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reads one file. Clones share readahead. When this client also has the file open for writing,
/// reads see what its writer has not yet sent.
#[derive(Clone)]
pub struct FileReader {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<Inner>,
    ino: Ino,
    layout: Arc<Layout>,
    /// Orders the replicas for this reader.
    seed: u64,
    ahead: Mutex<Ahead>,
}

type Fetched = Option<Result<Bytes, Error>>;

/// A step of readahead, on its way or there.
struct Window {
    asked_ns: u64,
    fetched: watch::Receiver<Fetched>,
}

#[derive(Default)]
struct Ahead {
    /// Of the layout when the windows were asked for.
    version: u64,
    windows: BTreeMap<u64, Window>,
    /// Where a sequential reader comes next.
    next: u64,
    /// How many reads followed one another.
    run: u64,
}

impl FileReader {
    pub(crate) fn new(inner: &Arc<Inner>, ino: Ino) -> FileReader {
        let shared = Shared {
            inner: Arc::clone(inner),
            ino,
            layout: inner.files.layout(ino),
            seed: inner.io.random_u64(),
            ahead: Mutex::default(),
        };
        FileReader {
            shared: Arc::new(shared),
        }
    }

    /// The file.
    pub fn ino(&self) -> Ino {
        self.shared.ino
    }

    /// Reads at most `len` bytes from `offset`; fewer only at the end of the file. Holes, and the file behind a
    /// block's end, are zeros.
    ///
    /// # Errors
    /// EIO when no replica has right bytes, ETIMEDOUT when those that may have them do not answer within the
    /// deadline, ENOENT or ESTALE when the file is gone, EINVAL beyond the largest file size.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let shared = &self.shared;
        let end = read_end(shared.ino, offset, len)?;
        if let Some((_, writer)) = shared.inner.files.writer(shared.ino) {
            return writer.read(offset, len, shared.seed).await;
        }
        if shared.is_sequential(offset, end) {
            shared.through_windows(offset..end).await
        } else {
            shared.fetch(offset..end).await
        }
    }
}

impl Shared {
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let inner = &self.inner;
        let deadline = Deadline::after(&inner.io, inner.config.deadline);
        let fetch = Fetch {
            io: &inner.io,
            link: &inner.link,
            pool: &inner.pool,
            seed: self.seed,
            deadline,
        };
        let what = describe::Subject::ino("read", self.ino).to_string();
        fetch.range(&self.layout, &what, range, None).await
    }

    /// Takes note of a read. Those of one sequential reader may overtake each other by some steps.
    fn is_sequential(&self, offset: u64, end: u64) -> bool {
        let version = self.layout.version();
        let now_ns = self.inner.io.mono_ns();
        let mut ahead = self.ahead();
        if ahead.version != version {
            ahead.windows.clear();
            ahead.version = version;
        }
        let oldest_ns = now_ns.saturating_sub(nanos(limits::LAYOUT_AGE));
        ahead
            .windows
            .retain(|_, window| window.asked_ns >= oldest_ns);
        let near =
            ahead.next.saturating_sub(limits::WINDOW)..=ahead.next.saturating_add(limits::WINDOW);
        if near.contains(&offset) && ahead.next > 0 {
            ahead.run += 1;
            ahead.next = ahead.next.max(end);
        } else {
            ahead.run = 0;
            ahead.next = end;
        }
        ahead.run >= 2
    }

    /// Reads through windows, and asks for those that come next.
    async fn through_windows(self: &Arc<Shared>, range: Range<u64>) -> Result<Bytes, Error> {
        let first = range.start - range.start % limits::WINDOW;
        let mut windows = Vec::new();
        {
            let mut ahead = self.ahead();
            // The span ahead grows with the run, so that a short one costs little.
            let steps = (ahead.run / 2).clamp(1, limits::WINDOWS_AHEAD);
            let mut start = first;
            let mut behind = 0;
            while behind <= steps {
                let wanted = start < range.end;
                if wanted || ahead.run > 2 {
                    let fetched = self.window(&mut ahead, start);
                    if wanted {
                        windows.push((start, fetched));
                    }
                }
                behind += u64::from(!wanted);
                start = start.saturating_add(limits::WINDOW);
                if start >= limits::FILE_SIZE {
                    break;
                }
            }
            while ahead.windows.len() > limits::WINDOWS_KEPT {
                ahead.windows.pop_first();
            }
        }
        let mut gathered = BytesMut::new();
        for (start, mut fetched) in windows {
            let wanted =
                range.start.max(start)..range.end.min(start.saturating_add(limits::WINDOW));
            let len = wanted.end - wanted.start;
            let window = match fetched.wait_for(Option::is_some).await {
                Ok(Some(Ok(window))) => window,
                // A failure ahead is that of another moment: this read has its own deadline.
                _ => Bytes::new(),
            };
            let here = |at: u64| {
                usize::try_from(at - start)
                    .unwrap_or(usize::MAX)
                    .min(window.len())
            };
            let mut part = window.slice(here(wanted.start)..here(wanted.end));
            if (part.len() as u64) < len {
                // The file's end as it was then, or a failure: look again.
                part = self.fetch(wanted).await?;
            }
            let short = (part.len() as u64) < len;
            if part.len() as u64 == range.end - range.start {
                return Ok(part);
            }
            gathered.extend_from_slice(&part);
            if short {
                break;
            }
        }
        Ok(gathered.freeze())
    }

    /// The window at `start`, asked for when it is missing.
    fn window(self: &Arc<Shared>, ahead: &mut Ahead, start: u64) -> watch::Receiver<Fetched> {
        if let Some(window) = ahead.windows.get(&start) {
            return window.fetched.clone();
        }
        let (tell, fetched) = watch::channel(None);
        let shared = Arc::clone(self);
        let end = start.saturating_add(limits::WINDOW).min(limits::FILE_SIZE);
        tokio::spawn(async move {
            let result = shared.fetch(start..end).await;
            tell.set(Some(result));
        });
        let window = Window {
            asked_ns: self.inner.io.mono_ns(),
            fetched: fetched.clone(),
        };
        ahead.windows.insert(start, window);
        fetched
    }
}
