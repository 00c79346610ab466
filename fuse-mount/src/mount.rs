//! Mounting and unmounting.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use crate::Error;
use crate::filesystem::Kernel;
use crate::mountinfo;
use crate::preflight::{self, FSTYPE, detach, is_root};
use crate::state::State;
use boomfs_client::Client;
use boomfs_io::watch;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long an unmount waits for requests that are still being served.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(40);
/// How long the end of a session waits for its own requests before it closes files under them.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// How long an unmount waits for a session that programs still use.
const DETACHED_DEADLINE: Duration = Duration::from_secs(1);

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that take requests from the kernel, at least 1.
    pub n_threads: usize,
    /// Source shown by `mount` and `df`.
    pub fs_name: String,
    /// Nothing can be changed through this mount.
    pub read_only: bool,
    /// Users other than the one who mounts may use it; permissions are checked by the kernel. As another user than
    /// root this needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Set-user-id and set-group-id bits work.
    pub suid: bool,
    /// Every write is on the disk of all replicas when it returns.
    pub sync: bool,
    /// How long the kernel may use names and attributes without asking again.
    pub attr_timeout: Duration,
    /// How far the kernel reads ahead, KiB; 0 leaves its default. Only as root.
    pub readahead_kb: u32,
    /// The runtime that serves requests; `None`: the current one.
    pub runtime: Option<Handle>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            n_threads: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
            fs_name: "boomfs".into(),
            read_only: false,
            allow_other: true,
            dev: false,
            suid: false,
            sync: false,
            attr_timeout: Duration::from_secs(1),
            readahead_kb: 4096,
            runtime: None,
        }
    }
}

/// A mounted filesystem. Dropping it unmounts.
pub struct Mount {
    state: Arc<State>,
    path: PathBuf,
    /// `major:minor`, by which it is told from what others mount at the same place.
    device: Option<String>,
    ended: watch::Receiver<bool>,
}

impl Mount {
    /// Checks the mount point, mounts and serves. The mount works when this returns, as far as the NameNode does.
    ///
    /// # Errors
    /// What [`crate::check_mountpoint`] gives; [`Error::Refused`] with what the kernel or `fusermount3` said;
    /// [`Error::NoRuntime`].
    pub fn new(client: Client, mountpoint: &Path, options: Options) -> Result<Mount, Error> {
        let runtime = match &options.runtime {
            Some(runtime) => runtime.clone(),
            None => {
                Handle::try_current().map_err(|_| Error::NoRuntime(mountpoint.to_path_buf()))?
            }
        };
        let path = preflight::check(mountpoint)?;
        let state = Arc::new(State::new(
            client,
            runtime,
            options.attr_timeout,
            options.sync,
        ));
        let kernel = Kernel {
            state: state.clone(),
        };
        let session = attach(kernel, &path, &options).map_err(|why| refused(&path, why))?;
        let entry = mountinfo::mounted_at(&path).ok().flatten();
        let device = entry.map(|entry| entry.device);
        if let Some(device) = &device {
            raise_readahead(device, options.readahead_kb);
        }
        let (sender, ended) = watch::channel(false);
        let mount = Mount {
            state,
            path,
            device,
            ended,
        };
        let started = mount
            .state
            .notify
            .connect(session.notifier())
            .and_then(|()| mount.watch_end(session, sender));
        started.map_err(|why| refused(&mount.path, why))?;
        Ok(mount)
    }

