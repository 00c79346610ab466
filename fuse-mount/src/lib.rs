//! The filesystem as the kernel sees it: boomfs through FUSE.
//!
//! [`Mount::new`] checks the mount point, mounts, and serves requests on several threads. A thread
//! only takes a request apart, copies what it needs and starts a task on the tokio runtime; the task
//! asks the client library and replies. So a request that waits (for a NameNode that fails over, for a
//! slow DataNode) holds up no other.
//!
//! What applications may rely on is written, promise by promise, in `docs/SEMANTICS.md`.
//!
//! **Invariant:** this crate decides nothing about the namespace and keeps no file bytes. It holds what
//! the kernel holds (inodes it knows, open files, open directories) and, per inode, which version of
//! the file the kernel's page cache may have.
//!
//! **Invariant:** nothing here waits for the kernel while the kernel may wait for it: pages are
//! invalidated only on a thread of their own (`notify`).

mod caller;
mod convert;
mod dirs;
mod error;
mod filesystem;
mod handles;
mod inodes;
mod mount;
mod mountinfo;
mod notify;
mod ops;
mod preflight;
mod seek;
mod state;

pub use error::Error;
pub use mount::{Mount, Options, unmount, unmount_lazy};
pub use preflight::check as check_mountpoint;
