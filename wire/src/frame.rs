//! Frames: the envelope of every message and of every stored record.
//!
//! ```text
//!  0  magic       u32   0x464d4f42, the bytes "BOMF"
//!  4  kind        u16   which message or record
//!  6  version     u16   of the protocol, or of the record's format
//!  8  header_len  u32   at most MAX_HEADER
//! 12  body_len    u32   at most MAX_BODY; 0 in records
//! 16  crc         u32   CRC-32C of the bytes 0..16 and of the header
//! 20  header            bincode 1.3, fixed-size integers
//!     body              raw bytes, described (and checksummed) by the header
//! ```
//!
//! All integers are little-endian. The CRC does not cover the body: file data carries checksums
//! of its own, which stay with it from the client's memory to the disk.
//!
//! Lengths come from a stranger: they are checked against the limits before anything is
//! allocated, and buffers grow only with the bytes that arrive.

use crate::messages::{FromDataNode, FromNameNode, ToDataNode, ToNameNode};
use bincode::Options;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u16 = 2;

/// The longest header, bytes.
pub const MAX_HEADER: usize = 16 << 20;

/// The longest body, bytes.
pub const MAX_BODY: usize = 4 << 20;

/// Length of the fixed part of a frame, bytes.
pub const PREFIX: usize = 20;

/// First four bytes of a frame.
const MAGIC: u32 = u32::from_le_bytes(*b"BOMF");

/// How many bytes the CRC covers before the header.
const CRC_AT: usize = 16;

/// What a buffer starts with while its bytes are still to arrive.
const FIRST_READ: usize = 64 << 10;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are no frame.
    #[error("not a boomfs frame: it starts with {got:#010x}; does the other side speak boomfs?")]
    BadMagic {
        /// The first four bytes, as a little-endian number.
        got: u32,
    },
    /// Another version of the protocol or of a record's format.
    #[error(
        "frame of kind {kind:#06x} has version {got}, this build knows 1 to {max}; \
         are both sides of the same release?"
    )]
    UnknownVersion {
        /// The frame's kind.
        kind: u16,
        /// Its version.
        got: u16,
        /// The newest version known.
        max: u16,
    },
    /// A frame of a kind that does not belong here.
    #[error("frame of kind {got:#06x} where {expected:#06x} was expected")]
    UnexpectedKind {
        /// What was expected.
        expected: u16,
        /// What came.
        got: u16,
    },
    /// The header's bytes changed on the way or on disk.
    #[error("frame of kind {kind:#06x} is corrupt: CRC-32C is {got:#010x}, should be {want:#010x}")]
    Checksum {
        /// The frame's kind.
        kind: u16,
        /// As computed.
        got: u32,
        /// As stored.
        want: u32,
    },
    /// A header or body over its limit.
    #[error("frame has a {part} of {len} bytes, the limit is {max}")]
    TooLong {
        /// `header` or `body`.
        part: &'static str,
        /// Its length, bytes.
        len: u64,
        /// The limit, bytes.
        max: usize,
    },
    /// The bytes end inside of a frame.
    #[error("frame ends early: {got} of {want} bytes of its {part}")]
    Truncated {
        /// `prefix`, `header` or `body`.
        part: &'static str,
        /// Bytes that are there, of this part.
        got: usize,
        /// Bytes that should be.
        want: usize,
    },
    /// Bytes behind the end of a record, or a body where none belongs.
    #[error("record of kind {kind:#06x} is followed by {extra} bytes that do not belong to it")]
    Trailing {
        /// The record's kind.
        kind: u16,
        /// How many bytes.
        extra: usize,
    },
    /// The header is no value of the expected type, though its CRC is right.
    #[error("frame of kind {kind:#06x} does not decode: {why}")]
    Decode {
        /// The frame's kind.
        kind: u16,
        /// What the decoder says.
        why: String,
    },
    /// The value cannot be encoded.
    #[error("frame of kind {kind:#06x} does not encode: {why}")]
    Encode {
        /// The frame's kind.
        kind: u16,
        /// What the encoder says.
        why: String,
    },
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
}

