//! Runs the rules as the shell does: inputs, then the batch that they propose is decided, until nothing is left.
//! Every run must be free of errors, conflicts and violated invariants.

use boomfs_namenode::rules;
use overlog::api::{Options, Output, RunError, Time};
use overlog::ir::{Program, RelId, RelKind, TableClass};
use overlog::{CompileOptions, Row, Sources, Value, compile};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// What runs a program: the engine or the oracle.
pub trait Engine: Sized {
    /// See [`overlog::node::Node::new`].
    fn make(program: Arc<Program>, options: Options) -> Result<Self, RunError>;
    /// See [`overlog::node::Node::start`].
    fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError>;
    /// See [`overlog::node::Node::run`].
    fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError>;
    /// See [`overlog::node::Node::rows`].
    fn rows(&mut self, rel: RelId) -> Vec<Row>;
}

macro_rules! engine {
    ($ty:ty) => {
        impl Engine for $ty {
            fn make(program: Arc<Program>, options: Options) -> Result<Self, RunError> {
                <$ty>::new(program, options)
            }
            fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError> {
                <$ty>::start(self, new, time)
            }
            fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
                <$ty>::run(self, inputs, time)
            }
            fn rows(&mut self, rel: RelId) -> Vec<Row> {
                <$ty>::rows(self, rel)
            }
        }
    };
}
engine!(overlog::node::Node);
engine!(overlog::oracle::Node);

pub fn s(text: &str) -> Value {
    Value::str(text)
}

pub fn i(x: i64) -> Value {
    Value::Int(x)
}

pub fn b(x: bool) -> Value {
    Value::Bool(x)
}

pub fn list(items: impl IntoIterator<Item = Value>) -> Value {
    Value::list(items.into_iter().collect::<Vec<_>>())
}

pub fn none() -> Value {
    list([])
}

pub fn some(x: i64) -> Value {
    list([i(x)])
}

pub fn path(names: &str) -> Value {
    list(names.split('/').filter(|n| !n.is_empty()).map(s))
}

/// The rules with the invariants, compiled once.
pub fn program() -> Arc<Program> {
    static PROGRAM: OnceLock<Arc<Program>> = OnceLock::new();
    Arc::clone(PROGRAM.get_or_init(|| {
        let mut sources = match std::env::var("BOOMFS_RULES") {
            Ok(folder) => read_folder(&folder),
            Err(_) => rules::sources(),
        };
        sources.add("invariants.olg", include_str!("invariants.olg"));
        sources.add(
            "checked.olg",
            "include \"main.olg\"; include \"invariants.olg\";",
        );
        match compile("checked.olg", &sources, &[], CompileOptions::default()) {
            Ok((program, _)) => Arc::new(program),
            Err(errors) => panic!("{}", errors.render()),
        }
    }))
}

fn read_folder(folder: &str) -> Sources {
    let mut sources = Sources::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "olg") {
            sources.add(
                path.file_name().unwrap().to_str().unwrap(),
                std::fs::read_to_string(&path).unwrap(),
            );
        }
    }
    sources
}

