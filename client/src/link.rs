//! The connection to the NameNode that leads: one at a time, looked for again when it ends, and the session on it.
//!
//! A NameNode that owes an answer and is silent is asked for a sign of life, then the others are asked whether one of
//! them leads. The connection stays until another one does, for a slow leader is not to be left for nothing.

mod greet;
mod search;
mod silence;
mod state;

use crate::describe::Subject;
use crate::limits;
use crate::query::{Rows, Watch};
use crate::retry::{Backoff, Deadline};
use crate::{Config, Error, errno};
use boomfs_io::{Io, ReadHalf, watch};
use boomfs_wire::frame::{encode_message, read_message};
use boomfs_wire::{
    Answer, Caller, ClusterId, Failure, FromNameNode, Ino, Op, Peer, ReadOp, SessionId, ToNameNode,
};
use bytes::{Buf, Bytes};
use greet::Connection;
use search::{Above, Search};
use silence::{Look, Silence, nanos};
use state::{Effect, Ended, Queued, State, Waiting};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Whether there has been a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Never,
    Stood,
    Refused(Failure),
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Stopped,
    Broken(String),
    Refused(Failure),
    /// It does not lead any more; who does, as far as it knows.
    NotLeader(Option<String>),
    /// Another one leads, and here is the connection to it.
    Moved(Box<Connection>),
}

/// See the module.
pub struct Link {
    io: Io,
    config: Config,
    observer: bool,
    state: Mutex<State>,
    work: Notify,
    /// Places for commands: see [`limits::COMMANDS_IN_FLIGHT`].
    window: Semaphore,
    /// Places for questions.
    questions: Arc<Semaphore>,
    standing: watch::Sender<Standing>,
    stop: watch::Sender<bool>,
}

/// A command that is on its way.
pub struct Pending {
    subject: Subject,
    answer: oneshot::Receiver<Ended>,
    deadline: Deadline,
}

/// A question that somebody waits for; dropping it takes it back.
pub struct Asking {
    link: Arc<Link>,
    req: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.link.state().forget(self.req) {
            self.link.work.notify_one();
        }
    }
}

