//! `boomfs umount`: unmounts, also what a process that is gone left behind.

use boomfs_fuse_mount::{unmount, unmount_lazy};
use rustix::io::Errno;
use std::path::PathBuf;

/// Arguments of `boomfs umount`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Take it out of the tree at once, even if programs use it
    #[arg(short, long)]
    lazy: bool,
}

/// Unmounts.
///
/// # Errors
/// Nothing of ours is mounted there, it is in use, or the kernel refuses.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // Programs that still use a mount whose process is gone get nothing from it: nobody is harmed.
    let dead = matches!(
        rustix::fs::statfs(&args.dir),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    );
    if args.lazy || dead {
        unmount_lazy(&args.dir)?
    } else {
        unmount(&args.dir)?
    }
    Ok(())
}
