//! Looks for the NameNode that leads: asks all at once, each again and again, and follows what they say of one another.
//!
//! **Invariant:** at most one hello of the session is on its way to a NameNode. It answers a session's commands on the
//! connection that greeted last, and one NameNode may have two addresses. So several NameNodes are first asked as an
//! observer would, and the session follows to the one that welcomes.

use super::Link;
use super::greet::{Connection, Said, greet};
use crate::errno;
use crate::limits;
use crate::retry::Backoff;
use boomfs_wire::Failure;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// The connection that stands while others are asked.
#[derive(Clone, Debug)]
pub struct Above {
    /// This one is not asked.
    pub addr: String,
    /// Only a leader of a higher ballot is of interest.
    pub ballot: u64,
}

/// What a NameNode said last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    NotYet,
    NotLeader,
    Refused(Failure),
    Nothing,
}

struct Candidate {
    backoff: Backoff,
    /// Ends its wait.
    poke: Arc<Notify>,
    /// When its last try ended.
    ended_ns: u64,
    last: Last,
}

/// The session's hello to one NameNode.
struct Entering {
    addr: String,
    ballot: u64,
    number: u64,
    task: AbortHandle,
}

/// Which hello a try says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The one that only asks who leads.
    Ask,
    /// The link's own.
    Enter,
    /// The link's own, to one that said that it leads; its number among these.
    EnterLeader(u64),
}

/// A try that ended.
struct Tried {
    addr: String,
    how: How,
    said: Said,
}

/// See the module. Dropping it ends all tries.
pub struct Search {
    link: Arc<Link>,
    tries: JoinSet<Tried>,
    candidates: BTreeMap<String, Candidate>,
    entering: Option<Entering>,
    /// Counts the session's hellos to leaders.
    entered: u64,
    above: Option<Above>,
}

impl Search {
    /// Starts to ask all NameNodes that are known; with `above`, all others.
    pub fn start(link: &Arc<Link>, above: Option<Above>) -> Search {
        let mut search = Search {
            link: Arc::clone(link),
            tries: JoinSet::new(),
            candidates: BTreeMap::new(),
            entering: None,
            entered: 0,
            above,
        };
        let all = link.state().candidates(&link.config.namenodes);
        // The first try of each depends on how many there are.
        for addr in &all {
            search.admit(addr);
        }
        for addr in all {
            search.again(&addr, Duration::ZERO);
        }
        search
    }

    fn admit(&mut self, addr: &str) -> bool {
        let stands = self.above.as_ref().is_some_and(|above| above.addr == addr);
        if stands || self.candidates.contains_key(addr) {
            return false;
        }
        self.candidates.insert(
            addr.to_owned(),
            Candidate {
                backoff: Backoff::slow(),
                poke: Arc::new(Notify::new()),
                ended_ns: 0,
                last: Last::NotYet,
            },
        );
        true
    }

    /// Asks one again after a wait.
    fn again(&mut self, addr: &str, wait: Duration) {
        let only_one = self.candidates.len() == 1 && self.above.is_none();
        let how = if self.link.observer || only_one {
            How::Enter
        } else {
            How::Ask
        };
        self.spawn(addr, wait, how);
    }

    fn spawn(&mut self, addr: &str, wait: Duration, how: How) -> Option<AbortHandle> {
        let candidate = self.candidates.get(addr)?;
        let (link, poke) = (Arc::clone(&self.link), Arc::clone(&candidate.poke));
        let addr = addr.to_owned();
        Some(self.tries.spawn(async move {
            if !wait.is_zero() {
                tokio::select! {
                    biased;
                    () = poke.notified() => {}
                    () = link.io.sleep(wait) => {}
                }
            }
            let said = greet(
                &link.io,
                &addr,
                || link.hello(how != How::Ask),
                || link.note_trouble(&addr, "it took the connection and says nothing"),
            )
            .await;
            Tried { addr, how, said }
        }))
    }

