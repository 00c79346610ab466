//! kill -9 of everything.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Tree, Up, differences, fuse};

#[test]
fn what_was_synced_is_there_after_everything_was_killed() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let tree = Tree::generate(&lab.path("tree"), 60, 3)?;
    let up = Up::start(&lab, &[])?;
    lab.sh(
        &up.mount,
        &format!(
            "cp -a {} . && find tree -type f -print0 | xargs -0 sync",
            tree.path.display()
        ),
    )?;
    let copy = up.mount.join("tree");
    up.kill()?;
    // The same command clears the dead mount of before.
    let up = Up::start(&lab, &[])?;
    assert_eq!(differences(&tree.path, &copy)?, Vec::<String>::new());
    // And it goes on: what is there can be changed.
    assert_eq!(
        lab.sh(
            &up.mount,
            "printf x > tree/new; cat tree/new; rm -rf tree; ls -A"
        )?,
        "x"
    );
    up.stop()
}

#[test]
fn every_line_that_was_synced_before_a_kill_is_there() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    for round in 1..=2u32 {
        let up = Up::start(&lab, &[])?;
        let script = "for i in $(seq 20); do echo $1.$i >> log; sync log; done";
        lab.sh(&up.mount, &script.replace("$1", &round.to_string()))?;
        up.kill()?;
    }
    let up = Up::start(&lab, &[])?;
    let expected: String = (1..=2)
        .flat_map(|round| (1..=20).map(move |i| format!("{round}.{i}\n")))
        .collect();
    assert_eq!(std::fs::read_to_string(up.mount.join("log"))?, expected);
    up.stop()
}
