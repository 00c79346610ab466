//! Paths in the cluster: `/a/b`.

use boomfs_client::{At, Ino, Name};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A path from the root. `.` and `..` are taken out of it by its text alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    names: Vec<Name>,
}

impl RemotePath {
    /// The place.
    pub fn at(&self) -> At {
        At {
            base: Ino::ROOT,
            path: self.names.clone(),
        }
    }

    /// Its last name; the root has none.
    pub fn name(&self) -> Option<&Name> {
        self.names.last()
    }

    /// A name below it.
    pub fn join(&self, name: &[u8]) -> RemotePath {
        let mut names = self.names.clone();
        names.push(name.to_vec());
        RemotePath { names }
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(&self) -> RemotePath {
        let mut names = self.names.clone();
        names.pop();
        RemotePath { names }
    }

    /// All paths from below the root down to this one.
    pub fn steps(&self) -> impl Iterator<Item = RemotePath> {
        (1..=self.names.len()).map(|n| RemotePath {
            names: self.names.iter().take(n).cloned().collect(),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        if self.names.is_empty() {
            return b"/".to_vec();
        }
        self.names
            .iter()
            .flat_map(|name| [b"/", name.as_slice()].concat())
            .collect()
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::output::plain(&String::from_utf8_lossy(
            &self.bytes(),
        )))
    }
}

impl From<OsString> for RemotePath {
    fn from(text: OsString) -> RemotePath {
        RemotePath::from(text.as_os_str())
    }
}

impl From<&OsStr> for RemotePath {
    fn from(text: &OsStr) -> RemotePath {
        let mut names: Vec<Name> = Vec::new();
        for name in text.as_bytes().split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    names.pop();
                }
                name => names.push(name.to_vec()),
            }
        }
        RemotePath { names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RemotePath {
        RemotePath::from(OsStr::new(text))
    }

    #[test]
    fn dots_and_double_slashes_are_taken_out() {
        assert_eq!(path("/a//b/./c/../d/").to_string(), "/a/b/d");
        assert_eq!(path("/../..").to_string(), "/");
        assert_eq!(path("a/b").to_string(), "/a/b");
        assert_eq!(
            path("").at(),
            At {
                base: Ino::ROOT,
                path: Vec::new()
            }
        );
    }

    #[test]
    fn a_path_has_steps_and_a_parent() {
        let steps: Vec<String> = path("/a/b/c")
            .steps()
            .map(|step| step.to_string())
            .collect();
        assert_eq!(steps, ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(path("/a/b").parent(), path("/a"));
        assert_eq!(path("/").parent(), path("/"));
        assert_eq!(path("/a").join(b"x").to_string(), "/a/x");
        assert_eq!(path("/a/b").name(), Some(&b"b".to_vec()));
    }

    #[test]
    fn names_are_bytes() {
        let path = RemotePath::from(OsStr::from_bytes(b"/\xff\x1b"));
        assert_eq!(path.bytes(), b"/\xff\x1b");
        assert_eq!(path.to_string(), "/\u{fffd}?");
    }
}
