//! The NameNode.

use super::{Block, Fake, File, Session, State};
use crate::errno;
use boomfs_io::{ReadHalf, WriteHalf};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{
    Answer, Attr, BlockId, ClusterId, Failure, FromNameNode, Generation, Identity, Ino, Kind,
    LocatedBlock, NodeId, Op, Peer, ReadOp, SessionId, SetTime, ToNameNode,
};

fn failure(errno: i32, message: &str) -> Failure {
    Failure {
        errno,
        message: message.to_owned(),
    }
}

impl Fake {
    /// Starts one of the NameNodes; all have one state, as if what one decides the others had at once.
    pub async fn start_namenode(&self, addr: &str) {
        let host = addr.split(':').next().unwrap().to_owned();
        let listener = self.world.node(&host).listen(addr).await.unwrap();
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (reader, writer) = stream.into_split();
                let number = {
                    let mut state = fake.state();
                    state.next_conn += 1;
                    state.next_conn
                };
                let conn = Conn {
                    fake: fake.clone(),
                    host: host.clone(),
                    number,
                    session: SessionId(0),
                    any: false,
                };
                fake.world.note(&format!("{host} accepts {peer}"));
                tokio::spawn(conn.serve(reader, writer));
            }
        });
    }
}

/// A connection to a NameNode.
struct Conn {
    fake: Fake,
    host: String,
    number: u64,
    session: SessionId,
    /// An observer that may be served by any.
    any: bool,
}

impl Conn {
    async fn serve(mut self, mut reader: ReadHalf, mut writer: WriteHalf) {
        let mut changed = self.fake.changed.subscribe();
        let mut greeted = false;
        loop {
            let reading = read_message::<ToNameNode, _>(&mut reader);
            let message = tokio::select! {
                biased;
                _ = changed.changed(), if greeted => None,
                message = reading => match message {
                    Ok(Some((message, _))) => Some(message),
                    _ => break,
                },
            };
            // A stopped process says nothing, and takes messages as long as there is room for them.
            if self.fake.state().stopped.contains(&self.host) {
                continue;
            }
            greeted = true;
            let Some(answers) = self.handle(message) else {
                break;
            };
            for answer in answers {
                let end = matches!(
                    answer,
                    FromNameNode::Refused { .. } | FromNameNode::NotLeader { .. }
                );
                if write_message(&mut writer, &answer, &[]).await.is_err() || end {
                    return self.forget();
                }
            }
        }
        self.forget();
    }

    fn forget(&self) {
        let mut state = self.fake.state();
        let key = (self.host.clone(), self.session);
        if state.conns.get(&key) == Some(&self.number) {
            state.conns.remove(&key);
        }
    }

    /// What to answer; `None`: cut the connection. No message: who leads has changed.
    fn handle(&mut self, message: Option<ToNameNode>) -> Option<Vec<FromNameNode>> {
        let mut state = self.fake.state();
        if let Some(ToNameNode::Hello { peer, .. }) = &message {
            *state.hellos.entry(self.host.clone()).or_default() += 1;
            self.any = *peer == Peer::Observer { stale: true };
            if let Some(failure) = state.refusing.get(&self.host) {
                let failure = failure.clone();
                return Some(vec![FromNameNode::Refused { failure }]);
            }
        }
        if state.leader != self.host && !self.any {
            let leader = state.hint.clone();
            return Some(vec![FromNameNode::NotLeader { leader }]);
        }
        drop(state);
        let Some(message) = message else {
            return Some(Vec::new());
        };
        let hello = matches!(message, ToNameNode::Hello { .. });
        let command = matches!(message, ToNameNode::Command { .. });
        let answers = self.fake.handle(&mut self.session, message);
        let mut state = self.fake.state();
        let key = (self.host.clone(), self.session);
        if hello && self.session != SessionId(0) {
            state.conns.insert(key, self.number);
        } else if command && state.conns.get(&key) != Some(&self.number) {
            let wrong = format!(
                "a command came on a connection of {} that did not greet last",
                self.host
            );
            state.wrong.push(wrong);
            return answers.map(|_| Vec::new());
        }
        answers
    }
}

