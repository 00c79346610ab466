//! Each table as a dataflow of its own: one input, and an arrangement for each column order that rules use.

use crate::engine::plan::{IndexDef, IndexId, Indexes};
use crate::engine::spine::{Diff, RowArranged, RowBatcher, RowSpine, RowTrace, Tick, Update};
use crate::ir::{RelId, Relation, Type};
use crate::packed::{self, Row};
use differential_dataflow::batcher::merge::MergeBatcher;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::{AsCollection, VecCollection};
use std::collections::BTreeMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::core::input::{Handle, Input};
use timely::dataflow::operators::vec::Map;
use timely::progress::Timestamp;
use timely::worker::Worker;

/// Rows with times and multiplicities inside a dataflow.
pub type Rows<'scope, T> = VecCollection<'scope, T, Row, Diff>;
type RowInput = Handle<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>>;

/// A table's dataflow.
pub struct TableFlow {
    input: RowInput,
    probe: ProbeHandle<Tick>,
    now: Tick,
}

impl TableFlow {
    /// Installs the dataflow of a table; gives the traces of its arrangements.
    pub fn install(
        worker: &mut Worker,
        rel: RelId,
        indexes: &Indexes,
    ) -> (TableFlow, BTreeMap<IndexId, RowTrace<Tick>>) {
        let probe = ProbeHandle::new();
        let (input, traces) = worker.dataflow(|scope| {
            let (input, stream) = scope.new_input();
            let rows: Rows<'_, Tick> = stream.as_collection();
            let mut traces = BTreeMap::new();
            for id in indexes.of(rel) {
                let arranged = arrange_by(rows.clone(), indexes.get(*id));
                arranged.stream.probe_with(&probe);
                traces.insert(*id, arranged.trace);
            }
            (input, traces)
        });
        (
            TableFlow {
                input,
                probe,
                now: 0,
            },
            traces,
        )
    }

    /// Gives a change at a time.
    pub fn send(&mut self, row: Row, now: Tick, diff: Diff) {
        self.input.send((row, now, diff));
    }

    /// Says that nothing more comes before `now`.
    pub fn advance(&mut self, now: Tick) {
        if self.now < now {
            self.now = now;
            self.input.advance_to(now);
        }
    }

    /// All changes before `now` are in the arrangements?
    pub fn done(&self, now: Tick) -> bool {
        !self.probe.less_than(&now)
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
    if order.iter().enumerate().all(|(i, c)| i == *c) {
        let mut split = 0;
        for _ in 0..key_columns {
            split += packed::skip(bytes.get(split..).unwrap_or_default());
        }
        let (key, val) = bytes.split_at(split.min(bytes.len()));
        return (Row::from_bytes(key.to_vec()), Row::from_bytes(val.to_vec()));
    }
    let columns = columns_of(bytes);
    let (head, tail) = order.split_at(key_columns.min(order.len()));
    (gather(&columns, head), gather(&columns, tail))
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
    if order.iter().enumerate().all(|(i, c)| i == *c) {
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
