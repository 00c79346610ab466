//! NameNode, DataNodes and mount as processes of their own, and what happens when some are killed.

use crate::lab;
use anyhow::{Context, Result};
use boomfs_tests::{Fuse, Lab, Parts, Tree, differences, eventually, fuse, within};
use serde_json::Value;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn number(status: &Value, name: &str) -> Option<u64> {
    status.get(name).and_then(Value::as_u64)
}

/// Bytes that differ everywhere.
fn bytes(count: u32) -> Vec<u8> {
    (0..count)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Writes a file in pieces; calls back in the middle of it.
fn write_slowly(path: &Path, content: &[u8], mut middle: impl FnMut() -> Result<()>) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let pieces = content.chunks(256 << 10);
    let half = pieces.len() / 2;
    for (at, piece) in pieces.enumerate() {
        if at == half {
            middle()?;
        }
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(())
}

#[test]
fn a_datanode_killed_during_a_copy_and_during_a_read_is_not_noticed() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let mut parts = Parts::start(&lab, 3)?;
    let content = bytes(12 << 20);
    let path = parts.mountpoint.join("big");
    write_slowly(&path, &content, || parts.kill_datanode(2))?;
    assert!(std::fs::read(&path)? == content, "the copy differs");
    parts.restart_datanode(2)?;
    parts.settled(MINUTE, |status| {
        number(status, "under_replicated") == Some(0)
    })?;
    // Now one is killed while it is read, past what the kernel has in its cache.
    lab.sh(
        &parts.mountpoint,
        "echo 1 > /proc/sys/vm/drop_caches || true; touch big",
    )?;
    let mut file = std::fs::File::open(&path)?;
    let mut read = vec![0; content.len()];
    let (first, rest) = read.split_at_mut(1 << 20);
    file.read_exact(first)?;
    parts.kill_datanode(1)?;
    file.read_exact(rest)?;
    assert!(read == content, "what was read differs");
    Ok(())
}

#[test]
fn a_namenode_killed_under_a_live_mount_is_waited_for() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let mut parts = Parts::start(&lab, 3)?;
    let path = parts.mountpoint.join("open");
    let mut open = std::fs::OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)?;
    open.write_all(b"before ")?;
    open.sync_all()?;
    let tree = Tree::generate(&lab.path("tree"), 60, 4)?;
    let (from, to) = (tree.path.clone(), parts.mountpoint.clone());
    thread::scope(|scope| -> Result<()> {
        let copying = scope.spawn(|| copy(&lab, &from, &to));
        parts.namenode.kill()?;
        // Both wait for it: the copy, and this call.
        let mount = parts.mountpoint.clone();
        let asking = scope.spawn(move || {
            within(MINUTE, "a stat", move || {
                Ok(mount.join("open").metadata()?.len())
            })
        });
        parts.restart_namenode()?;
        assert_eq!(asking.join().ok().context("it panicked")??, 7);
        copying.join().ok().context("it panicked")?
    })?;
    assert_eq!(
        differences(&tree.path, &parts.mountpoint.join("tree"))?,
        Vec::<String>::new()
    );
    open.write_all(b"and after")?;
    open.sync_all()?;
    let mut text = String::new();
    open.seek(SeekFrom::Start(0))?;
    open.read_to_string(&mut text)?;
    assert_eq!(text, "before and after");
    Ok(())
}

#[test]
fn a_write_waits_for_the_first_datanode() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let mut parts = Parts::start(&lab, 0)?;
    let path = parts.mountpoint.join("early");
    let mount = parts.mountpoint.clone();
    thread::scope(|scope| -> Result<()> {
        // Another process writes: one that this one starts must not wait for a file that it has inherited.
        let writing = scope.spawn(|| lab.sh(&mount, "printf early > early && sync early"));
        eventually(MINUTE, "the file", || Ok(path.metadata()?))?;
        parts.add_datanode()?;
        writing.join().ok().context("it panicked")?.map(|_| ())
    })?;
    assert_eq!(std::fs::read(&path)?, b"early");
    Ok(())
}

fn copy(lab: &Lab, from: &Path, to: &Path) -> Result<()> {
    lab.sh(to, &format!("cp -a {} .", from.display()))
        .map(|_| ())
}

#[test]
fn with_four_datanodes_the_loss_of_one_is_repaired() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let mut parts = Parts::start(&lab, 4)?;
    let tree = Tree::generate(&lab.path("tree"), 60, 5)?;
    copy(&lab, &tree.path, &parts.mountpoint)?;
    parts.settled(MINUTE, |status| {
        number(status, "under_replicated") == Some(0)
    })?;
    parts.kill_datanode(1)?;
    parts.settled(MINUTE, |status| {
        number(status, "live") == Some(3) && number(status, "under_replicated") > Some(0)
    })?;
    let healthy = parts.settled(MINUTE, |status| {
        number(status, "under_replicated") == Some(0)
    })?;
    assert_eq!(number(&healthy, "missing"), Some(0), "{healthy}");
    // What the lost one had, another has: with two more gone, everything can still be read.
    assert_eq!(
        differences(&tree.path, &parts.mountpoint.join("tree"))?,
        Vec::<String>::new()
    );
    Ok(())
}
