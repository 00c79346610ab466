//! `boomfs fs chmod`.

use super::path::RemotePath;
use super::{Tree, at, own_umask};
use crate::failure::Tally;
use anyhow::Context;
use boomfs_client::{Attr, Kind, SetAttr};

/// Arguments of `boomfs fs chmod`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// As in 0755 or u+rwx,go-w
    #[arg(value_name = "MODE", value_parser = parse, allow_hyphen_values = true)]
    mode: Mode,
    /// What to change
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<RemotePath>,
    /// Directories and all that is in them
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Changes permissions.
///
/// # Errors
/// Some could not be changed.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let umask = own_umask();
    let mut tally = Tally::default();
    for path in &args.paths {
        let changed = each(tree, path, args.recursive, true, |attr| {
            // A link has no permissions of its own.
            (attr.kind != Kind::Symlink).then(|| SetAttr {
                mode: Some(args.mode.of(attr, umask)),
                ..SetAttr::default()
            })
        });
        tally.take(changed.await);
    }
    tally.end()
}

/// Changes a path and, if wanted, all below it.
///
/// # Errors
/// Some could not be changed; those below have been reported.
pub(super) async fn each(
    tree: &Tree,
    path: &RemotePath,
    recursive: bool,
    follow: bool,
    change: impl Fn(&Attr) -> Option<SetAttr>,
) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut todo = vec![(path.clone(), tree.look(path, follow).await?)];
    while let Some((path, attr)) = todo.pop() {
        if let Some(set) = change(&attr) {
            let changed = tree.client.setattr(&tree.caller, &at(attr.ino), set).await;
            tally.take(changed.with_context(|| path.to_string()));
        }
        if recursive && attr.kind == Kind::Dir {
            let entries = tree
                .entries(attr.ino)
                .await
                .with_context(|| path.to_string());
            let entries = tally.take(entries).unwrap_or_default();
            todo.extend(
                entries
                    .into_iter()
                    .rev()
                    .map(|entry| (path.join(&entry.name), entry.attr)),
            );
        }
    }
    tally.end()
}

/// What becomes of the permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These.
    Octal(u32),
    /// These changes, one after the other.
    Symbolic(Vec<Clause>),
}

/// One change: `u+rw`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// The bits of those meant; 0: of all, but for what the umask says.
    who: u32,
    /// `+`, `-` or `=`.
    action: char,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// For all three; `execute`: the X, for directories and what someone may execute.
    Bits { bits: u32, execute: bool },
    /// What the user (6), group (3) or others (0) have.
    Copy { shift: u32 },
}

impl Mode {
    /// The new bits of something.
    pub fn of(&self, attr: &Attr, umask: u32) -> u32 {
        match self {
            // As in GNU chmod: a directory keeps its set-id bits unless they are named.
            Mode::Octal(mode) if attr.kind == Kind::Dir && *mode <= 0o777 => {
                (attr.mode & 0o6000) | mode
            }
            Mode::Octal(mode) => *mode,
            Mode::Symbolic(clauses) => {
                let apply =
                    |mode: u32, clause: &Clause| clause.apply(mode, attr.kind == Kind::Dir, umask);
                clauses.iter().fold(attr.mode & 0o7777, apply)
            }
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool, umask: u32) -> u32 {
        let asked = match self.what {
            What::Bits { bits, execute } => {
                bits | if execute && (is_dir || mode & 0o111 != 0) {
                    0o111
                } else {
                    0
                }
            }
            What::Copy { shift } => ((mode >> shift) & 7) * 0o111,
        };
        let reach = if self.who == 0 {
            0o7777 & !(umask & 0o777)
        } else {
            self.who
        };
        let bits = asked & reach;
        match self.action {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => {
                // A directory keeps its set-id bits unless they are named.
                let kept = if is_dir { 0o6000 } else { 0 };
                let cleared = if self.who == 0 { 0o7777 } else { self.who };
                (mode & !(cleared & !kept)) | bits
            }
        }
    }
}

/// Bits of an octal mode.
///
/// # Errors
/// No octal number up to 7777.
pub fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(mode),
        _ => Err("must be an octal number up to 7777, as in 0755".into()),
    }
}

/// A mode as users of chmod write it.
fn parse(text: &str) -> Result<Mode, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return octal(text).map(Mode::Octal);
    }
    let mut clauses = Vec::new();
    for part in text.split(',') {
        clauses.extend(
            parse_part(part)
                .ok_or_else(|| format!("{part} is no mode; modes look like 0755 or u+rwx,go-w"))?,
        );
    }
    Ok(Mode::Symbolic(clauses))
}

fn parse_part(part: &str) -> Option<Vec<Clause>> {
    let start = part.find(['+', '-', '='])?;
    let (letters, mut rest) = part.split_at(start);
    let mut who = 0;
    for letter in letters.chars() {
        who |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let mut clauses = Vec::new();
    while let Some(action) = rest.chars().next() {
        let tail = rest.get(1..)?;
        let end = tail.find(['+', '-', '=']).unwrap_or(tail.len());
        let (letters, next) = tail.split_at(end);
        clauses.push(Clause {
            who,
            action,
            what: parse_what(letters)?,
        });
        rest = next;
    }
    Some(clauses)
}

fn parse_what(letters: &str) -> Option<What> {
    match letters {
        "u" => return Some(What::Copy { shift: 6 }),
        "g" => return Some(What::Copy { shift: 3 }),
        "o" => return Some(What::Copy { shift: 0 }),
        _ => {}
    }
    let (mut bits, mut execute) = (0, false);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => execute = true,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some(What::Bits { bits, execute })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(mode: &str, before: u32, kind: Kind) -> u32 {
        let attr = Attr {
            ino: boomfs_client::Ino(2),
            kind,
            mode: before,
            uid: 0,
            gid: 0,
            size: 0,
            allocated: 0,
            nlink: 1,
            rdev: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            crtime_ns: 0,
            block_size: 0,
            replication: 0,
        };
        parse(mode).unwrap().of(&attr, 0o022)
    }

    #[test]
    fn modes_are_as_in_chmod() {
        for (mode, before, after) in [
            ("0750", 0o644, 0o750),
            ("4755", 0o644, 0o4755),
            ("u+x", 0o644, 0o744),
            ("go-rwx", 0o755, 0o700),
            ("a=r", 0o755, 0o444),
            ("+w", 0o444, 0o644),
            ("+x", 0o644, 0o755),
            ("u=rw,g=u,o=", 0o700, 0o660),
            ("g=u", 0o740, 0o770),
            ("u+s", 0o755, 0o4755),
            ("g+s,o+t", 0o755, 0o3755),
            ("a+X", 0o644, 0o644),
            ("a+X", 0o744, 0o755),
            ("u+w-x", 0o555, 0o655),
            ("u=", 0o4755, 0o055),
        ] {
            let got = changed(mode, before, Kind::File);
            assert_eq!(got, after, "{mode} of {before:04o} gave {got:04o}");
        }
        assert_eq!(changed("a+X", 0o644, Kind::Dir), 0o755);
        assert_eq!(changed("755", 0o2700, Kind::Dir), 0o2755);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for wrong in ["", "9", "77777", "u", "q+r", "u+y", "u+r,", "+rq"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
