//! What several tests do with a node: restarts, renewals, reports, and looks at what was sent.

use crate::driver::*;
use overlog::Value;
use overlog::api::Options;
use overlog::ir::{RelId, RelKind, TableClass};
use std::sync::Arc;

/// A replica as a DataNode tells of it: block, generation, length.
pub type Told = (i64, i64, i64);

/// Order to copy: where it goes to, block, generation, length, target.
pub type Copy = (String, i64, i64, i64, i64);

/// Integers in a list.
pub fn ints(value: &Value) -> Vec<i64> {
    let list = value.as_list().unwrap();
    list.iter().map(|x| x.as_int().unwrap()).collect()
}

/// The first integers of the lists in a list: nodes of `[node, address]`.
pub fn firsts(value: &Value) -> Vec<i64> {
    let list = value.as_list().unwrap();
    list.iter()
        .map(|x| x.as_list().unwrap()[0].as_int().unwrap())
        .collect()
}

/// The name of a connection.
pub fn addr(value: &Value) -> String {
    match value {
        Value::Addr(name) => String::from_utf8(name.to_vec()).unwrap(),
        other => panic!("no connection: {other}"),
    }
}

/// The answer to a command for a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub block: i64,
    pub offset: i64,
    pub generation: i64,
    pub length: i64,
    pub nodes: Vec<i64>,
}

impl From<&[Value]> for Block {
    fn from(payload: &[Value]) -> Block {
        let int = |at: usize| payload[at].as_int().unwrap();
        assert_eq!(payload[0], s("block"));
        Block {
            block: int(1),
            offset: int(2),
            generation: int(3),
            length: int(4),
            nodes: firsts(&payload[5]),
        }
    }
}

impl Real {
    /// The node stops and starts again with what is durable.
    pub fn restart(&mut self) {
        let all = (0..u32::try_from(self.program.relations.len()).unwrap()).map(RelId);
        let program = Arc::clone(&self.program);
        let durable: Vec<RelId> = all
            .filter(|id| match &program.relation(*id).kind {
                RelKind::Table(class) => !matches!(class, TableClass::Volatile),
                _ => false,
            })
            .collect();
        let mut options = Options::new(Value::addr("nn"));
        options.observe = vec![program.find("propose").unwrap()];
        let mut node = overlog::node::Node::new(Arc::clone(&program), options).unwrap();
        for id in durable {
            node.restore(id, self.node.rows(id)).unwrap();
        }
        self.node = node;
        self.sent.clear();
        let time = overlog::api::Time {
            wall_ns: self.wall,
            mono_ns: self.mono,
        };
        let output = self.node.start(false, time).unwrap();
        assert_eq!(output.messages, vec![], "a start says nothing by itself");
        self.govern();
    }

    /// A client says that it is there, and which inodes it has open.
    pub fn renew(&mut self, client: &Client, open: &[i64]) {
        let open = list(open.iter().map(|x| i(*x)));
        let row = vec![Value::addr(&client.conn), i(client.session), open];
        self.feed("renew", row);
    }

    /// One command with this number and mark; the answer, if it came in this run.
    pub fn send(&mut self, client: &Client, seq: i64, ack: i64, c: &Command) -> Option<Answer> {
        let row = self.request(client, seq, ack, c);
        self.sent.clear();
        self.run(vec![row]);
        self.reply(&client.conn, seq)
    }

    /// Asks a question as this user, in a run of its own.
    #[expect(clippy::too_many_arguments, reason = "the columns of the event")]
    pub fn ask_by(
        &mut self,
        uid: i64,
        gid: i64,
        groups: &[i64],
        op: &str,
        base: i64,
        names: &str,
        args: Vec<Value>,
    ) -> Option<Answer> {
        self.arrival += 1;
        let req = self.arrival;
        let groups = list(groups.iter().map(|g| i(*g)));
        let row = vec![
            Value::addr("reader"),
            i(req),
            i(uid),
            i(gid),
            groups,
            s(op),
            i(base),
            path(names),
            Value::list(args),
        ];
        self.sent.clear();
        self.feed("ask", row);
        self.answered(req)
    }

    /// The errors of refusals that a connection got since messages were last taken.
    pub fn refusals(&self, conn: &str) -> Vec<String> {
        let to = |(event, row): &&Sent| event == "refuse" && row[0] == Value::addr(conn);
        let errno = |(_, row): &Sent| String::from_utf8(row[1].as_bytes().unwrap().to_vec());
        self.sent
            .iter()
            .filter(to)
            .map(|sent| errno(sent).unwrap())
            .collect()
    }

    /// How often a connection got this message since messages were last taken.
    pub fn got(&self, conn: &str, event: &str) -> usize {
        let to = |sent: &&Sent| sent.0 == event && sent.1[0] == Value::addr(conn);
        self.sent.iter().filter(to).count()
    }

    /// Numbers of the sessions that are there.
    pub fn sessions(&mut self) -> Vec<i64> {
        self.column("session", 0)
    }

    /// One column of a table, sorted.
    pub fn column(&mut self, table: &str, at: usize) -> Vec<i64> {
        let mut column: Vec<i64> = self
            .rows(table)
            .iter()
            .map(|row| row[at].as_int().unwrap())
            .collect();
        column.sort_unstable();
        column
    }

    /// A part of a DataNode's report.
    pub fn report(&mut self, conn: &str, node: i64, ends: (bool, bool), replicas: &[Told]) {
        let told = replicas
            .iter()
            .map(|(block, generation, length)| list([i(*block), i(*generation), i(*length)]));
        let row = vec![Value::addr(conn), i(node), b(ends.0), b(ends.1), list(told)];
        self.feed("report", row);
    }

    /// Orders to copy since messages were last taken, in the order of blocks.
    pub fn copies(&self) -> Vec<Copy> {
        let int = |x: &Value| x.as_int().unwrap();
        let mut copies: Vec<Copy> = self
            .sent
            .iter()
            .filter(|(event, _)| event == "order_copy")
            .map(|(_, row)| {
                (
                    addr(&row[0]),
                    int(&row[1]),
                    int(&row[2]),
                    int(&row[3]),
                    int(&row[4]),
                )
            })
            .collect();
        copies.sort_by_key(|copy| copy.1);
        copies
    }

    /// Orders to delete since messages were last taken: connection, block, generation.
    pub fn deletions(&self) -> Vec<(String, i64, i64)> {
        let mut all = vec![];
        for (event, row) in &self.sent {
            if event == "order_delete" {
                for item in row[1].as_list().unwrap() {
                    let item = ints(item);
                    all.push((addr(&row[0]), item[0], item[1]));
                }
            }
        }
        all.sort();
        all
    }
}
