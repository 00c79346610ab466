//! Trees of files to copy about, and whether two are equal.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A generated tree: the same for the same seed.
pub struct Tree {
    /// Where it is.
    pub path: PathBuf,
    /// How many files it has.
    pub files: usize,
}

/// A small generator (SplitMix64): what a tree holds must not depend on a library's version.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

impl Tree {
    /// Makes a tree of about so many files: empty ones, small ones, some of a few chunks and one of 3 MB; links,
    /// odd names and modes, times of long ago.
    ///
    /// # Errors
    /// The disk says no.
    pub fn generate(path: &Path, files: usize, seed: u64) -> Result<Tree> {
        let mut numbers = Numbers(seed);
        fs::create_dir_all(path)?;
        let mut folders = vec![path.to_owned()];
        for number in 0..files / 12 {
            let above = pick(&mut numbers, &folders)?;
            let folder = above.join(format!("folder {number}"));
            fs::create_dir(&folder)?;
            folders.push(folder);
        }
        let names = [
            "plain",
            "with space",
            "with-\u{e9}\u{4e16}",
            ".hidden",
            "new\nline",
            "quote'\"",
            "trailing.",
        ];
        for number in 0..files {
            let folder = pick(&mut numbers, &folders)?;
            let base = names.get(number % names.len()).copied().unwrap_or_default();
            let file = folder.join(format!("{base}{number}"));
            let size = match number % 10 {
                0 => 0,
                9 => numbers.below(40_000),
                _ => numbers.below(3_000),
            };
            let size = if number == 5 { 3_000_000 } else { size };
            fs::write(&file, numbers.bytes(usize::try_from(size)?))?;
            let mode = [0o644, 0o600, 0o755, 0o444]
                .get(number % 4)
                .copied()
                .unwrap_or(0o644);
            fs::set_permissions(&file, Permissions::from_mode(mode))?;
            if number % 25 == 0 {
                symlink("../somewhere/else", folder.join(format!("link{number}")))?;
                fs::hard_link(&file, folder.join(format!("hard{number}")))?;
            }
        }
        Ok(Tree {
            path: path.to_owned(),
            files,
        })
    }
}

fn pick(numbers: &mut Numbers, folders: &[PathBuf]) -> Result<PathBuf> {
    let at = usize::try_from(numbers.below(folders.len() as u64))?;
    folders.get(at).cloned().context("no folder")
}

/// What something in a tree is, as far as a copy keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Folder {
        mode: u32,
    },
    File {
        mode: u32,
        mtime: (i64, i64),
        size: u64,
        digest: u64,
    },
    Link(PathBuf),
    Other {
        mode: u32,
    },
}

/// Everything that differs between two trees: kinds, modes, contents, targets, and times of files.
///
/// # Errors
/// One cannot be read.
pub fn differences(a: &Path, b: &Path) -> Result<Vec<String>> {
    let (left, right) = (list(a)?, list(b)?);
    let mut all: Vec<&PathBuf> = left.keys().chain(right.keys()).collect();
    all.sort();
    all.dedup();
    let differ = all
        .into_iter()
        .filter(|path| left.get(*path) != right.get(*path));
    Ok(differ
        .map(|path| {
            format!(
                "{}: {:?} and {:?}",
                path.display(),
                left.get(path),
                right.get(path)
            )
        })
        .collect())
}

fn list(root: &Path) -> Result<BTreeMap<PathBuf, Node>> {
    ensure!(root.is_dir(), "{} is no directory", root.display());
    let mut nodes = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let meta = path
                .symlink_metadata()
                .with_context(|| path.display().to_string())?;
            let mode = meta.mode() & 0o7777;
            let node = if meta.is_dir() {
                todo.push(path.clone());
                Node::Folder { mode }
            } else if meta.is_file() {
                let digest = digest(&path).with_context(|| path.display().to_string())?;
                Node::File {
                    mode,
                    mtime: (meta.mtime(), meta.mtime_nsec()),
                    size: meta.size(),
                    digest,
                }
            } else if meta.is_symlink() {
                Node::Link(fs::read_link(&path)?)
            } else {
                Node::Other { mode }
            };
            nodes.insert(path.strip_prefix(root)?.to_owned(), node);
        }
    }
    Ok(nodes)
}

/// FNV-1a, 64 bits.
fn digest(path: &Path) -> Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(digest);
        }
        for byte in buffer.iter().take(read) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_tree_and_a_change_shows() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        Tree::generate(&a, 60, 7).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(&a)
            .arg(&b)
            .status()
            .unwrap();
        assert!(copied.success());
        assert_eq!(differences(&a, &b).unwrap(), Vec::<String>::new());
        Tree::generate(&folder.path().join("c"), 60, 7).unwrap();
        let other = differences(&a, &folder.path().join("c")).unwrap();
        assert!(other.iter().all(|line| line.contains("mtime")), "{other:?}");
        fs::remove_file(b.join("link0"))
            .or_else(|_| fs::remove_dir_all(b.join("folder 0")))
            .unwrap();
        assert!(!differences(&a, &b).unwrap().is_empty());
    }
}