impl Fake {
    /// What to answer; `None`: cut the connection.
    fn handle(&self, session: &mut SessionId, message: ToNameNode) -> Option<Vec<FromNameNode>> {
        let now_ns = self.world.node("nn").now_ns();
        let mut state = self.state();
        if state.mute {
            return Some(Vec::new());
        }
        let expired = state.expired.contains(session);
        Some(vec![match message {
            ToNameNode::Hello { peer, .. } => return Some(vec![state.hello(session, &peer)]),
            ToNameNode::Renew { .. } if expired => FromNameNode::Refused {
                failure: failure(errno::ESTALE, "session expired"),
            },
            ToNameNode::Renew { orphans } => {
                state.sessions.entry(*session).or_default().orphans = orphans;
                FromNameNode::Renewed
            }
            ToNameNode::Command { seq, .. } if expired => FromNameNode::Answered {
                seq,
                result: Err(failure(errno::ESTALE, "session expired")),
            },
            ToNameNode::Command { seq, ack, op, .. } => {
                state.arrived += 1;
                let known = state.sessions.entry(*session).or_default();
                known.answers.retain(|seq, _| *seq > ack);
                if known.answers.len() > 1024 {
                    state
                        .wrong
                        .push("more than 1,024 answers are unacknowledged".to_owned());
                }
                let applied = state.sessions.entry(*session).or_default().applied;
                if seq > applied {
                    if seq != applied + 1 {
                        state
                            .wrong
                            .push(format!("command {seq} came after {applied}"));
                    }
                    let result = state.apply(*session, &op, now_ns);
                    state.log.push(op);
                    let known = state.sessions.entry(*session).or_default();
                    known.applied = seq;
                    known
                        .answers
                        .insert(seq, FromNameNode::Answered { seq, result });
                    match &mut state.cut_after {
                        Some(0) => {
                            state.cut_after = None;
                            return None;
                        }
                        Some(n) => *n -= 1,
                        None => {}
                    }
                }
                match state
                    .sessions
                    .entry(*session)
                    .or_default()
                    .answers
                    .get(&seq)
                {
                    Some(answer) => answer.clone(),
                    None => {
                        state.wrong.push(format!(
                            "command {seq} came again after it was acknowledged"
                        ));
                        return None;
                    }
                }
            }
            ToNameNode::Read { req, op, .. } => FromNameNode::ReadAnswered {
                req,
                result: state.read(&op),
            },
            query @ (ToNameNode::Query { .. } | ToNameNode::Cancel { .. }) => {
                let req = match &query {
                    ToNameNode::Query { req, .. } => Some(*req),
                    _ => None,
                };
                state.queries.push(query);
                let Some(this) = req else {
                    return Some(Vec::new());
                };
                let mut rows = state.rows.clone();
                for row in &mut rows {
                    if let FromNameNode::Rows { req, .. } = row {
                        *req = this;
                    }
                }
                return Some(rows);
            }
            other => {
                state.wrong.push(format!("a client sent {other:?}"));
                return None;
            }
        }])
    }
}