impl From<FrameError> for io::Error {
    fn from(e: FrameError) -> io::Error {
        match e {
            FrameError::Io(e) => e,
            FrameError::Truncated { .. } => io::Error::new(io::ErrorKind::UnexpectedEof, e),
            e => io::Error::new(io::ErrorKind::InvalidData, e),
        }
    }
}

/// A type that travels as a frame's header.
pub trait Message {
    /// The frame's kind. Messages are below 0x100, stored records from there on.
    const KIND: u16;
}

impl Message for ToNameNode {
    const KIND: u16 = 1;
}

impl Message for FromNameNode {
    const KIND: u16 = 2;
}

impl Message for ToDataNode {
    const KIND: u16 = 3;
}

impl Message for FromDataNode {
    const KIND: u16 = 4;
}

/// A frame as it came, checked but not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which message.
    pub kind: u16,
    /// Version of the protocol.
    pub version: u16,
    /// The header's bincode bytes; their CRC is right.
    pub header: Bytes,
    /// The raw body.
    pub body: Bytes,
}

impl Frame {
    /// The message in the header.
    ///
    /// # Errors
    /// [`FrameError::UnexpectedKind`] and [`FrameError::Decode`].
    pub fn decode<M: DeserializeOwned + Message>(&self) -> Result<M, FrameError> {
        if self.kind != M::KIND {
            return Err(FrameError::UnexpectedKind {
                expected: M::KIND,
                got: self.kind,
            });
        }
        decode_header(self.kind, &self.header)
    }
}

/// The fixed part, with lengths that are within the limits.
struct Prefix {
    kind: u16,
    version: u16,
    header_len: usize,
    body_len: usize,
    crc: u32,
    crc_of_prefix: u32,
}

impl Prefix {
    /// Reads the fixed part. The version comes before the lengths, for another version may have
    /// other limits and should be named as what it is.
    fn parse(bytes: &[u8; PREFIX], max_version: u16) -> Result<Prefix, FrameError> {
        let [
            m0,
            m1,
            m2,
            m3,
            k0,
            k1,
            v0,
            v1,
            h0,
            h1,
            h2,
            h3,
            b0,
            b1,
            b2,
            b3,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        let magic = u32::from_le_bytes([m0, m1, m2, m3]);
        if magic != MAGIC {
            return Err(FrameError::BadMagic { got: magic });
        }
        let kind = u16::from_le_bytes([k0, k1]);
        let version = u16::from_le_bytes([v0, v1]);
        check_version(kind, version, max_version)?;
        let header_len = within(
            "header",
            u32::from_le_bytes([h0, h1, h2, h3]).into(),
            MAX_HEADER,
        )?;
        let body_len = within(
            "body",
            u32::from_le_bytes([b0, b1, b2, b3]).into(),
            MAX_BODY,
        )?;
        let (covered, _) = bytes.split_at(CRC_AT);
        Ok(Prefix {
            kind,
            version,
            header_len,
            body_len,
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
            crc_of_prefix: crc32c::crc32c(covered),
        })
    }

    /// Compares the CRC with the header's bytes.
    fn check(&self, header: &[u8]) -> Result<(), FrameError> {
        let got = crc32c::crc32c_append(self.crc_of_prefix, header);
        if got == self.crc {
            Ok(())
        } else {
            Err(FrameError::Checksum {
                kind: self.kind,
                got,
                want: self.crc,
            })
        }
    }
}

fn check_version(kind: u16, got: u16, max: u16) -> Result<(), FrameError> {
    if (1..=max).contains(&got) {
        Ok(())
    } else {
        Err(FrameError::UnknownVersion { kind, got, max })
    }
}

fn within(part: &'static str, len: u64, max: usize) -> Result<usize, FrameError> {
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(FrameError::TooLong { part, len, max }),
    }
}

fn codec() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(MAX_HEADER as u64)
        .reject_trailing_bytes()
}