    /// Waits for the connection that is to be used. Safe to cancel.
    ///
    /// # Errors
    /// The leader does not know the session any more.
    pub async fn found(&mut self) -> Result<Connection, Failure> {
        loop {
            match self.tries.join_next().await {
                Some(Ok(tried)) => {
                    if let Some(end) = self.take(tried) {
                        return end;
                    }
                }
                // It was given up for another.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, tried: Tried) -> Option<Result<Connection, Failure>> {
        let Tried { addr, how, said } = tried;
        if let How::EnterLeader(number) = how {
            if self.entering.as_ref().map(|e| e.number) != Some(number) {
                // Given up for another, and asked again since.
                return None;
            }
            self.entering = None;
        }
        let entered = how != How::Ask;
        let said = match said {
            Said::Welcome(connection) => match self.link.foreign(&connection) {
                Some(failure) => Said::Refused(failure),
                None => Said::Welcome(connection),
            },
            other => other,
        };
        let (last, why) = match said {
            Said::Welcome(connection) if self.is_beaten(&connection) => {
                let why = "it says that it leads, but so does another";
                (Last::NotLeader, why.to_owned())
            }
            Said::Welcome(connection) if entered => return Some(Ok(*connection)),
            Said::Welcome(connection) => {
                self.enter(&connection);
                return None;
            }
            Said::Refused(failure)
                if entered && failure.errno == errno::ESTALE && self.link.has_session() =>
            {
                return Some(Err(failure));
            }
            Said::Refused(failure) => {
                let why = failure.message.clone();
                (Last::Refused(failure), why)
            }
            Said::NotLeader(leader) => {
                let why = match &leader {
                    Some(leader) => format!("it does not lead, it says that {leader} does"),
                    None => "it does not lead and knows of no leader".to_owned(),
                };
                if let Some(leader) = leader {
                    self.follow(&leader);
                }
                (Last::NotLeader, why)
            }
            Said::Nothing(why) => (Last::Nothing, why),
        };
        tracing::debug!(namenode = addr, "no connection: {why}");
        self.link.note_trouble(&addr, &why);
        let now_ns = self.link.io.mono_ns();
        let candidate = self.candidates.get_mut(&addr)?;
        candidate.last = last;
        candidate.ended_ns = now_ns;
        let wait = candidate.backoff.next(&self.link.io);
        self.again(&addr, wait);
        if let Some(failure) = self.hopeless() {
            self.link.refuse(failure);
        }
        None
    }

    /// A leader of this ballot is of no interest: one that is as high stands, or is being entered.
    fn is_beaten(&self, connection: &Connection) -> bool {
        let any = self.link.observer && self.link.config.stale;
        let stands = self.above.as_ref().map(|above| above.ballot);
        let entering = self.entering.as_ref().map(|entering| entering.ballot);
        !any && stands
            .max(entering)
            .is_some_and(|ballot| connection.ballot <= ballot)
    }

    /// Brings the session to a NameNode that says that it leads.
    fn enter(&mut self, asked: &Connection) {
        if let Some(given_up) = self.entering.take() {
            given_up.task.abort();
            let wait = limits::BACKOFF_FIRST;
            self.again(&given_up.addr, wait);
        }
        self.entered += 1;
        let number = self.entered;
        let task = self.spawn(&asked.addr, Duration::ZERO, How::EnterLeader(number));
        self.entering = task.map(|task| Entering {
            addr: asked.addr.clone(),
            ballot: asked.ballot,
            number,
            task,
        });
    }

    /// Asks the one that was named as leader, at once if it was not asked just now.
    fn follow(&mut self, leader: &str) {
        if !self.link.learn(leader) {
            return;
        }
        if self.admit(leader) {
            // The set of those that are asked stays bounded: the oldest that was learned is forgotten.
            let known = self.link.state().candidates(&self.link.config.namenodes);
            self.candidates
                .retain(|addr, _| known.iter().any(|known| known == addr));
            self.again(leader, Duration::ZERO);
        } else if let Some(candidate) = self.candidates.get(leader) {
            let since_ns = self.link.io.mono_ns().saturating_sub(candidate.ended_ns);
            if u128::from(since_ns) >= limits::BACKOFF_FIRST.as_nanos() {
                candidate.poke.notify_waiters();
            }
        }
    }

    /// What to say to who is just connecting, when nobody is left who might welcome: at least one refuses for good, and
    /// the others refuse too or do not lead.
    fn hopeless(&self) -> Option<Failure> {
        let mut errno = None;
        let mut said = Vec::new();
        for (addr, candidate) in &self.candidates {
            match &candidate.last {
                // One that is not ready says so with EAGAIN or EBUSY.
                Last::Refused(failure)
                    if !matches!(failure.errno, errno::EAGAIN | errno::EBUSY | errno::ESTALE) =>
                {
                    errno = errno.or(Some(failure.errno));
                    said.push(format!("NameNode {addr} refuses: {}", failure.message));
                }
                Last::NotLeader => said.push(format!("NameNode {addr} does not lead")),
                _ => return None,
            }
        }
        let errno = errno?;
        let message = match self.candidates.values().next() {
            Some(Candidate {
                last: Last::Refused(failure),
                ..
            }) if self.candidates.len() == 1 => failure.message.clone(),
            _ => said.join("; "),
        };
        Some(Failure { errno, message })
    }
}
