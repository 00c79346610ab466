//! What the link to the NameNode knows: numbers, queues and who waits. No I/O.
//!
//! **Invariant:** a command has a number if and only if it was handed to a socket at least once.
//! One that was not may be given up; one that was stays until it is answered or its session ends.

use crate::limits;
use crate::query::{Change, Rows, Told};
use boomfs_wire::frame::{FrameError, encode_message};
use boomfs_wire::{
    Answer, Caller, ClusterId, Failure, FromNameNode, Ino, Op, ReadOp, SessionId, ToNameNode,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
    /// The NameNode answered.
    Answered(Result<Answer, Failure>),
    /// Its session ended first.
    SessionLost,
    /// It cannot be encoded.
    Unsendable(String),
}

/// A command that was not sent yet.
pub struct Queued {
    pub caller: Caller,
    pub op: Op,
    /// The session it belongs to; `None`: whichever there is.
    pub epoch: Option<u64>,
    pub reply: oneshot::Sender<Ended>,
}

struct Sent {
    frame: Vec<u8>,
    reply: oneshot::Sender<Ended>,
}

/// Who waits for the answer to a question.
pub enum Waiting {
    /// A question.
    Read(oneshot::Sender<Ended>),
    /// A query; its rows are gathered up to the limit.
    Query {
        gathered: Rows,
        limit: u64,
        reply: oneshot::Sender<Result<Rows, Failure>>,
    },
    /// A query that stays.
    Watch {
        told: mpsc::Sender<Told>,
        began: bool,
        columns: Vec<String>,
    },
}

struct Asked {
    frame: Vec<u8>,
    waiting: Waiting,
}

impl Asked {
    /// Something has to come for it.
    fn is_owed(&self) -> bool {
        !matches!(self.waiting, Waiting::Watch { began: true, .. })
    }
}

#[derive(Debug, Default)]
struct Opened {
    count: u64,
    unlinked: bool,
}

/// What a message from the NameNode means for the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Go on.
    None,
    /// Ask at once whether the session still stands.
    CheckSession,
    /// The connection is refused.
    Refused(Failure),
    /// This NameNode does not lead any more; another one may.
    NotLeader(Option<String>),
}

/// See the module.
pub struct State {
    pub epoch: u64,
    pub session: SessionId,
    /// The end of the session was asked for.
    pub closes: bool,
    pub nonce: u64,
    pub cluster: Option<ClusterId>,
    pub block_size: u64,
    pub replication: u32,
    /// What went wrong last, by NameNode.
    pub trouble: BTreeMap<String, String>,
    pub connected: Option<String>,
    /// Counts the connections that stood.
    pub connection: u64,
    /// The ballot of the leader that is or was connected.
    pub ballot: u64,
    /// A renewal was sent and not answered.
    pub renewal_owed: bool,
    /// NameNodes that were named as leader and are not in the configuration; the one named last is the last.
    learned: VecDeque<String>,
    /// Renew the session before its time.
    pub renew_now: bool,
    next_seq: u64,
    /// All answers up to this number have come.
    acked: u64,
    /// Answers above `acked` that have come.
    early: BTreeSet<u64>,
    queue: VecDeque<Queued>,
    sent: BTreeMap<u64, Sent>,
    resend: VecDeque<u64>,
    /// Places in the window that became free since they were last taken.
    freed: usize,
    next_req: u64,
    asked: BTreeMap<u64, Asked>,
    to_ask: VecDeque<u64>,
    to_cancel: VecDeque<u64>,
    opened: HashMap<Ino, Opened>,
}

impl State {
    pub fn new(nonce: u64) -> State {
        State {
            epoch: 1,
            session: SessionId(0),
            nonce,
            cluster: None,
            block_size: 0,
            replication: 0,
            trouble: BTreeMap::new(),
            connected: None,
            connection: 0,
            ballot: 0,
            closes: false,
            renewal_owed: false,
            learned: VecDeque::new(),
            renew_now: false,
            next_seq: 1,
            acked: 0,
            early: BTreeSet::new(),
            queue: VecDeque::new(),
            sent: BTreeMap::new(),
            resend: VecDeque::new(),
            freed: 0,
            next_req: 1,
            asked: BTreeMap::new(),
            to_ask: VecDeque::new(),
            to_cancel: VecDeque::new(),
            opened: HashMap::new(),
        }
    }

    /// Queues a command. The caller holds a place in the window for it.
    pub fn enqueue(&mut self, command: Queued) {
        self.queue.push_back(command);
    }

