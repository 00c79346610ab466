//! The connection to the NameNode that leads: one at a time, made again when it ends, and the session on it.

mod find;
mod state;

use crate::describe::Subject;
use crate::limits;
use crate::query::{Rows, Watch};
use crate::retry::Deadline;
use crate::{Config, Error, errno};
use boomfs_io::{Io, ReadHalf, WriteHalf, watch};
use boomfs_wire::frame::{encode_message, read_message};
use boomfs_wire::{
    Answer, Caller, ClusterId, Failure, FromNameNode, Ino, Op, ReadOp, SessionId, ToNameNode,
};
use find::Attached;
use state::{Effect, Ended, Queued, State, Waiting};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// It leads no more; another may, there.
    Moved(Option<String>),
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
    /// Says that this observer's connection did not answer in time.
    doubt: Notify,
    /// When the NameNode last said something, monotonic clock, ns.
    heard: AtomicU64,
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
            doubt: Notify::new(),
            heard: AtomicU64::new(0),
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
        if self.observer {
            self.doubt.notify_one();
        }
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

    /// Keeps a connection until the link is stopped.
    async fn run(self: Arc<Link>) {
        let mut stop = self.stop.subscribe();
        loop {
            let found = tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                found = self.find(None) => found,
            };
            let Some(attached) = found else { return };
            if !self.stay(attached).await {
                return;
            }
            let pause = limits::BACKOFF_FIRST / 2;
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = self.io.sleep(pause) => {}
            }
        }
    }

    /// Serves a connection, and those that take its place without a gap; false when the link is to end.
    async fn stay(self: &Arc<Link>, mut attached: Attached) -> bool {
        loop {
            let addr = attached.addr.clone();
            if let Err(end) = self.take_over(&attached) {
                return self.ended_with(&addr, end);
            }
            let end = tokio::select! {
                biased;
                end = self.serve(attached.reader, attached.writer) => end,
                next = self.look_out(&addr) => match next {
                    Some(next) => {
                        tracing::info!(namenode = addr, "it does not answer, {} does", next.addr);
                        attached = next;
                        continue;
                    }
                    None => End::Stopped,
                },
            };
            return self.ended_with(&addr, end);
        }
    }

    /// Takes note of a connection's end; false when the link is to end.
    fn ended_with(&self, addr: &str, end: End) -> bool {
        let mut state = self.state();
        state.connected = None;
        let trouble = match end {
            End::Stopped => return false,
            End::Broken(why) => why,
            End::Moved(leader) => {
                drop(state);
                if let Some(leader) = leader {
                    self.learn(&leader);
                }
                state = self.state();
                "it leads no more".to_owned()
            }
            End::Refused(failure)
                if failure.errno == errno::ESTALE && state.session != SessionId(0) =>
            {
                tracing::warn!(session = %state.session, "session lost: {}", failure.message);
                state.lose_session(self.io.random_u64() >> 1);
                let freed = state.take_freed();
                self.window.add_permits(freed);
                failure.message
            }
            End::Refused(failure) => {
                // A NameNode that is not ready says so with EAGAIN or EBUSY; anything else is final for who is just
                // connecting.
                if !matches!(failure.errno, errno::EAGAIN | errno::EBUSY | errno::ESTALE) {
                    self.standing.change(|standing| {
                        let first = *standing == Standing::Never;
                        if first {
                            *standing = Standing::Refused(failure.clone());
                        }
                        first
                    });
                }
                failure.message
            }
        };
        tracing::debug!(namenode = addr, "no connection: {trouble}");
        state.trouble.insert(addr.to_owned(), trouble);
        true
    }

    /// Sends what waits until the connection ends.
    async fn serve(self: &Arc<Link>, reader: BufReader<ReadHalf>, mut writer: WriteHalf) -> End {
        let (gone, mut ended) = oneshot::channel();
        let listening = Arc::clone(self).listen(reader);
        let _listener = Abort(tokio::spawn(async move {
            let _ = gone.send(listening.await);
        }));
        let mut stop = self.stop.subscribe();
        // The first renewal goes out at once: a resumed session may be about to expire.
        let mut renew_ns = self.io.mono_ns();
        loop {
            let now_ns = self.io.mono_ns();
            let mut batch = Vec::new();
            let asked = std::mem::take(&mut self.state().renew_now);
            if !self.observer && (asked || now_ns >= renew_ns) {
                let silent_ns = now_ns.saturating_sub(self.heard.load(Ordering::Relaxed));
                if u128::from(silent_ns) > limits::SILENCE_LIMIT.as_nanos() {
                    return End::Broken(format!(
                        "it said nothing for {} s",
                        silent_ns / 1_000_000_000
                    ));
                }
                self.renewal(&mut batch);
                renew_ns =
                    now_ns + u64::try_from(limits::RENEW_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
            }
            {
                let mut state = self.state();
                state.fill(&mut batch, limits::BATCH_BYTES);
                let freed = state.take_freed();
                self.window.add_permits(freed);
            }
            if !batch.is_empty() {
                let sending = self
                    .io
                    .timeout(limits::SEND_DEADLINE, writer.write_all(&batch));
                let sent = tokio::select! {
                    biased;
                    end = &mut ended => return end.unwrap_or(End::Stopped),
                    sent = sending => sent,
                };
                match sent {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => return End::Broken(format!("sending failed: {e}")),
                    Err(e) => return End::Broken(format!("sending failed: {e}")),
                }
            }
            let pause = std::time::Duration::from_nanos(renew_ns.saturating_sub(now_ns));
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return End::Stopped,
                end = &mut ended => return end.unwrap_or(End::Stopped),
                () = self.doubt.notified() => return End::Broken("it did not answer in time".to_owned()),
                () = self.work.notified() => {}
                () = self.io.sleep(pause), if !self.observer => {}
            }
        }
    }

    fn renewal(&self, batch: &mut Vec<u8>) {
        let orphans = self.state().open_inodes(limits::RENEW_INODES);
        match encode_message(&ToNameNode::Renew { orphans }, 0) {
            Ok(frame) => batch.extend_from_slice(&frame),
            Err(e) => tracing::error!("renewal of the session cannot be encoded: {e}"),
        }
    }

    /// Takes messages until the connection ends.
    async fn listen(self: Arc<Link>, mut reader: BufReader<ReadHalf>) -> End {
        loop {
            let message = match read_message::<FromNameNode, _>(&mut reader).await {
                Ok(Some((message, _))) => message,
                Ok(None) => return End::Broken("it closed the connection".to_owned()),
                Err(e) => return End::Broken(e.to_string()),
            };
            self.heard.store(self.io.mono_ns(), Ordering::Relaxed);
            let (effect, freed) = {
                let mut state = self.state();
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
                Effect::Moved(leader) => return End::Moved(leader),
            }
        }
    }
}
