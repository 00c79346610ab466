//! What attributes look like.

use boomfs_client::{Attr, Kind};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The name of a kind.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
    }
}

/// As `ls -l` shows it: `drwxr-xr-x`.
pub fn mode(of: Kind, mode: u32) -> String {
    let mut text = String::from(match of {
        Kind::File => "-",
        Kind::Dir => "d",
        Kind::Symlink => "l",
        Kind::Fifo => "p",
        Kind::Socket => "s",
        Kind::CharDevice => "c",
        Kind::BlockDevice => "b",
    });
    // Shift of the three bits, the special bit that goes with them, its letter.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// As JSON. A name that is no UTF-8 is given in hexadecimal, too.
pub fn json(path: &[u8], attr: &Attr, target: Option<&[u8]>) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "path", path);
    if let Some(target) = target {
        put_bytes(&mut object, "target", target);
    }
    let attributes = json!({
        "ino": attr.ino.0,
        "kind": kind(attr.kind),
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "size": attr.size,
        "allocated": attr.allocated,
        "nlink": attr.nlink,
        "rdev": attr.rdev,
        "atime_ns": attr.atime_ns,
        "mtime_ns": attr.mtime_ns,
        "ctime_ns": attr.ctime_ns,
        "crtime_ns": attr.crtime_ns,
        "block_size": attr.block_size,
        "replication": attr.replication,
    });
    if let Value::Object(attributes) = attributes {
        object.extend(attributes);
    }
    Value::Object(object)
}

fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    object.insert(name.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        object.insert(format!("{name}_hex"), hex.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode(Kind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode(Kind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(Kind::File, 0o6754), "-rwsr-sr--");
        assert_eq!(mode(Kind::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(mode(Kind::Symlink, 0o777), "lrwxrwxrwx");
    }

    #[test]
    fn names_that_are_no_text_have_their_bytes_too() {
        let mut object = Map::new();
        put_bytes(&mut object, "path", b"/a\xff");
        assert_eq!(object.get("path_hex"), Some(&Value::from("2f61ff")));
        assert!(object.contains_key("path"));
    }
}
