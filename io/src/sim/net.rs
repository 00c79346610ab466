//! The network of a world: listeners, and streams with latency and bounded buffers.

use super::{Node, STREAM_BUFFER, State};
use bytes::{Buf, Bytes};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Connections that wait for accept before others are refused.
const BACKLOG: usize = 128;

/// All sockets of a world.
pub(super) struct Net {
    /// Least and most, whole milliseconds.
    pub(super) latency_ms: (u64, u64),
    /// Sender and receiver whose bytes do not get through.
    cuts: BTreeSet<(String, String)>,
    listeners: BTreeMap<(Arc<str>, u16), Listening>,
    conns: BTreeMap<u64, Conn>,
    next_id: u64,
}

impl Default for Net {
    fn default() -> Net {
        Net {
            latency_ms: (0, 2),
            cuts: BTreeSet::new(),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_id: 1,
        }
    }
}

struct Listening {
    id: u64,
    backlog: VecDeque<(SimStream, String)>,
    waiting: Vec<Waker>,
}

/// Who asks of a connection: the side that connected or the one that accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Caller,
    Callee,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

struct Conn {
    caller: End,
    callee: End,
    /// One side died.
    reset: bool,
}

/// One side of a connection, with what it has sent.
struct End {
    node: Arc<str>,
    addr: String,
    /// Halves that are not dropped yet.
    halves: u8,
    sent: Pipe,
}

#[derive(Default)]
struct Pipe {
    segments: VecDeque<(Instant, Bytes)>,
    buffered: usize,
    /// No segment arrives before the one in front of it.
    last: Option<Instant>,
    end: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn arrival(&mut self, latency: Duration) -> Instant {
        let at = (Instant::now() + latency).max(self.last.unwrap_or_else(Instant::now));
        self.last = Some(at);
        at
    }

    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
        wakers.extend(self.writer.take());
    }
}

impl Conn {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        self.caller.sent.wake(wakers);
        self.callee.sent.wake(wakers);
    }
}

impl Net {
    pub(super) fn latency(&self, rng: &mut StdRng) -> Duration {
        let (least, most) = self.latency_ms;
        Duration::from_millis(rng.random_range(least..=most))
    }

    fn gets_through(&self, from: &str, to: &str) -> bool {
        self.cuts.is_empty() || from == to || !self.cuts.contains(&(from.into(), to.into()))
    }

    /// Both ways.
    fn reachable(&self, a: &str, b: &str) -> bool {
        self.gets_through(a, b) && self.gets_through(b, a)
    }

    /// Whether what one side of a connection sends can pass now.
    fn passes(&self, conn: u64, from: Side) -> bool {
        self.conns.get(&conn).is_some_and(|c| match from {
            Side::Caller => self.gets_through(&c.caller.node, &c.callee.node),
            Side::Callee => self.gets_through(&c.callee.node, &c.caller.node),
        })
    }

    pub(super) fn cut(&mut self, from: &str, to: &str, on: bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if on {
            self.cuts.insert((from.into(), to.into()));
        } else {
            self.cuts.remove(&(from.into(), to.into()));
            self.conns
                .values_mut()
                .for_each(|conn| conn.wake(&mut wakers));
        }
        wakers
    }

    /// Breaks all connections between two nodes.
    pub(super) fn reset(&mut self, a: &str, b: &str) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for conn in self.conns.values_mut() {
            let (from, to) = (&*conn.caller.node, &*conn.callee.node);
            if (from == a && to == b) || (from == b && to == a) {
                conn.reset = true;
                conn.wake(&mut wakers);
            }
        }
        wakers
    }

    /// Breaks everything that a node had.
    pub(super) fn crash(&mut self, node: &str) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for conn in self.conns.values_mut() {
            if &*conn.caller.node == node || &*conn.callee.node == node {
                conn.reset = true;
                conn.wake(&mut wakers);
            }
        }
        for ((_, _), listening) in self
            .listeners
            .iter_mut()
            .filter(|((name, _), _)| &**name == node)
        {
            wakers.append(&mut listening.waiting);
            // The streams lock the world when they are dropped.
            for (stream, _) in listening.backlog.drain(..) {
                stream.forget();
            }
        }
        self.listeners.retain(|(name, _), _| &**name != node);
        wakers
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

