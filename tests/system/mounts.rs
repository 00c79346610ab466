//! Mount points: missing, busy, dead, in the background.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Up, eventually, fuse};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_mount_point_that_cannot_be_used_is_named() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    std::fs::write(lab.path("file"), "x")?;
    for (mount, said) in [
        (
            lab.path("no/such/place"),
            "there is no such directory; make it with: mkdir -p",
        ),
        (lab.path("file"), "it is not a directory"),
        ("/proc".into(), "is mounted there already"),
    ] {
        let ran = lab.boomfs(&["up", "--mount", &mount.display().to_string()])?;
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(
            ran.stderr.starts_with("boomfs: cannot mount on ") && ran.stderr.contains(said),
            "{ran}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    }
    assert!(!lab.path("boomfs-data").exists());
    Ok(())
}

#[test]
fn a_mount_point_is_made_and_a_busy_one_refused() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let place = lab.path("made");
    lab.watch_mount(&place);
    let mut process = lab.start(&[
        "up",
        "--mount",
        &place.display().to_string(),
        "--datanodes",
        "1",
    ])?;
    process.ready(SOON)?;
    std::fs::write(place.join("f"), "x")?;
    let ran = lab.boomfs(&["mount", &place.display().to_string()])?;
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(
        ran.stderr
            .contains("boomfs (fuse.boomfs) is mounted there already"),
        "{ran}"
    );
    process.stop(SOON)?;
    assert_eq!(std::fs::read_dir(&place)?.count(), 0);
    Ok(())
}

#[test]
fn a_mount_in_the_background_serves_until_it_is_unmounted() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let other = lab.mountpoint("other")?;
    let place = other.display().to_string();
    let said = up.boomfs(&["mount", &place, "--background"])?;
    assert!(
        said.starts_with(&format!("ready: {place} (process ")),
        "{said}"
    );
    std::fs::write(other.join("f"), "from the other mount")?;
    assert_eq!(
        std::fs::read_to_string(up.mount.join("f"))?,
        "from the other mount"
    );
    lab.boomfs(&["umount", &place])?.ok()?;
    assert_eq!(std::fs::read_dir(&other)?.count(), 0);
    let again = lab.boomfs(&["umount", &place])?;
    assert_eq!(again.code, Some(1), "{again}");
    assert!(again.stderr.contains("nothing is mounted there"), "{again}");
    // Its session ends with it: the process has gone.
    eventually(SOON, "the end of its session", || {
        let sessions = up
            .status()?
            .get("sessions")
            .and_then(serde_json::Value::as_u64);
        anyhow::ensure!(sessions == Some(1), "{sessions:?} sessions");
        Ok(())
    })?;
    up.stop()
}

#[test]
fn a_dead_mount_is_unmounted() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let mount = up.mount.clone();
    up.kill()?;
    assert!(std::fs::read_dir(&mount).is_err());
    lab.boomfs(&["umount", &mount.display().to_string()])?
        .ok()?;
    assert_eq!(std::fs::read_dir(&mount)?.count(), 0);
    Ok(())
}

#[test]
fn up_ends_when_its_mount_is_unmounted() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let mut up = Up::start(&lab, &["--datanodes", "1"])?;
    lab.sh(&lab.path("."), &format!("umount {}", up.mount.display()))?;
    let status = up.process.wait(SOON)?;
    assert!(status.success(), "{status}: {:?}", up.process.stderr());
    Ok(())
}
