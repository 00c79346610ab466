//! Bringing bytes to their replicas: blocks, pipelines, recovery, commit.
//!
//! **Invariant:** nothing is written under a generation before it is committed with exactly the members that have
//! adopted it (a block's first generation is committed with its allocation). A member that missed anything is out
//! until the NameNode has it repaired.

use super::Shared;
use super::state::{Block, ToCommit};
use crate::fetch::{Want, read_replica};
use crate::link::Pending;
use crate::pipeline::{Failed, How, Opening, Pipeline};
use crate::pool::{Trouble, nanos};
use crate::retry::{Backoff, Deadline};
use crate::{Error, describe, errno, limits};
use boomfs_wire::{Answer, LocatedBlock, NodeAddr, NodeId, Op, SetTime};
use bytes::Bytes;

/// What only the one who sends may touch.
#[derive(Default)]
pub struct Core {
    /// Open pipelines, the one used last at the end.
    pipelines: Vec<(u64, Pipeline)>,
    /// Where the last packet ended: scattered bytes leave in one sweep after the other.
    cursor: u64,
}

/// One attempt to bring something to a block.
struct Attempt {
    deadline: Deadline,
    backoff: Backoff,
    /// DataNodes that a new block is not to be put on.
    exclude: Vec<NodeId>,
    /// What went wrong so far, newest last.
    reasons: Vec<String>,
    /// What all DataNodes that failed answered, where they agree.
    agreed: Option<i32>,
}

impl Attempt {
    fn note(&mut self, failed: &Failed) {
        for (node, trouble) in failed {
            let errno = match trouble {
                Trouble::Failed(failure) => failure.errno,
                Trouble::Broken(_) | Trouble::Corrupt(_) => errno::EIO,
            };
            self.agreed = if self.reasons.is_empty() || self.agreed == Some(errno) {
                Some(errno)
            } else {
                None
            };
            self.say(format!("DataNode {node}: {trouble}"));
        }
    }

    fn say(&mut self, reason: String) {
        if self.reasons.last() != Some(&reason) {
            self.reasons.push(reason);
        }
        if self.reasons.len() > 8 {
            self.reasons.remove(0);
        }
    }
}

impl Shared {
    /// Sends everything that waits. `sync`: have it on disk, too. `close`: close each pipeline with its last packet.
    pub(super) async fn drain(&self, core: &mut Core, how: How) -> Result<(), Error> {
        loop {
            let taken = {
                let mut state = self.state();
                state.take(core.cursor, false).map(|(offset, bytes)| {
                    let last_of_block = !state.dirty.has_block(state.block_start(offset));
                    (offset, bytes, last_of_block)
                })
            };
            let Some((offset, bytes, last)) = taken else {
                return Ok(());
            };
            self.send(
                core,
                offset,
                bytes,
                How {
                    sync: how.sync && last,
                    close: how.close && last,
                },
            )
            .await?;
        }
    }

    /// Sends in the background as long as there are full packets, or too many bytes.
    pub(super) async fn send_full(&self) {
        loop {
            let mut core = self.core.lock().await;
            let share = self.inner.files.share();
            let taken = {
                let mut state = self.state();
                let pressed = state.dirty.cost() >= share / 2;
                let taken = state.take(core.cursor, !pressed);
                if taken.is_none() {
                    state.sender_runs = false;
                }
                taken
            };
            let Some((offset, bytes)) = taken else { return };
            // The failure is kept in the state; the next round finds nothing to send.
            let _ = self.send(&mut core, offset, bytes, How::default()).await;
        }
    }

