//! The NameNode: rules that decide, and the shell that carries bytes between them, the disk
//! and the network.

pub mod codec;
pub mod metrics;
pub mod store;
