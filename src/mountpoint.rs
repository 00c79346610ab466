//! Mount points and mount options, for `up` and `mount`.

use crate::failure::usage;
use anyhow::Context;
use boomfs_fuse_mount::Options;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `-o` takes.
const KNOWN: &str = "ro, rw, sync, async, dev, nodev, suid, nosuid, allow_other, noallow_other, attr_timeout=SECONDS, readahead_kb=N, threads=N, fsname=NAME";

/// How long a first look into a new mount may take.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Checks the mount point, clears a dead mount of before from it, and makes it where only its last
/// component is missing.
///
/// # Errors
/// What [`boomfs_fuse_mount::check_mountpoint`] gives.
pub fn prepare(path: &Path) -> anyhow::Result<PathBuf> {
    let missing =
        std::fs::symlink_metadata(path).is_err_and(|why| why.kind() == ErrorKind::NotFound);
    let has_parent = path
        .parent()
        .is_some_and(|parent| parent.as_os_str().is_empty() || parent.is_dir());
    if missing && has_parent {
        std::fs::create_dir(path)
            .with_context(|| format!("cannot make mount point {}", path.display()))?;
        eprintln!("boomfs: made mount point {}", path.display());
    }
    Ok(boomfs_fuse_mount::check_mountpoint(path)?)
}

/// Looks at the root of a new mount, through the kernel.
///
/// # Errors
/// It does not answer, or with an error.
pub async fn look(path: &Path) -> anyhow::Result<()> {
    let place = path.to_owned();
    // A thread of its own: a look that hangs is left behind.
    let looking = tokio::task::spawn_blocking(move || std::fs::read_dir(place).map(|_| ()));
    match tokio::time::timeout(FIRST_LOOK, looking).await {
        Ok(Ok(result)) => {
            result.with_context(|| format!("mounted {}, but cannot look into it", path.display()))
        }
        Ok(Err(why)) => Err(why).context("cannot look into the mount"),
        Err(_) => anyhow::bail!(
            "mounted {}, but it does not answer within {} s",
            path.display(),
            FIRST_LOOK.as_secs()
        ),
    }
}

/// Mount options from the words of `-o`, separated by commas.
///
/// # Errors
/// An unknown word, or one with a value that it does not take.
pub fn options(words: &[String]) -> anyhow::Result<Options> {
    let mut options = Options::default();
    for word in words
        .iter()
        .flat_map(|words| words.split(','))
        .filter(|word| !word.is_empty())
    {
        let (name, value) = word
            .split_once('=')
            .map_or((word, None), |(name, value)| (name, Some(value)));
        let wrong = || {
            usage(format!(
                "mount option {word} is not known; known are: {KNOWN}"
            ))
        };
        match (name, value) {
            ("ro", None) => options.read_only = true,
            ("rw", None) => options.read_only = false,
            ("sync", None) => options.sync = true,
            ("async", None) => options.sync = false,
            ("dev", None) => options.dev = true,
            ("nodev", None) => options.dev = false,
            ("suid", None) => options.suid = true,
            ("nosuid", None) => options.suid = false,
            ("allow_other", None) => options.allow_other = true,
            ("noallow_other", None) => options.allow_other = false,
            // What others take and what holds here anyway.
            ("defaults" | "noatime" | "relatime" | "exec" | "nofail" | "_netdev", None) => {}
            ("attr_timeout", Some(value)) => {
                let seconds: f64 = value.parse().map_err(|_| wrong())?;
                options.attr_timeout = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
            }
            ("readahead_kb", Some(value)) => {
                options.readahead_kb = value.parse().map_err(|_| wrong())?
            }
            ("threads", Some(value)) => {
                options.n_threads = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=64).contains(n))
                    .ok_or_else(wrong)?;
            }
            ("fsname", Some(value)) if !value.is_empty() => value.clone_into(&mut options.fs_name),
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_with_commas() {
        let options = options(&["ro,sync".into(), "attr_timeout=0.5,threads=3".into()]).unwrap();
        assert!(options.read_only && options.sync && options.allow_other);
        assert_eq!(options.attr_timeout, Duration::from_millis(500));
        assert_eq!(options.n_threads, 3);
    }

    #[test]
    fn unknown_options_are_named() {
        for wrong in [
            "fast",
            "ro=1",
            "threads=0",
            "threads=x",
            "attr_timeout=-1",
            "fsname=",
        ] {
            let error = options(&[wrong.into()]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("mount option {wrong} is not known")),
                "{error}"
            );
        }
    }
}
