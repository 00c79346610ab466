//! Messages of the rules become messages on the wire.

use super::{ConnId, Misfit, errno, event};
use boomfs_wire::{
    Answer, Attr, BlockId, ClusterId, Entry, Failure, FromNameNode, Generation, Ino, Kind,
    LocatedBlock, NameNodeStatus, NodeAddr, NodeId, NodeStatus, Order, SessionId, StatFs, Status,
};
use overlog::ir::{Program, RelId};
use overlog::{Row, Value};

/// A message that the rules send to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A client's session stands.
    WelcomeClient,
    /// A DataNode is registered.
    WelcomeDataNode,
    /// The connection is refused.
    Refuse,
    /// The session is kept.
    Renewed,
    /// The answer to a command.
    Reply,
    /// The answer to a question.
    ReadReply,
    /// This NameNode leads now: report.
    Lead,
    /// Copy a replica.
    OrderCopy,
    /// Delete replicas.
    OrderDelete,
}

/// Which relations are messages.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(RelId, Sent)>);

impl Outputs {
    /// Finds the messages and checks their numbers of columns.
    ///
    /// # Errors
    /// [`Misfit`] names what is missing.
    pub fn find(program: &Program) -> Result<Outputs, Misfit> {
        let all = [
            ("reply", 4, Sent::Reply),
            ("read_reply", 4, Sent::ReadReply),
            ("welcome_client", 2, Sent::WelcomeClient),
            ("welcome_datanode", 2, Sent::WelcomeDataNode),
            ("refuse", 3, Sent::Refuse),
            ("renewed", 1, Sent::Renewed),
            ("lead", 1, Sent::Lead),
            ("order_copy", 6, Sent::OrderCopy),
            ("order_delete", 2, Sent::OrderDelete),
        ];
        let one = |(name, columns, sent)| Ok((event(program, name, columns)?, sent));
        all.into_iter()
            .map(one)
            .collect::<Result<_, Misfit>>()
            .map(Outputs)
    }

    /// What a relation's rows are; `None`: nothing that the shell sends.
    pub fn get(&self, rel: RelId) -> Option<Sent> {
        self.0
            .iter()
            .find(|(r, _)| *r == rel)
            .map(|(_, sent)| *sent)
    }
}

/// What of a row of the rules is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {got}")]
pub struct BadRow {
    what: &'static str,
    got: String,
}

fn bad(what: &'static str, got: impl std::fmt::Debug) -> BadRow {
    BadRow {
        what,
        got: format!("{got:?}"),
    }
}

/// What the shell adds to the rules' messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// The leader's ballot.
    pub ballot: u64,
    /// Default block size, bytes.
    pub block_size: u64,
    /// Default replication.
    pub replication: u32,
    /// This NameNode's id; 0 while it is not admitted.
    pub node: u64,
}

/// The answer to a question as the rules give it. [`Answer::Status`] lacks what a second
/// question tells.
pub type Read = (i64, Result<Answer, Failure>);

/// A row of `read_reply(@Conn, Req, Errno, Payload)`.
///
/// # Errors
/// The number of the question is missing.
pub fn read_reply(row: &Row) -> Result<Read, BadRow> {
    let values = row.values();
    let [_, req, errno, payload] = values.as_slice() else {
        return Err(bad("a read_reply of 4 columns", &values));
    };
    let req = req
        .as_int()
        .ok_or_else(|| bad("the number of a question", req))?;
    Ok((req, result(errno, payload)))
}

/// The message for any other row.
///
/// # Errors
/// It is not as it should be; for a reply, the answer then says so, and this is not an error.
pub fn message(sent: Sent, row: &Row, cluster: &Cluster) -> Result<FromNameNode, BadRow> {
    let values = row.values();
    let welcome = |session: u64, node: u64| FromNameNode::Welcome {
        cluster: cluster.cluster,
        session: SessionId(session),
        node: NodeId(node),
        ballot: cluster.ballot,
        block_size: cluster.block_size,
        replication: cluster.replication,
    };
    let order = |order| FromNameNode::Order {
        ballot: cluster.ballot,
        order,
    };
    Ok(match (sent, values.as_slice()) {
        (Sent::WelcomeClient, [_, session]) => welcome(uint(session)?, 0),
        (Sent::WelcomeDataNode, [_, node]) => welcome(0, uint(node)?),
        (Sent::Refuse, [_, errno, message]) => FromNameNode::Refused {
            failure: failure(errno, text(message)?),
        },
        (Sent::Renewed, [_]) => FromNameNode::Renewed,
        (Sent::Lead, [_]) => FromNameNode::Leads {
            ballot: cluster.ballot,
        },
        (Sent::Reply, [_, seq, errno, payload]) => FromNameNode::Answered {
            seq: uint(seq)?,
            result: result(errno, payload),
        },
        (Sent::ReadReply, _) => {
            let (req, result) = read_reply(row)?;
            FromNameNode::ReadAnswered {
                req: req.cast_unsigned(),
                result,
            }
        }
        (Sent::OrderCopy, [_, block, generation, length, target, addr]) => order(Order::Copy {
            block: BlockId(uint(block)?),
            generation: Generation(uint(generation)?),
            length: uint(length)?,
            target: NodeAddr {
                node: NodeId(uint(target)?),
                addr: text(addr)?,
            },
        }),
        (Sent::OrderDelete, [_, blocks]) => {
            let pair = |v: &Value| match list(v)? {
                [block, generation] => Ok((BlockId(uint(block)?), Generation(uint(generation)?))),
                other => Err(bad("a block and its generation", other)),
            };
            order(Order::Delete {
                blocks: list(blocks)?.iter().map(pair).collect::<Result<_, _>>()?,
            })
        }
        (_, other) => return Err(bad("a row with other columns", other)),
    })
}

