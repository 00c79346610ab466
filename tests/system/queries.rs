//! Overlog queries about a live cluster.

use crate::lab;
use anyhow::Result;
use boomfs_tests::{Fuse, Up, fuse};
use serde_json::{Value, json};
use std::time::Duration;

fn rows(text: &str) -> Result<Vec<Value>> {
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

#[test]
fn the_metadata_answers_queries() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &[])?;
    lab.sh(&up.mount, "mkdir -p a/b; for i in 1 2 3; do head -c ${i}000 /dev/zero > a/b/f$i; done; printf x > a/small")?;
    let query = r#"? big(Path, Size) :- file(Path, _, Size), Size >= 2000;"#;
    let big = rows(&up.boomfs(&["query", query, "--json"])?)?;
    assert_eq!(
        big,
        [
            json!({"Path": "/a/b/f2", "Size": 2000}),
            json!({"Path": "/a/b/f3", "Size": 3000})
        ]
    );
    let query = r#"? largest(top<2, [Size, Path]>) :- file(Path, _, Size);"#;
    let largest = rows(&up.boomfs(&["query", query, "--json"])?)?;
    assert_eq!(largest.len(), 1, "{largest:?}");
    let text = largest.iter().map(Value::to_string).collect::<String>();
    assert!(
        text.contains(r#"[2000,"/a/b/f2"],[3000,"/a/b/f3"]"#),
        "{text}"
    );
    let query = r#"? files(Path, count<*>) :- fqpath(Path, Dir), dentry(Dir, _, Ino, _), inode(Ino: Ino, Kind: "file");"#;
    let counts = rows(&up.boomfs(&["query", query, "--json"])?)?;
    let counts: Vec<String> = counts.iter().map(Value::to_string).collect();
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(
        counts
            .iter()
            .any(|row| row.contains(r#""Path":"/a/b""#) && row.contains('3')),
        "{counts:?}"
    );
    // As a table for people.
    let table = up.boomfs(&[
        "query",
        r#"? s(Name, Size) :- file(Name, _, Size), Size == 1;"#,
    ])?;
    assert!(
        table.contains("Name") && table.contains("/a/small"),
        "{table}"
    );
    up.stop()
}

#[test]
fn a_watched_query_shows_a_change() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let data = up.data.display().to_string();
    let query = r#"? name(Name) :- dentry(1, Name, _, _);"#;
    let mut watch = lab.start(&["query", query, "--watch", "--json", "--data", &data])?;
    let soon = Duration::from_secs(10);
    watch.line(soon, |line| line.contains(r#""change":"start""#))?;
    std::fs::create_dir(up.mount.join("came"))?;
    watch.line(soon, |line| {
        line.contains(r#""change":"added""#) && line.contains(r#""Name":"came""#)
    })?;
    std::fs::remove_dir(up.mount.join("came"))?;
    watch.line(soon, |line| {
        line.contains(r#""change":"removed""#) && line.contains(r#""Name":"came""#)
    })?;
    watch.stop(soon)?;
    up.stop()
}

#[test]
fn a_query_with_errors_is_refused() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &["--datanodes", "1"])?;
    let data = up.data.display().to_string();
    let ran = lab.boomfs(&["query", "? nonsense(X);", "--data", &data])?;
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.stderr.contains("nonsense"), "{ran}");
    up.stop()
}