pub fn cases() -> u32 {
    std::env::var("BOOMFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(128)
}

/// A result of a command or a question: the payload, or the name of the error.
pub type Answer = Result<Vec<Value>, String>;

/// A command as a client sends it.
#[derive(Clone, Debug)]
pub struct Command {
    pub uid: i64,
    pub gid: i64,
    pub groups: Vec<i64>,
    pub op: &'static str,
    pub base: i64,
    pub path: Value,
    pub args: Vec<Value>,
}

pub fn cmd(
    op: &'static str,
    base: i64,
    names: &str,
    args: impl IntoIterator<Item = Value>,
) -> Command {
    Command {
        uid: 0,
        gid: 0,
        groups: vec![],
        op,
        base,
        path: path(names),
        args: args.into_iter().collect(),
    }
}

impl Command {
    pub fn by(mut self, uid: i64, gid: i64, groups: &[i64]) -> Command {
        (self.uid, self.gid, self.groups) = (uid, gid, groups.to_vec());
        self
    }
}

pub fn mkdir(base: i64, names: &str) -> Command {
    cmd("mkdir", base, names, [i(0o755), i(0)])
}

pub fn mkdir_mode(base: i64, names: &str, mode: i64) -> Command {
    cmd("mkdir", base, names, [i(mode), i(0)])
}

pub fn create(base: i64, names: &str) -> Command {
    create_with(base, names, true, false, 0)
}

pub fn create_with(base: i64, names: &str, exclusive: bool, lease: bool, ino: i64) -> Command {
    cmd(
        "create",
        base,
        names,
        [
            s("file"),
            i(0o644),
            i(0),
            b(exclusive),
            b(lease),
            i(0),
            i(0),
            i(ino),
        ],
    )
}

pub fn node_of(kind: &str, base: i64, names: &str) -> Command {
    cmd(
        "create",
        base,
        names,
        [s(kind), i(0o644), i(7), b(true), b(false), i(0), i(0), i(0)],
    )
}

pub fn symlink(base: i64, names: &str, target: &str) -> Command {
    cmd("symlink", base, names, [s(target)])
}

/// Commits a length, and those of blocks with their generations.
pub fn commit(ino: i64, size: i64, blocks: &[(i64, i64, i64)]) -> Command {
    let blocks = list(
        blocks
            .iter()
            .map(|(block, generation, length)| list([i(*block), i(*generation), i(*length)])),
    );
    cmd("commit", ino, "", [i(size), blocks, list([s("now")])])
}

pub fn link(ino: i64, base: i64, names: &str) -> Command {
    cmd("link", base, names, [i(ino)])
}

pub fn unlink(base: i64, names: &str) -> Command {
    cmd("unlink", base, names, [])
}

pub fn rmdir(base: i64, names: &str) -> Command {
    cmd("rmdir", base, names, [])
}

pub fn rename(base: i64, from: &str, to_base: i64, to: &str) -> Command {
    cmd(
        "rename",
        base,
        from,
        [i(to_base), path(to), b(false), b(false)],
    )
}

pub fn rename_noreplace(base: i64, from: &str, to_base: i64, to: &str) -> Command {
    cmd(
        "rename",
        base,
        from,
        [i(to_base), path(to), b(true), b(false)],
    )
}

pub fn exchange(base: i64, from: &str, to_base: i64, to: &str) -> Command {
    cmd(
        "rename",
        base,
        from,
        [i(to_base), path(to), b(false), b(true)],
    )
}

/// What `setattr` changes.
#[derive(Clone, Debug, Default)]
pub struct Set {
    pub mode: Option<i64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub size: Option<i64>,
    pub atime: Option<Option<i64>>,
    pub mtime: Option<Option<i64>>,
}

/// A time is `Some(None)` for now, `Some(Some(ns))` for a given one.
pub fn setattr(base: i64, names: &str, set: Set) -> Command {
    let option = |x: Option<i64>| x.map_or_else(none, some);
    let time = |x: Option<Option<i64>>| match x {
        None => none(),
        Some(None) => list([s("now")]),
        Some(Some(ns)) => list([s("at"), i(ns)]),
    };
    let args = [
        option(set.mode),
        option(set.uid),
        option(set.gid),
        option(set.size),
        time(set.atime),
        time(set.mtime),
    ];
    cmd("setattr", base, names, args)
}

/// One connection of a client with its session.
#[derive(Clone, Debug)]
pub struct Client {
    pub conn: String,
    pub session: i64,
    pub seq: i64,
    pub ack: i64,
}

/// A message that left: its event and columns, the location first.
pub type Sent = (String, Vec<Value>);

/// A node under test and its log.
pub struct Cluster<E> {
    pub node: E,
    pub program: Arc<Program>,
    pub slot: i64,
    pub wall: i64,
    pub mono: i64,
    /// What arrived last.
    pub arrival: i64,
    /// Batches that were decided.
    pub log: Vec<Value>,
    /// Messages since they were last taken.
    pub sent: Vec<Sent>,
    /// Ticks of the last decided batch's run.
    pub ticks: u64,
}

pub const SECOND: i64 = 1_000_000_000;
pub const START: i64 = 1_700_000_000 * SECOND;

pub type Real = Cluster<overlog::node::Node>;

impl<E: Engine> Cluster<E> {
    /// A new store, started and configured with this replication.
    pub fn new(replication: i64) -> Cluster<E> {
        let mut cluster = Cluster::blank();
        let me = Value::addr("nn");
        cluster.feed(
            "configure",
            vec![i(replication), i(65_536), i(1), s("nn:1"), me],
        );
        cluster.govern();
        cluster
    }

    /// A new store, started.
    pub fn blank() -> Cluster<E> {
        let program = program();
        let mut options = Options::new(Value::addr("nn"));
        options.observe = vec![program.find("propose").unwrap()];
        let node = E::make(Arc::clone(&program), options).unwrap();
        let mut cluster = Cluster {
            node,
            program,
            slot: 0,
            wall: START,
            mono: 1_000 * SECOND,
            arrival: 0,
            log: vec![],
            sent: vec![],
            ticks: 0,
        };
        let time = cluster.time();
        let output = cluster.node.start(true, time).unwrap();
        cluster.take(output);
        cluster
    }

    /// The node's word is the cluster's from now on. It is not the founder, whom a leader would enter into the log.
    pub fn govern(&mut self) {
        self.feed("begins", vec![list([i(1), i(2)])]);
    }

    fn time(&self) -> Time {
        Time {
            wall_ns: self.wall,
            mono_ns: self.mono,
        }
    }

    pub fn rel(&self, name: &str) -> RelId {
        self.program
            .find(name)
            .unwrap_or_else(|| panic!("no relation {name}"))
    }

    pub fn row(&self, event: &str, values: Vec<Value>) -> (RelId, Row) {
        (self.rel(event), Row::new(&values))
    }

    /// Feeds one event, and decides what is proposed.
    pub fn feed(&mut self, event: &str, values: Vec<Value>) {
        let row = self.row(event, values);
        self.run(vec![row]);
    }

    /// One run, and one for each batch that comes of it.
    pub fn run(&mut self, inputs: Vec<(RelId, Row)>) {
        let mut todo = vec![inputs];
        while let Some(inputs) = todo.pop() {
            let decides = inputs.iter().any(|(rel, _)| *rel == self.rel("decided"));
            let time = self.time();
            let output = self.node.run(inputs, time).unwrap();
            if decides {
                self.ticks = output.ticks;
            }
            for batch in self.take(output) {
                self.slot += 1;
                self.log.push(batch.clone());
                todo.push(vec![self.row("decided", vec![i(self.slot), batch])]);
            }
        }
    }

    /// Decides a batch as given.
    pub fn decide(&mut self, batch: Value) {
        self.slot += 1;
        let row = self.row("decided", vec![i(self.slot), batch]);
        self.run(vec![row]);
    }

    fn take(&mut self, output: Output) -> Vec<Value> {
        assert_eq!(output.errors, vec![], "errors in rules");
        assert_eq!(output.conflicts, vec![], "conflicts");
        assert_eq!(output.violations, vec![], "violated invariants");
        for message in output.messages {
            self.sent.push((
                self.program.relation(message.rel).name.clone(),
                message.row.values(),
            ));
        }
        let batches: Vec<Value> = output
            .observed
            .into_iter()
            .map(|(_, row)| row.values()[0].clone())
            .collect();
        assert!(batches.len() <= 1, "one batch a run");
        batches
    }

    /// What these inputs make the leader propose, without deciding it: the commands.
    pub fn proposal(&mut self, inputs: Vec<(RelId, Row)>) -> Vec<Value> {
        let time = self.time();
        let output = self.node.run(inputs, time).unwrap();
        let batches = self.take(output);
        batches
            .first()
            .and_then(Value::as_list)
            .map(|batch| batch[1].as_list().unwrap().to_vec())
            .unwrap_or_default()
    }

    /// Registers a DataNode that has nothing, with its first report; its number.
    pub fn datanode(&mut self, conn: &str, nonce: i64) -> i64 {
        self.datanode_at(conn, 0, nonce, &format!("{conn}:1"))
    }

    /// A DataNode greets, and reports that it has nothing if it is welcome.
    pub fn datanode_at(&mut self, conn: &str, node: i64, nonce: i64, addr: &str) -> i64 {
        let node = self.greet(conn, node, nonce, addr);
        self.feed(
            "report",
            vec![Value::addr(conn), i(node), b(true), b(true), none()],
        );
        node
    }

    /// A DataNode greets; the number that it is welcomed with.
    pub fn greet(&mut self, conn: &str, node: i64, nonce: i64, addr: &str) -> i64 {
        self.arrival += 1;
        self.sent.clear();
        let (room, arrival) = (i(1 << 40), i(self.arrival));
        let row = vec![
            arrival,
            Value::addr(conn),
            i(node),
            i(nonce),
            i(1),
            s(addr),
            room.clone(),
            room,
        ];
        self.feed("hello_datanode", row);
        let welcome = self
            .sent
            .iter()
            .find(|(event, row)| event == "welcome_datanode" && row[0] == Value::addr(conn));
        let node = welcome.expect("welcome of a DataNode").1[1]
            .as_int()
            .unwrap();
        self.sent.clear();
        node
    }

    /// A DataNode's sign of life.
    pub fn beat(&mut self, conn: &str, node: i64) {
        self.feed(
            "heartbeat",
            vec![Value::addr(conn), i(node), i(1 << 40), i(1 << 40)],
        );
    }

    /// A DataNode says what came and what is gone: block, generation, length.
    pub fn received(&mut self, conn: &str, node: i64, came: &[(i64, i64, i64)], gone: &[i64]) {
        let came = list(
            came.iter()
                .map(|(block, generation, length)| list([i(*block), i(*generation), i(*length)])),
        );
        self.feed(
            "received",
            vec![
                Value::addr(conn),
                i(node),
                came,
                list(gone.iter().map(|x| i(*x))),
            ],
        );
    }

    pub fn taken(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// Lets time pass and fires all timers once a second.
    pub fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.wall += SECOND;
            self.mono += SECOND;
            self.fire();
        }
    }

    /// Fires all timers.
    pub fn fire(&mut self) {
        let timers: Vec<RelId> = (0..u32::try_from(self.program.relations.len()).unwrap())
            .map(RelId)
            .filter(|id| {
                matches!(
                    self.program.relation(*id).kind,
                    RelKind::Event { timer_ns: Some(_) }
                )
            })
            .collect();
        let row = Row::new(&[i(self.wall)]);
        self.run(timers.into_iter().map(|id| (id, row.clone())).collect());
    }

    /// Opens a session.
    pub fn client(&mut self, name: &str) -> Client {
        let nonce = 1_000
            + i64::try_from(name.len()).unwrap() * 1_000
            + i64::from(name.bytes().last().unwrap_or(0));
        self.sent.clear();
        self.hello(name, 0, nonce);
        let session = self
            .sent
            .iter()
            .find(|(event, _)| event == "welcome_client")
            .expect("welcome")
            .1[1]
            .as_int()
            .unwrap();
        self.sent.clear();
        Client {
            conn: name.to_owned(),
            session,
            seq: 0,
            ack: 0,
        }
    }

    pub fn hello(&mut self, conn: &str, session: i64, nonce: i64) {
        self.arrival += 1;
        let row = vec![
            i(self.arrival),
            Value::addr(conn),
            i(session),
            i(nonce),
            s(conn),
        ];
        self.feed("hello_client", row);
    }

    /// The `request` event of a command with this number.
    pub fn request(&mut self, client: &Client, seq: i64, ack: i64, c: &Command) -> (RelId, Row) {
        self.arrival += 1;
        let values = vec![
            i(self.arrival),
            Value::addr(&client.conn),
            i(client.session),
            i(seq),
            i(ack),
            i(c.uid),
            i(c.gid),
            list(c.groups.iter().map(|g| i(*g))),
            s(c.op),
            i(c.base),
            c.path.clone(),
            Value::list(c.args.clone()),
        ];
        self.row("request", values)
    }

    /// Runs commands of one client in one batch; answers in their order.
    pub fn batch(&mut self, client: &mut Client, commands: &[Command]) -> Vec<Answer> {
        let first = client.seq + 1;
        let mut inputs = vec![];
        for c in commands {
            client.seq += 1;
            inputs.push(self.request(client, client.seq, client.ack, c));
        }
        client.ack = client.seq;
        self.sent.clear();
        self.run(inputs);
        (first..=client.seq)
            .map(|seq| {
                self.reply(&client.conn, seq)
                    .unwrap_or_else(|| panic!("no reply to {seq}"))
            })
            .collect()
    }

    /// The reply that a connection got to a command; it must be the only one.
    pub fn reply(&self, conn: &str, seq: i64) -> Option<Answer> {
        let mut found = self.sent.iter().filter(|(event, row)| {
            event == "reply" && row[0] == Value::addr(conn) && row[1] == i(seq)
        });
        let answer = found.next().map(|(_, row)| answer(&row[2], &row[3]));
        assert!(
            found.next().is_none(),
            "two replies to command {seq} of {conn}"
        );
        answer
    }

    /// Runs one command in a batch of its own, a millisecond after the last.
    pub fn run_one(&mut self, client: &mut Client, c: Command) -> Answer {
        self.wall += 1_000_000;
        self.batch(client, &[c]).remove(0)
    }

    /// A command that must succeed; the attributes that it gives.
    pub fn attr(&mut self, client: &mut Client, c: Command) -> Attr {
        let text = format!("{c:?}");
        let payload = self
            .run_one(client, c)
            .unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(payload[0], s("attr"), "{text}");
        let shown = Attr::from(&payload[1]);
        if shown.nlink > 0 {
            let looked = self.look(shown.ino).unwrap();
            assert_eq!(
                shown, looked,
                "the answer shows what a lookup shows: {text}"
            );
        }
        shown
    }

    pub fn ok(&mut self, client: &mut Client, c: Command) -> Vec<Value> {
        let text = format!("{c:?}");
        self.run_one(client, c)
            .unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The error that a command gives.
    pub fn err(&mut self, client: &mut Client, c: Command) -> String {
        let text = format!("{c:?}");
        match self.run_one(client, c) {
            Err(errno) => errno,
            Ok(payload) => panic!("{text} gave {payload:?}"),
        }
    }

    /// Asks a question as root; `None` if it is not answered in the run.
    pub fn ask(&mut self, op: &str, base: i64, names: &str, args: Vec<Value>) -> Option<Answer> {
        self.ask_as(0, op, base, names, args)
    }

    pub fn ask_as(
        &mut self,
        uid: i64,
        op: &str,
        base: i64,
        names: &str,
        args: Vec<Value>,
    ) -> Option<Answer> {
        self.arrival += 1;
        let req = self.arrival;
        let row = vec![
            Value::addr("reader"),
            i(req),
            i(uid),
            i(uid),
            none(),
            s(op),
            i(base),
            path(names),
            Value::list(args),
        ];
        self.feed("ask", row);
        self.answered(req)
    }

    /// The answer to the question with this number, if it came.
    pub fn answered(&self, req: i64) -> Option<Answer> {
        let mut found = self
            .sent
            .iter()
            .filter(|(event, row)| event == "read_reply" && row[1] == i(req));
        let answer = found.next().map(|(_, row)| answer(&row[2], &row[3]));
        assert!(found.next().is_none(), "two answers to question {req}");
        answer
    }

    /// The number of the last question.
    pub fn last_req(&self) -> i64 {
        self.arrival
    }

    /// Attributes of an inode.
    pub fn look(&mut self, ino: i64) -> Result<Attr, String> {
        self.lookup(ino, "", false)
    }

    pub fn lookup(&mut self, base: i64, names: &str, follow: bool) -> Result<Attr, String> {
        let payload = self
            .ask("lookup", base, names, vec![b(follow)])
            .expect("an answer")?;
        Ok(Attr::from(&payload[1]))
    }

    pub fn rows(&mut self, name: &str) -> Vec<Vec<Value>> {
        let rel = self.rel(name);
        self.node.rows(rel).iter().map(Row::values).collect()
    }

    /// All replicated tables.
    pub fn replicated(&mut self) -> BTreeMap<String, Vec<Row>> {
        let ids: Vec<RelId> = (0..u32::try_from(self.program.relations.len()).unwrap())
            .map(RelId)
            .collect();
        let program = Arc::clone(&self.program);
        let is_replicated = |id: &RelId| {
            matches!(
                program.relation(*id).kind,
                RelKind::Table(TableClass::Replicated { .. })
            )
        };
        ids.into_iter()
            .filter(is_replicated)
            .map(|id| (program.relation(id).name.clone(), self.node.rows(id)))
            .collect()
    }
}

fn answer(errno: &Value, payload: &Value) -> Answer {
    let errno = String::from_utf8_lossy(errno.as_bytes().unwrap()).into_owned();
    let payload = payload.as_list().unwrap().to_vec();
    if errno.is_empty() {
        return Ok(payload);
    }
    assert!(
        matches!(payload.as_slice(), [Value::Str(text)] if !text.is_empty()),
        "{errno} without a message"
    );
    Err(errno)
}

/// Attributes, as an answer shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: i64,
    pub kind: String,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub allocated: i64,
    pub nlink: i64,
    pub rdev: i64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub crtime: i64,
    pub block_size: i64,
    pub replication: i64,
}

impl From<&Value> for Attr {
    fn from(value: &Value) -> Attr {
        let l = value.as_list().expect("attributes");
        let int = |at: usize| {
            l[at]
                .as_int()
                .unwrap_or_else(|| panic!("attribute {at} of {value}"))
        };
        assert_eq!(l.len(), 15);
        Attr {
            ino: int(0),
            kind: String::from_utf8(l[1].as_bytes().unwrap().to_vec()).unwrap(),
            mode: int(2),
            uid: int(3),
            gid: int(4),
            size: int(5),
            allocated: int(6),
            nlink: int(7),
            rdev: int(8),
            atime: int(9),
            mtime: int(10),
            ctime: int(11),
            crtime: int(12),
            block_size: int(13),
            replication: int(14),
        }
    }
}
