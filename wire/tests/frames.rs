//! Frames that come back as they went, and bytes that are none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A test may fail.

use boomfs_wire::*;
use bytes::Bytes;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Length of the fixed part.
const PREFIX: usize = 20;

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// Hands bytes out in pieces of a size.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let n = self.1.min(self.0.len()).min(buf.remaining());
        let (now, later) = self.0.split_at(n);
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

fn read<M: DeserializeOwned + Message>(bytes: &[u8]) -> Result<Option<(M, Bytes)>, FrameError> {
    run(read_message(&mut &bytes[..]))
}

fn framed<M: Serialize + Message>(message: &M, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    run(write_message(&mut bytes, message, body)).unwrap();
    bytes
}

fn small() -> ToNameNode {
    ToNameNode::Heartbeat {
        capacity: 1,
        free: 2,
    }
}

#[test]
fn messages_follow_one_another_until_a_clean_end() {
    let mut bytes = framed(&small(), b"");
    bytes.extend(framed(&ToNameNode::Cancel { req: 4 }, b"body"));
    let mut reader = &bytes[..];
    run(async {
        assert_eq!(
            read_message(&mut reader).await.unwrap(),
            Some((small(), Bytes::new()))
        );
        let second = Some((ToNameNode::Cancel { req: 4 }, Bytes::from_static(b"body")));
        assert_eq!(read_message(&mut reader).await.unwrap(), second);
        assert_eq!(
            read_message::<ToNameNode, _>(&mut reader).await.unwrap(),
            None
        );
    });
}

#[test]
fn a_frame_of_any_kind_reads_and_decodes_later() {
    let bytes = framed(&ToDataNode::ClosePipeline, b"xyz");
    let frame = run(read_frame(&mut &bytes[..])).unwrap().unwrap();
    assert_eq!(
        (frame.kind, frame.version, &frame.body[..]),
        (3, PROTOCOL_VERSION, &b"xyz"[..])
    );
    assert_eq!(
        frame.decode::<ToDataNode>().unwrap(),
        ToDataNode::ClosePipeline
    );
    let wrong = frame.decode::<ToNameNode>().unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "frame of kind 0x0003 where 0x0001 was expected"
    );
    assert!(run(read_frame(&mut &b""[..])).unwrap().is_none());
}

#[test]
fn a_body_of_the_limit_passes_and_one_byte_more_does_not() {
    let body = vec![7; MAX_BODY];
    for piece in [1 << 12, usize::MAX] {
        let bytes = framed(&small(), &body);
        let (message, got) = run(read_message(&mut Pieces(&bytes, piece)))
            .unwrap()
            .unwrap();
        assert_eq!((message, got.len()), (small(), MAX_BODY));
        assert!(got == body);
    }
    let mut out = Vec::new();
    let err = run(write_message(&mut out, &small(), &vec![7; MAX_BODY + 1])).unwrap_err();
    assert_eq!(
        err.to_string(),
        "frame has a body of 4194305 bytes, the limit is 4194304"
    );
    assert!(out.is_empty());
}

#[test]
fn a_header_of_the_limit_passes_and_one_byte_more_does_not() {
    // A variant, a length and the bytes.
    let text = |n: usize| ToNameNode::Query {
        req: 1,
        text: "x".repeat(n),
        limit: 0,
        watch: false,
    };
    let empty = framed(&text(0), b"").len() - PREFIX;
    let most = text(MAX_HEADER - empty);
    assert_eq!(
        read::<ToNameNode>(&framed(&most, b"")).unwrap().unwrap().0,
        most
    );
    let err = encode_message(&text(MAX_HEADER - empty + 1), 0).unwrap_err();
    assert!(matches!(
        err,
        FrameError::TooLong {
            part: "header",
            len: 16_777_217,
            max: MAX_HEADER
        }
    ));
}