/// Ends a task when the connection it serves ends.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until the link is to end, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Link {
    /// Starts the link and waits until it stands.
    pub async fn start(io: Io, config: Config, observer: bool) -> Result<Arc<Link>, Error> {
        let deadline = Deadline::after(&io, config.deadline);
        let nonce = io.random_u64() >> 1;
        let link = Arc::new(Link {
            state: Mutex::new(State::new(nonce)),
            observer,
            work: Notify::new(),
            window: Semaphore::new(limits::COMMANDS_IN_FLIGHT),
            questions: Arc::new(Semaphore::new(limits::READS_IN_FLIGHT)),
            standing: watch::Sender::new(Standing::Never),
            stop: watch::Sender::new(false),
            io,
            config,
        });
        if link.config.namenodes.is_empty() {
            let what = format!("connect \"{}\"", link.config.name);
            return Err(Error::Invalid {
                errno: errno::EINVAL,
                what,
                why: "no NameNode is named",
            });
        }
        tokio::spawn(Arc::clone(&link).run());
        let mut standing = link.standing.subscribe();
        let stands = standing.wait_for(|standing| *standing != Standing::Never);
        let stands = link.within(deadline, stands).await;
        let failed = match stands {
            Some(Ok(Standing::Refused(failure))) => Error::Refused(failure),
            Some(Ok(_)) => return Ok(link),
            Some(Err(_)) | None => link.timed_out("connect", deadline),
        };
        link.stop();
        Err(failed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in the state is left half-done by a panic, for nothing in it awaits or calls out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the session is being asked for.
    pub fn closes(&self) {
        self.state().closes = true;
    }

    /// Ends the link. Calls that wait fail.
    pub fn stop(&self) {
        self.stop.set(true);
        self.state().close();
        self.window.close();
        self.questions.close();
    }

    /// The session; 0 while there is none.
    pub fn session(&self) -> SessionId {
        self.state().session
    }

    /// Counts the sessions: leases belong to one of them.
    pub fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.state().cluster.unwrap_or_default()
    }

    /// Default block size of the cluster, bytes.
    pub fn block_size(&self) -> u64 {
        self.state().block_size
    }

    /// Default replication of the cluster.
    pub fn replication(&self) -> u32 {
        self.state().replication
    }

    /// Counts an open.
    pub fn note_open(&self, ino: Ino) {
        self.state().note_open(ino);
    }

    /// Takes back an open.
    pub fn note_close(&self, ino: Ino) {
        self.state().note_close(ino);
    }

    async fn within<F: Future>(&self, deadline: Deadline, future: F) -> Option<F::Output> {
        let left = deadline.left(&self.io)?;
        self.io.timeout(left, future).await.ok()
    }

    fn timed_out(&self, what: impl ToString, deadline: Deadline) -> Error {
        let who = self.state().who(&self.config.namenodes);
        Error::TimedOut {
            what: what.to_string(),
            within: deadline.span(),
            who,
        }
    }

    fn closed(&self, what: impl ToString) -> Error {
        Error::Invalid {
            errno: errno::ENOTCONN,
            what: what.to_string(),
            why: "the client is closed",
        }
    }

    /// Runs a command; `epoch` binds it to a session.
    pub async fn command(
        &self,
        caller: &Caller,
        op: Op,
        epoch: Option<u64>,
    ) -> Result<Answer, Error> {
        let deadline = Deadline::after(&self.io, self.config.deadline);
        let pending = self.submit(caller, op, epoch, deadline).await?;
        self.answer(pending).await
    }

    /// Puts a command in line, behind all that were put there before, and does not wait for its answer.
    pub async fn submit(
        &self,
        caller: &Caller,
        op: Op,
        epoch: Option<u64>,
        deadline: Deadline,
    ) -> Result<Pending, Error> {
        let subject = Subject::of(&op);
        if self.observer {
            let why = "an observer has no session and runs no commands";
            return Err(Error::Invalid {
                errno: errno::EPERM,
                what: subject.to_string(),
                why,
            });
        }
        match self.within(deadline, self.window.acquire()).await {
            None => return Err(self.timed_out(subject, deadline)),
            Some(Err(_)) => return Err(self.closed(subject)),
            // Given back when the answer is acknowledged.
            Some(Ok(place)) => place.forget(),
        }
        let (reply, answer) = oneshot::channel();
        self.state().enqueue(Queued {
            caller: caller.clone(),
            op,
            epoch,
            reply,
        });
        self.work.notify_one();
        Ok(Pending {
            subject,
            answer,
            deadline,
        })
    }

    /// Waits for the answer to a command.
    pub async fn answer(&self, pending: Pending) -> Result<Answer, Error> {
        let Pending {
            subject,
            answer,
            deadline,
        } = pending;
        self.ended(subject, deadline, answer).await
    }

    async fn ended(
        &self,
        subject: Subject,
        deadline: Deadline,
        answer: oneshot::Receiver<Ended>,
    ) -> Result<Answer, Error> {
        match self.within(deadline, answer).await {
            None => Err(self.timed_out(subject, deadline)),
            Some(Err(_)) => Err(self.closed(subject)),
            Some(Ok(Ended::Answered(result))) => Ok(result?),
            Some(Ok(Ended::SessionLost)) => Err(Error::SessionLost {
                what: subject.to_string(),
            }),
            Some(Ok(Ended::Unsendable(why))) => Err(Error::Data {
                errno: errno::EINVAL,
                what: subject.to_string(),
                why,
            }),
        }
    }

    async fn place(
        &self,
        subject: &Subject,
        deadline: Deadline,
    ) -> Result<OwnedSemaphorePermit, Error> {
        match self
            .within(deadline, Arc::clone(&self.questions).acquire_owned())
            .await
        {
            None => Err(self.timed_out(subject, deadline)),
            Some(Err(_)) => Err(self.closed(subject)),
            Some(Ok(place)) => Ok(place),
        }
    }

    /// Asks a question.
    pub async fn read(self: &Arc<Link>, caller: &Caller, op: ReadOp) -> Result<Answer, Error> {
        let subject = Subject::of_read(&op);
        let deadline = Deadline::after(&self.io, self.config.deadline);
        let place = self.place(&subject, deadline).await?;
        let (reply, answer) = oneshot::channel();
        let asked = self.state().ask(caller.clone(), op, reply);
        let _asking = self.asking(&subject, asked, place)?;
        self.ended(subject, deadline, answer).await
    }

    fn asking(
        self: &Arc<Link>,
        subject: &Subject,
        asked: Result<u64, boomfs_wire::FrameError>,
        place: OwnedSemaphorePermit,
    ) -> Result<Asking, Error> {
        let unsendable = |e: boomfs_wire::FrameError| Error::Data {
            errno: errno::EINVAL,
            what: subject.to_string(),
            why: e.to_string(),
        };
        let req = asked.map_err(unsendable)?;
        self.work.notify_one();
        Ok(Asking {
            link: Arc::clone(self),
            req,
            _place: place,
        })
    }

    /// Runs a query once.
    pub async fn query(self: &Arc<Link>, text: &str, limit: u64) -> Result<Rows, Error> {
        let subject = Subject::query();
        let deadline = Deadline::after(&self.io, self.config.deadline);
        let place = self.place(&subject, deadline).await?;
        let (reply, rows) = oneshot::channel();
        let asked = self.state().query(
            text,
            limit,
            Waiting::Query {
                gathered: Rows::default(),
                limit,
                reply,
            },
        );
        let _asking = self.asking(&subject, asked, place)?;
        match self.within(deadline, rows).await {
            None => Err(self.timed_out(subject, deadline)),
            Some(Err(_)) => Err(self.closed(subject)),
            Some(Ok(rows)) => Ok(rows?),
        }
    }

    /// Runs a query that stays.
    pub async fn watch(self: &Arc<Link>, text: &str) -> Result<Watch, Error> {
        let subject = Subject::query();
        let deadline = Deadline::after(&self.io, self.config.deadline);
        let place = self.place(&subject, deadline).await?;
        let (told, hears) = mpsc::channel(limits::WATCH_QUEUE);
        let waiting = Waiting::Watch {
            told,
            began: false,
            columns: Vec::new(),
        };
        let asked = self.state().query(text, limits::QUERY_ROWS, waiting);
        let asking = self.asking(&subject, asked, place)?;
        Ok(Watch::new(hears, asking))
    }

    fn note_trouble(&self, addr: &str, why: &str) {
        self.state().note_trouble(addr, why, &self.config.namenodes);
    }

    fn learn(&self, addr: &str) -> bool {
        self.state().learn(addr, &self.config.namenodes)
    }

    fn has_session(&self) -> bool {
        self.session() != SessionId(0)
    }

    /// Nobody is going to welcome who is just connecting.
    fn refuse(&self, failure: Failure) {
        self.standing.change(|standing| {
            let first = *standing == Standing::Never;
            if first {
                *standing = Standing::Refused(failure);
            }
            first
        });
    }

    /// What to say of a NameNode of another cluster.
    fn foreign(&self, connection: &Connection) -> Option<Failure> {
        let known = self.state().cluster?;
        (known != connection.cluster).then(|| Failure {
            errno: errno::EINVAL,
            message: format!(
                "NameNode {} belongs to cluster {}, this client to {known}",
                connection.addr, connection.cluster
            ),
        })
    }

    /// Keeps a connection until the link is stopped.
    async fn run(self: Arc<Link>) {
        let mut stop = self.stop.subscribe();
        let mut pause = Backoff::new();
        let mut next: Option<Connection> = None;
        loop {
            let connection = match next.take() {
                Some(connection) => connection,
                None => {
                    let mut search = Search::start(&self, None);
                    let found = tokio::select! {
                        biased;
                        () = stopped(&mut stop) => return,
                        found = search.found() => found,
                    };
                    match found {
                        Ok(connection) => connection,
                        Err(failure) => {
                            self.lose_session(&failure);
                            tokio::select! {
                                biased;
                                () = stopped(&mut stop) => return,
                                () = pause.wait(&self.io) => {}
                            }
                            continue;
                        }
                    }
                }
            };
            self.accept(&connection);
            let addr = connection.addr.clone();
            let since_ns = self.io.mono_ns();
            let end = self.serve(connection).await;
            let lasted_ns = self.io.mono_ns().saturating_sub(since_ns);
            match self.ended_with(&addr, end) {
                None => return,
                Some(moved) => next = moved,
            }
            if u128::from(lasted_ns) >= limits::LASTED.as_nanos() {
                pause = Backoff::new();
            } else if next.is_none() {
                tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    () = pause.wait(&self.io) => {}
                }
            }
        }
    }

    /// Takes what the `Welcome` of the connection said that is used from now on.
    fn accept(&self, connection: &Connection) {
        let mut state = self.state();
        state.cluster = Some(connection.cluster);
        state.block_size = connection.block_size;
        state.replication = connection.replication;
        state.ballot = connection.ballot;
        state.welcome(connection.session);
        let freed = state.take_freed();
        self.window.add_permits(freed);
        state.trouble.remove(&connection.addr);
        state.connected = Some(connection.addr.clone());
        drop(state);
        tracing::debug!(namenode = connection.addr, "connected");
        self.standing.set(Standing::Stood);
    }

    fn lose_session(&self, failure: &Failure) {
        let mut state = self.state();
        if !state.closes {
            tracing::warn!(session = %state.session, "session lost: {}", failure.message);
        }
        state.lose_session(self.io.random_u64() >> 1);
        let freed = state.take_freed();
        self.window.add_permits(freed);
    }

    /// Takes note of a connection's end; `None` when the link is to end, and the next connection if there is one.
    fn ended_with(&self, addr: &str, end: End) -> Option<Option<Connection>> {
        self.state().connected = None;
        let mut next = None;
        let trouble = match end {
            End::Stopped => return None,
            End::Broken(why) => why,
            End::Moved(connection) => {
                let why = format!("it was silent, and {} leads", connection.addr);
                next = Some(*connection);
                why
            }
            End::NotLeader(leader) => {
                if let Some(leader) = leader {
                    self.learn(&leader);
                }
                "it does not lead any more".to_owned()
            }
            End::Refused(failure) => {
                if failure.errno == errno::ESTALE && self.has_session() {
                    self.lose_session(&failure);
                }
                failure.message
            }
        };
        tracing::debug!(namenode = addr, "connection ended: {trouble}");
        self.note_trouble(addr, &trouble);
        Some(next)
    }

    /// The first message of a connection; `enter`: to use it, otherwise only to ask who leads.
    fn hello(&self, enter: bool) -> ToNameNode {
        let state = self.state();
        let peer = if self.observer || !enter {
            Peer::Observer {
                stale: self.observer && self.config.stale,
            }
        } else {
            let session = (state.session != SessionId(0)).then_some(state.session);
            Peer::Client {
                session,
                nonce: state.nonce,
                name: self.config.name.clone(),
            }
        };
        ToNameNode::Hello {
            cluster: state.cluster,
            peer,
        }
    }

    /// Sends what waits until the connection ends.
    async fn serve(self: &Arc<Link>, connection: Connection) -> End {
        let Connection {
            addr,
            reader,
            mut writer,
            ballot,
            ..
        } = connection;
        let above = Above { addr, ballot };
        let heard = Arc::new(AtomicU64::new(self.io.mono_ns()));
        let (gone, mut ended) = oneshot::channel();
        let number = self.state().connection;
        let listening = Arc::clone(self).listen(reader, number, Arc::clone(&heard));
        let _listener = Abort(tokio::spawn(async move {
            let _ = gone.send(listening.await);
        }));
        let mut stop = self.stop.subscribe();
        let mut silence = Silence::default();
        let mut search: Option<Search> = None;
        // The first renewal goes out at once: a resumed session may be about to expire.
        let mut renew_ns = self.io.mono_ns();
        let mut unsent = Bytes::new();
        let mut unsent_ns = renew_ns;
        loop {
            let now_ns = self.io.mono_ns();
            if unsent.is_empty() {
                let mut batch = Vec::new();
                let asked = std::mem::take(&mut self.state().renew_now);
                if !self.observer && (asked || now_ns >= renew_ns) {
                    self.renewal(&mut batch);
                    renew_ns = now_ns.saturating_add(nanos(limits::RENEW_INTERVAL));
                }
                if silence.take_ping() {
                    self.ping(&mut batch);
                }
                let mut state = self.state();
                state.fill(&mut batch, limits::BATCH_BYTES);
                let freed = state.take_freed();
                self.window.add_permits(freed);
                drop(state);
                unsent = Bytes::from(batch);
                unsent_ns = now_ns;
            } else if now_ns.saturating_sub(unsent_ns) >= nanos(limits::SEND_DEADLINE) {
                return End::Broken("sending took too long".to_owned());
            }
            let owed = self.state().is_owed();
            let pause = match silence.look(owed, now_ns, heard.load(Ordering::Relaxed)) {
                Look::Fine(next_ns) => {
                    search = None;
                    next_ns
                }
                Look::Ping => continue,
                Look::Doubt => {
                    search.get_or_insert_with(|| Search::start(self, Some(above.clone())));
                    nanos(limits::DOUBT_INTERVAL)
                }
                Look::GiveUp => {
                    let limit = limits::SILENCE_LIMIT.as_secs();
                    return End::Broken(format!("it said nothing for {limit} s"));
                }
            };
            let renewal = if self.observer || unsent.has_remaining() {
                u64::MAX
            } else {
                renew_ns.saturating_sub(now_ns)
            };
            let pause = Duration::from_nanos(pause.min(renewal.max(1)));
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return End::Stopped,
                end = &mut ended => return end.unwrap_or(End::Stopped),
                sent = writer.write_buf(&mut unsent), if unsent.has_remaining() => match sent {
                    Ok(0) => return End::Broken("sending failed: it takes nothing more".to_owned()),
                    Ok(_) => unsent_ns = self.io.mono_ns(),
                    Err(e) => return End::Broken(format!("sending failed: {e}")),
                },
                found = found(&mut search) => return match found {
                    Ok(connection) => End::Moved(Box::new(connection)),
                    Err(failure) => End::Refused(failure),
                },
                () = self.work.notified(), if !unsent.has_remaining() => {}
                () = self.io.sleep(pause) => {}
            }
        }
    }

    fn renewal(&self, batch: &mut Vec<u8>) {
        let mut state = self.state();
        let orphans = state.open_inodes(limits::RENEW_INODES);
        match encode_message(&ToNameNode::Renew { orphans }, 0) {
            Ok(frame) => {
                batch.extend_from_slice(&frame);
                state.renewal_owed = true;
            }
            Err(e) => tracing::error!("renewal of the session cannot be encoded: {e}"),
        }
    }

    /// Asks for a sign of life.
    fn ping(&self, batch: &mut Vec<u8>) {
        if !self.observer {
            return self.renewal(batch);
        }
        // Nobody waits for the answer: questions are numbered from 1.
        let question = ToNameNode::Read {
            req: 0,
            caller: Caller::default(),
            op: ReadOp::Identify,
        };
        if let Ok(frame) = encode_message(&question, 0) {
            batch.extend_from_slice(&frame);
        }
    }

    /// Takes messages until the connection ends, or another has taken its place.
    async fn listen(
        self: Arc<Link>,
        mut reader: BufReader<ReadHalf>,
        number: u64,
        heard: Arc<AtomicU64>,
    ) -> End {
        loop {
            let message = match read_message::<FromNameNode, _>(&mut reader).await {
                Ok(Some((message, _))) => message,
                Ok(None) => return End::Broken("it closed the connection".to_owned()),
                Err(e) => return End::Broken(e.to_string()),
            };
            heard.store(self.io.mono_ns(), Ordering::Relaxed);
            let (effect, freed) = {
                let mut state = self.state();
                if state.connection != number {
                    return End::Stopped;
                }
                (state.take(message), state.take_freed())
            };
            if freed > 0 {
                self.window.add_permits(freed);
            }
            match effect {
                Effect::None => {}
                Effect::CheckSession => {
                    self.state().renew_now = true;
                    self.work.notify_one();
                }
                Effect::Refused(failure) => return End::Refused(failure),
                Effect::NotLeader(leader) => return End::NotLeader(leader),
            }
        }
    }
}

async fn found(search: &mut Option<Search>) -> Result<Connection, Failure> {
    match search {
        Some(search) => search.found().await,
        None => std::future::pending().await,
    }
}
