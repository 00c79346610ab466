//! Between the wire and the rules: messages become events, events become messages.
//!
//! The rules know lists, ints and strings; their names and columns are in `rules/schema.olg`.
//! What a stranger sends is checked here, so that no row can fail to fit its event.

pub mod errno;
pub mod input;
pub mod json;
pub mod output;
#[cfg(test)]
mod tests;

use overlog::ir::{Program, RelId, RelKind};
use std::fmt;

/// The rules do not have the events that this shell feeds and takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules do not fit this NameNode: {0}")]
pub struct Misfit(pub String);

/// A connection, as the rules see it: the address `c` and a number in hex. No two NameNodes, and no two lives of one,
/// give the same number, for it goes through the log with commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The shell itself, when it asks the rules something.
    pub const SHELL: ConnId = ConnId(0);

    /// The connection that an address names.
    pub fn parse(addr: &[u8]) -> Option<ConnId> {
        let (b'c', digits) = addr.split_first()? else {
            return None;
        };
        let text = std::str::from_utf8(digits).ok()?;
        u64::from_str_radix(text, 16).ok().map(ConnId)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:x}", self.0)
    }
}

/// The events that the shell feeds.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// A client connects.
    pub hello_client: RelId,
    /// A DataNode connects.
    pub hello_datanode: RelId,
    /// A command.
    pub request: RelId,
    /// A question.
    pub ask: RelId,
    /// A client keeps its session.
    pub renew: RelId,
    /// A connection is gone.
    pub closed: RelId,
    /// A DataNode is alive.
    pub heartbeat: RelId,
    /// Part of a full block report.
    pub report: RelId,
    /// Replicas that changed.
    pub received: RelId,
    /// A slot was decided.
    pub decided: RelId,
    /// The defaults of a new cluster and who this is, once at each start.
    pub configure: RelId,
    /// Its address among NameNodes, once at each start.
    pub be: RelId,
    /// What a checkpoint holds need not be kept.
    pub truncate: RelId,
    /// Its disk is full, or has room again.
    pub space: RelId,
    /// Reads wait until it is confirmed that it leads.
    pub confirm: RelId,
    /// The digest of its replicated tables after a slot.
    pub state: RelId,
    /// It is about to stop.
    pub quits: RelId,
}

impl Inputs {
    /// Finds the events and checks their numbers of columns.
    ///
    /// # Errors
    /// [`Misfit`] names what is missing.
    pub fn find(program: &Program) -> Result<Inputs, Misfit> {
        Ok(Inputs {
            hello_client: event(program, "hello_client", 5)?,
            hello_datanode: event(program, "hello_datanode", 8)?,
            request: event(program, "request", 12)?,
            ask: event(program, "ask", 9)?,
            renew: event(program, "renew", 3)?,
            closed: event(program, "closed", 1)?,
            heartbeat: event(program, "heartbeat", 4)?,
            report: event(program, "report", 5)?,
            received: event(program, "received", 4)?,
            decided: event(program, "decided", 2)?,
            configure: event(program, "configure", 5)?,
            be: event(program, "be", 2)?,
            truncate: event(program, "truncate", 1)?,
            space: event(program, "space", 1)?,
            confirm: event(program, "confirm", 1)?,
            state: event(program, "state", 2)?,
            quits: event(program, "quits", 1)?,
        })
    }
}

/// What the rules tell the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The value of a slot is known.
    Chosen,
    /// This NameNode begins to govern.
    Begins,
    /// It governs, with a lease; or no more.
    Leads,
    /// It led for certain, and when.
    Confirmed,
    /// How many more slots it may open.
    Room,
    /// What is to be stored must be refused: its disk is full, and nobody takes its place.
    Refuses,
    /// Who leads.
    Follows,
    /// Another has slots that this one can only have as a whole.
    Behind,
    /// The other NameNodes.
    Neighbours,
    /// Its state is not the leader's.
    Differs,
}

/// The events that tell the shell something.
#[derive(Clone, Debug)]
pub struct Observed(Vec<(RelId, Said)>);

impl Observed {
    /// Finds them and checks their numbers of columns.
    ///
    /// # Errors
    /// [`Misfit`] names what is missing.
    pub fn find(program: &Program) -> Result<Observed, Misfit> {
        let all = [
            ("chosen", 2, Said::Chosen),
            ("begins", 1, Said::Begins),
            ("leads", 2, Said::Leads),
            ("confirmed", 2, Said::Confirmed),
            ("room", 1, Said::Room),
            ("refuses", 1, Said::Refuses),
            ("follows", 1, Said::Follows),
            ("behind", 2, Said::Behind),
            ("neighbours", 1, Said::Neighbours),
            ("differs", 3, Said::Differs),
        ];
        let one = |(name, columns, said)| Ok((event(program, name, columns)?, said));
        all.into_iter()
            .map(one)
            .collect::<Result<_, Misfit>>()
            .map(Observed)
    }

    /// The events.
    pub fn all(&self) -> Vec<RelId> {
        self.0.iter().map(|(rel, _)| *rel).collect()
    }

    /// What a row of this event tells.
    pub fn get(&self, rel: RelId) -> Option<Said> {
        self.0
            .iter()
            .find(|(r, _)| *r == rel)
            .map(|(_, said)| *said)
    }
}

/// The messages that one NameNode's rules send to another's.
#[derive(Clone, Debug)]
pub struct PeerEvents(Vec<RelId>);

impl PeerEvents {
    /// Finds them.
    ///
    /// # Errors
    /// [`Misfit`] names what is missing.
    pub fn find(program: &Program) -> Result<PeerEvents, Misfit> {
        let all = [
            ("prepare", 5),
            ("promise", 5),
            ("outbid", 2),
            ("accept", 6),
            ("vote", 4),
            ("alive", 5),
            ("alive_ack", 6),
            ("fetch", 3),
            ("catch_up", 4),
            ("too_far", 3),
            ("take_over", 2),
            ("same_state", 3),
        ];
        let one = |(name, columns)| event(program, name, columns);
        all.into_iter()
            .map(one)
            .collect::<Result<_, Misfit>>()
            .map(PeerEvents)
    }

    /// The event of this number, if it is such a message.
    pub fn get(&self, event: u32) -> Option<RelId> {
        self.0.iter().copied().find(|rel| rel.0 == event)
    }
}

/// The timers of a program: event and period, ns.
pub fn timers(program: &Program) -> Vec<(RelId, i64)> {
    let timer = |(i, kind): (usize, &RelKind)| match kind {
        RelKind::Event { timer_ns: Some(ns) } => {
            Some((RelId(u32::try_from(i).ok()?), (*ns).max(1)))
        }
        _ => None,
    };
    program
        .relations
        .iter()
        .map(|r| &r.kind)
        .enumerate()
        .filter_map(timer)
        .collect()
}

pub(crate) fn event(program: &Program, name: &str, columns: usize) -> Result<RelId, Misfit> {
    let id = program
        .find(name)
        .ok_or_else(|| Misfit(format!("there is no event {name}")))?;
    let relation = program.relation(id);
    if !relation.is_event() {
        return Err(Misfit(format!("{name} is no event")));
    }
    if relation.columns.len() != columns {
        let got = relation.columns.len();
        return Err(Misfit(format!(
            "event {name} has {got} columns, this NameNode knows it with {columns}"
        )));
    }
    Ok(id)
}
