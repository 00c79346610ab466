//! The replicated state as a whole, from one NameNode to another that is too far behind to learn it slot by slot.

use super::conn::{Conn, Item};
use super::peers::{self, Me};
use crate::store::checkpoint::{Part, Writer};
use crate::store::record::split;
use crate::store::{Shared as Folder, StoreError};
use boomfs_io::Io;
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{Blob, FromNameNode, ToNameNode};
use overlog::Row;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};

/// For each part of it.
const PART_DEADLINE: Duration = Duration::from_secs(30);

/// Tables in a state, at most.
const MAX_TABLES: usize = 1_000;

/// Why a state was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The other NameNode did not send it.
    #[error("{0}")]
    Peer(String),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn peer(why: impl ToString) -> TransferError {
    TransferError::Peer(why.to_string())
}

/// Fetches the state of a NameNode as of a slot that is not before `slot`, and stores it as a checkpoint; gives its slot.
///
/// # Errors
/// Every [`TransferError`]; nothing is changed then.
pub async fn fetch(
    io: &Io,
    me: &Me,
    nonce: u64,
    host: &str,
    slot: u64,
    folder: Arc<Folder>,
) -> Result<u64, TransferError> {
    let stream = peers::open(io, me, nonce, host).await.map_err(peer)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    write_message(&mut writer, &ToNameNode::FetchState { slot }, &[])
        .await
        .map_err(peer)?;
    writer.flush().await.map_err(peer)?;
    let mut parts: Vec<(String, u32)> = Vec::new();
    let mut into: Option<Writer> = None;
    let fetched = async {
        loop {
            let read = read_message::<FromNameNode, _>(&mut reader);
            let (at, table, columns, count, rows, end) =
                match io.timeout(PART_DEADLINE, read).await.map_err(peer)? {
                    Ok(Some((
                        FromNameNode::State {
                            slot,
                            table,
                            columns,
                            count,
                            rows,
                            end,
                        },
                        _,
                    ))) => (slot, table, columns, count, rows, end),
                    Ok(Some((FromNameNode::Refused { failure }, _))) => {
                        return Err(peer(failure.message));
                    }
                    Ok(Some(_)) => return Err(peer("it sent something else")),
                    Ok(None) => return Err(peer("it closed the connection")),
                    Err(e) => return Err(peer(e)),
                };
            let started = into.is_some();
            if let Some((rows, digest)) = end {
                let Some(writer) = into.take() else {
                    return Err(peer("it sent an end and no state"));
                };
                let got = writer.digest();
                if (got.rows, got.sum) != (rows, digest) {
                    writer.abandon().await;
                    return Err(peer("what it sent has another digest than it says"));
                }
                writer.finish().await?;
                return Ok(at);
            }
            if !started {
                // The first part lists the tables.
                parts = tables(&rows.0).ok_or_else(|| peer("it sent no list of tables"))?;
                into = Some(Writer::new(folder.clone(), Part::State, at, parts.clone()));
                continue;
            }
            let known = parts.iter().position(|t| *t == (table.clone(), columns));
            let number = known.ok_or_else(|| peer("it sent rows of an unknown table"))?;
            let rows = split(&rows.0, count, columns)
                .ok_or_else(|| peer(format!("rows of {table} that are none")))?;
            if let Some(writer) = &mut into {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                writer.rows(number, &rows).await?;
            }
        }
    };
    let result = fetched.await;
    if let Some(writer) = into {
        writer.abandon().await;
    }
    result
}

/// Sends the newest checkpoint of the state.
///
/// # Errors
/// There is none as new as that, or it cannot be read.
pub async fn send(folder: &Folder, slot: u64, conn: &Conn) -> Result<(), TransferError> {
    let newest = folder.newest_state().await?;
    let Some(mut reader) = newest.filter(|r| r.header().slot >= slot) else {
        return Err(peer(format!("there is no checkpoint of slot {slot} yet")));
    };
    let (at, tables) = (reader.header().slot, reader.header().tables.clone());
    let part = |table: &str, columns, count, rows, end| {
        Item::message(FromNameNode::State {
            slot: at,
            table: table.to_owned(),
            columns,
            count,
            rows: Blob(rows),
            end,
        })
    };
    conn.push(part("", 0, 0, list(&tables), None));
    while let Some((table, rows)) = reader.next().await? {
        let Some((name, columns)) = tables.get(table as usize) else {
            continue;
        };
        let bytes = rows.iter().flat_map(Row::as_bytes).copied().collect();
        conn.push(part(name, *columns, rows.len() as u64, bytes, None));
        conn.room().await;
    }
    let digest = reader.digest();
    conn.push(part("", 0, 0, Vec::new(), Some((digest.rows, digest.sum))));
    Ok(())
}

/// Names and numbers of columns as lines.
fn list(tables: &[(String, u32)]) -> Vec<u8> {
    let line = |(name, columns): &(String, u32)| format!("{name} {columns}\n");
    tables.iter().map(line).collect::<String>().into_bytes()
}

fn tables(bytes: &[u8]) -> Option<Vec<(String, u32)>> {
    let line = |line: &str| {
        let (name, columns) = line.split_once(' ')?;
        Some((name.to_owned(), columns.parse().ok()?))
    };
    let text = std::str::from_utf8(bytes).ok()?;
    let all: Vec<_> = text.lines().map(line).collect::<Option<_>>()?;
    (!all.is_empty() && all.len() <= MAX_TABLES).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tables_is_read_as_written() {
        let all = vec![("inode".to_owned(), 15), ("clock".to_owned(), 2)];
        assert_eq!(tables(&list(&all)), Some(all));
        assert_eq!(tables(b""), None);
        assert_eq!(tables(b"inode\n"), None);
        assert_eq!(tables(&[0xff]), None);
    }
}
