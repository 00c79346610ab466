//! `boomfs fs stat`.

use super::path::RemotePath;
use super::{Tree, show};
use crate::failure::Tally;
use crate::output;
use anyhow::Context;
use boomfs_client::{Answer, Attr, Kind, ReadOp};
use serde_json::{Value, json};

/// Arguments of `boomfs fs stat`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to show
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<RemotePath>,
    /// Follow a symbolic link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Show blocks and who has them, too
    #[arg(short, long)]
    blocks: bool,
    /// Print a JSON object a path
    #[arg(long)]
    json: bool,
}

/// Shows.
///
/// # Errors
/// Some could not be looked at.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    for path in &args.paths {
        tally.take(one(tree, args, path).await);
    }
    tally.end()
}

async fn one(tree: &Tree, args: &Args, path: &RemotePath) -> anyhow::Result<()> {
    let attr = tree.look(path, args.dereference).await?;
    let target = match attr.kind {
        Kind::Symlink => Some(
            tree.client
                .readlink(&tree.caller, attr.ino)
                .await
                .with_context(|| path.to_string())?,
        ),
        _ => None,
    };
    let blocks = if args.blocks && attr.kind == Kind::File {
        Some(blocks(tree, path, &attr).await?)
    } else {
        None
    };
    if args.json {
        let mut object = show::json(&path.bytes(), &attr, target.as_deref());
        if let (Value::Object(object), Some(blocks)) = (&mut object, blocks) {
            object.insert("blocks".into(), Value::Array(blocks));
        }
        return output::json(&object);
    }
    output::line(&text(path, &attr, target.as_deref()))?;
    for block in blocks.into_iter().flatten() {
        output::line(&format!("  Block: {block}"))?;
    }
    Ok(())
}

async fn blocks(tree: &Tree, path: &RemotePath, attr: &Attr) -> anyhow::Result<Vec<Value>> {
    let op = ReadOp::Locate {
        ino: attr.ino,
        offset: 0,
        length: attr.size.max(1),
    };
    let answer = tree
        .client
        .read(&tree.caller, op)
        .await
        .with_context(|| path.to_string())?;
    let Answer::Blocks { blocks, .. } = answer else {
        anyhow::bail!("{path}: the NameNode did not say where its blocks are");
    };
    let shown = blocks.iter().map(|block| {
        let nodes: Vec<Value> = block
            .nodes
            .iter()
            .map(|node| json!({"node": node.node.0, "addr": node.addr}))
            .collect();
        json!({
            "block": block.block.0, "offset": block.offset, "generation": block.generation.0,
            "length": block.length, "nodes": nodes,
        })
    });
    Ok(shown.collect())
}

fn text(path: &RemotePath, attr: &Attr, target: Option<&[u8]>) -> String {
    let arrow = target
        .map(|target| format!(" -> {}", output::plain(&String::from_utf8_lossy(target))))
        .unwrap_or_default();
    let device = match attr.kind {
        Kind::CharDevice | Kind::BlockDevice => format!(", device {}", attr.rdev),
        _ => String::new(),
    };
    format!(
        "   Path: {path}{arrow}\n   Kind: {}, inode {}, links {}{device}\n   Size: {} bytes, {} allocated, blocks of {}, replication {}\n   Mode: {:04o} ({}), owner {}, group {}\n Modify: {}\n Change: {}\n Access: {}\n  Birth: {}",
        show::kind(attr.kind),
        attr.ino,
        attr.nlink,
        attr.size,
        attr.allocated,
        output::size(attr.block_size),
        attr.replication,
        attr.mode,
        show::mode(attr.kind, attr.mode),
        attr.uid,
        attr.gid,
        output::time(attr.mtime_ns),
        output::time(attr.ctime_ns),
        output::time(attr.atime_ns),
        output::time(attr.crtime_ns),
    )
}
