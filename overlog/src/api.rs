//! What goes into a node and what comes out of it. The engine and the oracle share these types.

use crate::ir::{Program, RelId, Relation, Type};
use crate::packed::{self, Row};
use crate::value::Value;

/// The time of a run, given by the host; the same in all its ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Wall clock, ns since the epoch.
    pub wall_ns: i64,
    /// Monotonic clock, ns.
    pub mono_ns: i64,
}

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's address: what a location column must hold to mean this node.
    pub me: Value,
    /// Events whose rows the host wants in [`Output::observed`].
    pub observe: Vec<RelId>,
    /// Put changes of replicated tables into [`Output::changes`] too. A host that has them in a log does not need them.
    pub replicated_changes: bool,
    /// Most ticks in a run.
    pub max_ticks: u64,
    /// Most rows that the events of one tick may derive.
    pub max_rows: u64,
    /// Changed rows of a table that wait to become a batch of its arrangements. It is a matter of speed alone.
    pub recent_rows: usize,
}

impl Options {
    /// Defaults: 1,000 ticks, 10 million rows, 512 recent rows.
    pub fn new(me: Value) -> Options {
        Options {
            me,
            observe: Vec::new(),
            replicated_changes: true,
            max_ticks: 1_000,
            max_rows: 10_000_000,
            recent_rows: 512,
        }
    }
}

/// A row of a durable table that came or went: the net change of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The table: local or replicated, never volatile.
    pub rel: RelId,
    /// The row.
    pub row: Row,
    /// It came, or else it went.
    pub insert: bool,
}

/// A message to another node (one to this node is delivered in the next tick and not shown here).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// The address in the location column.
    pub to: Value,
    /// The event.
    pub rel: RelId,
    /// The row, location column included.
    pub row: Row,
}

/// What a run did. All lists are in the order of the ticks, and sorted within a tick;
/// `changes` is the net change of the whole run, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Counts the runs of this node since its start, from 1.
    pub run: u64,
    /// How many ticks it had.
    pub ticks: u64,
    /// Net changes of durable tables: store them before anything else leaves.
    pub changes: Vec<Change>,
    /// Messages.
    pub messages: Vec<Message>,
    /// Rows of the events in [`Options::observe`], by tick.
    pub observed: Vec<(RelId, Row)>,
    /// Lines of `watch`.
    pub watch: Vec<String>,
    /// Rows of `sys_error(Rule, Message)`.
    pub errors: Vec<(String, String)>,
    /// Rows of `sys_conflict`: table, winner, loser.
    pub conflicts: Vec<(String, Row, Row)>,
    /// Rows of invariants that hold now and did not at the last rest, and of invariants with events: name, row.
    pub violations: Vec<(String, Row)>,
}

/// Why a run had no effect, or a node cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// An input row does not fit its event.
    #[error("input for {event}: {reason}")]
    Input {
        /// The event.
        event: String,
        /// What does not fit.
        reason: String,
    },
    /// A limit of [`Options`] was passed; the run had no effect.
    #[error("run dropped: more than {limit}; the rules that kept it going: {rules}")]
    Limit {
        /// Which limit.
        limit: String,
        /// Names of rules.
        rules: String,
    },
    /// The program uses something that cannot be planned.
    #[error("rule {rule}: {reason}")]
    Plan {
        /// The rule.
        rule: String,
        /// Why.
        reason: String,
    },
}

/// Checks a row from the host against a relation.
pub fn check_input(program: &Program, rel: RelId, row: &Row) -> Result<(), RunError> {
    let relation = program.relation(rel);
    if fits(relation, row) {
        return Ok(());
    }
    let values = row.values();
    let fail = |reason: String| {
        Err(RunError::Input {
            event: relation.name.clone(),
            reason,
        })
    };
    if values.len() != relation.columns.len() {
        return fail(format!(
            "{} values for {} columns",
            values.len(),
            relation.columns.len()
        ));
    }
    for (v, c) in values.iter().zip(&relation.columns) {
        if !c.ty.admits(v) {
            return fail(format!(
                "column {} is {}, the value is {v}",
                c.name,
                c.ty.name()
            ));
        }
    }
    Ok(())
}

/// One packed value of the right type for each column.
fn fits(relation: &Relation, row: &Row) -> bool {
    let mut rest = row.as_bytes();
    let all = relation.columns.iter().all(|column| {
        let (value, after) = packed::split_first(rest);
        rest = after;
        let ty = packed::type_of(value);
        ty.is_some() && (column.ty == Type::Any || ty == Some(column.ty))
    });
    all && rest.is_empty()
}
