//! Who a data folder belongs to: the identity file, and the highest ballot obeyed.

use super::layout::Names;
use crate::error::Error;
use boomfs_io::Io;
use boomfs_wire::frame::{FrameError, decode_record, encode_record};
use boomfs_wire::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The newest format of data folders that this program knows.
pub(crate) const FORMAT: u64 = 1;

const IDENTITY_KIND: u16 = 0x200;
const BALLOT_KIND: u16 = 0x201;
const VERSION: u16 = 1;

/// Who a data folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Format of the whole folder.
    pub format: u64,
    /// The cluster; 0 until the first NameNode said which.
    pub cluster: ClusterId,
    /// The node, as the NameNode registered it; 0 until then.
    pub node: NodeId,
    /// Counts the starts.
    pub incarnation: u64,
    /// Chosen at random when the folder was made.
    pub nonce: u64,
}

fn corrupt(path: &Path, error: &FrameError) -> Error {
    if let FrameError::UnknownVersion { got, max, .. } = error
        && got > max
    {
        return Error::NewerFormat {
            path: path.to_path_buf(),
            found: u64::from(*got),
            known: u64::from(*max),
        };
    }
    Error::Corrupt {
        path: path.to_path_buf(),
        offset: 0,
        reason: error.to_string(),
    }
}

/// Reads the identity of a folder; `None` for a fresh one. Changes nothing.
pub(crate) async fn load(io: &Io, names: &Names) -> Result<Option<Identity>, Error> {
    let path = names.identity();
    if !io.exists(&path).await {
        let items = io.read_dir(names.root()).await;
        let items = items.map_err(Error::io("cannot list the data folder", names.root()))?;
        let ours = ["lock", "lost+found", "identity.tmp"];
        return match items.into_iter().find(|i| !ours.contains(&i.name.as_str())) {
            None => Ok(None),
            Some(item) => Err(Error::Foreign {
                path: names.root().to_path_buf(),
                found: item.name,
            }),
        };
    }
    let bytes = io.read_file(&path).await;
    let bytes = bytes.map_err(Error::io("cannot read the identity", &path))?;
    let found: Identity =
        decode_record(IDENTITY_KIND, VERSION, &bytes).map_err(|e| corrupt(&path, &e))?;
    if found.format > FORMAT {
        return Err(Error::NewerFormat {
            path,
            found: found.format,
            known: FORMAT,
        });
    }
    Ok(Some(found))
}

/// Writes the identity durably.
pub(crate) async fn save(io: &Io, names: &Names, identity: &Identity) -> Result<(), Error> {
    let path = names.identity();
    let bytes = encode_record(IDENTITY_KIND, VERSION, identity).map_err(|e| corrupt(&path, &e))?;
    let written = io.write_atomic(&path, &bytes).await;
    written.map_err(Error::io("cannot write the identity", &path))
}

/// Reads the highest ballot obeyed; 0 when none was.
pub(crate) async fn load_ballot(io: &Io, names: &Names) -> Result<u64, Error> {
    let path = names.ballot();
    if !io.exists(&path).await {
        return Ok(0);
    }
    let bytes = io.read_file(&path).await;
    let bytes = bytes.map_err(Error::io("cannot read the ballot", &path))?;
    decode_record(BALLOT_KIND, VERSION, &bytes).map_err(|e| corrupt(&path, &e))
}

/// Writes the highest ballot obeyed durably.
pub(crate) async fn save_ballot(io: &Io, names: &Names, ballot: u64) -> Result<(), Error> {
    let path = names.ballot();
    let bytes = encode_record(BALLOT_KIND, VERSION, &ballot).map_err(|e| corrupt(&path, &e))?;
    let written = io.write_atomic(&path, &bytes).await;
    written.map_err(Error::io("cannot write the ballot", &path))
}
