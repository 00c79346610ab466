//! The NameNode: rules that decide, and the shell that carries bytes between them, the disk
//! and the network.

pub mod codec;
pub mod metrics;
pub mod planted;
pub mod rules;
pub mod server;
pub mod store;

pub use metrics::Metrics;
pub use server::{Config, Reads, Server, ServerError};
pub use store::StoreError;