    /// Brings one packet to its block, through as many pipelines as it takes. A failure is kept.
    async fn send(
        &self,
        core: &mut Core,
        offset: u64,
        bytes: Bytes,
        how: How,
    ) -> Result<(), Error> {
        let len = bytes.len() as u64;
        let block_start = self.state().block_start(offset);
        // A block that is written up to its end will hardly be written again.
        let fills = offset + len == block_start + self.block_size;
        let how = How {
            close: how.close || fills,
            ..how
        };
        let sent = self
            .on_block(core, block_start, offset - block_start, &bytes, how)
            .await;
        match &sent {
            Ok(()) => {
                core.cursor = offset + len;
                self.state()
                    .acknowledged(offset, len, how.sync, self.inner.io.mono_ns());
            }
            Err(error) => {
                tracing::warn!(ino = %self.ino, "write failed: {error}");
                self.state().fail(error);
            }
        }
        self.room.notify_waiters();
        sent
    }

    /// Does one packet on a block (an empty one to sync), until all members of a pipeline have done it.
    async fn on_block(
        &self,
        core: &mut Core,
        block_start: u64,
        in_block: u64,
        bytes: &Bytes,
        how: How,
    ) -> Result<(), Error> {
        let io = &self.inner.io;
        let mut attempt = Attempt {
            deadline: self.deadline(),
            backoff: Backoff::new(),
            exclude: Vec::new(),
            reasons: Vec::new(),
            agreed: None,
        };
        loop {
            let mut pipeline = self.pipeline(core, block_start, &mut attempt).await?;
            match pipeline
                .packet(io, in_block, bytes, how, attempt.deadline)
                .await
            {
                Ok(()) if how.close => {
                    self.inner.pool.give_back(pipeline.into_conn());
                    return Ok(());
                }
                Ok(()) => {
                    core.pipelines.push((io.mono_ns(), pipeline));
                    return Ok(());
                }
                Err(failed) => self.members_failed(block_start, &failed, &mut attempt),
            }
        }
    }

    fn members_failed(&self, block_start: u64, failed: &Failed, attempt: &mut Attempt) {
        tracing::info!(ino = %self.ino, block_start, ?failed, "members of a pipeline failed");
        attempt.note(failed);
        self.state().drop_members(block_start, |node| {
            failed.iter().any(|(out, _)| *out == node.node)
        });
    }

    /// Takes the open pipeline of a block out of the core, or opens one.
    async fn pipeline(
        &self,
        core: &mut Core,
        block_start: u64,
        attempt: &mut Attempt,
    ) -> Result<Pipeline, Error> {
        if let Some(at) = core
            .pipelines
            .iter()
            .position(|(_, pipeline)| pipeline.block_start == block_start)
        {
            return Ok(core.pipelines.remove(at).1);
        }
        while core.pipelines.len() >= limits::PIPELINES {
            let (_, oldest) = core.pipelines.remove(0);
            self.close_pipeline(core, oldest).await;
        }
        loop {
            let block = self.state().blocks.get(&block_start).cloned();
            let opened = match block {
                None => self.open_new(block_start, attempt).await?,
                Some(block) => self.reopen(block_start, block, attempt).await?,
            };
            match opened {
                Opened::Yes(pipeline) => return Ok(*pipeline),
                Opened::TryAgain => {}
                Opened::Wait => {
                    if !attempt
                        .backoff
                        .wait_within(&self.inner.io, attempt.deadline)
                        .await
                    {
                        return Err(self.gave_up(block_start, attempt));
                    }
                }
            }
            if attempt.deadline.left(&self.inner.io).is_none() {
                return Err(self.gave_up(block_start, attempt));
            }
        }
    }

    fn writing(&self, block_start: u64) -> String {
        format!("write of inode {}, block at {block_start}", self.ino)
    }

    fn gave_up(&self, block_start: u64, attempt: &Attempt) -> Error {
        let what = self.writing(block_start);
        let reasons = attempt.reasons.join("; ");
        let within = attempt.deadline.span().as_secs_f64();
        let why = format!("no replica took the bytes within {within} s: {reasons}");
        Error::Data {
            errno: attempt.agreed.unwrap_or(errno::EIO),
            what,
            why,
        }
    }