    /// Queues a question and gives its number.
    pub fn ask(
        &mut self,
        caller: Caller,
        op: ReadOp,
        reply: oneshot::Sender<Ended>,
    ) -> Result<u64, FrameError> {
        let req = self.next_req;
        let frame = encode_message(&ToNameNode::Read { req, caller, op }, 0)?;
        Ok(self.put_asked(frame, Waiting::Read(reply)))
    }

    /// Queues a query and gives its number.
    pub fn query(&mut self, text: &str, limit: u64, waiting: Waiting) -> Result<u64, FrameError> {
        let watch = matches!(waiting, Waiting::Watch { .. });
        let query = ToNameNode::Query {
            req: self.next_req,
            text: text.to_owned(),
            limit,
            watch,
        };
        let frame = encode_message(&query, 0)?;
        Ok(self.put_asked(frame, waiting))
    }

    fn put_asked(&mut self, frame: Vec<u8>, waiting: Waiting) -> u64 {
        let req = self.next_req;
        self.next_req += 1;
        self.asked.insert(req, Asked { frame, waiting });
        self.to_ask.push_back(req);
        req
    }

    /// Nobody waits for this question any more. True when there is something to tell the NameNode.
    pub fn forget(&mut self, req: u64) -> bool {
        match self.asked.remove(&req).map(|asked| asked.waiting) {
            Some(Waiting::Query { .. } | Waiting::Watch { .. }) => {
                // One that was never sent needs no end.
                if let Some(at) = self.to_ask.iter().position(|waiting| *waiting == req) {
                    self.to_ask.remove(at);
                    return false;
                }
                self.to_cancel.push_back(req);
                true
            }
            _ => false,
        }
    }

    /// Places in the window that became free since the last call.
    pub fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Appends messages that wait to leave, until there are none or `limit` bytes.
    pub fn fill(&mut self, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit {
            if let Some(req) = self.to_cancel.pop_front() {
                if let Ok(frame) = encode_message(&ToNameNode::Cancel { req }, 0) {
                    out.extend_from_slice(&frame);
                }
            } else if let Some(seq) = self.resend.pop_front() {
                if let Some(sent) = self.sent.get(&seq) {
                    out.extend_from_slice(&sent.frame);
                }
            } else if let Some(command) = self.queue.pop_front() {
                self.send(command, out);
            } else if let Some(req) = self.to_ask.pop_front() {
                if let Some(asked) = self.asked.get(&req) {
                    out.extend_from_slice(&asked.frame);
                }
            } else {
                return;
            }
        }
    }

    /// Numbers a command and appends it.
    fn send(&mut self, command: Queued, out: &mut Vec<u8>) {
        let Queued {
            caller,
            op,
            epoch,
            reply,
        } = command;
        if reply.is_closed() {
            self.freed += 1;
            return;
        }
        let end = if epoch.is_some_and(|epoch| epoch != self.epoch) {
            Ended::SessionLost
        } else {
            let seq = self.next_seq;
            match encode_message(
                &ToNameNode::Command {
                    seq,
                    ack: self.acked,
                    caller,
                    op,
                },
                0,
            ) {
                Ok(frame) => {
                    self.next_seq += 1;
                    out.extend_from_slice(&frame);
                    self.sent.insert(seq, Sent { frame, reply });
                    return;
                }
                Err(e) => Ended::Unsendable(e.to_string()),
            }
        };
        self.freed += 1;
        let _ = reply.send(end);
    }