#[test]
fn what_is_wrong_is_said() {
    let good = framed(&small(), b"");
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        read::<ToNameNode>(&bytes).unwrap_err()
    };
    assert!(matches!(
        changed(0, b"HTTP"),
        FrameError::BadMagic { got: 0x5054_5448 }
    ));
    assert!(matches!(
        changed(6, &[9, 0]),
        FrameError::UnknownVersion {
            kind: 1,
            got: 9,
            max: 2
        }
    ));
    assert!(matches!(
        changed(6, &[0, 0]),
        FrameError::UnknownVersion { got: 0, .. }
    ));
    assert!(matches!(
        changed(4, &[2]),
        FrameError::UnexpectedKind {
            expected: 1,
            got: 2
        }
    ));
    let long = changed(8, &[1, 0, 0, 1]);
    assert!(matches!(
        long,
        FrameError::TooLong {
            part: "header",
            len: 0x0100_0001,
            ..
        }
    ));
    let long = changed(12, &[0xff; 4]);
    assert!(matches!(
        long,
        FrameError::TooLong {
            part: "body",
            len: 0xffff_ffff,
            ..
        }
    ));
    assert!(matches!(
        changed(16, &[0; 4]),
        FrameError::Checksum {
            kind: 1,
            want: 0,
            ..
        }
    ));
    assert!(matches!(changed(12, &[1]), FrameError::Checksum { .. }));
    assert!(matches!(
        changed(PREFIX + 4, &[9]),
        FrameError::Checksum { .. }
    ));

    let cut = |n: usize| read::<ToNameNode>(&good[..n]).unwrap_err();
    assert!(matches!(
        cut(1),
        FrameError::Truncated {
            part: "prefix",
            got: 1,
            want: PREFIX
        }
    ));
    assert!(matches!(
        cut(PREFIX),
        FrameError::Truncated {
            part: "header",
            got: 0,
            want: 20
        }
    ));
    let short = framed(&small(), b"12345");
    let err = read::<ToNameNode>(&short[..short.len() - 2]).unwrap_err();
    assert_eq!(
        err.to_string(),
        "frame ends early: 3 of 5 bytes of its body"
    );
    assert_eq!(
        std::io::Error::from(err).kind(),
        std::io::ErrorKind::UnexpectedEof
    );
}

/// A frame with a right CRC around any header.
fn frame_of(kind: u16, header: &[u8]) -> Vec<u8> {
    let mut bytes = b"BOMF".to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bytes.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend([0; 4]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), header);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(header);
    bytes
}

#[test]
fn a_header_that_lies_about_lengths_does_not_decode() {
    // Query { req, text: 2^63 bytes }.
    let mut header = vec![4, 0, 0, 0];
    header.extend(1u64.to_le_bytes());
    header.extend((1u64 << 63).to_le_bytes());
    let err = read::<ToNameNode>(&frame_of(1, &header)).unwrap_err();
    assert!(matches!(err, FrameError::Decode { kind: 1, .. }), "{err}");
    // Renew { orphans: 2^40 inodes }.
    let mut header = vec![3, 0, 0, 0];
    header.extend((1u64 << 40).to_le_bytes());
    let err = read::<ToNameNode>(&frame_of(1, &header)).unwrap_err();
    assert!(matches!(err, FrameError::Decode { kind: 1, .. }), "{err}");
    // A variant that does not exist, and bytes behind the message.
    let err = read::<ToNameNode>(&frame_of(1, &[99, 0, 0, 0])).unwrap_err();
    assert!(matches!(err, FrameError::Decode { kind: 1, .. }), "{err}");
    let err = read::<ToDataNode>(&frame_of(3, &[2, 0, 0, 0, 0])).unwrap_err();
    assert!(matches!(err, FrameError::Decode { kind: 3, .. }), "{err}");
    assert_eq!(
        read::<ToDataNode>(&frame_of(3, &[2, 0, 0, 0]))
            .unwrap()
            .unwrap()
            .0,
        ToDataNode::ClosePipeline
    );
}

#[test]
fn records_say_what_is_wrong() {
    let record = encode_record(0x101, 1, &7u32).unwrap();
    let decode = |max, bytes: &[u8]| decode_record::<u32>(0x101, max, bytes);
    assert_eq!(decode(1, &record).unwrap(), 7);
    assert_eq!(decode(5, &record).unwrap(), 7);
    assert_eq!(record_len(1, &record[..PREFIX]).unwrap(), record.len());
    let mut rotten = record.clone();
    rotten[7] ^= 0x20;
    assert!(matches!(
        decode(1, &rotten),
        Err(FrameError::Checksum { kind: 0x101, .. })
    ));
    let newer = encode_record(0x101, 2, &7u32).unwrap();
    assert!(matches!(
        decode(1, &newer),
        Err(FrameError::UnknownVersion { got: 2, max: 1, .. })
    ));
    assert!(matches!(
        record_len(1, &newer),
        Err(FrameError::UnknownVersion { got: 2, .. })
    ));
    let other = decode_record::<u32>(0x102, 1, &record);
    assert!(matches!(
        other,
        Err(FrameError::UnexpectedKind {
            expected: 0x102,
            got: 0x101
        })
    ));
    assert!(matches!(
        decode_record::<u64>(0x101, 1, &record),
        Err(FrameError::Decode { .. })
    ));
    assert!(matches!(
        decode_record::<u16>(0x101, 1, &record),
        Err(FrameError::Decode { .. })
    ));
    let mut longer = record.clone();
    longer.extend([0; 3]);
    let err = decode(1, &longer).unwrap_err();
    assert_eq!(
        err.to_string(),
        "record of kind 0x0101 is followed by 3 bytes that do not belong to it"
    );
    for n in 0..record.len() {
        assert!(matches!(
            decode(1, &record[..n]),
            Err(FrameError::Truncated { .. })
        ));
    }
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(any::<u8>(), 0..12)
}