impl State {
    /// A port of a node that nobody listens on.
    fn free_port(&mut self, name: &Arc<str>) -> u16 {
        loop {
            let node = self.node(name);
            let port = node.next_port;
            node.next_port = port.checked_add(1).unwrap_or(40_000);
            if !self.net.listeners.contains_key(&(name.clone(), port)) {
                return port;
            }
        }
    }
}

fn bad_addr(addr: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{addr:?} is not of the form host:port"),
    )
}

impl Node {
    /// Node and port that an address means to this node.
    fn resolve(&self, addr: &str) -> io::Result<(Arc<str>, u16)> {
        let (host, port) = addr.rsplit_once(':').ok_or_else(|| bad_addr(addr))?;
        let port = port.parse().map_err(|_| bad_addr(addr))?;
        let own = matches!(host, "127.0.0.1" | "localhost" | "0.0.0.0");
        Ok((if own { self.name.clone() } else { host.into() }, port))
    }

    pub(crate) async fn listen(&self, addr: &str) -> io::Result<SimListener> {
        let (name, port) = self.resolve(addr)?;
        if name != self.name {
            let why = format!("cannot listen on {addr}: this node is {}", self.name);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
        }
        self.act(|state| {
            let port = if port == 0 {
                state.free_port(&self.name)
            } else {
                port
            };
            let key = (self.name.clone(), port);
            if state.net.listeners.contains_key(&key) {
                let why = format!("cannot listen on {addr}: address in use");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            let id = state.net.id();
            state.net.listeners.insert(
                key,
                Listening {
                    id,
                    backlog: VecDeque::new(),
                    waiting: Vec::new(),
                },
            );
            state.note(&self.name, format_args!("listen {port}"));
            Ok(SimListener {
                node: self.clone(),
                port,
                id,
            })
        })
        .await
    }

    pub(crate) async fn connect(&self, addr: &str) -> io::Result<SimStream> {
        let (to, port) = self.resolve(addr)?;
        loop {
            self.wait_for(&to).await;
            self.latency().await;
            if self.act(|state| state.net.reachable(&self.name, &to)).await {
                break;
            }
        }
        let (stream, waiting) = self.act(|state| self.call(state, &to, port)).await;
        waiting.into_iter().for_each(Waker::wake);
        // The answer takes its time too, be it a refusal.
        self.latency().await;
        stream
            .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"))
    }

    /// Waits until no partition is between this node and another.
    async fn wait_for(&self, other: &str) {
        loop {
            let changed = self.shared.changed.notified();
            if self
                .act(|state| state.net.reachable(&self.name, other))
                .await
            {
                return;
            }
            changed.await;
        }
    }

    /// Puts a connection into a listener's backlog.
    fn call(&self, state: &mut State, to: &Arc<str>, port: u16) -> (Option<SimStream>, Vec<Waker>) {
        let key = (to.clone(), port);
        let listening = state.net.listeners.get(&key);
        if listening.is_none_or(|l| l.backlog.len() >= BACKLOG) {
            state.note(&self.name, format_args!("connect {to}:{port} refused"));
            return (None, Vec::new());
        }
        let own_port = state.free_port(&self.name);
        let end = |node: &Arc<str>, port: u16| End {
            node: node.clone(),
            addr: format!("{node}:{port}"),
            halves: 2,
            sent: Pipe::default(),
        };
        let life = state.node(to).life;
        let callee = Node {
            shared: self.shared.clone(),
            name: to.clone(),
            life,
        };
        let id = state.net.id();
        let conn = Conn {
            caller: end(&self.name, own_port),
            callee: end(to, port),
            reset: false,
        };
        let (own_addr, addr) = (conn.caller.addr.clone(), conn.callee.addr.clone());
        state.net.conns.insert(id, conn);
        state.note(
            &self.name,
            format_args!("connect {own_addr} to {addr} as {id}"),
        );
        let theirs = SimStream::new(callee, id, Side::Callee, own_addr.clone());
        let mut waiting = Vec::new();
        if let Some(listening) = state.net.listeners.get_mut(&key) {
            listening.backlog.push_back((theirs, own_addr));
            waiting = std::mem::take(&mut listening.waiting);
        }
        (
            Some(SimStream::new(self.clone(), id, Side::Caller, addr)),
            waiting,
        )
    }
}

/// Waits for connections on a simulated node.
#[derive(Debug)]
pub(crate) struct SimListener {
    node: Node,
    port: u16,
    id: u64,
}

impl SimListener {
    pub(crate) fn local_addr(&self) -> String {
        format!("{}:{}", self.node.name, self.port)
    }

