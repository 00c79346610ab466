//! Who asks: the identity that goes with a command.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use boomfs_client::Caller;
use fuser::Request;

/// Identity for what the kernel has allowed already: looking up, and work on files that are open. On a
/// local disk, too, permission is asked when a file is opened, not at each use.
pub(crate) fn trusted() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    }
}

/// The process behind a request. FUSE names its user and group; the other groups are read from `/proc`.
/// The superuser passes all checks without them.
pub(crate) fn of(request: &Request) -> Caller {
    let groups = if request.uid() == 0 {
        Vec::new()
    } else {
        groups_of(request.pid())
    };
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        groups,
    }
}

/// Supplementary groups of a thread; none where it cannot be seen (another pid namespace). It waits for
/// our answer meanwhile, so it is still there.
fn groups_of(pid: u32) -> Vec<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_groups(&status)
}

fn parse_groups(status: &[u8]) -> Vec<u32> {
    status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Groups:"))
        .and_then(|list| std::str::from_utf8(list).ok())
        .map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|group| group.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_status() {
        assert_eq!(
            parse_groups(b"Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t1\n"),
            [4, 24, 1000]
        );
        assert_eq!(parse_groups(b"Name:\tx\nGroups:\t \n"), Vec::<u32>::new());
        assert_eq!(parse_groups(b""), Vec::<u32>::new());
    }
}