fn decode_header<T: DeserializeOwned>(kind: u16, header: &[u8]) -> Result<T, FrameError> {
    codec().deserialize(header).map_err(|e| FrameError::Decode {
        kind,
        why: e.to_string(),
    })
}

/// Prefix and header of one frame.
fn encode<T: Serialize>(
    kind: u16,
    version: u16,
    value: &T,
    body_len: usize,
) -> Result<Vec<u8>, FrameError> {
    let body_len = within("body", body_len as u64, MAX_BODY)?;
    let failed = |e: bincode::Error| FrameError::Encode {
        kind,
        why: e.to_string(),
    };
    let header_len = codec()
        .with_no_limit()
        .serialized_size(value)
        .map_err(failed)?;
    let header_len = within("header", header_len, MAX_HEADER)?;
    let mut frame = Vec::with_capacity(PREFIX + header_len);
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&kind.to_le_bytes());
    frame.extend_from_slice(&version.to_le_bytes());
    // Both are within limits far below u32's.
    frame.extend_from_slice(&(header_len as u32).to_le_bytes());
    frame.extend_from_slice(&(body_len as u32).to_le_bytes());
    let crc_of_prefix = crc32c::crc32c(&frame);
    frame.extend_from_slice(&[0; PREFIX - CRC_AT]);
    codec()
        .with_no_limit()
        .serialize_into(&mut frame, value)
        .map_err(failed)?;
    let crc = crc32c::crc32c_append(crc_of_prefix, frame.get(PREFIX..).unwrap_or_default());
    if let Some(place) = frame.get_mut(CRC_AT..PREFIX) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    Ok(frame)
}

/// The frame of a message up to its body, to put several messages into one write.
/// `body_len` bytes of body have to follow.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Encode`].
pub fn encode_message<M: Serialize + Message>(
    message: &M,
    body_len: usize,
) -> Result<Vec<u8>, FrameError> {
    encode(M::KIND, PROTOCOL_VERSION, message, body_len)
}

/// Writes a message and its body: one write for the frame, one for the body if there is one.
/// Does not flush.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Encode`], before anything is written;
/// [`FrameError::Io`], after which the connection is of no further use.
pub async fn write_message<M, W>(writer: &mut W, message: &M, body: &[u8]) -> Result<(), FrameError>
where
    M: Serialize + Message,
    W: AsyncWrite + Unpin,
{
    let frame = encode_message(message, body.len())?;
    writer.write_all(&frame).await?;
    if !body.is_empty() {
        writer.write_all(body).await?;
    }
    Ok(())
}

/// Reads the next message and its body (mostly empty); `None` at a clean end of the stream.
/// Not safe to cancel: a connection whose read was dropped half-way is of no further use.
/// Reads in small pieces: hand it a buffered reader.
///
/// # Errors
/// Every [`FrameError`] but [`FrameError::Encode`] and [`FrameError::Trailing`]. After any of
/// them the connection is of no further use.
pub async fn read_message<M, R>(reader: &mut R) -> Result<Option<(M, Bytes)>, FrameError>
where
    M: DeserializeOwned + Message,
    R: AsyncRead + Unpin,
{
    let Some(prefix) = read_prefix(reader).await? else {
        return Ok(None);
    };
    if prefix.kind != M::KIND {
        return Err(FrameError::UnexpectedKind {
            expected: M::KIND,
            got: prefix.kind,
        });
    }
    let frame = read_rest(reader, &prefix).await?;
    Ok(Some((frame.decode()?, frame.body)))
}

/// Reads the next frame, of whatever kind; `None` at a clean end of the stream.
/// What [`read_message`] says of cancelling and buffering holds here too.
///
/// # Errors
/// As [`read_message`], but nothing is decoded.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Frame>, FrameError> {
    match read_prefix(reader).await? {
        Some(prefix) => Ok(Some(read_rest(reader, &prefix).await?)),
        None => Ok(None),
    }
}

