//! The directory that a drill has to itself.

use anyhow::{Context, Result};
use boomfs_client::{At, Caller, Client, Config, Entry, Error, Ino, Kind};
use boomfs_io::Io;

/// Names that a listing asks for.
const PAGE: u32 = 500;

/// See the module.
pub struct Ground {
    /// Its name in the root.
    pub name: String,
    /// Its number.
    pub ino: Ino,
}

fn at(base: Ino, name: &[u8]) -> At {
    At {
        base,
        path: vec![name.to_vec()],
    }
}

impl Ground {
    /// Makes it, under a name that is new.
    ///
    /// # Errors
    /// The cluster cannot be reached, or refuses.
    pub async fn make(io: Io, namenodes: Vec<String>) -> Result<Ground> {
        let name = format!("boomfs-drill.{:016x}", io.random_u64());
        let client = Client::connect(io, Config::new(namenodes, "drill")).await?;
        let place = at(Ino::ROOT, name.as_bytes());
        let made = client.mkdir(&Caller::default(), &place, 0o755).await;
        client.close().await?;
        let ino = made.with_context(|| format!("cannot make /{name}"))?.ino;
        Ok(Ground { name, ino })
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub async fn remove(&self, io: Io, namenodes: Vec<String>) -> Result<()> {
        let client = Client::connect(io, Config::new(namenodes, "drill")).await?;
        let removed = self.empty(&client).await;
        client.close().await?;
        removed.with_context(|| format!("cannot remove /{}", self.name))
    }

    async fn empty(&self, client: &Client) -> Result<(), Error> {
        let caller = Caller::default();
        // Of a directory that is open: where it is, and what it is called there.
        let mut open = vec![(Ino::ROOT, self.name.clone().into_bytes(), self.ino)];
        while let Some((parent, name, ino)) = open.last().cloned() {
            let (_, entries, _) = client.readdir(&caller, ino, 0, PAGE).await?;
            if entries.is_empty() {
                client.rmdir(&caller, &at(parent, &name)).await?;
                open.pop();
            }
            for Entry { name, attr, .. } in entries {
                if attr.kind == Kind::Dir {
                    open.push((ino, name, attr.ino));
                    break;
                }
                client.unlink(&caller, &at(ino, &name)).await?;
            }
        }
        Ok(())
    }
}