fn place() -> impl Strategy<Value = At> {
    (any::<u64>(), prop::collection::vec(name(), 0..4)).prop_map(|(base, path)| At {
        base: Ino(base),
        path,
    })
}

fn node() -> impl Strategy<Value = NodeAddr> {
    (any::<u64>(), ".{0,9}").prop_map(|(node, addr)| NodeAddr {
        node: NodeId(node),
        addr,
    })
}

fn failure() -> impl Strategy<Value = Failure> {
    (any::<i32>(), ".{0,20}").prop_map(|(errno, message)| Failure { errno, message })
}

fn time() -> impl Strategy<Value = Option<SetTime>> {
    prop::option::of(prop_oneof![
        Just(SetTime::Now),
        any::<i64>().prop_map(SetTime::At)
    ])
}

fn op() -> impl Strategy<Value = Op> {
    let ids = || prop::collection::vec(any::<u64>().prop_map(NodeId), 0..4);
    let create = (
        place(),
        any::<(u32, u64, bool, bool)>(),
        any::<(u64, u32, u64)>(),
    );
    let attrs = (
        place(),
        any::<(Option<u32>, Option<u32>, Option<u32>, Option<u64>)>(),
        time(),
        time(),
    );
    let changed = prop::collection::vec(any::<(u64, u64, u64)>(), 0..4);
    prop_oneof![
        Just(Op::CloseSession),
        (place(), any::<u32>(), any::<u64>()).prop_map(|(at, mode, ino)| Op::Mkdir {
            at,
            mode,
            ino: Ino(ino)
        }),
        create.prop_map(
            |(at, (mode, rdev, exclusive, lease), (block_size, replication, ino))| Op::Create {
                at,
                kind: Kind::Fifo,
                mode,
                rdev,
                exclusive,
                lease,
                block_size,
                replication,
                ino: Ino(ino),
            }
        ),
        (place(), name()).prop_map(|(at, target)| Op::Symlink { at, target }),
        (place(), place(), any::<bool>()).prop_map(|(from, to, exchange)| Op::Rename {
            from,
            to,
            no_replace: !exchange,
            exchange,
        }),
        attrs.prop_map(|(at, (mode, uid, gid, size), atime, mtime)| Op::SetAttr {
            at,
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        }),
        (any::<(u64, u64)>(), ids()).prop_map(|((ino, offset), exclude)| Op::AddBlock {
            ino: Ino(ino),
            offset,
            exclude,
        }),
        (any::<(u64, u64)>(), changed, time()).prop_map(|((ino, size), blocks, mtime)| {
            Op::Commit {
                ino: Ino(ino),
                size,
                blocks: blocks
                    .into_iter()
                    .map(|(b, g, n)| (BlockId(b), Generation(g), n))
                    .collect(),
                mtime,
            }
        }),
    ]
}

