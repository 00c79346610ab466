//! Messages become events: packed rows, built without a detour.

use super::{ConnId, errno};
use boomfs_wire::{At, Caller, Failure, Kind, Name, Op, ReadOp, ReplicaInfo, SetTime};
use overlog::{Row, Value, packed};

/// The longest command or question, as a packed row, bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// How a packed list starts and ends.
const LIST: u8 = 0x40;
const LIST_END: u8 = 0x00;

/// The longest path, bytes and components together, as Linux has it.
const MAX_PATH: usize = 4096;

/// Builds a row.
pub(crate) struct Packer {
    bytes: Vec<u8>,
    columns: usize,
    depth: usize,
    /// A number that is no Overlog int was seen.
    overflow: bool,
}

impl Packer {
    pub fn new() -> Packer {
        Packer {
            bytes: Vec::with_capacity(192),
            columns: 0,
            depth: 0,
            overflow: false,
        }
    }

    fn value(&mut self) {
        if self.depth == 0 {
            self.columns += 1;
        }
    }

    pub fn int(&mut self, i: i64) -> &mut Packer {
        self.value();
        packed::pack_int(i, &mut self.bytes);
        self
    }

    pub fn uint(&mut self, u: u64) -> &mut Packer {
        let i = i64::try_from(u).unwrap_or_else(|_| {
            self.overflow = true;
            0
        });
        self.int(i)
    }

    pub fn bool(&mut self, b: bool) -> &mut Packer {
        self.value();
        packed::pack(&Value::Bool(b), &mut self.bytes);
        self
    }

    pub fn text(&mut self, bytes: &[u8]) -> &mut Packer {
        self.value();
        packed::pack(&Value::str(bytes), &mut self.bytes);
        self
    }

    pub fn conn(&mut self, conn: ConnId) -> &mut Packer {
        self.addr(&conn.to_string())
    }

    pub fn addr(&mut self, addr: &str) -> &mut Packer {
        self.value();
        packed::pack(&Value::addr(addr), &mut self.bytes);
        self
    }

    pub fn open(&mut self) -> &mut Packer {
        self.value();
        self.depth += 1;
        self.bytes.push(LIST);
        self
    }

    pub fn close(&mut self) -> &mut Packer {
        self.depth = self.depth.saturating_sub(1);
        self.bytes.push(LIST_END);
        self
    }

    pub fn ints(&mut self, items: impl IntoIterator<Item = u64>) -> &mut Packer {
        self.open();
        for i in items {
            self.uint(i);
        }
        self.close()
    }

    fn option(&mut self, item: Option<u64>) -> &mut Packer {
        self.ints(item)
    }

    fn caller(&mut self, caller: &Caller) -> &mut Packer {
        self.uint(caller.uid.into()).uint(caller.gid.into());
        self.ints(caller.groups.iter().map(|g| u64::from(*g)))
    }

    fn path(&mut self, path: &[Name]) -> &mut Packer {
        self.open();
        for name in path {
            self.text(name);
        }
        self.close()
    }

    fn time(&mut self, time: Option<SetTime>) -> &mut Packer {
        self.open();
        match time {
            None => {}
            Some(SetTime::Now) => {
                self.text(b"now");
            }
            Some(SetTime::At(ns)) => {
                self.text(b"at").int(ns);
            }
        }
        self.close()
    }

    /// The row.
    pub fn row(self) -> Result<Row, Failure> {
        if self.overflow {
            return Err(errno::failure(
                errno::EINVAL,
                "a number is out of range: at most 2^63 - 1 is allowed",
            ));
        }
        let columns = self.columns;
        Row::check(self.bytes, columns)
            .ok_or_else(|| errno::failure(errno::EIO, "a row was not packed as it should be"))
    }
}

/// What an inode is, in the rules.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
    }
}

/// A command's number and what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Place among all that arrived.
    pub arrival: u64,
    /// The connection.
    pub conn: ConnId,
    /// The session.
    pub session: u64,
    /// The command's number.
    pub seq: u64,
    /// Answers up to this one have been received.
    pub ack: u64,
}

/// A command as the event `request`.
///
/// # Errors
/// A failure to answer it with: a number out of range, a path that is none, too long.
pub fn request(numbers: Numbers, caller: &Caller, op: &Op) -> Result<Row, Failure> {
    let mut p = numbered(numbers);
    p.caller(caller);
    command(&mut p, op)?;
    bounded(p)
}

