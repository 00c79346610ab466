//! The DataNode: a store of checksummed, replicated blocks and the server in front of it.
//!
//! * `store` keeps replicas in a data folder; `docs/FORMATS.md` draws its files byte by byte.
//! * `server` speaks [`boomfs_wire::ToDataNode`]: pipelines that write, reads that verify.
//! * `link` keeps a connection to each NameNode: reports, heartbeats, orders.
//!
//! **Architecture invariant:** a DataNode decides nothing about a cluster. It never deletes a
//! replica without an order, and obeys only orders of the highest ballot that it has stored.
//! It never serves a byte that does not match its checksum.

mod errno;
mod error;
mod link;
mod metrics;
mod node;
mod server;
mod store;

pub use error::Error;
pub use metrics::Metrics;
pub use node::{Config, DataNode};
