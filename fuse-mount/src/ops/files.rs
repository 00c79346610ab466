//! Requests on open files.

use crate::caller::trusted;
use crate::convert::Opened;
use crate::handles::OpenFile;
use crate::inodes::Version;
use crate::seek::{Seek, seek};
use crate::state::{State, failed, failed_inode};
use boomfs_client::{Answer, At, Attr, Caller, CreateFile, Error, FileWriter, Ino, Kind, ReadOp};
use bytes::Bytes;
use fuser::{Errno, FileAttr, FopenFlags};
use tokio::sync::OnceCell;

/// How much of a file one question for its blocks covers: 1,024 blocks of the usual size.
const SEEK_WINDOW: u64 = 64 << 30;

impl State {
    /// Opens a file; answers its handle and how the kernel is to open it.
    pub(crate) async fn open(&self, ino: Ino, opened: Opened) -> Result<(u64, FopenFlags), Errno> {
        let file = self.begin_open(ino, opened).await?;
        match self.finish_open(&file).await {
            Ok(flags) => Ok((self.files.add(file), flags)),
            Err(error) => {
                self.end_open(&file).await;
                Err(failed_inode("open", &error))
            }
        }
    }

    /// Counts the open first: from here on the inode outlives its last name.
    async fn begin_open(&self, ino: Ino, opened: Opened) -> Result<OpenFile, Errno> {
        self.client.note_open(ino);
        self.inodes.opening(ino);
        match self.client.open_read(ino).await {
            Ok(reader) => Ok(OpenFile {
                ino,
                opened,
                reader,
                writer: OnceCell::new(),
            }),
            Err(error) => {
                self.inodes.closed(ino, false);
                self.client.note_close(ino);
                Err(failed_inode("open", &error))
            }
        }
    }

    /// Close-to-open: what the file is now decides whether the kernel's pages and attributes are still right.
    async fn finish_open(&self, file: &OpenFile) -> Result<FopenFlags, Error> {
        let mut attr = if file.opened.truncate {
            let attr = self.cut_at_open(file).await;
            self.changed();
            attr?
        } else {
            self.client.getattr(&trusted(), file.ino).await?
        };
        self.lay_over(&mut attr);
        Ok(self.open_flags(file, &attr, file.opened.truncate))
    }

    async fn cut_at_open(&self, file: &OpenFile) -> Result<Attr, Error> {
        if file.opened.write {
            // It is cut under the lease, so that nobody's write lies between the cut and the first write.
            self.share_lease(file, false).await?;
        }
        self.set_size(&trusted(), file.ino, 0).await
    }

    fn open_flags(&self, file: &OpenFile, attr: &Attr, fresh: bool) -> FopenFlags {
        let advice = self.inodes.opened(file.ino, Version::of(attr), fresh);
        if advice.forget_attributes {
            self.notify.forget_attributes(file.ino);
        }
        let mut flags = FopenFlags::empty();
        flags.set(FopenFlags::FOPEN_KEEP_CACHE, advice.keep_cache);
        // Nothing is written through it, so a close has nothing to say.
        flags.set(FopenFlags::FOPEN_NOFLUSH, !file.opened.write);
        flags
    }

    /// Makes a file and opens it, with its lease when it is opened for writing: one command.
    pub(crate) async fn create(
        &self,
        caller: Caller,
        at: At,
        mode: u32,
        opened: Opened,
    ) -> Result<(FileAttr, u64, FopenFlags), Errno> {
        let what = CreateFile {
            exclusive: opened.exclusive,
            lease: opened.write,
            ..CreateFile::file(mode & 0o7777)
        };
        let made = self.client.create(&caller, &at, what).await;
        self.changed();
        let attr = made.map_err(|error| failed("create", &error))?;
        if attr.kind != Kind::File {
            // Another mount put something else there a moment ago: the kernel looks again.
            return Err(Errno::ESTALE);
        }
        let file = self.begin_open(attr.ino, opened).await?;
        match self.finish_create(&caller, &file, attr).await {
            Ok((attr, flags)) => {
                let shown = self.present(attr, true);
                Ok((shown, self.files.add(file), flags))
            }
            Err(error) => {
                self.end_open(&file).await;
                Err(failed("create", &error))
            }
        }
    }

    async fn finish_create(
        &self,
        caller: &Caller,
        file: &OpenFile,
        mut attr: Attr,
    ) -> Result<(Attr, FopenFlags), Error> {
        if file.opened.write {
            self.share_lease(file, false).await?;
        }
        // Without O_EXCL it may be a file that another mount made meanwhile.
        if file.opened.truncate && attr.size > 0 {
            attr = self.set_size(caller, file.ino, 0).await?;
        }
        let flags = self.open_flags(file, &attr, attr.size == 0);
        Ok((attr, flags))
    }

