//! A user of the filesystem.

use crate::cluster::{Cluster, noted, until};
use anyhow::{Context, Result, ensure};
use boomfs_client::{At, Caller, Client, CreateFile, Ino};
use boomfs_io::Io;
use boomfs_io::sim::World;
use bytes::Bytes;
use std::collections::BTreeMap;

const UNDER_REPLICATED: &str = "? short(B, H, W) :- under_replicated(B, H, W);";

/// A user of the filesystem who remembers what must be in it.
pub struct User {
    pub world: World,
    pub io: Io,
    pub client: Client,
    pub caller: Caller,
    pub files: BTreeMap<String, Vec<u8>>,
}

fn at(path: &str) -> At {
    At {
        base: Ino::ROOT,
        path: path
            .split('/')
            .map(|name| name.as_bytes().to_vec())
            .collect(),
    }
}

/// Bytes that differ everywhere, and from those of other seeds.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    bytes.collect()
}

/// Puts bytes into a file's contents, which grow as far as needed.
fn put(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    contents.resize(contents.len().max(end), 0);
    contents.splice(offset..end, data.iter().copied());
}

impl User {
    /// A user on a node of his own, who knows of no files yet.
    pub async fn new(world: &World, cluster: &Cluster) -> Result<User> {
        Ok(User {
            world: world.clone(),
            io: world.node("user"),
            client: cluster.client("user").await?,
            caller: Caller::default(),
            files: BTreeMap::new(),
        })
    }

    pub async fn make_directory(&self, path: &str) -> Result<()> {
        let at = at(path);
        let made = self.client.mkdir(&self.caller, &at, 0o755);
        noted(&self.world, &format!("mkdir {path}"), made).await?;
        Ok(())
    }

    pub async fn create(&mut self, path: &str) -> Result<()> {
        let file = CreateFile {
            exclusive: true,
            ..CreateFile::file(0o644)
        };
        let at = at(path);
        let created = self.client.create(&self.caller, &at, file);
        noted(&self.world, &format!("create {path}"), created).await?;
        self.files.insert(path.to_owned(), Vec::new());
        Ok(())
    }

    pub async fn ino(&self, path: &str) -> Result<Ino> {
        let at = at(path);
        let found = self.client.lookup(&self.caller, &at, true);
        Ok(noted(&self.world, &format!("lookup {path}"), found)
            .await?
            .ino)
    }

    /// Writes to a file, closes it, and says so.
    pub async fn write(&mut self, path: &str, offset: usize, data: Vec<u8>) -> Result<()> {
        let ino = self.ino(path).await?;
        let writer = self.client.open_write(&self.caller, ino).await?;
        let what = format!("write {path} at {offset}");
        let wrote = writer.write_at(offset as u64, Bytes::from(data.clone()));
        noted(&self.world, &what, wrote).await?;
        noted(&self.world, &format!("close {path}"), writer.close()).await?;
        put(
            self.files.entry(path.to_owned()).or_default(),
            offset,
            &data,
        );
        Ok(())
    }

    pub async fn append(&mut self, path: &str, data: Vec<u8>) -> Result<()> {
        let ino = self.ino(path).await?;
        let writer = self.client.open_write(&self.caller, ino).await?;
        let appended = writer.append(Bytes::from(data.clone()));
        let offset = noted(&self.world, &format!("append to {path}"), appended).await?;
        noted(&self.world, &format!("sync {path}"), writer.fsync()).await?;
        noted(&self.world, &format!("close {path}"), writer.close()).await?;
        let contents = self.files.entry(path.to_owned()).or_default();
        ensure!(offset == contents.len() as u64, "appended at {offset}");
        contents.extend(data);
        Ok(())
    }

    pub async fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let (old, new) = (at(from), at(to));
        let renamed = self.client.rename(&self.caller, &old, &new, false, false);
        noted(&self.world, &format!("rename {from} {to}"), renamed).await?;
        let contents = self.files.remove(from).context("no such file")?;
        self.files.insert(to.to_owned(), contents);
        Ok(())
    }

    pub async fn unlink(&mut self, path: &str) -> Result<()> {
        let at = at(path);
        let unlinked = self.client.unlink(&self.caller, &at);
        noted(&self.world, &format!("unlink {path}"), unlinked).await?;
        self.files.remove(path);
        Ok(())
    }

    /// Reads every file and compares; and that no other names are there.
    pub async fn check(&self) -> Result<()> {
        for (path, contents) in &self.files {
            let ino = self.ino(path).await?;
            let reader = self.client.open_read(ino).await?;
            // One byte more than there is, in pieces that fit no block.
            let mut got = Vec::new();
            loop {
                let read = reader.read_at(got.len() as u64, 50_001).await;
                // The bytes are in the trace as they came, by their checksums.
                let outcome = read.as_ref().map(Bytes::len);
                self.world
                    .note(&format!("read {path} at {}: {outcome:?}", got.len()));
                let bytes = read?;
                if bytes.is_empty() {
                    break;
                }
                got.extend_from_slice(&bytes);
            }
            let differs = got.iter().zip(contents).position(|(a, b)| a != b);
            ensure!(
                got == *contents,
                "{path} of {} bytes is read as {} others, from {differs:?} on",
                contents.len(),
                got.len()
            );
        }
        let names = self
            .client
            .query("? names(P) :- file(P, _, _);", 100)
            .await?;
        let mut expected: Vec<String> = self.files.keys().map(|p| format!("[\"/{p}\"]")).collect();
        expected.sort();
        ensure!(names.rows == expected, "files are {:?}", names.rows);
        Ok(())
    }

    /// Waits until some block lacks replicas.
    pub async fn short_of_replicas(&self) -> Result<()> {
        let short = |rows: &[String]| !rows.is_empty();
        until(&self.io, &self.client, UNDER_REPLICATED, short).await
    }

    /// Waits until every block has all its replicas.
    pub async fn repaired(&self) -> Result<()> {
        let none = |rows: &[String]| rows.is_empty();
        until(&self.io, &self.client, UNDER_REPLICATED, none).await
    }
}
