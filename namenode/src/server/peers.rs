//! Links to the other NameNodes: one connection to each, on which this one talks and the other listens.
//!
//! What cannot be sent soon is dropped: the rules say again what matters.

use super::inbox::{self, Rows};
use crate::metrics::Metrics;
use boomfs_io::{Io, Stream};
use boomfs_wire::frame::{encode_message, read_message, write_message};
use boomfs_wire::{Blob, ClusterId, FromNameNode, Peer, PeerRow, ToNameNode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const CONNECT_DEADLINE: Duration = Duration::from_millis(300);
const HELLO_DEADLINE: Duration = Duration::from_secs(2);
/// For one message; the other does not read if it takes longer.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// The other's system has not taken anything for so long: a new connection works sooner than this one.
const STUCK: Duration = Duration::from_millis(500);
/// Pause between attempts to connect: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// Bytes that wait to be sent to one NameNode, at most.
const MAX_WAITING: usize = 64 << 20;
/// Bytes of rows in one message.
const MAX_MESSAGE: usize = 4 << 20;

/// Who this NameNode is, as it says to others.
#[derive(Clone, Debug)]
pub struct Me {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its folder's number.
    pub nonce: u64,
    /// Where it listens.
    pub addr: String,
    /// Hash of its rules.
    pub rules: u64,
}

impl Me {
    /// What it says first to the NameNode with this nonce; 0: to any.
    fn hello(&self, to: u64) -> ToNameNode {
        ToNameNode::Hello {
            cluster: Some(self.cluster),
            peer: Peer::NameNode {
                nonce: self.nonce,
                addr: self.addr.clone(),
                rules: self.rules,
                to,
            },
        }
    }
}

/// What waits to be sent to one NameNode.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<(VecDeque<Rows>, usize)>,
    work: Notify,
    /// Where it listens.
    host: Mutex<String>,
    /// It is kept up. Otherwise it ends with its connection, and is made again when there is something to send.
    kept: AtomicBool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Rows>, usize)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, String> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Rows> {
        let mut waiting = self.lock();
        let rows = waiting.0.pop_front()?;
        waiting.1 = waiting.1.saturating_sub(inbox::size(&rows));
        Some(rows)
    }

    fn clear(&self) -> usize {
        let mut waiting = self.lock();
        waiting.1 = 0;
        std::mem::take(&mut waiting.0).len()
    }
}