    /// The writer of a handle. The lease is taken at the first write, not at open: programs open much for
    /// writing that they only read, and a lease keeps other mounts out.
    async fn share_lease<'a>(
        &self,
        file: &'a OpenFile,
        ask: bool,
    ) -> Result<&'a FileWriter, Error> {
        file.writer
            .get_or_try_init(|| async {
                let shared = self.inodes.has_writer(file.ino);
                let writer = self.client.open_write(&trusted(), file.ino).await?;
                let mut found = None;
                if ask && !shared {
                    // Between open and now another mount may have written. Only the kernel's pages are at stake.
                    match self.client.getattr(&trusted(), file.ino).await {
                        Ok(attr) => found = Some(Version::of(&attr)),
                        Err(_) => self.inodes.doubt(file.ino),
                    }
                }
                if self.inodes.writer_opened(file.ino, found) {
                    self.notify.drop_pages(file.ino);
                }
                Ok(writer)
            })
            .await
    }

    pub(crate) async fn read(
        &self,
        file: &OpenFile,
        offset: u64,
        size: u32,
    ) -> Result<Bytes, Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        file.reader
            .read_at(offset, size)
            .await
            .map_err(|error| failed_inode("read", &error))
    }

    /// Writes. `flags`: as they are now, `fcntl` may have changed them. `from_pages`: written back from a mapping,
    /// so it goes where it belongs, even if the handle appends.
    pub(crate) async fn write(
        &self,
        file: &OpenFile,
        offset: u64,
        data: Bytes,
        flags: Opened,
        from_pages: bool,
    ) -> Result<u32, Errno> {
        let length = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        let fail = |error: Error| failed_inode("write", &error);
        let writer = self.share_lease(file, true).await.map_err(fail)?;
        if flags.append && !from_pages {
            let end = writer.append(data).await.map_err(fail)?;
            if end != offset {
                // The kernel put the bytes into its pages where it thought the end was.
                self.inodes.doubt(file.ino);
                self.notify.drop_pages(file.ino);
            }
        } else {
            writer.write_at(offset, data).await.map_err(fail)?;
        }
        if let Some(mtime_ns) = writer.mtime_ns() {
            self.inodes.wrote(
                file.ino,
                Version {
                    mtime_ns,
                    size: writer.size(),
                },
            );
        }
        if flags.sync || self.sync {
            writer.fsync().await.map_err(fail)?;
        }
        Ok(length)
    }

    /// A descriptor is closed: its bytes are in the memory of every replica, and the length is committed.
    pub(crate) async fn flush(&self, file: &OpenFile) -> Result<(), Errno> {
        let Some(writer) = file.writer.get() else {
            return Ok(());
        };
        let result = if self.sync {
            writer.fsync().await
        } else {
            writer.flush().await
        };
        self.changed();
        result.map_err(|error| failed_inode("close", &error))
    }

    /// The bytes of a file are on the disk of every replica, whoever of this mount wrote them.
    pub(crate) async fn fsync(&self, file: &OpenFile) -> Result<(), Errno> {
        let result = match file.writer.get() {
            Some(writer) => writer.fsync().await,
            None => self.client.sync_file(&trusted(), file.ino).await,
        };
        self.changed();
        result.map_err(|error| failed_inode("fsync", &error))
    }

    /// Preallocation: only the length is made, and only where it grows.
    pub(crate) async fn fallocate(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        if mode != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or(Errno::EFBIG)?;
        let fail = |error: Error| failed_inode("fallocate", &error);
        let writer = self.share_lease(file, true).await.map_err(fail)?;
        if end > writer.size() {
            writer.truncate(end).await.map_err(fail)?;
            self.changed();
        }
        Ok(())
    }

    /// `lseek` to data or a hole. A hole is a part without a block, or behind a block's end.
    pub(crate) async fn lseek(
        &self,
        file: &OpenFile,
        offset: i64,
        whence: i32,
    ) -> Result<i64, Errno> {
        let what = Seek::from_whence(whence).ok_or(Errno::EINVAL)?;
        let start = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let fail = |error: Error| failed_inode("lseek", &error);
        if let Some(writer) = self.client.writer(file.ino) {
            // The NameNode knows a block when its length is committed.
            writer.flush().await.map_err(fail)?;
        }
        let mut from = start;
        loop {
            let (size, until, found) = self
                .seek_in_window(file.ino, what, from)
                .await
                .map_err(fail)?;
            if from >= size {
                // Data runs to the end, and the end is a hole.
                let past = start >= size || what == Seek::Data;
                return if past {
                    Err(Errno::ENXIO)
                } else {
                    i64::try_from(size).map_err(|_| Errno::EOVERFLOW)
                };
            }
            if found < until {
                return i64::try_from(found).map_err(|_| Errno::EOVERFLOW);
            }
            from = until;
        }
    }

    /// Looks in one window: the file's size, the window's end, and what was found.
    async fn seek_in_window(
        &self,
        ino: Ino,
        what: Seek,
        from: u64,
    ) -> Result<(u64, u64, u64), Error> {
        let question = ReadOp::Locate {
            ino,
            offset: from,
            length: SEEK_WINDOW,
        };
        let answer = self.client.read(&trusted(), question).await?;
        let Answer::Blocks {
            size, mut blocks, ..
        } = answer
        else {
            return Err(Error::Protocol {
                what: format!("lseek in inode {ino}"),
                who: "the NameNode".into(),
                got: "something else than blocks".into(),
            });
        };
        blocks.sort_by_key(|block| block.offset);
        let until = from.saturating_add(SEEK_WINDOW).min(size);
        let data = blocks.iter().map(|block| (block.offset, block.length));
        Ok((size, until, seek(what, from, until, data)))
    }

    /// The last descriptor of a handle is closed, and its mappings are gone. Nobody hears of an error any more: what
    /// there was to say, [`State::flush`] said.
    pub(crate) async fn release(&self, number: u64) {
        if let Some(file) = self.files.remove(number) {
            self.end_open(&file).await;
        }
    }

    /// Takes back what an open took.
    pub(crate) async fn end_open(&self, file: &OpenFile) {
        let writer = file.writer.get();
        if let Some(writer) = writer {
            if let Err(error) = writer.close().await {
                failed("release", &error);
            }
            self.changed();
        }
        self.inodes.closed(file.ino, writer.is_some());
        self.client.note_close(file.ino);
    }
}