fn numbered(numbers: Numbers) -> Packer {
    let mut p = Packer::new();
    p.uint(numbers.arrival)
        .conn(numbers.conn)
        .uint(numbers.session)
        .uint(numbers.seq)
        .uint(numbers.ack);
    p
}

/// A command that cannot be one, as the event `request`: refused in its turn, so that those behind it
/// do not miss it.
///
/// # Errors
/// Its own number is out of range.
pub fn refused(numbers: Numbers, failure: &Failure) -> Result<Row, Failure> {
    let mut p = numbered(numbers);
    p.caller(&Caller::default());
    head(&mut p, "refuse", 0, &[])?
        .open()
        .text(errno::name(failure.errno).as_bytes())
        .text(failure.message.as_bytes())
        .close();
    p.row()
}

/// A question as the event `ask`.
///
/// # Errors
/// As [`request`].
pub fn ask(conn: ConnId, req: i64, caller: &Caller, op: &ReadOp) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.conn(conn).int(req).caller(caller);
    question(&mut p, op)?;
    bounded(p)
}

fn bounded(p: Packer) -> Result<Row, Failure> {
    if p.bytes.len() > MAX_REQUEST {
        let why = format!(
            "the request has {} bytes, the limit is {MAX_REQUEST}; split it",
            p.bytes.len()
        );
        return Err(errno::failure(errno::EMSGSIZE, why));
    }
    p.row()
}

/// Op, base and path.
fn head<'a>(
    p: &'a mut Packer,
    op: &str,
    base: u64,
    path: &[Name],
) -> Result<&'a mut Packer, Failure> {
    check_path(path)?;
    Ok(p.text(op.as_bytes()).uint(base).path(path))
}

fn at<'a>(p: &'a mut Packer, op: &str, at: &At) -> Result<&'a mut Packer, Failure> {
    head(p, op, at.base.0, &at.path)
}

/// What no filesystem lets through. Names that are too long are the rules' to refuse: which error
/// comes first depends on the tree.
fn check_path(path: &[Name]) -> Result<(), Failure> {
    let bad = |n: &Name| n.is_empty() || n == b"." || n.contains(&b'/') || n.contains(&0);
    if path.iter().any(bad) {
        return Err(errno::failure(
            errno::EINVAL,
            "a path component is empty, is `.`, or holds `/` or a zero byte",
        ));
    }
    let len: usize = path.iter().map(|n| n.len() + 1).sum();
    if len > MAX_PATH {
        let why = format!("the path has {len} bytes, the limit is {MAX_PATH}");
        return Err(errno::failure(
            errno::number(b"ENAMETOOLONG").unwrap_or(errno::EINVAL),
            why,
        ));
    }
    Ok(())
}

