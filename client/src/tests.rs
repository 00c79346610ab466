//! The client against a fake cluster in a simulated world.

mod data;
mod failover;
mod model;
mod session;

use crate::fake::Fake;
use crate::{At, Attr, Caller, Client, CreateFile, FileWriter, Ino};
use bytes::Bytes;

fn root() -> Caller {
    Caller::default()
}

fn named(name: &str) -> At {
    At {
        base: Ino::ROOT,
        path: vec![name.as_bytes().to_vec()],
    }
}

async fn create(client: &Client, name: &str) -> Attr {
    let file = CreateFile {
        lease: true,
        ..CreateFile::file(0o644)
    };
    client.create(&root(), &named(name), file).await.unwrap()
}

async fn create_open(client: &Client, name: &str) -> FileWriter {
    let ino = create(client, name).await.ino;
    client.open_write(&root(), ino).await.unwrap()
}

/// Bytes that differ everywhere.
fn pattern(seed: u64, len: usize) -> Bytes {
    let mut at = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = (0..len).map(|_| {
        at ^= at << 13;
        at ^= at >> 7;
        at ^= at << 17;
        (at >> 24) as u8
    });
    bytes.collect()
}

fn nothing_wrong(fake: &Fake) {
    let none: Vec<String> = Vec::new();
    assert_eq!(fake.state().wrong, none);
}
