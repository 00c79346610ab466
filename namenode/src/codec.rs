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

/// A connection, as the rules see it: the address `c17`.
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
        let mut n: u64 = 0;
        for d in digits {
            n = n
                .checked_mul(10)?
                .checked_add(u64::from(d.checked_sub(b'0').filter(|d| *d < 10)?))?;
        }
        (!digits.is_empty()).then_some(ConnId(n))
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
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
    /// The defaults of a new cluster, once at each start.
    pub configure: RelId,
    /// A batch that the rules want decided.
    pub propose: RelId,
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
            configure: event(program, "configure", 2)?,
            propose: event(program, "propose", 1)?,
        })
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
