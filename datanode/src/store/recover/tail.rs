//! Where a replica ends after a crash.

use super::Repair;
use crate::metrics::count;
use crate::store::layout::{
    CHUNK64, Header, Layout, chunk_len, chunk_start, chunks_of, decode_slots,
};
use crate::store::shared::Shared;
use boomfs_io::File;
use boomfs_wire::CHUNK;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// How much of a replica is there.
pub(super) struct Verified {
    pub length: u64,
    pub bad: Option<String>,
}

/// Finds out how long a replica is after a crash, and makes its file end there. Answers also
/// whether it ended where the header says, with nothing behind.
pub(super) async fn check_tail(
    shared: &Arc<Shared>,
    file: File,
    mut header: Header,
    images: &BTreeMap<u32, Bytes>,
) -> io::Result<(Repair, bool)> {
    let layout = Layout {
        block_size: header.block_size,
    };
    let verified = if header.bad {
        Verified {
            length: header.synced,
            bad: None,
        }
    } else {
        verify_tail(&file, layout, header.synced, images).await?
    };
    if let Some(why) = &verified.bad {
        count(&shared.metrics.bad_replicas);
        tracing::error!("block {}: replica marked bad: {why}", header.block);
        header.bad = true;
    }
    let mut as_it_was = verified.bad.is_none() && verified.length == header.synced;
    if !header.bad {
        as_it_was &= !shorten(&file, layout, verified.length).await?;
    }
    let repair = Repair {
        file,
        header,
        verified,
    };
    Ok((repair, as_it_was))
}

async fn verify_tail(
    file: &File,
    layout: Layout,
    synced: u64,
    images: &BTreeMap<u32, Bytes>,
) -> io::Result<Verified> {
    let there = file
        .len()
        .await?
        .saturating_sub(layout.data_at())
        .min(layout.block_size);
    let good = |length| Verified { length, bad: None };
    if there == synced {
        // What was synced is not read again.
        return Ok(good(synced));
    }
    let mut chunk = u32::try_from(synced / CHUNK64).unwrap_or(u32::MAX);
    // What the journal brought back is looked at too: it may begin below what is synced.
    if let Some((first, _)) = images.first_key_value() {
        chunk = chunk.min(*first);
    }
    let mut length = chunk_start(chunk);
    while length < there {
        let data = file
            .read_at(layout.chunk_at(chunk), chunk_len(chunk, there))
            .await?;
        let slot = file.read_at(layout.slot_at(chunk), 4).await?;
        let crc = decode_slots(&slot, 1).first().copied().unwrap_or(0);
        let known = [data.len(), images.get(&chunk).map_or(0, Bytes::len)];
        let Some(len) = checksummed(&data, crc, known, chunk_len(chunk, synced)) else {
            break;
        };
        length += len as u64;
        if len < CHUNK {
            break;
        }
        chunk += 1;
    }
    if length >= synced {
        return Ok(good(length));
    }
    let why = if there < synced {
        format!("its file holds {there} bytes, though {synced} had been synced")
    } else {
        format!(
            "the chunk at byte {} does not match its checksum, though it had been synced",
            chunk_start(chunk)
        )
    };
    Ok(Verified {
        length: synced,
        bad: Some(why),
    })
}

/// The length that a chunk had when its checksum was written, if it matches at any: one of those
/// `known`, or, where `synced` bytes of the chunk must be there, whatever it grew to since. (What
/// is added to a chunk may be in place by a cut of the journal before a sync says so; more bytes
/// behind it whose record a crash took then hide where the chunk ended.)
fn checksummed(data: &[u8], crc: u32, known: [usize; 2], synced: usize) -> Option<usize> {
    let fits = |len: &usize| *len > 0 && data.get(..*len).is_some_and(|d| crc32c::crc32c(d) == crc);
    known.into_iter().find(fits).or_else(|| {
        let (least, more) = data.split_at_checked(synced).filter(|_| synced > 0)?;
        let mut sum = crc32c::crc32c(least);
        if sum == crc {
            return Some(synced);
        }
        let grown = more.iter().position(|byte| {
            sum = crc32c::crc32c_append(sum, std::slice::from_ref(byte));
            sum == crc
        });
        grown.map(|more| synced + more + 1)
    })
}

/// Makes a replica end at a length, and leaves no checksum behind the end: a chunk appended later
/// and lost in a crash must not be taken for one of before. Answers whether anything was changed.
pub(super) async fn shorten(file: &File, layout: Layout, length: u64) -> io::Result<bool> {
    let mut changed = false;
    let mut from = layout.slot_at(chunks_of(length));
    // Behind the data's start there are no slots: a short block has few.
    let end = layout.slot_at(layout.chunks());
    while from < end {
        // Most of it was never written to.
        from = file.next_data(from).await?.max(from);
        let till = (from - from % CHUNK64 + CHUNK64).min(end);
        let wanted = usize::try_from(till.saturating_sub(from)).map_err(io::Error::other)?;
        let slots = file.read_at(from, wanted).await?;
        if let Some(last) = slots.iter().rposition(|b| *b != 0) {
            file.write_at(from, vec![0; last + 1]).await?;
            changed = true;
        }
        from = till.max(from);
    }
    let whole = layout.data_at() + length;
    if file.len().await? != whole {
        file.set_len(whole).await?;
        changed = true;
    }
    Ok(changed)
}
