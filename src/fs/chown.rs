//! `boomfs fs chown`.

use super::Tree;
use super::chmod::each;
use super::path::RemotePath;
use crate::failure::{Tally, usage};
use boomfs_client::SetAttr;

/// Arguments of `boomfs fs chown`.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// OWNER, OWNER:GROUP or :GROUP; names, as this machine knows them, or numbers
    #[arg(value_name = "OWNER[:GROUP]")]
    owner: String,
    /// What to change
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<RemotePath>,
    /// Directories and all that is in them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Symbolic links themselves, not what they point to
    #[arg(long, long)]
    no_dereference: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Changes owners.
///
/// # Errors
/// The owner is not known, or some could not be changed.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let (uid, gid) = parse(&args.owner)?;
    let set = SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    };
    let follow = !args.no_dereference && !args.recursive;
    let mut tally = Tally::default();
    for path in &args.paths {
        tally.take(each(tree, path, args.recursive, follow, |_| Some(set.clone())).await);
    }
    tally.end()
}

fn parse(text: &str) -> anyhow::Result<(Option<u32>, Option<u32>)> {
    let (owner, group) = text
        .split_once(':')
        .map_or((text, ""), |(owner, group)| (owner, group));
    if owner.is_empty() && group.is_empty() {
        return Err(usage(format!("{text} names no owner and no group")));
    }
    let number = |name: &str, file: &str, what: &str| -> anyhow::Result<Option<u32>> {
        if name.is_empty() {
            return Ok(None);
        }
        // All ones means "leave it" to the kernel, and can be no id.
        if let Ok(number) = name.parse::<u32>() {
            return if number == u32::MAX {
                Err(usage(format!("{name} is no {what}")))
            } else {
                Ok(Some(number))
            };
        }
        let lines = std::fs::read_to_string(file).unwrap_or_default();
        let found = lookup(&lines, name);
        found.map(Some).ok_or_else(|| {
            usage(format!(
                "there is no {what} {name} in {file}; name one that is, or a number"
            ))
        })
    };
    Ok((
        number(owner, "/etc/passwd", "user")?,
        number(group, "/etc/group", "group")?,
    ))
}

/// The number in the third field of the line that starts with a name.
fn lookup(lines: &str, name: &str) -> Option<u32> {
    let mut lines = lines.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        if fields.next() == Some(name) {
            fields.nth(1)?.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(parse("7:8").unwrap(), (Some(7), Some(8)));
        assert_eq!(parse("7").unwrap(), (Some(7), None));
        assert_eq!(parse(":8").unwrap(), (None, Some(8)));
        assert_eq!(parse("root:root").unwrap(), (Some(0), Some(0)));
        assert!(parse(":").is_err());
        assert!(parse("4294967295").is_err());
        assert!(parse("no such user").is_err());
    }

    #[test]
    fn names_are_looked_up_in_lines() {
        let lines = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nbroken\n";
        assert_eq!(lookup(lines, "www-data"), Some(33));
        assert_eq!(lookup(lines, "www"), None);
        assert_eq!(lookup(lines, "broken"), None);
    }
}