/// The connection in a message's first column.
pub fn connection(to: &Value) -> Option<ConnId> {
    match to {
        Value::Addr(addr) => ConnId::parse(addr),
        _ => None,
    }
}

fn result(errno: &Value, payload: &Value) -> Result<Answer, Failure> {
    let malformed = |e: BadRow| {
        tracing::error!("the rules gave an answer that is none: {e}");
        super::errno::failure(
            super::errno::EIO,
            format!("internal error in the NameNode's rules: {e}"),
        )
    };
    if errno.as_bytes() == Some(b"") {
        return answer(payload).map_err(malformed);
    }
    let message =
        list(payload).and_then(|items| items.first().map_or_else(|| Ok(String::new()), text));
    Err(failure(errno, message.map_err(malformed)?))
}

fn failure(name: &Value, message: String) -> Failure {
    let name = name.as_bytes().unwrap_or_default();
    let errno = errno::number(name).unwrap_or_else(|| {
        tracing::error!(
            "the rules named an unknown error: {:?}",
            String::from_utf8_lossy(name)
        );
        errno::EIO
    });
    Failure { errno, message }
}

/// A payload.
///
/// # Errors
/// It is none.
pub fn answer(payload: &Value) -> Result<Answer, BadRow> {
    let items = list(payload)?;
    let Some((tag, items)) = items.split_first() else {
        return Ok(Answer::Done);
    };
    Ok(match (tag.as_bytes().unwrap_or_default(), items) {
        (b"attr", [attr]) => Answer::Attr(attributes(attr)?),
        (b"namenode", [node]) => Answer::NameNode(NodeId(uint(node)?)),
        (b"inodes", [first, count]) => Answer::Inodes {
            first: Ino(uint(first)?),
            count: small(count)?,
        },
        (b"block", located) => Answer::Block(located_block(located)?),
        (b"blocks", [size, block_size, blocks]) => Answer::Blocks {
            size: uint(size)?,
            block_size: uint(block_size)?,
            blocks: {
                let mut blocks = each(blocks, |b| located_block(list(b)?))?;
                blocks.sort_unstable_by_key(|b| b.offset);
                blocks
            },
        },
        (b"entries", [parent, entries, end]) => Answer::Entries {
            parent: Ino(uint(parent)?),
            entries: each(entries, entry)?,
            end: end
                .as_bool()
                .ok_or_else(|| bad("whether a directory's page is the last", end))?,
        },
        (b"target", [target]) => Answer::Target(bytes(target)?.to_vec()),
        (b"statfs", [capacity, free, inodes, blocks, replication, block_size]) => {
            Answer::StatFs(StatFs {
                capacity: uint(capacity)?,
                free: uint(free)?,
                inodes: uint(inodes)?,
                blocks: uint(blocks)?,
                replication: small(replication)?,
                block_size: uint(block_size)?,
            })
        }
        (b"status", [nodes, under, missing, sessions, starting, namenodes, ballot]) => {
            Answer::Status(Status {
                nodes: each(nodes, node_status)?,
                space: StatFs::default(),
                under_replicated: uint(under)?,
                missing: uint(missing)?,
                sessions: uint(sessions)?,
                starting: starting
                    .as_bool()
                    .ok_or_else(|| bad("whether the cluster is starting", starting))?,
                applied_slot: 0,
                namenodes: each(namenodes, namenode_status)?,
                ballot: each(ballot, |b| match list(b)? {
                    [round, node] => Ok((uint(round)?, NodeId(uint(node)?))),
                    other => Err(bad("a ballot", other)),
                })?
                .pop(),
            })
        }
        _ => return Err(bad("a payload", payload)),
    })
}