    /// Where it is mounted: the canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until it is unmounted, by [`Mount::unmount`] or by anyone else, and all that was open is closed.
    pub async fn wait(&self) {
        // An error is the end of the runtime, and so of the session.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Unmounts and waits until all that was written is flushed. A mount in use is taken out of the tree at
    /// once; what programs have open in it is flushed and closed.
    ///
    /// # Errors
    /// [`Error::Unmount`]; [`Error::Unfinished`] when requests do not end.
    pub async fn unmount(self) -> Result<(), Error> {
        let (path, device) = (self.path.clone(), self.device.clone());
        // The kernel writes mapped pages back first, which we must serve meanwhile.
        let outcome = tokio::task::spawn_blocking(move || leave(&path, device.as_deref())).await;
        let busy = match outcome {
            Ok(Ok(busy)) => busy,
            Ok(Err(why)) => {
                return Err(Error::Unmount {
                    path: self.path.clone(),
                    why,
                });
            }
            Err(why) => {
                return Err(Error::Unmount {
                    path: self.path.clone(),
                    why: io::Error::other(why),
                });
            }
        };
        let deadline = if busy {
            DETACHED_DEADLINE
        } else {
            UNMOUNT_DEADLINE
        };
        if tokio::time::timeout(deadline, self.wait()).await.is_ok() {
            return Ok(());
        }
        if busy {
            tracing::warn!(path = %self.path.display(), "unmounted while in use; open files are closed");
            if tokio::time::timeout(UNMOUNT_DEADLINE, close_all(&self.state))
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        let left = self.state.running.count();
        Err(Error::Unfinished {
            path: self.path.clone(),
            left,
            seconds: UNMOUNT_DEADLINE.as_secs(),
        })
    }

    /// Starts the thread that waits for the session's end and then closes what is still open. Requests to release
    /// files are lost when the kernel ends a connection.
    fn watch_end(&self, session: BackgroundSession, sender: watch::Sender<bool>) -> io::Result<()> {
        let state = self.state.clone();
        let path = self.path.clone();
        std::thread::Builder::new()
            .name("boomfs-mount".into())
            .spawn(move || {
                if let Err(error) = session.join() {
                    tracing::warn!(path = %path.display(), %error, "the mount ended with an error");
                }
                let runtime = state.runtime.clone();
                runtime.spawn(async move {
                    close_all(&state).await;
                    sender.set(true);
                });
            })?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.ended.get() {
            return;
        }
        let (path, device) = (self.path.clone(), self.device.clone());
        let leave = move || {
            if let Err(error) = leave(&path, device.as_deref()) {
                tracing::warn!(path = %path.display(), %error, "not unmounted");
            }
        };
        // Not here: this may be a thread of the runtime that serves what the unmount waits for.
        if let Err(error) = std::thread::Builder::new()
            .name("boomfs-umount".into())
            .spawn(leave)
        {
            tracing::warn!(path = %self.path.display(), %error, "not unmounted");
        }
    }
}

async fn close_all(state: &State) {
    if tokio::time::timeout(DRAIN_DEADLINE, state.running.none_left())
        .await
        .is_err()
    {
        tracing::warn!(
            left = state.running.count(),
            "requests are still running after the end of the mount"
        );
    }
    for file in state.files.drain() {
        state.end_open(&file).await;
    }
    state.dirs.drain();
}

/// Mounts. As root without a helper, so that the mount and its end are ours alone: fuser 0.18 unmounts the path
/// once more when a session has ended, whatever is mounted there by then.
fn attach(kernel: Kernel, path: &Path, options: &Options) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.n_threads = Some(options.n_threads.max(1));
    config.clone_fd = true;
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    if !is_root() {
        config.mount_options = helper_options(options);
        return Session::new(kernel, path, &config)?.spawn();
    }
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let data = kernel_options(
        device.as_raw_fd(),
        std::fs::metadata(path)?.mode(),
        options.allow_other,
    );
    let data = CString::new(data)?;
    rustix::mount::mount(
        options.fs_name.as_str(),
        path,
        FSTYPE,
        mount_flags(options),
        Some(data.as_c_str()),
    )?;
    let acl = config.acl;
    let session =
        Session::from_fd(kernel, OwnedFd::from(device), acl, config).and_then(Session::spawn);
    if session.is_err() {
        // Nobody serves it.
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
    }
    session
}

fn kernel_options(device: i32, mode: u32, allow_other: bool) -> String {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let others = if allow_other { ",allow_other" } else { "" };
    format!(
        "fd={device},rootmode={:o},user_id={uid},group_id={gid},default_permissions{others}",
        mode & 0o170_000
    )
}

fn mount_flags(options: &Options) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::SYNCHRONOUS, options.sync);
    flags
}