    fn key(&self) -> (Arc<str>, u16) {
        (self.node.name.clone(), self.port)
    }

    pub(crate) async fn accept(&self) -> io::Result<(SimStream, String)> {
        poll_fn(|cx| {
            let accepted = self.node.poll_with(cx, |state| {
                let listening = state.net.listeners.get_mut(&self.key())?;
                let Some((stream, peer)) = listening.backlog.pop_front() else {
                    if !listening.waiting.iter().any(|w| w.will_wake(cx.waker())) {
                        listening.waiting.push(cx.waker().clone());
                    }
                    return None;
                };
                state.note(
                    &self.node.name,
                    format_args!("accept {peer} as {}", stream.read.link.conn),
                );
                Some((stream, peer))
            });
            match accepted.flatten() {
                Some(accepted) => Poll::Ready(Ok(accepted)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // The streams of the backlog lock the world when they are dropped: not under the lock.
        let backlog = self.node.with(|state| {
            let mine = state
                .net
                .listeners
                .get(&self.key())
                .is_some_and(|l| l.id == self.id);
            if mine {
                state.net.listeners.remove(&self.key())
            } else {
                None
            }
        });
        drop(backlog);
    }
}

/// One side of a connection in a simulated network.
#[derive(Debug)]
pub(crate) struct SimStream {
    read: SimRead,
    write: SimWrite,
    peer: String,
}

impl SimStream {
    fn new(node: Node, conn: u64, side: Side, peer: String) -> SimStream {
        let link = Link {
            node,
            conn,
            side,
            over: false,
        };
        let read = SimRead {
            link: link.again(),
            timer: None,
        };
        SimStream {
            read,
            write: SimWrite { link },
            peer,
        }
    }

    pub(crate) fn into_split(self) -> (SimRead, SimWrite) {
        (self.read, self.write)
    }

    pub(crate) fn read_half(&mut self) -> &mut SimRead {
        &mut self.read
    }

    pub(crate) fn write_half(&mut self) -> &mut SimWrite {
        &mut self.write
    }

    pub(crate) fn peer_addr(&self) -> String {
        self.peer.clone()
    }

    /// Drops it without closing anything.
    fn forget(mut self) {
        self.read.link.over = true;
        self.write.link.over = true;
    }
}

/// A half's way to its connection.
struct Link {
    node: Node,
    conn: u64,
    side: Side,
    over: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} of connection {} at {:?}",
            self.side, self.conn, self.node
        )
    }
}

impl Link {
    fn again(&self) -> Link {
        Link {
            node: self.node.clone(),
            ..*self
        }
    }

