//! Finding the NameNode that serves: all are asked at once, and who does not lead may say who does.

use super::{End, Link};
use crate::retry::Backoff;
use crate::{errno, limits};
use boomfs_io::{ReadHalf, WriteHalf};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{ClusterId, Failure, FromNameNode, Peer, SessionId, ToNameNode};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

/// A connection on which a NameNode said Welcome.
pub struct Attached {
    /// Where it is.
    pub addr: String,
    pub reader: BufReader<ReadHalf>,
    pub writer: WriteHalf,
    welcome: Welcome,
}

/// What it said.
struct Welcome {
    cluster: ClusterId,
    session: SessionId,
    block_size: u64,
    replication: u32,
}

/// What one NameNode answered.
enum Greeting {
    Welcome(Box<Attached>),
    NotLeader(Option<String>),
    Ended(End),
}

impl Link {
    /// Asks all NameNodes but one until one serves; `None` when the link is to end.
    pub(super) async fn find(self: &Arc<Link>, except: Option<&str>) -> Option<Attached> {
        let mut asking = JoinSet::new();
        let mut asked = BTreeSet::new();
        let mut backoff = Backoff::new();
        let started_ns = self.io.mono_ns();
        let mut round_ns = started_ns;
        loop {
            if round_ns <= self.io.mono_ns() {
                // A failover takes less than this; after that there is no hurry.
                let since = Duration::from_nanos(self.io.mono_ns().saturating_sub(started_ns));
                let hurry = since < limits::HURRY;
                let pause = backoff.next(&self.io);
                let pause = if hurry {
                    pause.min(limits::HURRY_PAUSE)
                } else {
                    pause
                };
                round_ns = self.io.mono_ns() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
                for addr in self.candidates(except) {
                    self.ask(addr, &mut asked, &mut asking);
                }
            }
            let pause = Duration::from_nanos(round_ns.saturating_sub(self.io.mono_ns()));
            tokio::select! {
                biased;
                Some(joined) = asking.join_next(), if !asking.is_empty() => {
                    // A task of ours neither panics nor is aborted while it is waited for.
                    let Ok((addr, greeting)) = joined else { continue };
                    asked.remove(&addr);
                    match greeting {
                        Greeting::Welcome(attached) => return Some(*attached),
                        Greeting::Ended(end) => {
                            if !self.ended_with(&addr, end) {
                                return None;
                            }
                        }
                        Greeting::NotLeader(leader) => {
                            let why = "it does not lead".to_owned();
                            self.state().trouble.insert(addr, why);
                            if let Some(leader) = leader
                                && self.learn(&leader)
                                && Some(leader.as_str()) != except
                            {
                                self.ask(leader, &mut asked, &mut asking);
                            }
                        }
                    }
                }
                () = self.io.sleep(pause) => {}
            }
        }
    }

    /// Says hello to a NameNode, unless it is being asked.
    fn ask(
        self: &Arc<Link>,
        addr: String,
        asked: &mut BTreeSet<String>,
        asking: &mut JoinSet<(String, Greeting)>,
    ) {
        if !asked.insert(addr.clone()) {
            return;
        }
        let link = Arc::clone(self);
        asking.spawn(async move {
            let greeting = link.greet(&addr).await;
            (addr, greeting.unwrap_or_else(Greeting::Ended))
        });
    }

    /// Where NameNodes may be: as configured, and as others said.
    fn candidates(&self, except: Option<&str>) -> Vec<String> {
        let state = self.state();
        let all = self.config.namenodes.iter().chain(&state.learned);
        all.filter(|addr| Some(addr.as_str()) != except)
            .cloned()
            .collect()
    }

    /// Remembers where a NameNode is; true if that is news.
    pub(super) fn learn(&self, addr: &str) -> bool {
        let mut state = self.state();
        let known = self.config.namenodes.iter().chain(&state.learned);
        if known.into_iter().any(|known| known == addr) {
            return false;
        }
        if state.learned.len() >= limits::LEARNED {
            state.learned.pop_front();
        }
        state.learned.push_back(addr.to_owned());
        true
    }