fn command(p: &mut Packer, op: &Op) -> Result<(), Failure> {
    match op {
        Op::CloseSession => head(p, "close_session", 0, &[])?.open().close(),
        Op::ReserveInodes { count } => head(p, "reserve", 0, &[])?.ints([u64::from(*count)]),
        Op::Mkdir {
            at: place,
            mode,
            ino,
        } => at(p, "mkdir", place)?.ints([u64::from(*mode), ino.0]),
        Op::Create {
            at: place,
            kind,
            mode,
            rdev,
            exclusive,
            lease,
            block_size,
            replication,
            ino,
        } => {
            let p = at(p, "create", place)?.open();
            p.text(kind_name(*kind).as_bytes())
                .uint((*mode).into())
                .uint(*rdev)
                .bool(*exclusive)
                .bool(*lease);
            p.uint(*block_size)
                .uint((*replication).into())
                .uint(ino.0)
                .close()
        }
        Op::Symlink { at: place, target } => at(p, "symlink", place)?.open().text(target).close(),
        Op::Link { ino, at: place } => at(p, "link", place)?.ints([ino.0]),
        Op::Unlink { at: place } => at(p, "unlink", place)?.open().close(),
        Op::Rmdir { at: place } => at(p, "rmdir", place)?.open().close(),
        Op::RemoveTree { .. } => {
            let number = errno::number(b"EOPNOTSUPP").unwrap_or(errno::EINVAL);
            return Err(errno::failure(
                number,
                "removing a whole tree in one command is not served yet; remove its entries",
            ));
        }
        Op::Rename {
            from,
            to,
            no_replace,
            exchange,
        } => {
            check_path(&to.path)?;
            let p = at(p, "rename", from)?.open();
            p.uint(to.base.0)
                .path(&to.path)
                .bool(*no_replace)
                .bool(*exchange)
                .close()
        }
        Op::SetAttr {
            at: place,
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        } => {
            let p = at(p, "setattr", place)?.open();
            p.option(mode.map(u64::from))
                .option(uid.map(u64::from))
                .option(gid.map(u64::from));
            p.option(*size).time(*atime).time(*mtime).close()
        }
        Op::AcquireLease { ino } => head(p, "acquire", ino.0, &[])?.open().close(),
        Op::ReleaseLease { ino } => head(p, "release", ino.0, &[])?.open().close(),
        Op::AddBlock {
            ino,
            offset,
            exclude,
        } => {
            let p = head(p, "add_block", ino.0, &[])?.open();
            p.uint(*offset).ints(exclude.iter().map(|n| n.0)).close()
        }
        Op::ReserveGeneration { ino, block } => {
            head(p, "reserve_generation", ino.0, &[])?.ints([block.0])
        }
        Op::CommitGeneration {
            ino,
            block,
            generation,
            members,
        } => {
            let p = head(p, "commit_generation", ino.0, &[])?.open();
            p.uint(block.0)
                .uint(generation.0)
                .ints(members.iter().map(|n| n.0))
                .close()
        }
        Op::Commit {
            ino,
            size,
            blocks,
            mtime,
        } => {
            let p = head(p, "commit", ino.0, &[])?.open();
            p.uint(*size).open();
            for (block, generation, length) in blocks {
                p.ints([block.0, generation.0, *length]);
            }
            p.close().time(*mtime).close()
        }
        Op::AddNameNode {
            addr,
            nonce,
            replaces,
        } => {
            let p = head(p, "add_namenode", 0, &[])?.open();
            p.text(addr.as_bytes())
                .uint(*nonce)
                .uint(replaces.0)
                .close()
        }
        Op::RemoveNameNode { node } => head(p, "remove_namenode", 0, &[])?.ints([node.0]),
        Op::Transfer { node } => head(p, "transfer", 0, &[])?.ints([node.0]),
    };
    Ok(())
}

fn question(p: &mut Packer, op: &ReadOp) -> Result<(), Failure> {
    match op {
        ReadOp::Lookup { at: place, follow } => {
            at(p, "lookup", place)?.open().bool(*follow).close()
        }
        ReadOp::ReadDir { ino, after, limit } => {
            head(p, "readdir", ino.0, &[])?.ints([*after, u64::from(*limit)])
        }
        ReadOp::ReadLink { ino } => head(p, "readlink", ino.0, &[])?.open().close(),
        ReadOp::StatFs => head(p, "statfs", 0, &[])?.open().close(),
        ReadOp::Locate {
            ino,
            offset,
            length,
        } => {
            // A reader may ask for all there is; the rules only need a range that does not overflow.
            let length = (*length).min(i64::MAX.cast_unsigned().saturating_sub(*offset));
            head(p, "locate", ino.0, &[])?.ints([*offset, length])
        }
        ReadOp::Status => head(p, "status", 0, &[])?.open().close(),
        ReadOp::Identify => {
            return Err(errno::failure(
                errno::EINVAL,
                "who a NameNode is is no question for its rules",
            ));
        }
    };
    Ok(())
}

/// A client's hello as the event `hello_client`.
///
/// # Errors
/// A number out of range.
pub fn hello_client(
    arrival: u64,
    conn: ConnId,
    session: u64,
    nonce: u64,
    name: &str,
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    // A nonce only has to be kept apart from others.
    p.uint(arrival)
        .conn(conn)
        .uint(session)
        .uint(nonce >> 1)
        .text(name.as_bytes());
    bounded(p)
}

/// What a DataNode says of itself.
#[derive(Clone, Copy, Debug)]
pub struct DataNodeHello<'a> {
    /// Its id, or 0.
    pub node: u64,
    /// Chosen when its folder was made.
    pub nonce: u64,
    /// Its number of starts.
    pub incarnation: u64,
    /// Where it listens.
    pub addr: &'a str,
    /// Bytes.
    pub capacity: u64,
    /// Bytes.
    pub free: u64,
}

/// A DataNode's hello as the event `hello_datanode`.
///
/// # Errors
/// A number out of range.
pub fn hello_datanode(
    arrival: u64,
    conn: ConnId,
    hello: DataNodeHello<'_>,
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.uint(arrival)
        .conn(conn)
        .uint(hello.node)
        .uint(hello.nonce >> 1)
        .uint(hello.incarnation);
    p.text(hello.addr.as_bytes())
        .uint(hello.capacity)
        .uint(hello.free);
    bounded(p)
}