fn attributes(value: &Value) -> Result<Attr, BadRow> {
    let [
        ino,
        kind,
        mode,
        uid,
        gid,
        size,
        allocated,
        nlink,
        rdev,
        atime,
        mtime,
        ctime,
        crtime,
        block_size,
        replication,
    ] = list(value)?
    else {
        return Err(bad("attributes", value));
    };
    let time = |v: &Value| v.as_int().ok_or_else(|| bad("a time", v));
    Ok(Attr {
        ino: Ino(uint(ino)?),
        kind: kind_of(kind)?,
        mode: small(mode)?,
        uid: small(uid)?,
        gid: small(gid)?,
        size: uint(size)?,
        allocated: uint(allocated)?,
        nlink: small(nlink)?,
        rdev: uint(rdev)?,
        atime_ns: time(atime)?,
        mtime_ns: time(mtime)?,
        ctime_ns: time(ctime)?,
        crtime_ns: time(crtime)?,
        block_size: uint(block_size)?,
        replication: small(replication)?,
    })
}

fn kind_of(value: &Value) -> Result<Kind, BadRow> {
    Ok(match value.as_bytes().unwrap_or_default() {
        b"file" => Kind::File,
        b"dir" => Kind::Dir,
        b"symlink" => Kind::Symlink,
        b"fifo" => Kind::Fifo,
        b"socket" => Kind::Socket,
        b"char" => Kind::CharDevice,
        b"block" => Kind::BlockDevice,
        _ => return Err(bad("a kind of inode", value)),
    })
}

fn located_block(items: &[Value]) -> Result<LocatedBlock, BadRow> {
    let [block, offset, generation, length, nodes] = items else {
        return Err(bad("a block", items));
    };
    let node = |v: &Value| match list(v)? {
        [node, addr] => Ok(NodeAddr {
            node: NodeId(uint(node)?),
            addr: text(addr)?,
        }),
        _ => Err(bad("a DataNode and its address", v)),
    };
    Ok(LocatedBlock {
        block: BlockId(uint(block)?),
        offset: uint(offset)?,
        generation: Generation(uint(generation)?),
        length: uint(length)?,
        nodes: each(nodes, node)?,
    })
}

fn entry(value: &Value) -> Result<Entry, BadRow> {
    let [cookie, name, attr] = list(value)? else {
        return Err(bad("a directory entry", value));
    };
    Ok(Entry {
        cookie: uint(cookie)?,
        name: bytes(name)?.to_vec(),
        attr: attributes(attr)?,
    })
}

fn namenode_status(value: &Value) -> Result<NameNodeStatus, BadRow> {
    let [node, addr, votes, slot, live] = list(value)? else {
        return Err(bad("a NameNode's state", value));
    };
    let flag = |v: &Value| v.as_bool().ok_or_else(|| bad("a flag of a NameNode", v));
    Ok(NameNodeStatus {
        node: NodeId(uint(node)?),
        addr: text(addr)?,
        votes: flag(votes)?,
        slot: uint(slot)?,
        live: flag(live)?,
    })
}

fn node_status(value: &Value) -> Result<NodeStatus, BadRow> {
    let [node, addr, live, capacity, free, blocks] = list(value)? else {
        return Err(bad("a DataNode's state", value));
    };
    Ok(NodeStatus {
        node: NodeId(uint(node)?),
        addr: text(addr)?,
        live: live
            .as_bool()
            .ok_or_else(|| bad("whether a DataNode is live", live))?,
        capacity: uint(capacity)?,
        free: uint(free)?,
        blocks: uint(blocks)?,
    })
}

fn each<T>(value: &Value, f: impl Fn(&Value) -> Result<T, BadRow>) -> Result<Vec<T>, BadRow> {
    list(value)?.iter().map(f).collect()
}

fn list(value: &Value) -> Result<&[Value], BadRow> {
    value.as_list().ok_or_else(|| bad("a list", value))
}

fn uint(value: &Value) -> Result<u64, BadRow> {
    value
        .as_int()
        .and_then(|i| u64::try_from(i).ok())
        .ok_or_else(|| bad("a number from 0", value))
}

fn small(value: &Value) -> Result<u32, BadRow> {
    value
        .as_int()
        .and_then(|i| u32::try_from(i).ok())
        .ok_or_else(|| bad("a number of 32 bits", value))
}

fn bytes(value: &Value) -> Result<&[u8], BadRow> {
    value.as_bytes().ok_or_else(|| bad("a string", value))
}

fn text(value: &Value) -> Result<String, BadRow> {
    bytes(value).map(|b| String::from_utf8_lossy(b).into_owned())
}
