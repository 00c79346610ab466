//! What programs do with files in a mount, and what is there after a restart.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Up, fuse};

/// Does a bit of everything.
const WORK: &str = "
    mkdir -p a/b
    printf 'hello\\n' > a/b/file
    printf 'more\\n' >> a/b/file
    head -c 300000 /dev/urandom > a/big
    printf 'XYZ' | dd of=a/big bs=1 seek=150000 conv=notrunc status=none
    truncate -s 200000 a/big
    truncate -s 1000000 a/sparse
    printf 'end' >> a/sparse
    mv a/b/file a/b/renamed
    mv a/b a/moved
    ln -s moved/renamed a/link
    ln a/moved/renamed a/hard
    chmod 640 a/hard
    chown 12:34 a/big
    touch -d '2001-02-03 04:05:06.789 UTC' a/sparse
    printf 'gone' > a/gone
    rm a/gone
    mkfifo a/pipe
    mkdir a/empty
    rmdir a/empty
    sync
";

/// Prints all that can be seen of it.
const SHOW: &str = "
    find . -mindepth 1 | sort
    stat -c '%n %F %a %u:%g %s %h' a/moved/renamed a/big a/sparse a/hard a/pipe
    stat -c '%Y' a/sparse
    readlink a/link
    cat a/link
    sha256sum a/big a/sparse
    dd if=a/big bs=1 skip=150000 count=3 status=none
";

#[test]
fn what_was_done_in_a_mount_is_there_after_a_restart() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &[])?;
    lab.sh(&up.mount, WORK)?;
    let before = lab.sh(&up.mount, SHOW)?;
    let lines: Vec<&str> = before.lines().collect();
    assert_eq!(
        lines.iter().take(8).copied().collect::<Vec<_>>(),
        [
            "./a",
            "./a/big",
            "./a/hard",
            "./a/link",
            "./a/moved",
            "./a/moved/renamed",
            "./a/pipe",
            "./a/sparse"
        ]
    );
    assert_eq!(
        lines.iter().skip(8).take(9).copied().collect::<Vec<_>>(),
        [
            "a/moved/renamed regular file 640 0:0 11 2",
            "a/big regular file 644 12:34 200000 1",
            "a/sparse regular file 644 0:0 1000003 1",
            "a/hard regular file 640 0:0 11 2",
            "a/pipe fifo 644 0:0 0 1",
            "981173106",
            "moved/renamed",
            "hello",
            "more",
        ]
    );
    assert_eq!(lines.last(), Some(&"XYZ"));
    up.stop()?;
    let up = Up::start(&lab, &[])?;
    assert_eq!(lab.sh(&up.mount, SHOW)?, before);
    up.stop()
}

#[test]
fn a_file_that_is_deleted_while_open_can_still_be_read_and_written() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let said = lab.sh(
        &up.mount,
        "exec 3<>f; printf first >&3; rm f; printf second >&3; cat /proc/self/fd/3; ls",
    )?;
    assert_eq!(said, "firstsecond");
    up.stop()
}

#[test]
fn errors_are_those_of_a_local_disk() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let script = "
        long=$(printf 'x%.0s' $(seq 256))
        mkdir -p d/e; : > f; ln -s loop loop
        for command in 'touch '$long 'rmdir d' 'mkdir d' 'cat loop' 'mv d d/e/f' 'cat f/x' 'ln d h' 'rmdir f' 'mv d f' 'mv -T f d'; do
            $command 2>&1 && echo 'no error' || true
        done
    ";
    let said = lab.sh(&up.mount, script)?;
    let errors: Vec<&str> = said
        .lines()
        .filter_map(|line| line.rsplit(": ").next())
        .collect();
    assert_eq!(
        errors,
        [
            "File name too long",
            "Directory not empty",
            "File exists",
            "Too many levels of symbolic links",
            "cannot move 'd' to a subdirectory of itself, 'd/e/f'",
            "Not a directory",
            "hard link not allowed for directory",
            "Not a directory",
            "cannot overwrite non-directory 'f' with directory 'd'",
            "cannot overwrite directory 'd' with non-directory",
        ]
    );
    up.stop()
}