    /// The answer to a command of a writer. ESTALE, of a session or of a file that is gone, is EIO to those that have
    /// the file open.
    async fn answer(&self, pending: Pending) -> Result<Answer, Error> {
        match self.inner.link.answer(pending).await {
            Err(Error::Refused(failure)) if failure.errno == errno::ESTALE => {
                let what = format!("write of inode {}", self.ino);
                let why = format!(
                    "its file or the session is gone: {}; open the file again",
                    failure.message
                );
                Err(Error::Data {
                    errno: errno::EIO,
                    what,
                    why,
                })
            }
            answer => answer,
        }
    }

    async fn block_command(&self, op: Op, deadline: Deadline) -> Result<LocatedBlock, Error> {
        let what = describe::Subject::of(&op);
        let pending = self
            .inner
            .link
            .submit(&self.caller, op, Some(self.epoch), deadline)
            .await?;
        match self.answer(pending).await? {
            Answer::Block(block) => Ok(block),
            other => Err(Error::Protocol {
                what: what.to_string(),
                who: "the NameNode".to_owned(),
                got: describe::kind_of(&other).to_owned(),
            }),
        }
    }

    /// Allocates a block and opens its first pipeline.
    async fn open_new(&self, block_start: u64, attempt: &mut Attempt) -> Result<Opened, Error> {
        let op = Op::AddBlock {
            ino: self.ino,
            offset: block_start,
            exclude: attempt.exclude.clone(),
        };
        let mut at = match self.block_command(op, attempt.deadline).await {
            Ok(at) => at,
            // Without the failed ones there are too few: they may be back soon.
            Err(Error::Refused(failure))
                if !attempt.exclude.is_empty() || failure.errno == errno::EAGAIN =>
            {
                attempt.exclude.clear();
                attempt.say(failure.message);
                return Ok(Opened::Wait);
            }
            Err(error) => return Err(error),
        };
        if at.length > 0 {
            let known = !at.nodes.is_empty();
            self.state().blocks.insert(block_start, Block::new(at));
            if known {
                return Ok(Opened::TryAgain);
            }
            attempt.say("no DataNode that has the block is live".to_owned());
            return Ok(Opened::Wait);
        }
        let opening = self.opening(&at, None);
        let io = &self.inner.io;
        let (pipeline, failed) = Pipeline::open(
            io,
            &self.inner.pool,
            &opening,
            block_start,
            &at.nodes,
            attempt.deadline,
        )
        .await;
        attempt.note(&failed);
        let Some(pipeline) = pipeline else {
            if failed.iter().all(|(_, trouble)| is_there(trouble)) && !failed.is_empty() {
                // Allocated by a writer that died before it committed a length.
                self.state().blocks.insert(block_start, Block::new(at));
                return Ok(Opened::TryAgain);
            }
            attempt.exclude.extend(failed.iter().map(|(node, _)| *node));
            return Ok(Opened::Wait);
        };
        at.nodes.clone_from(&pipeline.members);
        self.state().blocks.insert(block_start, Block::new(at));
        // With members missing, those left get a generation of their own.
        Ok(if failed.is_empty() {
            Opened::Yes(Box::new(pipeline))
        } else {
            Opened::TryAgain
        })
    }

