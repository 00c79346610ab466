//! The boomfs client library: sessions with the NameNode, failover, retry, reading and writing of
//! files.
//!
//! A [`Client`] is one session. Namespace operations are its methods; a file is read through a
//! [`FileReader`] and written through a [`FileWriter`]. Every call ends within the deadline of its
//! [`Config`] and every [`Error`] carries a POSIX errno and says what failed, for which object and
//! why.
//!
//! **Invariant:** a command is numbered when it is first sent and stays with the client until it
//! is answered; after a reconnect it is sent again under the same number, so a retry is answered
//! and never run twice.
//!
//! **Invariant:** of several NameNodes a client uses the one that leads, and finds it by itself: it
//! asks all of them at once, and follows what they say of one another.

mod client;
mod describe;
mod dirty;
mod error;
mod fetch;
mod files;
mod layout;
mod limits;
mod link;
mod pipeline;
mod pool;
mod query;
mod reader;
mod retry;
mod writer;

pub use client::{Client, Config, CreateFile, SetAttr};
pub use error::{Error, errno};
pub use query::{Change, Rows, Watch};
pub use reader::FileReader;
pub use writer::FileWriter;

pub use boomfs_wire::{
    Answer, At, Attr, Caller, ClusterId, Entry, Identity, Ino, Kind, Name, NameNodeStatus, NodeId,
    NodeStatus, Op, ReadOp, SessionId, SetTime, StatFs, Status,
};

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
