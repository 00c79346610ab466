//! Command lines, good and bad, and their exit codes.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Up, fuse};
use serde_json::Value;

#[test]
fn bad_command_lines_have_exit_code_2() -> Result<()> {
    let lab = lab()?;
    for (args, said) in [
        (&["fly"][..], "unrecognized subcommand"),
        (&["up"], "--mount"),
        (
            &["up", "--mount", "mnt", "--namenodes", "8"],
            "8 is not in 1..=7",
        ),
        (
            &["up", "--mount", "mnt", "--datanodes", "0"],
            "0 is not in 1..=64",
        ),
        (
            &["up", "--mount", "mnt", "--block-size", "1000"],
            "multiple of 4096",
        ),
        (
            &["up", "--mount", "mnt", "-o", "fast"],
            "mount option fast is not known",
        ),
        (&["datanode", "--data", "d"], "--namenodes"),
        (&["fs", "chmod", "rwx", "/f"], "modes look like"),
        (&["fs", "mv", "/f"], "2"),
    ] {
        let ran = lab.boomfs(args)?;
        assert_eq!(ran.code, Some(2), "{args:?}: {ran}");
        assert!(ran.stderr.contains(said), "{args:?}: {ran}");
    }
    assert_eq!(std::fs::read_dir(lab.path("."))?.count(), 0);
    Ok(())
}

#[test]
fn a_cluster_that_cannot_be_reached_has_exit_code_3() -> Result<()> {
    let lab = lab()?;
    for args in [
        &["status"][..],
        &["query", "? inode(Ino: I);"],
        &["fs", "ls", "/"],
        &["mount", "mnt", "--background"],
        &["status", "--namenodes", "127.0.0.1:1", "--timeout", "0.5"],
    ] {
        let ran = lab.boomfs(args)?;
        assert_eq!(ran.code, Some(3), "{args:?}: {ran}");
        assert!(ran.stderr.starts_with("boomfs: no "), "{args:?}: {ran}");
        assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {ran}");
    }
    Ok(())
}

#[test]
fn version_and_help_are_printed() -> Result<()> {
    let lab = lab()?;
    assert_eq!(
        lab.boomfs(&["--version"])?.ok()?,
        concat!("boomfs ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = lab.boomfs(&["--help"])?.ok()?;
    for command in [
        "up", "namenode", "datanode", "mount", "umount", "fs", "query", "status", "check",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    Ok(())
}

#[test]
fn all_errors_of_a_rule_file_are_shown() -> Result<()> {
    let lab = lab()?;
    std::fs::write(
        lab.path("bad.olg"),
        "table t(A: int) keys(A);\ntable u(A: nosuch) keys(A);\nr1: t(B) :- missing(B);\n",
    )?;
    std::fs::write(
        lab.path("good.olg"),
        "event e(A: int);\ntable t(A: int) keys(A);\nr1: t(A) :- e(A);\nview v(A: int);\nv(A) :- t(A);\n",
    )?;
    let ran = lab.boomfs(&["check", "bad.olg"])?;
    assert_eq!(ran.code, Some(1), "{ran}");
    for part in [
        "--> bad.olg:2:12",
        "--> bad.olg:3:13",
        "^^^^^^",
        "boomfs: bad.olg: 3 errors",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = lab.boomfs(&["check", "good.olg"])?.ok()?;
    assert!(
        ran.starts_with("good.olg: ok: 3 relations, 2 rules"),
        "{ran}"
    );
    let ran = lab.boomfs(&["check", "none.olg", "good.olg"])?;
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(
        ran.stderr
            .starts_with("boomfs: cannot check none.olg: No such file"),
        "{ran}"
    );
    assert!(ran.stdout.contains("good.olg: ok"), "{ran}");
    Ok(())
}

#[test]
fn a_second_up_on_the_same_data_folder_is_refused() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let other = lab.mountpoint("other")?.display().to_string();
    let ran = lab.boomfs(&[
        "up",
        "--mount",
        &other,
        "--data",
        &up.data.display().to_string(),
    ])?;
    assert_eq!(ran.code, Some(1), "{ran}");
    let said = format!(
        "is in use by another boomfs up (process {})",
        up.process.pid()
    );
    assert!(ran.stderr.contains(&said), "{ran}");
    up.stop()
}

#[test]
fn files_can_be_worked_with_without_a_mount() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &[])?;
    let local = lab.path("local");
    std::fs::write(&local, "some text")?;
    let here = local.display().to_string();
    up.boomfs(&["fs", "mkdir", "-p", "/a/b"])?;
    up.boomfs(&["fs", "put", &here, "/a/b"])?;
    assert_eq!(up.boomfs(&["fs", "cat", "/a/b/local"])?, "some text");
    assert_eq!(
        std::fs::read_to_string(up.mount.join("a/b/local"))?,
        "some text"
    );
    let refused = up
        .boomfs(&["fs", "put", &here, "/a/b"])
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("/a/b/local: exists; replace it with -f"),
        "{refused}"
    );
    std::fs::write(&local, "new text")?;
    up.boomfs(&["fs", "put", "-f", &here, "/a/b"])?;
    up.boomfs(&["fs", "mv", "/a/b/local", "/a/moved"])?;
    up.boomfs(&["fs", "chmod", "u=rw,go=", "/a/moved"])?;
    up.boomfs(&["fs", "chown", "12:34", "/a/moved"])?;
    let stat: Value = serde_json::from_str(&up.boomfs(&["fs", "stat", "--json", "/a/moved"])?)?;
    for (name, value) in [
        ("size", Value::from(8)),
        ("mode", "0600".into()),
        ("uid", 12.into()),
        ("gid", 34.into()),
        ("kind", "file".into()),
    ] {
        assert_eq!(stat.get(name), Some(&value), "{stat}");
    }
    assert_eq!(
        up.boomfs(&["fs", "ls", "-R", "/"])?,
        "/:\na\n\n/a:\nb\nmoved\n\n/a/b:\n"
    );
    assert_eq!(up.boomfs(&["fs", "du", "-sb", "/a"])?, "8\t/a\n");
    let refused = up.boomfs(&["fs", "rm", "/a"]).unwrap_err().to_string();
    assert!(
        refused.contains("/a: is a directory; remove it and all that is in it with -r"),
        "{refused}"
    );
    up.boomfs(&["fs", "rm", "-r", "/a"])?;
    assert_eq!(up.boomfs(&["fs", "ls", "/"])?, "");
    let missing = up.boomfs(&["fs", "stat", "/a"]).unwrap_err().to_string();
    assert!(
        missing.contains("exit code Some(1)") && missing.contains("boomfs: /a: "),
        "{missing}"
    );
    let status = up.status()?;
    assert_eq!(status.get("live"), Some(&Value::from(3)), "{status}");
    assert_eq!(status.get("healthy"), Some(&Value::from(true)), "{status}");
    up.stop()
}