fn to_name_node() -> impl Strategy<Value = ToNameNode> {
    let groups = prop::collection::vec(any::<u32>(), 0..5);
    let command = (any::<(u64, u64, u32, u32)>(), groups, op());
    let hello = (
        any::<Option<u64>>(),
        any::<Option<u64>>(),
        any::<u64>(),
        ".{0,9}",
    );
    let replica = any::<(u64, u64, u64)>().prop_map(|(block, generation, length)| ReplicaInfo {
        block: BlockId(block),
        generation: Generation(generation),
        length,
    });
    prop_oneof![
        hello.prop_map(|(cluster, session, nonce, name)| ToNameNode::Hello {
            cluster: cluster.map(ClusterId),
            peer: Peer::Client {
                session: session.map(SessionId),
                nonce,
                name
            },
        }),
        command.prop_map(|((seq, ack, uid, gid), groups, op)| ToNameNode::Command {
            seq,
            ack,
            caller: Caller { uid, gid, groups },
            op,
        }),
        (any::<u64>(), place(), any::<bool>()).prop_map(|(req, at, follow)| ToNameNode::Read {
            req,
            caller: Caller::default(),
            op: ReadOp::Lookup { at, follow },
        }),
        (any::<u64>(), ".{0,40}", any::<(u64, bool)>()).prop_map(|(req, text, (limit, watch))| {
            ToNameNode::Query {
                req,
                text,
                limit,
                watch,
            }
        }),
        (prop::collection::vec(replica, 0..9), any::<(bool, bool)>()).prop_map(
            |(replicas, (first, last))| ToNameNode::Report {
                replicas,
                first,
                last
            }
        ),
    ]
}

fn from_data_node() -> impl Strategy<Value = FromDataNode> {
    let failed = || prop::collection::vec((any::<u64>().prop_map(NodeId), failure()), 0..3);
    let sums = prop::collection::vec(any::<u32>(), 0..9);
    prop_oneof![
        (prop::collection::vec(node(), 0..3), failed()).prop_map(|(nodes, failed)| {
            FromDataNode::Opened {
                members: nodes.into_iter().map(|n| n.node).collect(),
                failed,
            }
        }),
        failed().prop_map(|failed| FromDataNode::Written { failed }),
        (any::<(u64, u64)>(), sums).prop_map(|((start, length), checksums)| FromDataNode::Data {
            start,
            checksums,
            length
        }),
        failure().prop_map(FromDataNode::Failed),
    ]
}

proptest! {
    #[test]
    fn what_goes_comes_back(
        message in to_name_node(),
        answer in from_data_node(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1usize..50,
    ) {
        let bytes = framed(&message, &body);
        let back = run(read_message(&mut Pieces(&bytes, piece))).unwrap();
        prop_assert_eq!(back, Some((message.clone(), Bytes::from(body.clone()))));
        let bytes = framed(&answer, &body);
        let back = run(read_message(&mut Pieces(&bytes, piece))).unwrap();
        prop_assert_eq!(back, Some((answer, Bytes::from(body))));
        let record = encode_record(0x100, 3, &message).unwrap();
        prop_assert_eq!(decode_record::<ToNameNode>(0x100, 3, &record).unwrap(), message);
    }

    #[test]
    fn a_cut_frame_is_truncated(
        message in to_name_node(),
        body in prop::collection::vec(any::<u8>(), 0..50),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = framed(&message, &body);
        let n = at.index(bytes.len());
        match read::<ToNameNode>(&bytes[..n]) {
            Ok(None) => prop_assert_eq!(n, 0),
            Err(FrameError::Truncated { got, want, .. }) => prop_assert!(got < want),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A CRC-32C finds every change of one bit, and of any 32 bits in a row.
    #[test]
    fn a_flipped_bit_is_found(message in to_name_node(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = framed(&message, b"");
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        prop_assert!(read::<ToNameNode>(&bytes).is_err());
        let mut record = encode_record(0x100, 1, &message).unwrap();
        record[at] ^= 1u8 << bit;
        prop_assert!(decode_record::<ToNameNode>(0x100, 1, &record).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(bytes.is_empty() || read::<ToNameNode>(&bytes).is_err());
        prop_assert!(decode_record::<ToNameNode>(0x100, 1, &bytes).is_err());
        let _ = record_len(1, &bytes);
    }

    /// Even with a right CRC around them.
    #[test]
    fn any_header_is_survived(header in prop::collection::vec(any::<u8>(), 0..100), variant in 0u8..10) {
        let mut header = header;
        if header.len() >= 4 {
            header[..4].copy_from_slice(&[variant, 0, 0, 0]);
        }
        let canonical = |is: Result<Vec<u8>, FrameError>, frame: &[u8]| is.is_ok_and(|bytes| bytes == frame);
        let frame = frame_of(1, &header);
        if let Ok(Some((message, _))) = read::<ToNameNode>(&frame) {
            prop_assert!(canonical(encode_message(&message, 0), &frame));
        }
        let frame = frame_of(4, &header);
        if let Ok(Some((message, _))) = read::<FromDataNode>(&frame) {
            prop_assert!(canonical(encode_message(&message, 0), &frame));
        }
    }
}