/// The event `renew`.
///
/// # Errors
/// A number out of range, or too many.
pub fn renew(
    conn: ConnId,
    session: u64,
    orphans: impl IntoIterator<Item = u64>,
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.conn(conn).uint(session).ints(orphans);
    bounded(p)
}

/// The event `closed`.
pub fn closed(conn: ConnId) -> Row {
    Row::new(&[Value::addr(conn.to_string())])
}

/// The event `heartbeat`.
///
/// # Errors
/// A number out of range.
pub fn heartbeat(conn: ConnId, node: u64, capacity: u64, free: u64) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.conn(conn).uint(node).uint(capacity).uint(free);
    p.row()
}

fn replicas(p: &mut Packer, replicas: &[ReplicaInfo]) {
    p.open();
    for r in replicas {
        p.ints([r.block.0, r.generation.0, r.length]);
    }
    p.close();
}

/// The event `report`.
///
/// # Errors
/// A number out of range.
pub fn report(
    conn: ConnId,
    node: u64,
    first: bool,
    last: bool,
    list: &[ReplicaInfo],
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.conn(conn).uint(node).bool(first).bool(last);
    replicas(&mut p, list);
    p.row()
}

/// The event `received`.
///
/// # Errors
/// A number out of range.
pub fn received(
    conn: ConnId,
    node: u64,
    list: &[ReplicaInfo],
    gone: impl IntoIterator<Item = u64>,
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.conn(conn).uint(node);
    replicas(&mut p, list);
    p.ints(gone);
    p.row()
}

/// The event of a timer.
pub fn timer(wall_ns: i64) -> Row {
    Row::new(&[Value::Int(wall_ns)])
}

/// The event `configure`: the defaults of a new cluster, and who founds it.
///
/// # Errors
/// A number out of range.
pub fn configure(
    replication: u32,
    block_size: u64,
    nonce: u64,
    host: &str,
) -> Result<Row, Failure> {
    let mut p = Packer::new();
    p.uint(replication.into())
        .uint(block_size)
        .uint(nonce)
        .text(host.as_bytes())
        .addr(&peer_addr(nonce));
    p.row()
}

/// What NameNodes call the one whose folder has this nonce.
pub fn peer_addr(nonce: u64) -> String {
    format!("n{nonce}")
}

/// The nonce in such an address.
pub fn peer_nonce(addr: &[u8]) -> Option<u64> {
    let digits = addr.strip_prefix(b"n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The packed value in a packed vote, which is a list of a ballot and a value.
pub fn vote_value(vote: &[u8]) -> Option<&[u8]> {
    let items = vote.strip_prefix(&[LIST])?;
    let (_ballot, rest) = packed::split_first(items);
    let (value, end) = packed::split_first(rest);
    (end == [LIST_END]).then_some(value)
}

/// The event `be`.
pub fn be(nonce: u64, founder: bool) -> Row {
    Row::new(&[Value::addr(peer_addr(nonce)), Value::Bool(founder)])
}

/// The event `decided` for a slot whose batch is dropped: it does nothing, on every NameNode.
pub fn nothing(slot: u64) -> Row {
    let slot = i64::try_from(slot).unwrap_or(i64::MAX);
    let batch = Value::list([Value::Int(0), Value::list([])]);
    Row::new(&[Value::Int(slot), batch])
}

/// The event `confirm`.
pub fn confirm(reads: usize) -> Row {
    Row::new(&[Value::Int(i64::try_from(reads).unwrap_or(i64::MAX))])
}

/// The event `space`.
pub fn space(full: bool) -> Row {
    Row::new(&[Value::Bool(full)])
}

/// The event `state`: the digest of the replicated tables after a slot.
pub fn state(slot: u64, digest: u64) -> Row {
    Row::new(&[
        Value::Int(i64::try_from(slot).unwrap_or(i64::MAX)),
        Value::Int(digest.cast_signed()),
    ])
}

/// The event `quits` of the NameNode whose folder has this nonce.
pub fn quits(nonce: u64) -> Row {
    Row::new(&[Value::addr(peer_addr(nonce))])
}

/// The event `truncate`.
pub fn truncate(slot: u64) -> Row {
    Row::new(&[Value::Int(i64::try_from(slot).unwrap_or(i64::MAX))])
}