    /// Opens a pipeline on a block that is there, under a new generation.
    async fn reopen(
        &self,
        block_start: u64,
        block: Block,
        attempt: &mut Attempt,
    ) -> Result<Opened, Error> {
        let Block { at, committed, .. } = block;
        let mut targets = at.nodes.clone();
        if targets.is_empty() {
            if at.length == 0 {
                // Nothing was acknowledged, so the block may go elsewhere.
                attempt
                    .exclude
                    .extend(committed.iter().map(|node| node.node));
                self.state().blocks.remove(&block_start);
                return Ok(Opened::Wait);
            }
            if committed.is_empty() {
                // Nobody who has it was live: they may have come back.
                return self.open_new(block_start, attempt).await;
            }
            targets = self
                .still_there(block_start, &at, &committed, attempt)
                .await?;
            if targets.is_empty() {
                return Ok(Opened::Wait);
            }
        }
        let op = Op::ReserveGeneration {
            ino: self.ino,
            block: at.block,
        };
        let reserved = self.block_command(op, attempt.deadline).await?;
        let existing = Some((at.generation, at.length));
        let opening = Opening {
            generation: reserved.generation,
            ..self.opening(&at, existing)
        };
        let io = &self.inner.io;
        let (pipeline, failed) = Pipeline::open(
            io,
            &self.inner.pool,
            &opening,
            block_start,
            &targets,
            attempt.deadline,
        )
        .await;
        attempt.note(&failed);
        let Some(pipeline) = pipeline else {
            self.state().drop_members(block_start, |_| true);
            return Ok(Opened::Wait);
        };
        if !failed.is_empty() {
            // A member whose answer was lost may have adopted the generation: those left get one of their own, so that
            // it is stale.
            self.state().drop_members(block_start, |node| {
                failed.iter().any(|(out, _)| *out == node.node)
            });
            return Ok(Opened::TryAgain);
        }
        let members: Vec<NodeId> = pipeline.members.iter().map(|node| node.node).collect();
        let op = Op::CommitGeneration {
            ino: self.ino,
            block: at.block,
            generation: reserved.generation,
            members,
        };
        let pending = self
            .inner
            .link
            .submit(&self.caller, op, Some(self.epoch), attempt.deadline)
            .await?;
        self.answer(pending).await?;
        if let Some(block) = self.state().blocks.get_mut(&block_start) {
            block.at.generation = reserved.generation;
            block.at.nodes.clone_from(&pipeline.members);
            block.committed.clone_from(&pipeline.members);
        }
        Ok(Opened::Yes(Box::new(pipeline)))
    }

    /// The members that can be reached again after all had failed, and hold all that they acknowledged: one that lost
    /// bytes in a crash would refuse. When all have lost some there is nothing to wait for.
    async fn still_there(
        &self,
        block_start: u64,
        at: &LocatedBlock,
        committed: &[NodeAddr],
        attempt: &mut Attempt,
    ) -> Result<Vec<NodeAddr>, Error> {
        let mut there = Vec::new();
        let mut lost = Vec::new();
        for node in committed {
            let want = Want {
                block: at.block,
                generation: at.generation,
                offset: 0,
                len: 1,
            };
            let inner = &self.inner;
            let read = read_replica(
                &inner.io,
                &inner.link,
                &inner.pool,
                node,
                want,
                limits::READ_DEADLINE,
            );
            match read.await {
                Ok((_, length)) if length >= at.length => there.push(node.clone()),
                Ok((_, length)) => lost.push(format!(
                    "DataNode {} lost bytes that it had acknowledged: it has {length} of {}",
                    node.node, at.length
                )),
                Err(trouble) => attempt.note(&vec![(node.node, trouble)]),
            }
        }
        let reasons = lost.join("; ");
        if lost.len() == committed.len() {
            return Err(Error::Data {
                errno: errno::EIO,
                what: self.writing(block_start),
                why: format!("no replica has all bytes any more: {reasons}"),
            });
        }
        if !lost.is_empty() {
            attempt.say(reasons);
        }
        Ok(there)
    }

    fn opening(
        &self,
        at: &LocatedBlock,
        existing: Option<(boomfs_wire::Generation, u64)>,
    ) -> Opening {
        Opening {
            cluster: self.inner.link.cluster(),
            block: at.block,
            generation: at.generation,
            existing,
            block_size: self.block_size,
        }
    }

