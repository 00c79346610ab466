//! What is mounted where: `/proc/self/mountinfo`.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount, as far as it is of interest here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `major:minor` of the filesystem's device number.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its type, with a subtype as in `fuse.boomfs`.
    pub fstype: String,
    /// What is mounted.
    pub source: String,
}

/// The topmost mount at exactly this path, which must be canonical.
pub(crate) fn mounted_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(topmost(&text, path))
}

/// As [`mounted_at`], from the text of the file. Later lines lie over earlier ones.
fn topmost(text: &[u8], path: &Path) -> Option<MountEntry> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .rfind(|entry| entry.mountpoint == path)
}

/// One line: `id parent major:minor root mountpoint options [optional..] - fstype source options`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    fields.find(|field| *field == b"-")?;
    let fstype = fields.next()?;
    let source = fields.next()?;
    Some(MountEntry {
        device: String::from_utf8_lossy(device).into_owned(),
        mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
        fstype: String::from_utf8_lossy(&unescape(fstype)).into_owned(),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some((byte, after))) => {
                out.push(byte);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Three octal digits at the start and what follows them.
fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = text.split_at_checked(3)?;
    let mut value = 0u32;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value * 8 + u32::from(digit - b'0');
    }
    Some((u8::try_from(value).ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:51 / /mnt/with\\040space\\134and\\011tab rw,nosuid shared:7 master:2 - fuse.boomfs a\\040b rw,user_id=0\n\
        41 22 0:52 / /mnt/x rw - tmpfs none rw\n\
        42 22 0:53 / /mnt/x rw,nodev - fuse.boomfs boomfs rw\n";

    #[test]
    fn finds_a_mount_with_escapes_and_optional_fields() {
        let found = topmost(TEXT, Path::new("/mnt/with space\\and\ttab"));
        assert_eq!(
            found,
            Some(MountEntry {
                device: "0:51".into(),
                mountpoint: "/mnt/with space\\and\ttab".into(),
                fstype: "fuse.boomfs".into(),
                source: "a b".into(),
            })
        );
    }

    #[test]
    fn the_last_mount_on_a_path_is_the_one_seen() {
        assert_eq!(
            topmost(TEXT, Path::new("/mnt/x")).map(|entry| entry.device),
            Some("0:53".into())
        );
        assert_eq!(topmost(TEXT, Path::new("/mnt")), None);
    }

    #[test]
    fn bytes_that_are_no_escape_stay() {
        assert_eq!(unescape(b"a\\"), b"a\\");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\999b"), b"a\\999b");
        assert_eq!(unescape(b"a\\777b"), b"a\\777b");
        assert_eq!(unescape(b"\\303\\251"), "\u{e9}".as_bytes());
    }

    #[test]
    fn a_broken_line_is_passed_over() {
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 2 3:4 / /mnt rw no separator"), None);
        assert_eq!(parse_line(b"1 2 3:4 / /mnt rw - tmpfs"), None);
    }
}