async fn read_prefix<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Prefix>, FrameError> {
    let mut bytes = [0; PREFIX];
    let mut got = 0;
    while let Some(room) = bytes.get_mut(got..).filter(|room| !room.is_empty()) {
        match reader.read(room).await? {
            0 if got == 0 => return Ok(None),
            0 => {
                return Err(FrameError::Truncated {
                    part: "prefix",
                    got,
                    want: PREFIX,
                });
            }
            n => got += n,
        }
    }
    Prefix::parse(&bytes, PROTOCOL_VERSION).map(Some)
}

async fn read_rest<R: AsyncRead + Unpin>(
    reader: &mut R,
    prefix: &Prefix,
) -> Result<Frame, FrameError> {
    let header = read_part(reader, "header", prefix.header_len).await?;
    prefix.check(&header)?;
    let body = read_part(reader, "body", prefix.body_len).await?;
    Ok(Frame {
        kind: prefix.kind,
        version: prefix.version,
        header,
        body,
    })
}

/// Reads exactly `want` bytes; the buffer at most doubles what has arrived.
async fn read_part<R: AsyncRead + Unpin>(
    reader: &mut R,
    part: &'static str,
    want: usize,
) -> Result<Bytes, FrameError> {
    if want == 0 {
        return Ok(Bytes::new());
    }
    let mut bytes = BytesMut::with_capacity(want.min(FIRST_READ));
    let mut rest = reader.take(want as u64);
    while bytes.len() < want {
        if bytes.len() == bytes.capacity() {
            bytes.reserve((want - bytes.len()).min(bytes.len()));
        }
        if rest.read_buf(&mut bytes).await? == 0 {
            return Err(FrameError::Truncated {
                part,
                got: bytes.len(),
                want,
            });
        }
    }
    Ok(bytes.freeze())
}

/// A record for the disk in the same envelope. Kinds of records are 0x100 and above, versions
/// start at 1.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Encode`].
pub fn encode_record<T: Serialize>(
    kind: u16,
    version: u16,
    value: &T,
) -> Result<Vec<u8>, FrameError> {
    encode(kind, version, value, 0)
}

/// The value of a record that fills `bytes` exactly. Versions from 1 to `max_version` decode. One that
/// is newer is named so only if its CRC is right: a version may rot as all else.
///
/// # Errors
/// Every [`FrameError`] but `Encode` and `Io`.
pub fn decode_record<T: DeserializeOwned>(
    kind: u16,
    max_version: u16,
    bytes: &[u8],
) -> Result<T, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(FrameError::Truncated {
            part: "prefix",
            got: bytes.len(),
            want: PREFIX,
        });
    };
    let prefix = Prefix::parse(prefix, u16::MAX)?;
    let Some((header, behind)) = rest.split_at_checked(prefix.header_len) else {
        return Err(FrameError::Truncated {
            part: "header",
            got: rest.len(),
            want: prefix.header_len,
        });
    };
    prefix.check(header)?;
    check_version(prefix.kind, prefix.version, max_version)?;
    if prefix.kind != kind {
        return Err(FrameError::UnexpectedKind {
            expected: kind,
            got: prefix.kind,
        });
    }
    let extra = behind.len() + prefix.body_len;
    if extra > 0 {
        return Err(FrameError::Trailing { kind, extra });
    }
    decode_header(kind, header)
}

/// Length of the record that `bytes` starts with, as its prefix says; its CRC is not checked yet,
/// so the length may lie within the limits. For records that follow one another in a file.
///
/// # Errors
/// [`FrameError::Truncated`] when the prefix is not all there, `BadMagic`, `UnknownVersion`
/// (over `max_version`), `TooLong`.
pub fn record_len(max_version: u16, bytes: &[u8]) -> Result<usize, FrameError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return Err(FrameError::Truncated {
            part: "prefix",
            got: bytes.len(),
            want: PREFIX,
        });
    };
    let prefix = Prefix::parse(prefix, max_version)?;
    Ok(PREFIX + prefix.header_len + prefix.body_len)
}