#[derive(Debug)]
struct Link {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Link {
    fn is_up(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All links.
#[derive(Debug)]
pub struct Peers {
    io: Io,
    me: Me,
    metrics: Arc<Metrics>,
    /// To those that the log lists, and to others that have called: they may be new, or have left and not know it yet.
    links: Mutex<BTreeMap<u64, Link>>,
    /// Where others said that they listen; goes before what the log says.
    heard: Mutex<BTreeMap<u64, String>>,
    /// Links to who may not know of this one.
    calls: Mutex<Vec<Link>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// No links yet.
    pub fn new(io: Io, me: Me, metrics: Arc<Metrics>) -> Peers {
        Peers {
            io,
            me,
            metrics,
            links: Mutex::default(),
            heard: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// Who this NameNode is.
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// Tells NameNodes that may have been told another address where this one listens.
    pub fn call(&self, hosts: &[String]) {
        let calls = hosts.iter().filter(|host| **host != self.me.addr);
        let calls = calls.map(|host| self.link(0, host.clone(), true)).collect();
        *lock(&self.calls) = calls;
    }

    /// These are the NameNodes, by their nonces, and where the log says that they listen.
    pub fn set(&self, all: &BTreeMap<u64, String>) {
        let heard = lock(&self.heard).clone();
        let mut links = lock(&self.links);
        for (nonce, link) in &*links {
            let kept = all.contains_key(nonce);
            link.queue.kept.store(kept, Ordering::Relaxed);
        }
        for (nonce, host) in all {
            if *nonce == self.me.nonce || links.get(nonce).is_some_and(Link::is_up) {
                continue;
            }
            let host = heard.get(nonce).unwrap_or(host);
            links.insert(*nonce, self.link(*nonce, host.clone(), true));
        }
    }

    /// A NameNode said where it listens. One that is in no log yet is remembered for when it asks for something.
    pub fn heard(&self, nonce: u64, host: &str) {
        let mut heard = lock(&self.heard);
        let known = heard.len();
        if known >= MAX_HEARD && !heard.contains_key(&nonce) {
            return;
        }
        heard.insert(nonce, host.to_owned());
        drop(heard);
        let mut links = lock(&self.links);
        match links.get(&nonce) {
            Some(link) if link.is_up() => host.clone_into(&mut link.queue.host()),
            other => {
                let kept = other.is_some_and(|link| link.queue.kept.load(Ordering::Relaxed));
                links.insert(nonce, self.link(nonce, host.to_owned(), kept));
            }
        }
    }

    /// Where a NameNode listens, as far as is known.
    pub fn host(&self, nonce: u64) -> Option<String> {
        if nonce == self.me.nonce {
            return Some(self.me.addr.clone());
        }
        lock(&self.links)
            .get(&nonce)
            .map(|l| l.queue.host().clone())
    }

    /// Sends what a run says to one NameNode.
    pub fn send(&self, nonce: u64, rows: Rows) {
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&nonce).filter(|link| !link.is_up()) {
            let kept = link.queue.kept.load(Ordering::Relaxed);
            let host = link.queue.host().clone();
            links.insert(nonce, self.link(nonce, host, kept));
        }
        let dropped = match links.get(&nonce) {
            Some(link) => {
                let mut waiting = link.queue.lock();
                let size = inbox::size(&rows);
                let full = waiting.1 + size > MAX_WAITING;
                if !full {
                    waiting.1 += size;
                    waiting.0.push_back(rows);
                    drop(waiting);
                    link.queue.work.notify_one();
                }
                full
            }
            None => true,
        };
        Metrics::add(&self.metrics.peer_messages_dropped, u64::from(dropped));
    }

    /// Ends all links.
    pub fn close(&self) {
        lock(&self.links).clear();
        lock(&self.calls).clear();
    }

    fn link(&self, nonce: u64, host: String, kept: bool) -> Link {
        let queue = Arc::new(Queue {
            host: Mutex::new(host),
            kept: AtomicBool::new(kept),
            ..Queue::default()
        });
        let run = run(
            self.io.clone(),
            self.me.clone(),
            nonce,
            queue.clone(),
            self.metrics.clone(),
        );
        Link {
            queue,
            task: tokio::spawn(run),
        }
    }
}

/// Addresses that are remembered, at most.
const MAX_HEARD: usize = 64;

/// Keeps a link up, or makes it once.
async fn run(io: Io, me: Me, nonce: u64, queue: Arc<Queue>, metrics: Arc<Metrics>) {
    let mut pause = BACKOFF.0;
    let mut told = BTreeSet::new();
    loop {
        let host = queue.host().clone();
        match open(&io, &me, nonce, &host).await {
            Ok(stream) => {
                tracing::info!("NameNode at {host}: connected");
                pause = BACKOFF.0;
                told.clear();
                let why = talk(&io, &queue, stream).await;
                tracing::info!("NameNode at {host}: {why}");
                if nonce == 0 {
                    // It has heard where this one listens.
                    return;
                }
            }
            Err(why) => {
                // Each reason once.
                if told.len() < 8 && told.insert(why.clone()) {
                    tracing::info!("NameNode at {host}: {why}");
                }
            }
        }
        let dropped = queue.clear();
        Metrics::add(&metrics.peer_messages_dropped, dropped as u64);
        if !queue.kept.load(Ordering::Relaxed) {
            return;
        }
        let jitter = io.random_u64() % 8;
        io.sleep(pause + Duration::from_millis(jitter)).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Connects to a NameNode and is welcomed.
pub async fn open(io: &Io, me: &Me, nonce: u64, host: &str) -> Result<Stream, String> {
    let mut stream = io
        .connect(host, CONNECT_DEADLINE)
        .await
        .map_err(|e| e.to_string())?;
    let greeting = async {
        write_message(&mut stream, &me.hello(nonce), &[]).await?;
        stream.flush().await?;
        read_message::<FromNameNode, _>(&mut stream).await
    };
    match io.timeout(HELLO_DEADLINE, greeting).await {
        Ok(Ok(Some((FromNameNode::Welcome { .. }, _)))) => Ok(stream),
        Ok(Ok(Some((FromNameNode::Refused { failure }, _)))) => {
            Err(format!("refused: {}", failure.message))
        }
        Ok(Ok(Some(_))) => Err("answered the handshake with something else".to_owned()),
        Ok(Ok(None)) => Err("closed the connection in the handshake".to_owned()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Sends what waits, until the connection ends; says why it did.
async fn talk(io: &Io, queue: &Queue, stream: Stream) -> String {
    if let Err(e) = stream.end_when_stuck(STUCK) {
        return e.to_string();
    }
    let (mut reader, mut writer) = stream.into_split();
    let ended = async {
        // The other says nothing more; what comes is the end.
        match read_message::<FromNameNode, _>(&mut reader).await {
            Ok(Some(_)) => "it said something that nobody asked for".to_owned(),
            Ok(None) => "it closed the connection".to_owned(),
            Err(e) => e.to_string(),
        }
    };
    let sending = async {
        loop {
            let Some(rows) = queue.take() else {
                queue.work.notified().await;
                continue;
            };
            let bytes = match encode(rows) {
                Ok(bytes) => bytes,
                Err(why) => return why,
            };
            match io.timeout(SEND_DEADLINE, writer.write_all(&bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return e.to_string(),
                Err(e) => return format!("it does not read: {e}"),
            }
        }
    };
    tokio::select! {
        biased;
        why = ended => why,
        why = sending => why,
    }
}

/// Rows as messages of bounded size.
fn encode(rows: Rows) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = rows.into_iter().peekable();
    while rest.peek().is_some() {
        let mut part = Vec::new();
        let mut size = 0;
        while size < MAX_MESSAGE
            && let Some((rel, row)) = rest.next()
        {
            size += row.as_bytes().len();
            part.push(PeerRow {
                event: rel.0,
                row: Blob(row.as_bytes().to_vec()),
            });
        }
        let more = rest.peek().is_some();
        let message = ToNameNode::Tell { rows: part, more };
        bytes.extend(encode_message(&message, 0).map_err(|e| e.to_string())?);
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "the real network is what is tested"
)]
mod tests {
    use super::*;
    use overlog::ir::RelId;
    use overlog::{Row, Value};

    /// As [`Stream::end_when_stuck`] promises, and sooner than a message may take.
    #[test]
    fn a_link_on_which_nothing_is_taken_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let io = Io::real();
            let listener = io.listen("127.0.0.1:0").await.unwrap();
            let stream = io
                .connect(&listener.local_addr(), CONNECT_DEADLINE)
                .await
                .unwrap();
            let _silent = listener.accept().await.unwrap();
            let queue = Queue::default();
            let row = Row::new(&[Value::Bytes(vec![0; 1 << 20].into())]);
            for _ in 0..32 {
                queue.lock().0.push_back(vec![(RelId(0), row.clone())]);
            }
            let why = io.timeout(SEND_DEADLINE, talk(&io, &queue, stream)).await;
            let why = why.expect("an end");
            assert!(why.contains("timed out"), "{why}");
        });
    }
}
