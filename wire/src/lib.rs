//! What travels between the parts of boomfs: identifiers, messages, frames.
//!
//! Every frame carries its kind, the protocol version and a CRC-32C (see [`frame`]); the
//! bytes of files travel raw behind the frame that describes them.

pub mod blob;
pub mod frame;
pub mod ids;
pub mod messages;

pub use blob::Blob;
pub use frame::{
    Frame, FrameError, MAX_BODY, MAX_HEADER, Message, PROTOCOL_VERSION, decode_record,
    encode_message, encode_record, read_frame, read_message, record_len, write_message,
};
pub use ids::{BlockId, ClusterId, Generation, Ino, NodeId, SessionId};
pub use messages::*;