    /// All NameNodes that may lead: those of the configuration, then those that were named.
    pub fn candidates(&self, namenodes: &[String]) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for addr in namenodes.iter().chain(&self.learned) {
            if !all.contains(addr) {
                all.push(addr.clone());
            }
        }
        all
    }

    /// Remembers a NameNode that another one named. False: it is no address.
    pub fn learn(&mut self, addr: &str, namenodes: &[String]) -> bool {
        let port = addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if addr.len() > limits::ADDRESS || !matches!(port, Some(Ok(1..))) {
            return false;
        }
        if namenodes.iter().any(|known| known == addr) {
            return true;
        }
        self.learned.retain(|known| known != addr);
        self.learned.push_back(addr.to_owned());
        if self.learned.len() > limits::LEARNED
            && let Some(oldest) = self.learned.pop_front()
        {
            self.trouble.remove(&oldest);
        }
        true
    }

    /// Remembers what went wrong with a NameNode.
    pub fn note_trouble(&mut self, addr: &str, why: &str, namenodes: &[String]) {
        // One that was forgotten meanwhile leaves nothing behind.
        if namenodes
            .iter()
            .chain(&self.learned)
            .any(|known| known == addr)
        {
            self.trouble.insert(addr.to_owned(), why.to_owned());
        }
    }

    /// Whether the NameNode has to say something.
    pub fn is_owed(&self) -> bool {
        self.renewal_owed || !self.sent.is_empty() || self.asked.values().any(Asked::is_owed)
    }

    /// A connection stands: takes what `Welcome` said. Everything unanswered is sent again.
    pub fn welcome(&mut self, session: SessionId) {
        self.connection += 1;
        self.renewal_owed = false;
        if session != self.session {
            if self.session != SessionId(0) {
                self.lose_session(self.nonce);
            }
            self.session = session;
        }
        self.resend = self.sent.keys().copied().collect();
        self.to_cancel.clear();
        self.to_ask = self.asked.keys().copied().collect();
        for asked in self.asked.values_mut() {
            match &mut asked.waiting {
                Waiting::Read(_) => {}
                Waiting::Query { gathered, .. } => *gathered = Rows::default(),
                Waiting::Watch { began, .. } => *began = false,
            }
        }
    }

    /// The session ended: what was sent under it has no answer, what was not goes to the next one.
    pub fn lose_session(&mut self, nonce: u64) {
        let outstanding = self.next_seq - 1 - self.acked;
        self.freed += usize::try_from(outstanding).unwrap_or(usize::MAX);
        for (_, sent) in std::mem::take(&mut self.sent) {
            let _ = sent.reply.send(Ended::SessionLost);
        }
        self.resend.clear();
        self.early.clear();
        self.next_seq = 1;
        self.acked = 0;
        self.session = SessionId(0);
        self.nonce = nonce;
        self.epoch += 1;
    }

    /// The client is closed: nobody is answered any more.
    pub fn close(&mut self) {
        self.queue.clear();
        self.sent.clear();
        self.asked.clear();
    }

    /// Takes a message.
    pub fn take(&mut self, message: FromNameNode) -> Effect {
        match message {
            FromNameNode::Answered { seq, result } => return self.answered(seq, result),
            FromNameNode::ReadAnswered { req, result } => {
                match self.asked.remove(&req).map(|asked| asked.waiting) {
                    Some(Waiting::Read(reply)) => {
                        let _ = reply.send(Ended::Answered(result));
                    }
                    // The NameNode may refuse a query this way.
                    Some(Waiting::Query {
                        reply, gathered, ..
                    }) => {
                        let _ = reply.send(result.map(|_| gathered));
                    }
                    Some(Waiting::Watch { told, .. }) => {
                        let _ = told.try_send(Told::Ended(result.err()));
                    }
                    None => {}
                }
            }
            rows @ FromNameNode::Rows { .. } => self.rows(rows),
            FromNameNode::Refused { failure } => return Effect::Refused(failure),
            FromNameNode::Renewed => self.renewal_owed = false,
            FromNameNode::NotLeader { leader } => return Effect::NotLeader(leader),
            FromNameNode::Welcome { .. }
            | FromNameNode::Order { .. }
            | FromNameNode::Leads { .. }
            | FromNameNode::State { .. } => {}
        }
        Effect::None
    }

    fn answered(&mut self, seq: u64, result: Result<Answer, Failure>) -> Effect {
        let Some(sent) = self.sent.remove(&seq) else {
            // The answer to a command that was sent twice.
            return Effect::None;
        };
        self.early.insert(seq);
        while self.early.remove(&(self.acked + 1)) {
            self.acked += 1;
            self.freed += 1;
        }
        // ESTALE is also what a removed inode gets; a renewal tells the two apart.
        let stale = matches!(&result, Err(failure) if failure.errno == crate::errno::ESTALE);
        if let Ok(Answer::Attr(attr)) = &result
            && let Some(opened) = self.opened.get_mut(&attr.ino)
        {
            opened.unlinked = attr.nlink == 0;
        }
        let _ = sent.reply.send(Ended::Answered(result));
        if stale {
            Effect::CheckSession
        } else {
            Effect::None
        }
    }

    fn rows(&mut self, message: FromNameNode) {
        let FromNameNode::Rows {
            req,
            columns,
            run,
            added,
            removed,
            end,
            failure,
        } = message
        else {
            return;
        };
        let Some(asked) = self.asked.get_mut(&req) else {
            return;
        };
        let (keep, cancel) = match &mut asked.waiting {
            Waiting::Read(_) => (true, false),
            Waiting::Query {
                gathered, limit, ..
            } => {
                if !columns.is_empty() {
                    gathered.columns = columns;
                }
                gathered.run = run;
                let room = usize::try_from(*limit)
                    .unwrap_or(usize::MAX)
                    .saturating_sub(gathered.rows.len());
                let full = added.len() > room;
                gathered.rows.extend(added.into_iter().take(room));
                (!end && !full, full && !end)
            }
            Waiting::Watch {
                told,
                began,
                columns: known,
            } => {
                if !columns.is_empty() {
                    *known = columns;
                }
                let restarted = !*began;
                *began = true;
                let change = Change {
                    added,
                    removed,
                    run,
                    restarted,
                    columns: known.clone(),
                };
                // The consumer finds the channel closed after what it holds, and says so.
                let full = told.try_send(Told::Change(change)).is_err();
                if end {
                    let _ = told.try_send(Told::Ended(failure.clone()));
                }
                (!end && !full, full && !end)
            }
        };
        if keep {
            return;
        }
        if let Some(Asked {
            waiting: Waiting::Query {
                gathered, reply, ..
            },
            ..
        }) = self.asked.remove(&req)
        {
            let _ = reply.send(failure.map_or(Ok(gathered), Err));
        }
        if cancel {
            self.to_cancel.push_back(req);
        }
    }

    /// Counts an open.
    pub fn note_open(&mut self, ino: Ino) {
        self.opened.entry(ino).or_default().count += 1;
    }

    /// Takes back an open.
    pub fn note_close(&mut self, ino: Ino) {
        if let Some(opened) = self.opened.get_mut(&ino) {
            opened.count = opened.count.saturating_sub(1);
            if opened.count == 0 {
                self.opened.remove(&ino);
            }
        }
    }

    /// Open inodes for a renewal, at most `limit`. Those known to be without a name come first; the others are named
    /// too, for another client, or a rename over them, may have taken their last name.
    pub fn open_inodes(&self, limit: usize) -> Vec<Ino> {
        let mut inodes: Vec<(bool, Ino)> = self
            .opened
            .iter()
            .map(|(ino, opened)| (!opened.unlinked, *ino))
            .collect();
        inodes.sort_unstable();
        inodes.truncate(limit);
        inodes.into_iter().map(|(_, ino)| ino).collect()
    }

    /// Who the NameNodes are and what is wrong with them, for an error message.
    pub fn who(&self, namenodes: &[String]) -> String {
        let all = self.candidates(namenodes);
        let said = |addr: &String| self.trouble.get(addr).map(|why| format!("; {addr}: {why}"));
        if let Some(connected) = &self.connected {
            let others = all.iter().filter(|addr| *addr != connected);
            let others: String = others.filter_map(said).collect();
            return format!("NameNode {connected} is connected but did not answer{others}");
        }
        let all = all
            .iter()
            .map(|addr| said(addr).unwrap_or_else(|| format!("; {addr}: no answer yet")));
        format!("no NameNode can be reached{}", all.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boomfs_wire::frame::read_message;

    fn command(state: &mut State, ino: u64) -> oneshot::Receiver<Ended> {
        let (reply, answer) = oneshot::channel();
        let op = Op::AcquireLease { ino: Ino(ino) };
        state.enqueue(Queued {
            caller: Caller::default(),
            op,
            epoch: None,
            reply,
        });
        answer
    }

    /// Sends what waits and gives the (seq, ack, inode) of the commands.
    fn sent(state: &mut State) -> Vec<(u64, u64, u64)> {
        let mut bytes = Vec::new();
        state.fill(&mut bytes, usize::MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut rest = &bytes[..];
            let mut commands = Vec::new();
            while let Some((message, _)) = read_message::<ToNameNode, _>(&mut rest).await.unwrap() {
                if let ToNameNode::Command {
                    seq,
                    ack,
                    op: Op::AcquireLease { ino },
                    ..
                } = message
                {
                    commands.push((seq, ack, ino.0));
                }
            }
            commands
        })
    }

    fn done(seq: u64) -> FromNameNode {
        FromNameNode::Answered {
            seq,
            result: Ok(Answer::Done),
        }
    }

    #[test]
    fn ack_is_the_last_number_without_a_gap_before_it() {
        let mut state = State::new(1);
        let _answers: Vec<_> = (1..=3).map(|ino| command(&mut state, ino)).collect();
        assert_eq!(sent(&mut state), [(1, 0, 1), (2, 0, 2), (3, 0, 3)]);
        state.take(done(1));
        state.take(done(3));
        assert_eq!(state.take_freed(), 1);
        let _answer = command(&mut state, 4);
        assert_eq!(sent(&mut state), [(4, 1, 4)]);
        state.take(done(2));
        assert_eq!(state.take_freed(), 2);
        let _answer = command(&mut state, 5);
        assert_eq!(sent(&mut state), [(5, 3, 5)]);
    }

    #[test]
    fn unanswered_commands_leave_again_in_order_under_their_numbers() {
        let mut state = State::new(1);
        state.welcome(SessionId(5));
        let _answers: Vec<_> = (1..=3).map(|ino| command(&mut state, ino)).collect();
        sent(&mut state);
        state.take(done(2));
        let _late = command(&mut state, 4);
        state.welcome(SessionId(5));
        assert_eq!(sent(&mut state), [(1, 0, 1), (3, 0, 3), (4, 0, 4)]);
        // The answer of before the reconnect may still come twice.
        state.take(done(1));
        assert_eq!(state.take(done(1)), Effect::None);
        assert_eq!(state.take_freed(), 2);
    }

    #[test]
    fn command_that_nobody_waits_for_any_more_is_sent_only_when_it_was_before() {
        let mut state = State::new(1);
        state.welcome(SessionId(5));
        let first = command(&mut state, 1);
        sent(&mut state);
        let second = command(&mut state, 2);
        drop((first, second));
        state.welcome(SessionId(5));
        assert_eq!(sent(&mut state), [(1, 0, 1)]);
        assert_eq!(state.take_freed(), 1);
    }

    #[test]
    fn lost_session_fails_what_was_sent_and_moves_the_rest_to_the_next() {
        let mut state = State::new(1);
        state.welcome(SessionId(5));
        let mut first = command(&mut state, 1);
        sent(&mut state);
        let _second = command(&mut state, 2);
        let (reply, mut bound) = oneshot::channel();
        let op = Op::AcquireLease { ino: Ino(3) };
        state.enqueue(Queued {
            caller: Caller::default(),
            op,
            epoch: Some(1),
            reply,
        });
        state.lose_session(77);
        state.welcome(SessionId(6));
        assert!(matches!(first.try_recv(), Ok(Ended::SessionLost)));
        assert_eq!(sent(&mut state), [(1, 0, 2)]);
        assert!(matches!(bound.try_recv(), Ok(Ended::SessionLost)));
        assert_eq!(
            (state.epoch, state.session, state.nonce),
            (2, SessionId(6), 77)
        );
    }

    #[test]
    fn open_inodes_are_counted_and_unlinked_ones_come_first() {
        let mut state = State::new(1);
        for ino in [1, 2, 2, 3] {
            state.note_open(Ino(ino));
        }
        state.note_close(Ino(1));
        state.note_close(Ino(2));
        assert_eq!(state.open_inodes(9), [Ino(2), Ino(3)]);
        if let Some(opened) = state.opened.get_mut(&Ino(3)) {
            opened.unlinked = true;
        }
        assert_eq!(state.open_inodes(1), [Ino(3)]);
    }

    #[test]
    fn named_leaders_are_remembered_up_to_a_limit() {
        let mut state = State::new(1);
        let configured = ["a:1".to_owned(), "b:1".to_owned()];
        for wrong in ["", "a", "a:", "a:0", "a:70000", &"x".repeat(400)] {
            assert!(!state.learn(wrong, &configured), "{wrong}");
        }
        assert!(state.learn("b:1", &configured));
        assert_eq!(state.candidates(&configured), configured);
        for n in 0..=limits::LEARNED {
            assert!(state.learn(&format!("c{n}:1"), &configured));
        }
        let all = state.candidates(&configured);
        assert_eq!(all.len(), 2 + limits::LEARNED);
        assert_eq!(all[2], "c1:1");
    }

    #[test]
    fn an_answer_is_owed_until_it_comes() {
        let mut state = State::new(1);
        assert!(!state.is_owed());
        let _answer = command(&mut state, 1);
        sent(&mut state);
        assert!(state.is_owed());
        state.take(done(1));
        assert!(!state.is_owed());
        state.renewal_owed = true;
        state.take(FromNameNode::Renewed);
        assert!(!state.is_owed());
    }
}
