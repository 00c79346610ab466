//! Whether tests can mount here.

use anyhow::{Result, bail};
use std::fs::OpenOptions;

/// Whether a test can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// It can mount.
    Works,
    /// It is to pass without doing anything.
    Skip,
}

/// What a test that mounts needs. With `BOOMFS_SKIP_FUSE=1` such tests are skipped.
///
/// # Errors
/// A hint, where it is missing and nobody asked to skip.
pub fn fuse() -> Result<Fuse> {
    if std::env::var_os("BOOMFS_SKIP_FUSE").is_some_and(|value| value == "1") {
        eprintln!("skipped: BOOMFS_SKIP_FUSE=1");
        return Ok(Fuse::Skip);
    }
    let hint = "tests that mount need root and /dev/fuse (in a container: --device /dev/fuse --cap-add SYS_ADMIN); \
                set BOOMFS_SKIP_FUSE=1 to leave them out";
    if !rustix::process::geteuid().is_root() {
        bail!("not root; {hint}");
    }
    if let Err(why) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        bail!("/dev/fuse: {why}; {hint}");
    }
    Ok(Fuse::Works)
}