    /// Closes a pipeline so that its replicas are finished. Its bytes are acknowledged: a member that fails now is
    /// out, and those left are closed under a new generation; when that fails, too, the NameNode finds out.
    async fn close_pipeline(&self, core: &mut Core, mut pipeline: Pipeline) {
        let deadline = self.deadline();
        let block_start = pipeline.block_start;
        let Err(failed) = pipeline.close(&self.inner.io, deadline).await else {
            self.inner.pool.give_back(pipeline.into_conn());
            return;
        };
        drop(pipeline);
        self.state().drop_members(block_start, |node| {
            failed.iter().any(|(out, _)| *out == node.node)
        });
        let close = How {
            close: true,
            sync: false,
        };
        let length = self
            .state()
            .blocks
            .get(&block_start)
            .map(|block| block.at.length);
        // Boxed, for opening a pipeline may close another.
        let nothing = Bytes::new();
        let again =
            Box::pin(self.on_block(core, block_start, length.unwrap_or(0), &nothing, close));
        if let Err(error) = again.await {
            tracing::warn!(ino = %self.ino, block_start, "pipeline could not be closed: {error}");
        }
    }

    /// Closes all pipelines, or those that were not used for a while.
    pub(super) async fn close_pipelines(&self, core: &mut Core, used_before_ns: u64) {
        while let Some(at) = core
            .pipelines
            .iter()
            .position(|(used_ns, _)| *used_ns < used_before_ns)
        {
            let (_, pipeline) = core.pipelines.remove(at);
            self.close_pipeline(core, pipeline).await;
        }
    }

    /// Has all acknowledged bytes on every member's disk.
    pub(super) async fn sync(&self, core: &mut Core) -> Result<(), Error> {
        let unsynced: Vec<(u64, u64)> = self
            .state()
            .unsynced
            .iter()
            .map(|(start, ns)| (*start, *ns))
            .collect();
        for (block_start, since_ns) in unsynced {
            let open = core
                .pipelines
                .iter()
                .any(|(_, pipeline)| pipeline.block_start == block_start);
            let age_ns = self.inner.io.mono_ns().saturating_sub(since_ns);
            if open || age_ns < nanos(limits::UNSYNCED_AGE) {
                let length = self
                    .state()
                    .blocks
                    .get(&block_start)
                    .map_or(0, |block| block.at.length);
                let how = How {
                    sync: true,
                    close: false,
                };
                if let Err(error) = self
                    .on_block(core, block_start, length, &Bytes::new(), how)
                    .await
                {
                    self.state().fail(&error);
                    return Err(error);
                }
            }
            self.state().unsynced.remove(&block_start);
        }
        Ok(())
    }

    /// Puts the commit of lengths and mtime in line, when there is something to commit.
    pub(super) async fn submit_commit(&self) -> Result<Option<(ToCommit, Pending)>, Error> {
        let Some(commit) = self.state().to_commit() else {
            return Ok(None);
        };
        let op = Op::Commit {
            ino: self.ino,
            size: commit.size,
            blocks: commit.blocks.clone(),
            mtime: commit.mtime_ns.map(SetTime::At),
        };
        let pending = self
            .inner
            .link
            .submit(&self.caller, op, Some(self.epoch), self.deadline())
            .await?;
        Ok(Some((commit, pending)))
    }

    /// Waits for a commit; a failure is kept.
    pub(super) async fn committed(
        &self,
        submitted: Option<(ToCommit, Pending)>,
    ) -> Result<(), Error> {
        let Some((commit, pending)) = submitted else {
            return Ok(());
        };
        match self.answer(pending).await {
            Ok(_) => {
                self.state().committed(&commit);
                Ok(())
            }
            Err(error) => {
                self.state().fail(&error);
                Err(error)
            }
        }
    }
}

/// How an attempt to open a pipeline went.
enum Opened {
    Yes(Box<Pipeline>),
    /// What was learned makes another way possible now.
    TryAgain,
    /// Nobody works at the moment.
    Wait,
}

/// The DataNode has a replica of the block already.
fn is_there(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Failed(failure) if matches!(failure.errno, errno::EEXIST | errno::ESTALE))
}
