//! Connections to DataNodes: pooled, one request at a time on each.

use crate::limits;
use boomfs_io::{Io, ReadHalf, WriteHalf};
use boomfs_wire::frame::{encode_message, read_message};
use boomfs_wire::{Failure, FromDataNode, ToDataNode};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};

/// Why a DataNode did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached, or the connection broke; the connection is of no further use.
    Broken(String),
    /// It answered that it cannot.
    Failed(Failure),
    /// What it sent is wrong.
    Corrupt(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Broken(why) | Trouble::Corrupt(why) => f.write_str(why),
            Trouble::Failed(failure) => f.write_str(&failure.message),
        }
    }
}

/// One connection. It goes back to the pool only when every answer on it was read.
pub struct DataConn {
    addr: String,
    reader: BufReader<ReadHalf>,
    writer: WriteHalf,
    /// It was idle in the pool: the DataNode may have gone since.
    reused: bool,
}

impl DataConn {
    /// Sends a request with its body.
    pub async fn send(
        &mut self,
        io: &Io,
        message: &ToDataNode,
        body: &[u8],
        within: Duration,
    ) -> Result<(), Trouble> {
        let addr = &self.addr;
        let broken =
            |e: &dyn fmt::Display| Trouble::Broken(format!("sending to {addr} failed: {e}"));
        let frame = encode_message(message, body.len()).map_err(|e| broken(&e))?;
        let writer = &mut self.writer;
        let sending = async {
            writer.write_all(&frame).await?;
            if !body.is_empty() {
                writer.write_all(body).await?;
            }
            writer.flush().await
        };
        io.timeout(within, sending)
            .await
            .map_err(|e| broken(&e))?
            .map_err(|e| broken(&e))
    }

    /// Takes the next answer.
    pub async fn answer(
        &mut self,
        io: &Io,
        within: Duration,
    ) -> Result<(FromDataNode, Bytes), Trouble> {
        let answer = io
            .timeout(within, read_message::<FromDataNode, _>(&mut self.reader))
            .await;
        let broken =
            |e: &dyn fmt::Display| Trouble::Broken(format!("no answer from {}: {e}", self.addr));
        match answer.map_err(|e| broken(&e))?.map_err(|e| broken(&e))? {
            Some((FromDataNode::Failed(failure), _)) => Err(Trouble::Failed(failure)),
            Some(answer) => Ok(answer),
            None => Err(broken(&"it closed the connection")),
        }
    }
}

#[derive(Default)]
struct Idle {
    /// Oldest first, with the time since when it idles.
    conns: VecDeque<(u64, DataConn)>,
}

/// See the module.
pub struct Pool {
    io: Io,
    idle: Mutex<Idle>,
    /// Until when a DataNode is asked last.
    demoted: Mutex<HashMap<String, u64>>,
}

impl Pool {
    pub fn new(io: Io) -> Pool {
        Pool {
            io,
            idle: Mutex::default(),
            demoted: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and takes its answer, over an idle connection or a new one. A connection that turns out to be
    /// dead after it idled is replaced once.
    pub async fn call(
        &self,
        addr: &str,
        message: &ToDataNode,
        within: Duration,
    ) -> Result<(DataConn, FromDataNode, Bytes), Trouble> {
        if let Some(mut conn) = self.take_idle(addr) {
            let called = self.call_on(&mut conn, message, within).await;
            match called {
                Ok((answer, body)) => return Ok((conn, answer, body)),
                Err(Trouble::Broken(_)) if conn.reused => {}
                Err(trouble) => {
                    self.give_back_after(conn, &trouble);
                    return Err(self.demoting(addr, trouble));
                }
            }
        }
        let mut conn = self
            .connect(addr)
            .await
            .map_err(|trouble| self.demoting(addr, trouble))?;
        match self.call_on(&mut conn, message, within).await {
            Ok((answer, body)) => Ok((conn, answer, body)),
            Err(trouble) => {
                self.give_back_after(conn, &trouble);
                Err(self.demoting(addr, trouble))
            }
        }
    }

    async fn call_on(
        &self,
        conn: &mut DataConn,
        message: &ToDataNode,
        within: Duration,
    ) -> Result<(FromDataNode, Bytes), Trouble> {
        conn.send(&self.io, message, &[], within).await?;
        conn.answer(&self.io, within).await
    }

    fn give_back_after(&self, conn: DataConn, trouble: &Trouble) {
        if matches!(trouble, Trouble::Failed(_)) {
            self.give_back(conn);
        }
    }

    fn demoting(&self, addr: &str, trouble: Trouble) -> Trouble {
        if matches!(trouble, Trouble::Broken(_)) {
            self.demote(addr);
        }
        trouble
    }

    async fn connect(&self, addr: &str) -> Result<DataConn, Trouble> {
        let stream = self.io.connect(addr, limits::CONNECT_DEADLINE).await;
        let stream = stream.map_err(|e| Trouble::Broken(e.to_string()))?;
        let (reader, writer) = stream.into_split();
        Ok(DataConn {
            addr: addr.to_owned(),
            reader: BufReader::new(reader),
            writer,
            reused: false,
        })
    }

    fn take_idle(&self, addr: &str) -> Option<DataConn> {
        let oldest_ns = self
            .io
            .mono_ns()
            .saturating_sub(nanos(limits::IDLE_TIMEOUT));
        let mut idle = self.idle();
        while idle
            .conns
            .front()
            .is_some_and(|(since_ns, _)| *since_ns < oldest_ns)
        {
            idle.conns.pop_front();
        }
        // The one used last is the least likely to be dead.
        let at = idle.conns.iter().rposition(|(_, conn)| conn.addr == addr)?;
        idle.conns.remove(at).map(|(_, conn)| conn)
    }

    /// Keeps a connection whose answers were all read.
    pub fn give_back(&self, mut conn: DataConn) {
        conn.reused = true;
        let now_ns = self.io.mono_ns();
        let mut idle = self.idle();
        let same = idle
            .conns
            .iter()
            .filter(|(_, other)| other.addr == conn.addr)
            .count();
        if same >= limits::IDLE_PER_NODE {
            return;
        }
        if idle.conns.len() >= limits::IDLE_IN_ALL {
            idle.conns.pop_front();
        }
        idle.conns.push_back((now_ns, conn));
    }

    /// Asks a DataNode last for a while.
    pub fn demote(&self, addr: &str) {
        let now_ns = self.io.mono_ns();
        let mut demoted = self.demoted.lock().unwrap_or_else(PoisonError::into_inner);
        demoted.retain(|_, until_ns| *until_ns > now_ns);
        demoted.insert(addr.to_owned(), now_ns + nanos(limits::DEMOTION));
    }

    /// Whether a DataNode failed a moment ago.
    pub fn is_demoted(&self, addr: &str) -> bool {
        let demoted = self.demoted.lock().unwrap_or_else(PoisonError::into_inner);
        demoted
            .get(addr)
            .is_some_and(|until_ns| *until_ns > self.io.mono_ns())
    }
}

/// A span as the monotonic clock counts it.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
