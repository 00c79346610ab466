//! Tables: an arrangement for each column order that rules use, which the dataflows of views import.

use crate::engine::index::Recent;
use crate::engine::plan::{IndexDef, IndexId, Indexes};
use crate::engine::spine::{
    Diff, RowArranged, RowBatcher, RowBuilder, RowSpine, RowTrace, Tick, Update,
};
use crate::engine::state::Delta;
use crate::ir::{RelId, Relation, Type};
use crate::packed::{self, Row};
use differential_dataflow::batcher::merge::{MergeBatcher, Sealer};
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::TraceWriter;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::{Description, Span, Trace};
use differential_dataflow::{AsCollection, VecCollection};
use std::collections::BTreeMap;
use std::rc::Rc;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OperatorInfo;
use timely::dataflow::operators::vec::Map;
use timely::progress::{Antichain, Stamp, Timestamp};

/// Rows with times and multiplicities inside a dataflow.
pub type Rows<'scope, T> = VecCollection<'scope, T, Row, Diff>;

/// An arrangement of a table: rows go straight into its trace, and so to the views that import it.
/// An operator that arranges would give the same batches, at the price of its dataflow's progress
/// tracking for each table in each tick.
struct Arrangement {
    id: IndexId,
    order: Vec<usize>,
    key_columns: usize,
    writer: TraceWriter<RowSpine<Tick>>,
}

/// A table: an arrangement for each column order that rules use. A batch for each tick would cost more
/// than all the rest of a small tick, so changes are kept by until they are many or a view needs them.
pub struct TableWriter {
    arrangements: Vec<Arrangement>,
    now: Tick,
}

impl TableWriter {
    /// An empty table; gives the traces of its arrangements, too.
    pub fn new(rel: RelId, indexes: &Indexes) -> (TableWriter, BTreeMap<IndexId, RowTrace<Tick>>) {
        let mut traces = BTreeMap::new();
        let mut arrangements = Vec::new();
        for id in indexes.of(rel) {
            let def = indexes.get(*id);
            let info = || OperatorInfo::new(id.0, id.0, Rc::from([id.0]));
            let (trace, writer) = RowTrace::new(RowSpine::new(info(), None, None), info(), None);
            traces.insert(*id, trace);
            arrangements.push(Arrangement {
                id: *id,
                order: def.order.clone(),
                key_columns: def.key_columns,
                writer,
            });
        }
        let flow = TableWriter {
            arrangements,
            now: 0,
        };
        (flow, traces)
    }

    /// Adds rows that came or went to the recent changes of its arrangements, and gives how many an
    /// arrangement then has.
    pub fn keep(&self, changes: &[Delta], recent: &mut [Rc<Recent>]) -> usize {
        let mut most = 0;
        for arrangement in &self.arrangements {
            if let Some(recent) = recent.get_mut(arrangement.id.0) {
                let pairs = changes.iter().map(|(_, row, came)| {
                    let pair = permute(row, &arrangement.order, arrangement.key_columns);
                    (pair, if *came { 1 } else { -1 })
                });
                let recent = Rc::make_mut(recent);
                recent.extend(pairs);
                most = most.max(recent.rows());
            }
        }
        most
    }

    /// Brings the traces up to `now`: recent changes happened just before.
    pub fn advance(&mut self, now: Tick, recent: &mut [Rc<Recent>]) {
        if self.now >= now {
            return;
        }
        for arrangement in &mut self.arrangements {
            if let Some(recent) = recent.get_mut(arrangement.id.0) {
                arrangement.advance(Rc::make_mut(recent).take(), self.now, now);
            }
        }
        self.now = now;
    }
}

impl Arrangement {
    fn advance(&mut self, changes: Vec<((Row, Row), Diff)>, from: Tick, to: Tick) {
        let (lower, upper) = (Antichain::from_elem(from), Antichain::from_elem(to));
        let time = to - 1;
        let updates: Vec<Update<Tick>> = changes.into_iter().map(|(p, d)| (p, time, d)).collect();
        match RowBuilder::seal(&mut vec![updates]) {
            Some(batch) => {
                let since = Antichain::from_elem(Tick::minimum());
                let span = Span::new(Description::new(lower, upper, since), Some(Rc::new(batch)));
                self.writer.insert(span, Stamp::from_elem(time));
            }
            None => self.writer.seal(upper),
        }
    }
}

/// Arranges rows in an index's column order.
pub fn arrange_by<'scope, T: Timestamp + Lattice>(
    rows: Rows<'scope, T>,
    def: &IndexDef,
) -> RowArranged<'scope, T> {
    let order = def.order.clone();
    let key_columns = def.key_columns;
    arrange_pairs(
        rows.inner
            .map(move |(row, time, diff)| (permute(&row, &order, key_columns), time, diff))
            .as_collection(),
    )
}

