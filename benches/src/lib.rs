//! What the benches share: measuring, the plain hash maps that the engine is held against, and a
//! driver of the NameNode's rules without sockets or disks.

pub mod measure;
pub mod plain;
pub mod rules;

/// The one that the binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
