//! What put and get share: sizes, names of unfinished copies, where a copy goes.

use std::path::Path;

/// Bytes that are read and written at once.
pub const CHUNK: usize = 1 << 20;

/// The name of a copy that is not finished yet, in the folder that it will be in.
pub fn unfinished(random: u64) -> String {
    format!(".boomfs-copy-{random:016x}")
}

/// The last name of a local path; one that ends in `..` is resolved first.
///
/// # Errors
/// There is none, as in `/`.
pub fn local_name(path: &Path) -> anyhow::Result<std::ffi::OsString> {
    let name = match path.file_name() {
        Some(name) => Some(name.to_owned()),
        None => path.canonicalize()?.file_name().map(ToOwned::to_owned),
    };
    name.ok_or_else(|| {
        anyhow::anyhow!("{}: has no name; say what to call the copy", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_but_the_root_has_a_name() {
        assert_eq!(local_name(Path::new("/a/b/")).unwrap(), "b");
        assert!(local_name(Path::new(".")).is_ok());
        assert!(local_name(Path::new("/")).is_err());
    }
}