fn helper_options(options: &Options) -> Vec<MountOption> {
    let mut list = vec![
        MountOption::FSName(options.fs_name.clone()),
        MountOption::Subtype("boomfs".into()),
        MountOption::DefaultPermissions,
        if options.dev {
            MountOption::Dev
        } else {
            MountOption::NoDev
        },
        if options.suid {
            MountOption::Suid
        } else {
            MountOption::NoSuid
        },
        if options.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    if options.sync {
        list.push(MountOption::Sync);
    }
    list
}

fn refused(path: &Path, why: io::Error) -> Error {
    let hint = match why.kind() {
        io::ErrorKind::PermissionDenied if is_root() => {
            "root may not mount here; a container needs --cap-add SYS_ADMIN --device /dev/fuse, and AppArmor may forbid it"
        }
        io::ErrorKind::PermissionDenied => {
            "other users can be let in only with the line user_allow_other in /etc/fuse.conf; without it, mount without allow_other"
        }
        _ => "see the kernel's messages (dmesg) for more",
    };
    Error::Refused {
        path: path.to_path_buf(),
        why,
        hint,
    }
}

/// The kernel offers FUSE filesystems 128 KiB when they start; more can only be set from outside.
fn raise_readahead(device: &str, kb: u32) {
    if kb == 0 {
        return;
    }
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, kb.to_string()) {
        tracing::debug!(file, %error, "read-ahead stays as it is");
    }
}

/// Unmounts, lazily where it is in use; answers whether it was. Nothing to do where it is no longer mounted.
fn leave(path: &Path, device: Option<&str>) -> io::Result<bool> {
    if let (Some(device), Ok(entry)) = (device, mountinfo::mounted_at(path))
        && entry.is_none_or(|entry| entry.device != device)
    {
        return Ok(false);
    }
    match detach(path, UnmountFlags::empty()) {
        Ok(()) => Ok(false),
        Err(why) if is(&why, Errno::BUSY) => detach(path, UnmountFlags::DETACH).map(|()| true),
        Err(why) if is(&why, Errno::INVAL) => Ok(false),
        Err(why) => Err(why),
    }
}

fn is(error: &io::Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number.raw_os_error())
}

/// Unmounts a boomfs that any process mounted, also one whose process is gone.
///
/// # Errors
/// [`Error::NotMounted`], [`Error::NotOurs`], [`Error::InUse`], [`Error::Unmount`].
pub fn unmount(mountpoint: &Path) -> Result<(), Error> {
    unmount_with(mountpoint, UnmountFlags::empty())
}

/// As [`unmount`], but takes a mount in use out of the tree at once; it ends when nobody uses it.
///
/// # Errors
/// As [`unmount`], without [`Error::InUse`].
pub fn unmount_lazy(mountpoint: &Path) -> Result<(), Error> {
    unmount_with(mountpoint, UnmountFlags::DETACH)
}

fn unmount_with(mountpoint: &Path, flags: UnmountFlags) -> Result<(), Error> {
    let fail = |why| Error::Unmount {
        path: mountpoint.to_path_buf(),
        why,
    };
    let path = preflight::canonical_parent(mountpoint).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => Error::NotMounted(mountpoint.to_path_buf()),
        _ => fail(why),
    })?;
    let Some(entry) = mountinfo::mounted_at(&path).map_err(fail)? else {
        return Err(Error::NotMounted(mountpoint.to_path_buf()));
    };
    if entry.fstype != FSTYPE {
        return Err(Error::NotOurs {
            path: mountpoint.to_path_buf(),
            fstype: entry.fstype,
        });
    }
    match detach(&path, flags) {
        Err(why) if is(&why, Errno::BUSY) => Err(Error::InUse(mountpoint.to_path_buf())),
        result => result.map_err(fail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_who_mounts_and_who_checks() {
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        assert_eq!(
            kernel_options(7, 0o040_755, true),
            format!(
                "fd=7,rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other"
            )
        );
        assert!(!kernel_options(7, 0o040_755, false).contains("allow_other"));
    }

    #[test]
    fn devices_and_set_id_bits_are_off_unless_asked_for() {
        assert_eq!(
            mount_flags(&Options::default()),
            MountFlags::NODEV | MountFlags::NOSUID
        );
        let open = Options {
            dev: true,
            suid: true,
            read_only: true,
            sync: true,
            ..Options::default()
        };
        assert_eq!(
            mount_flags(&open),
            MountFlags::RDONLY | MountFlags::SYNCHRONOUS
        );
        assert!(helper_options(&open).contains(&MountOption::RO));
        assert!(helper_options(&Options::default()).contains(&MountOption::NoSuid));
    }

    #[test]
    fn only_a_boomfs_is_unmounted() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(unmount(folder.path()), Err(Error::NotMounted(_))));
        assert!(matches!(
            unmount(&folder.path().join("missing")),
            Err(Error::NotMounted(_))
        ));
        assert!(matches!(
            unmount(Path::new("/proc")),
            Err(Error::NotOurs { .. })
        ));
    }
}