    /// Drops a half; the connection goes with the last.
    fn close(&mut self, writer: bool) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let mut wakers = Vec::new();
        {
            let mut state = self.node.shared.lock();
            if writer {
                self.end(&mut state, &mut wakers);
            }
            let Some(conn) = state.net.conns.get_mut(&self.conn) else {
                return;
            };
            let end = conn.end(self.side);
            end.halves = end.halves.saturating_sub(1);
            if end.halves == 0 {
                // Its peer's writes have nowhere to go.
                wakers.extend(conn.end(self.side.other()).sent.writer.take());
            }
            if conn.caller.halves == 0 && conn.callee.halves == 0 {
                state.net.conns.remove(&self.conn);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends what this side sends.
    fn end(&self, state: &mut State, wakers: &mut Vec<Waker>) {
        let latency = state.net.latency(&mut state.rng);
        let Some(conn) = state.net.conns.get_mut(&self.conn) else {
            return;
        };
        let pipe = &mut conn.end(self.side).sent;
        if pipe.end.is_none() {
            pipe.end = Some(pipe.arrival(latency));
            wakers.extend(pipe.reader.take());
            state.note(&self.node.name, format_args!("end {}", self.conn));
        }
    }
}

fn broken(kind: io::ErrorKind, why: &'static str) -> io::Error {
    io::Error::new(kind, why)
}

fn reset() -> io::Error {
    broken(io::ErrorKind::ConnectionReset, "the other side died")
}

/// The reading half of a simulated stream.
#[derive(Debug)]
pub(crate) struct SimRead {
    link: Link,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a reader finds.
enum Found {
    Done(io::Result<()>),
    Arrives(Instant),
    Nothing,
}

impl SimRead {
    fn look(
        &self,
        state: &mut State,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
        wakers: &mut Vec<Waker>,
    ) -> Found {
        let passes = state.net.passes(self.link.conn, self.link.side.other());
        let Some(conn) = state.net.conns.get_mut(&self.link.conn) else {
            return Found::Done(Err(reset()));
        };
        if conn.reset && passes {
            return Found::Done(Err(reset()));
        }
        let pipe = &mut conn.end(self.link.side.other()).sent;
        if passes {
            let now = Instant::now();
            if let Some((at, bytes)) = pipe.segments.front_mut() {
                if *at <= now {
                    let n = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes.split_to(n));
                    if !bytes.has_remaining() {
                        pipe.segments.pop_front();
                    }
                    pipe.buffered = pipe.buffered.saturating_sub(n);
                    wakers.extend(pipe.writer.take());
                    let Link { node, conn, .. } = &self.link;
                    state.note(&node.name, format_args!("receive {conn} {n} bytes"));
                    return Found::Done(Ok(()));
                }
                pipe.reader = Some(cx.waker().clone());
                return Found::Arrives(*at);
            }
            if let Some(at) = pipe.end {
                if at <= now {
                    return Found::Done(Ok(()));
                }
                pipe.reader = Some(cx.waker().clone());
                return Found::Arrives(at);
            }
        }
        pipe.reader = Some(cx.waker().clone());
        Found::Nothing
    }
}

impl AsyncRead for SimRead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut wakers = Vec::new();
            let found = this
                .link
                .node
                .poll_with(cx, |state| this.look(state, cx, buf, &mut wakers));
            wakers.into_iter().for_each(Waker::wake);
            match found {
                Some(Found::Done(result)) => {
                    this.timer = None;
                    return Poll::Ready(result);
                }
                Some(Found::Arrives(at)) => {
                    let timer = this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    this.timer = None;
                }
                Some(Found::Nothing) | None => return Poll::Pending,
            }
        }
    }
}

impl Drop for SimRead {
    fn drop(&mut self) {
        self.link.close(false);
    }
}

/// The writing half of a simulated stream.
#[derive(Debug)]
pub(crate) struct SimWrite {
    link: Link,
}

impl SimWrite {
    fn put(
        &self,
        state: &mut State,
        cx: &Context<'_>,
        buf: &[u8],
        wakers: &mut Vec<Waker>,
    ) -> Poll<io::Result<usize>> {
        let link = &self.link;
        let passes =
            state.net.passes(link.conn, Side::Caller) && state.net.passes(link.conn, Side::Callee);
        let latency = state.net.latency_ms;
        let Some(conn) = state.net.conns.get_mut(&link.conn) else {
            return Poll::Ready(Err(reset()));
        };
        if conn.reset && passes {
            return Poll::Ready(Err(reset()));
        }
        if conn.end(link.side.other()).halves == 0 && passes {
            return Poll::Ready(Err(broken(
                io::ErrorKind::BrokenPipe,
                "the other side has closed",
            )));
        }
        let to = conn.end(link.side.other()).node.clone();
        let pipe = &mut conn.end(link.side).sent;
        if pipe.end.is_some() {
            return Poll::Ready(Err(broken(
                io::ErrorKind::BrokenPipe,
                "this side has shut down",
            )));
        }
        let n = buf.len().min(STREAM_BUFFER.saturating_sub(pipe.buffered));
        if n == 0 && !buf.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let part = buf.get(..n).unwrap_or_default();
        let wait = Duration::from_millis(state.rng.random_range(latency.0..=latency.1));
        let at = pipe.arrival(wait);
        pipe.segments.push_back((at, Bytes::copy_from_slice(part)));
        pipe.buffered += n;
        wakers.extend(pipe.reader.take());
        state.note(
            &link.node.name,
            format_args!(
                "send {} to {to} {n} bytes {:08x} takes {wait:?}",
                link.conn,
                crc32c::crc32c(part)
            ),
        );
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for SimWrite {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut wakers = Vec::new();
        let put = self
            .link
            .node
            .poll_with(cx, |state| self.put(state, cx, buf, &mut wakers));
        wakers.into_iter().for_each(Waker::wake);
        put.unwrap_or(Poll::Pending)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wakers = Vec::new();
        self.link
            .node
            .with(|state| self.link.end(state, &mut wakers));
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimWrite {
    fn drop(&mut self) {
        self.link.close(true);
    }
}
