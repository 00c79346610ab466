//! The requests of the kernel: each is taken apart, and answered by a task.

use crate::caller;
use crate::convert::{self, Opened};
use crate::dirs::OpenDir;
use crate::handles::OpenFile;
use crate::ops::Row;
use crate::state::{State, name_at};
use boomfs_client::{Ino, SetAttr};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The most that one write request carries, bytes: what the kernel sends at most, too.
const MAX_WRITE: u32 = 1 << 20;
/// Read-ahead and other requests in the background.
const MAX_BACKGROUND: u16 = 64;
/// Inode numbers are never used again, so one generation does.
const GENERATION: Generation = Generation(0);

/// What is wanted of the kernel. Left out on purpose: the writeback cache (it would own size and times), AUTO_INVAL_DATA
/// (it drops the pages that this mount itself wrote; versions are compared at open instead), POSIX_LOCKS and
/// FLOCK_LOCKS (locks stay local), DONT_MASK (the kernel applies the umask, as it does for ext4 without default
/// ACLs), POSIX_ACL, and HANDLE_KILLPRIV (the kernel takes set-id bits off itself).
const WANTED: [InitFlags; 6] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// The filesystem that fuser serves.
pub(crate) struct Kernel {
    pub state: Arc<State>,
}

impl Kernel {
    fn serve<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        let serving = self.state.running.enter();
        self.state.runtime.spawn(async move {
            work.await;
            drop(serving);
        });
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<OpenFile>, Errno> {
        self.state.files.get(handle.0).ok_or(Errno::EBADF)
    }
}

/// Answers with an error and leaves the handler.
macro_rules! or_reply {
    ($value:expr, $reply:expr) => {
        match $value {
            Ok(value) => value,
            Err(error) => return $reply.error(error),
        }
    };
}

/// Starts a task that calls a method of the state and answers with what it gives.
macro_rules! answer {
    ($self:ident, $reply:ident, |$state:ident| $call:expr, $value:pat => $done:expr) => {{
        let $state = $self.state.clone();
        $self.serve(async move {
            match $call.await {
                Ok($value) => $done,
                Err(error) => $reply.error(error),
            }
        });
    }};
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            // An older kernel works without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        answer!(self, reply, |state| state.lookup(at), attr => reply.entry(&state.ttl, &attr, GENERATION));
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.state.inodes.forget(ino(number), lookups);
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        answer!(self, reply, |state| state.getattr(ino(number)), attr => reply.attr(&state.ttl, &attr));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller::of(request);
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let by_handle =
            handle.is_some_and(|handle| self.file(handle).is_ok_and(|file| file.opened.write));
        answer!(self, reply, |state| state.setattr(caller, ino(number), change, by_handle),
            attr => reply.attr(&state.ttl, &attr));
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        answer!(self, reply, |state| state.readlink(ino(number)), target => reply.data(target.as_bytes()));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let kind = or_reply!(convert::mknod_kind(mode).ok_or(Errno::EINVAL), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.mknod(caller, at, kind, mode, rdev),
            attr => reply.entry(&state.ttl, &attr, GENERATION));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.mkdir(caller, at, mode),
            attr => reply.entry(&state.ttl, &attr, GENERATION));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.unlink(caller, at), () => reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.rmdir(caller, at), () => reply.ok());
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        let target = target.as_os_str().as_bytes().to_vec();
        answer!(self, reply, |state| state.symlink(caller, at, target),
            attr => reply.entry(&state.ttl, &attr, GENERATION));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = or_reply!(convert::rename_flags(flags).ok_or(Errno::EINVAL), reply);
        let from = or_reply!(name_at(ino(parent), name), reply);
        let to = or_reply!(name_at(ino(new_parent), new_name), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.rename(caller, from, to, how), () => reply.ok());
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        answer!(self, reply, |state| state.link(caller, ino(number), at),
            attr => reply.entry(&state.ttl, &attr, GENERATION));
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(self, reply, |state| state.open(ino(number), Opened::new(flags)),
            (handle, flags) => reply.opened(FileHandle(handle), flags));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let at = or_reply!(name_at(ino(parent), name), reply);
        let caller = caller::of(request);
        let opened = Opened::new(OpenFlags(flags));
        answer!(self, reply, |state| state.create(caller, at, mode, opened),
            (attr, handle, flags) => reply.created(&state.ttl, &attr, GENERATION, FileHandle(handle), flags));
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = or_reply!(self.file(handle), reply);
        answer!(self, reply, |state| state.read(&file, offset, size), data => reply.data(&data));
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = or_reply!(self.file(handle), reply);
        let data = Bytes::copy_from_slice(data);
        let from_pages = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        answer!(self, reply, |state| state.write(&file, offset, data, Opened::new(flags), from_pages),
            written => reply.written(written));
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let file = or_reply!(self.file(handle), reply);
        answer!(self, reply, |state| state.flush(&file), () => reply.ok());
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let file = or_reply!(self.file(handle), reply);
        answer!(self, reply, |state| state.fsync(&file), () => reply.ok());
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let state = self.state.clone();
        self.serve(async move {
            state.release(handle.0).await;
            reply.ok();
        });
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.state.dirs.add(OpenDir::new(ino(number)));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let dir = or_reply!(self.state.dirs.get(handle.0).ok_or(Errno::EBADF), reply);
        answer!(self, reply, |state| state.list(&dir, offset, false), rows => {
            let full = |row: &Row| reply.add(INodeNo(row.attr.ino.0), row.offset, row.file_type(), &row.name);
            let _ = rows.iter().any(full);
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let dir = or_reply!(self.state.dirs.get(handle.0).ok_or(Errno::EBADF), reply);
        answer!(self, reply, |state| state.list(&dir, offset, true), rows => {
            for row in &rows {
                let attr = state.present_row(row);
                if reply.add(attr.ino, row.offset, &row.name, &state.ttl, &attr, GENERATION) {
                    state.take_back_row(row);
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.state.dirs.remove(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are in the NameNode's log, on its disk, before the change is answered.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        use crate::ops::Space;
        answer!(self, reply, |state| state.statfs(), space => {
            let name_max = u32::try_from(convert::NAME_MAX).unwrap_or(u32::MAX);
            reply.statfs(space.blocks, space.free, space.free, space.files, space.files_free, MAX_WRITE, name_max, Space::UNIT);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = or_reply!(self.file(handle), reply);
        answer!(self, reply, |state| state.fallocate(&file, offset, length, mode), () => reply.ok());
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let file = or_reply!(self.file(handle), reply);
        answer!(self, reply, |state| state.lseek(&file, offset, whence), at => reply.offset(at));
    }

    // Not served. ENOSYS makes the kernel answer EOPNOTSUPP itself and never ask again, which is what is wanted:
    // it would ask for security.capability before every write, and try to copy here before it copies itself.

    fn setxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _number: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        _from_handle: FileHandle,
        _from_offset: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // What ioctl says of a command that a file does not know.
        reply.error(Errno::ENOTTY);
    }
}