    async fn greet(&self, addr: &str) -> Result<Greeting, End> {
        let broken = |e: &dyn std::fmt::Display| End::Broken(e.to_string());
        let stream = self
            .io
            .connect(addr, limits::CONNECT_DEADLINE)
            .await
            .map_err(|e| broken(&e))?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let hello = self.hello();
        let greeting = async {
            write_message(&mut writer, &hello, &[]).await?;
            writer.flush().await?;
            read_message::<FromNameNode, _>(&mut reader).await
        };
        let greeting = self
            .io
            .timeout(limits::HELLO_DEADLINE, greeting)
            .await
            .map_err(|e| broken(&e))?;
        match greeting.map_err(|e| broken(&e))? {
            Some((
                FromNameNode::Welcome {
                    cluster,
                    session,
                    block_size,
                    replication,
                    ..
                },
                _,
            )) => Ok(Greeting::Welcome(Box::new(Attached {
                addr: addr.to_owned(),
                reader,
                writer,
                welcome: Welcome {
                    cluster,
                    session,
                    block_size,
                    replication,
                },
            }))),
            Some((FromNameNode::NotLeader { leader }, _)) => Ok(Greeting::NotLeader(leader)),
            Some((FromNameNode::Refused { failure }, _)) => Err(End::Refused(failure)),
            Some(_) => Err(End::Broken(
                "it did not answer Hello with Welcome; is it a NameNode of this version?"
                    .to_owned(),
            )),
            None => Err(End::Broken("it closed the connection at Hello".to_owned())),
        }
    }

    fn hello(&self) -> ToNameNode {
        let state = self.state();
        let peer = if self.observer {
            Peer::Observer {
                stale: self.config.stale,
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

    /// From now on this is the connection: what is unanswered goes out on it again.
    pub(super) fn take_over(&self, attached: &Attached) -> Result<(), End> {
        let Attached { addr, welcome, .. } = attached;
        let mut state = self.state();
        if let Some(known) = state.cluster
            && known != welcome.cluster
        {
            let message = format!(
                "NameNode {addr} belongs to cluster {}, this client to {known}",
                welcome.cluster
            );
            return Err(End::Refused(Failure {
                errno: errno::EINVAL,
                message,
            }));
        }
        state.cluster = Some(welcome.cluster);
        state.block_size = welcome.block_size;
        state.replication = welcome.replication;
        state.welcome(welcome.session);
        let freed = state.take_freed();
        self.window.add_permits(freed);
        state.connected = Some(addr.clone());
        state.trouble.remove(addr);
        drop(state);
        self.heard.store(self.io.mono_ns(), Ordering::Relaxed);
        self.standing.set(super::Standing::Stood);
        Ok(())
    }

    /// While the NameNode that is connected answers, this waits. When something is unanswered and it says nothing, the
    /// others are asked, for it may have been cut off and another leads; the connection stays until one does.
    pub(super) async fn look_out(self: &Arc<Link>, connected: &str) -> Option<Attached> {
        loop {
            self.io.sleep(limits::LOOK_INTERVAL).await;
            let heard = self.heard.load(Ordering::Relaxed);
            if !self.is_silent() {
                continue;
            }
            tracing::debug!(
                namenode = connected,
                "it does not answer: asking the others"
            );
            tokio::select! {
                biased;
                () = self.heard_since(heard) => {}
                found = self.find(Some(connected)) => return found,
            }
        }
    }

    fn is_silent(&self) -> bool {
        let since = self
            .io
            .mono_ns()
            .saturating_sub(self.heard.load(Ordering::Relaxed));
        Duration::from_nanos(since) >= limits::PATIENCE && self.state().waits()
    }

    async fn heard_since(&self, before: u64) {
        while self.heard.load(Ordering::Relaxed) == before {
            self.io.sleep(limits::LOOK_INTERVAL / 4).await;
        }
    }
}
