//! Tests of the whole system: real processes of the `boomfs` binary, mounted.
//!
//! They need root and `/dev/fuse`, and say so where these are missing; `BOOMFS_SKIP_FUSE=1` leaves them out.
#![allow(clippy::disallowed_methods)] // Tests watch real processes, with real clocks and files.

mod commands;
mod crashes;
mod docs;
mod failover;
mod files;
mod mounts;
mod parts;
mod queries;
mod trees;

use boomfs_tests::Lab;

fn lab() -> anyhow::Result<Lab> {
    Lab::new(env!("CARGO_BIN_EXE_boomfs"))
}