/// Arranges pairs of key and value.
pub fn arrange_pairs<'scope, T: Timestamp + Lattice, R: Semigroup + Ord + 'static>(
    pairs: VecCollection<'scope, T, (Row, Row), R>,
) -> RowArranged<'scope, T, R> {
    arrange_core::<_, Vec<Update<T, R>>, RowBatcher<T, R>, RowSpine<T, R>>(
        pairs.inner,
        Pipeline,
        "Arrange",
        MergeBatcher::new,
    )
}

/// Splits a row into the key and value of a column order.
pub fn permute(row: &Row, order: &[usize], key_columns: usize) -> (Row, Row) {
    let bytes = row.as_bytes();
    if is_own(order) {
        let (key, val) = bytes.split_at(end_of(bytes, key_columns));
        return (Row::from_bytes(key.to_vec()), Row::from_bytes(val.to_vec()));
    }
    let columns = columns_of(bytes);
    let (head, tail) = order.split_at(key_columns.min(order.len()));
    (gather(&columns, head), gather(&columns, tail))
}

/// The key of [`permute`] alone.
pub fn key_of(row: &Row, order: &[usize], key_columns: usize) -> Row {
    let bytes = row.as_bytes();
    let key = order.get(..key_columns).unwrap_or(order);
    if is_own(key) {
        let (key, _) = bytes.split_at(end_of(bytes, key_columns));
        return Row::from_bytes(key.to_vec());
    }
    gather(&columns_of(bytes), key)
}

/// Is it the order that the columns have anyway?
fn is_own(order: &[usize]) -> bool {
    order.iter().enumerate().all(|(i, c)| i == *c)
}

/// Where so many columns of a row end.
fn end_of(bytes: &[u8], columns: usize) -> usize {
    let mut end = 0;
    for _ in 0..columns {
        end += packed::skip(bytes.get(end..).unwrap_or_default());
    }
    end.min(bytes.len())
}

fn gather(columns: &[&[u8]], order: &[usize]) -> Row {
    let length = order
        .iter()
        .filter_map(|c| columns.get(*c))
        .map(|c| c.len())
        .sum();
    let mut out = Vec::with_capacity(length);
    order
        .iter()
        .filter_map(|c| columns.get(*c))
        .for_each(|c| out.extend_from_slice(c));
    Row::from_bytes(out)
}

/// The packed values of a row.
pub fn columns_of(bytes: &[u8]) -> Vec<&[u8]> {
    let mut columns = Vec::with_capacity(16);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (value, after) = packed::split_first(rest);
        if value.is_empty() {
            break;
        }
        columns.push(value);
        rest = after;
    }
    columns
}

/// Puts a row of an arrangement back into the relation's own column order.
pub fn restore_order(key: &[u8], val: &[u8], order: &[usize]) -> Row {
    let mut out = Vec::with_capacity(key.len() + val.len());
    if is_own(order) {
        out.extend_from_slice(key);
        out.extend_from_slice(val);
        return Row::from_bytes(out);
    }
    let mut columns = columns_of(key);
    columns.extend(columns_of(val));
    for column in 0..order.len() {
        if let Some(value) = order
            .iter()
            .position(|c| *c == column)
            .and_then(|at| columns.get(at))
        {
            out.extend_from_slice(value);
        }
    }
    Row::from_bytes(out)
}

/// Why a packed value does not fit its column: expressions over `any` are known only when a rule runs.
///
/// # Errors
/// It does not.
pub fn check_column(relation: &Relation, column: usize, value: &[u8]) -> Result<(), String> {
    let Some(declared) = relation.columns.get(column) else {
        return Ok(());
    };
    if declared.ty == Type::Any || packed::type_of(value) == Some(declared.ty) {
        return Ok(());
    }
    let value = packed::unpack(value, 0)
        .map(|(v, _)| v.to_string())
        .unwrap_or_default();
    Err(format!(
        "{}: column {} is {}, the value is {value}",
        relation.name,
        declared.name,
        declared.ty.name()
    ))
}

/// The same of all columns of a row.
///
/// # Errors
/// One does not fit.
pub fn check_row(relation: &Relation, row: &[u8]) -> Result<(), String> {
    let mut rest = row;
    for column in 0..relation.columns.len() {
        let (value, after) = packed::split_first(rest);
        check_column(relation, column, value)?;
        rest = after;
    }
    Ok(())
}
