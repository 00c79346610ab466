//! The store on real and simulated disks.

mod basic;
mod crash;

use super::*;
use boomfs_io::sim::World;
use boomfs_io::watch;
use boomfs_wire::CHUNK;
use bytes::Bytes;
use std::path::Path;

const DATA: &str = "/data";

struct Opened {
    store: Arc<Store>,
    failure: watch::Receiver<Option<Arc<Error>>>,
    reporter: Arc<Reporter>,
    metrics: Arc<Metrics>,
}

async fn try_open_with(io: &Io, data: &Path, capacity: u64) -> Result<Opened, Error> {
    let metrics = Arc::new(Metrics::default());
    let reporter = Arc::new(Reporter::new(1));
    let (sender, failure) = watch::channel(None);
    let options = Options {
        data: data.to_path_buf(),
        capacity,
        reserve: 0,
    };
    let store = Store::open(io, options, &metrics, &reporter, sender).await?;
    Ok(Opened {
        store,
        failure,
        reporter,
        metrics,
    })
}

async fn try_open(io: &Io) -> Result<Opened, Error> {
    try_open_with(io, Path::new(DATA), 0).await
}

async fn open(io: &Io) -> Arc<Store> {
    try_open(io).await.unwrap().store
}

fn crcs(offset: u64, data: &[u8]) -> Vec<u32> {
    let mut rest = data;
    replica::piece_lengths(offset, data.len())
        .into_iter()
        .map(|len| {
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            crc32c::crc32c(piece)
        })
        .collect()
}

async fn write(w: &Writer, offset: u64, data: &[u8]) -> Res<()> {
    let sums = crcs(offset, data);
    w.replica
        .write(w.token, offset, Bytes::copy_from_slice(data), &sums)
        .await
}

async fn new_block(store: &Arc<Store>, block: u64, generation: u64, size: u64) -> Res<Writer> {
    store
        .open_block(BlockId(block), Generation(generation), None, size)
        .await
}

/// All bytes of a replica, as a reader gets them.
async fn read_all(store: &Arc<Store>, block: u64) -> Res<Vec<u8>> {
    let replica = store.get(BlockId(block))?;
    let chunks = replica.read(Generation(0), 0, u64::MAX).await?;
    assert!(
        chunks
            .data
            .chunks(CHUNK)
            .zip(&chunks.crcs)
            .all(|(d, c)| crc32c::crc32c(d) == *c)
    );
    assert_eq!(chunks.data.len() as u64, chunks.length);
    Ok(chunks.data)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| seed.wrapping_add((i % 251) as u8))
        .collect()
}