impl State {
    fn hello(&mut self, session: &mut SessionId, peer: &Peer) -> FromNameNode {
        match peer {
            Peer::Client {
                session: Some(known),
                ..
            } => {
                if self.expired.contains(known) || !self.sessions.contains_key(known) {
                    return FromNameNode::Refused {
                        failure: failure(errno::ESTALE, "session expired"),
                    };
                }
                *session = *known;
            }
            Peer::Client {
                session: None,
                nonce,
                ..
            } => {
                let next = SessionId(self.sessions.len() as u64 + 1);
                *session = *self.nonces.entry(*nonce).or_insert(next);
                self.sessions.insert(*session, Session::default());
            }
            _ => {}
        }
        FromNameNode::Welcome {
            cluster: ClusterId(77),
            session: *session,
            node: NodeId(0),
            ballot: self.ballot,
            block_size: self.block_size,
            replication: 3,
        }
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        let file = &self.files[&ino];
        Attr {
            ino,
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: file.size,
            allocated: 0,
            nlink: u32::from(self.names.values().any(|named| *named == ino)),
            rdev: 0,
            atime_ns: 0,
            mtime_ns: file.mtime_ns,
            ctime_ns: 0,
            crtime_ns: 0,
            block_size: file.block_size,
            replication: 3,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn located(&self, offset: u64, block: &Block) -> LocatedBlock {
        LocatedBlock {
            block: block.id,
            offset,
            generation: block.generation,
            length: block.length,
            nodes: block.members.iter().map(|node| Fake::addr(*node)).collect(),
        }
    }

    fn leased(&mut self, session: SessionId, ino: Ino) -> Result<&mut File, Failure> {
        let file = self
            .files
            .get_mut(&ino)
            .ok_or_else(|| failure(errno::ESTALE, "no such inode"))?;
        if file.lease != Some(session) {
            return Err(failure(errno::EPERM, "no lease"));
        }
        Ok(file)
    }

    fn apply(&mut self, session: SessionId, op: &Op, now_ns: i64) -> Result<Answer, Failure> {
        let stamp = |time: &SetTime| match time {
            SetTime::Now => now_ns,
            SetTime::At(ns) => *ns,
        };
        match op {
            Op::Create {
                at,
                lease,
                exclusive,
                ..
            } => {
                let name = at.path.last().cloned().unwrap_or_default();
                let known = self.names.get(&name).copied();
                if known.is_some() && *exclusive {
                    return Err(failure(errno::EEXIST, "it exists"));
                }
                let fresh = Ino(self.id());
                let ino = known.unwrap_or(fresh);
                self.names.insert(name, ino);
                let block_size = self.block_size;
                let file = self.files.entry(ino).or_insert(File {
                    block_size,
                    ..File::default()
                });
                file.lease = lease.then_some(session).or(file.lease);
                Ok(Answer::Attr(self.attr(ino)))
            }
            Op::Unlink { at } => {
                let name = at.path.last().cloned().unwrap_or_default();
                let ino = self
                    .names
                    .remove(&name)
                    .ok_or_else(|| failure(errno::ENOENT, "no such name"))?;
                Ok(Answer::Attr(self.attr(ino)))
            }
            Op::AcquireLease { ino } => {
                let file = self
                    .files
                    .get_mut(ino)
                    .ok_or_else(|| failure(errno::ESTALE, "no such inode"))?;
                if file
                    .lease
                    .is_some_and(|holder| holder != session && !self.expired.contains(&holder))
                {
                    return Err(failure(errno::EBUSY, "leased"));
                }
                file.lease = Some(session);
                Ok(Answer::Attr(self.attr(*ino)))
            }
            Op::ReleaseLease { ino } => {
                self.leased(session, *ino)?.lease = None;
                Ok(Answer::Done)
            }
            Op::AddBlock {
                ino,
                offset,
                exclude,
            } => self.add_block(session, *ino, *offset, exclude),
            Op::ReserveGeneration { ino, block } => {
                let found = self
                    .leased(session, *ino)?
                    .blocks
                    .iter_mut()
                    .find(|(_, known)| known.id == *block);
                let (offset, found) =
                    found.ok_or_else(|| failure(errno::ENOENT, "no such block"))?;
                found.reserved = Generation(found.reserved.0 + 1);
                let (offset, found) = (*offset, found.clone());
                Ok(Answer::Block(LocatedBlock {
                    generation: found.reserved,
                    ..self.located(offset, &found)
                }))
            }
            Op::CommitGeneration {
                ino,
                block,
                generation,
                members,
            } => {
                let found = self
                    .leased(session, *ino)?
                    .blocks
                    .values_mut()
                    .find(|known| known.id == *block);
                let found = found.ok_or_else(|| failure(errno::ENOENT, "no such block"))?;
                if *generation != found.reserved || members.is_empty() {
                    return Err(failure(errno::EINVAL, "that generation was not reserved"));
                }
                found.generation = *generation;
                found.members.clone_from(members);
                Ok(Answer::Done)
            }
            Op::Commit {
                ino,
                size,
                blocks,
                mtime,
            } => {
                let file = self.leased(session, *ino)?;
                file.size = *size;
                for (id, generation, length) in blocks {
                    let found = file.blocks.values_mut().find(|known| known.id == *id);
                    let found = found.ok_or_else(|| failure(errno::ENOENT, "no such block"))?;
                    if found.generation != *generation {
                        return Err(failure(errno::ESTALE, "stale generation"));
                    }
                    found.length = *length;
                }
                file.mtime_ns = mtime.as_ref().map_or(file.mtime_ns, stamp);
                Ok(Answer::Attr(self.attr(*ino)))
            }
            Op::SetAttr {
                at, size, mtime, ..
            } => {
                let file = self
                    .files
                    .get_mut(&at.base)
                    .ok_or_else(|| failure(errno::ESTALE, "no such inode"))?;
                if let Some(size) = *size {
                    file.size = size;
                    file.blocks.retain(|start, _| *start < size);
                    for (start, block) in &mut file.blocks {
                        block.length = block.length.min(size - start);
                    }
                }
                file.mtime_ns = mtime.as_ref().map_or(file.mtime_ns, stamp);
                Ok(Answer::Attr(self.attr(at.base)))
            }
            Op::CloseSession => {
                self.expired.insert(session);
                Ok(Answer::Done)
            }
            Op::AddNameNode { .. } => Ok(Answer::NameNode(NodeId(9))),
            _ => Ok(Answer::Done),
        }
    }

    fn add_block(
        &mut self,
        session: SessionId,
        ino: Ino,
        offset: u64,
        exclude: &[NodeId],
    ) -> Result<Answer, Failure> {
        let (id, generation) = (BlockId(self.id()), Generation(self.id() * 1000));
        let replication = self.replication;
        let nodes = self
            .nodes
            .iter()
            .filter(|(node, _)| !exclude.contains(node));
        let members: Vec<NodeId> = nodes.map(|(node, _)| *node).take(replication).collect();
        let file = self.leased(session, ino)?;
        if !offset.is_multiple_of(file.block_size) {
            return Err(failure(errno::EINVAL, "no start of a block"));
        }
        if let Some(known) = file.blocks.get(&offset)
            && (known.length > 0 || exclude.is_empty())
        {
            let known = known.clone();
            return Ok(Answer::Block(self.located(offset, &known)));
        }
        if members.is_empty() {
            return Err(failure(errno::ENOSPC, "no DataNode has room"));
        }
        let block = Block {
            id,
            generation,
            reserved: generation,
            length: 0,
            members,
        };
        file.blocks.insert(offset, block.clone());
        Ok(Answer::Block(self.located(offset, &block)))
    }

    fn read(&self, op: &ReadOp) -> Result<Answer, Failure> {
        match op {
            ReadOp::Lookup { at, .. } => {
                let ino = match at.path.last() {
                    Some(name) => *self
                        .names
                        .get(name)
                        .ok_or_else(|| failure(errno::ENOENT, "no such name"))?,
                    None => at.base,
                };
                Ok(Answer::Attr(self.attr(ino)))
            }
            ReadOp::Locate {
                ino,
                offset,
                length,
            } => {
                let file = self
                    .files
                    .get(ino)
                    .ok_or_else(|| failure(errno::ESTALE, "no such inode"))?;
                let from = offset - offset % file.block_size;
                let blocks = file
                    .blocks
                    .range(from..offset + length)
                    .map(|(start, block)| self.located(*start, block));
                Ok(Answer::Blocks {
                    size: file.size,
                    block_size: file.block_size,
                    blocks: blocks.collect(),
                })
            }
            ReadOp::Identify => Ok(Answer::Identity(Identity {
                node: NodeId(7),
                ..Identity::default()
            })),
            _ => Err(failure(errno::EINVAL, "the fake does not know that")),
        }
    }
}
