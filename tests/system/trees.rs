//! Whole trees copied in and out.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Tree, Up, differences, fuse};

#[test]
fn a_copied_tree_is_identical_and_survives_a_restart() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let tree = Tree::generate(&lab.path("tree"), 300, 1)?;
    let up = Up::start(&lab, &[])?;
    let copy = up.mount.join("tree");
    lab.sh(&up.mount, &format!("cp -a {} .", tree.path.display()))?;
    assert_eq!(differences(&tree.path, &copy)?, Vec::<String>::new());
    lab.sh(
        &up.mount,
        &format!("diff -r --no-dereference {} tree", tree.path.display()),
    )?;
    up.stop()?;
    let up = Up::start(&lab, &[])?;
    assert_eq!(differences(&tree.path, &copy)?, Vec::<String>::new());
    let left = lab.sh(&up.mount, "mv tree moved; tar cf - moved | tar xf - --one-top-level=again; diff -r --no-dereference moved again/moved; rm -rf moved again; ls -A")?;
    assert_eq!(left, "");
    up.stop()
}

#[test]
fn put_and_get_keep_a_tree_and_ask_before_they_replace() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let tree = Tree::generate(&lab.path("tree"), 60, 2)?;
    std::fs::write(tree.path.join("plain0"), "there")?;
    let back = lab.path("back").display().to_string();
    let here = tree.path.display().to_string();
    let up = Up::start(&lab, &[])?;
    up.boomfs(&["fs", "put", "-rp", &here, "/copy"])?;
    assert_eq!(
        differences(&tree.path, &up.mount.join("copy"))?,
        Vec::<String>::new()
    );
    up.boomfs(&["fs", "get", "-rp", "/copy", &back])?;
    assert_eq!(
        differences(&tree.path, &lab.path("back"))?,
        Vec::<String>::new()
    );
    let refused = up.boomfs(&["fs", "put", &format!("{here}/plain0"), "/copy/plain0"]);
    assert!(
        format!("{refused:?}").contains("replace it with -f"),
        "{refused:?}"
    );
    up.stop()
}
