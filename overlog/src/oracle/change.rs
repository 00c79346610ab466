//! The end of a tick: deletions, then insertions, then updates of one table.

use super::agg::sum;
use super::head::{Cell, Errors};
use super::rel::{Tuple, project};
use crate::ir::{Lattice, RelId, Relation};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the rules of a tick ask of one table.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) deletes: Vec<Vec<Cell>>,
    pub(super) inserts: BTreeSet<Tuple>,
    /// With the names of their rules.
    pub(super) updates: Vec<(String, Vec<Cell>)>,
}

/// What is asked for, by table.
pub(super) type AllWanted = BTreeMap<RelId, Wanted>;

/// Table, winner, loser.
pub(super) type Conflicts = BTreeSet<(String, Vec<Value>, Vec<Value>)>;

type ByKey = BTreeMap<Vec<Value>, Vec<Value>>;

/// The table's rows after the tick.
pub(super) fn apply(
    relation: &Relation,
    stored: &BTreeSet<Tuple>,
    wanted: &Wanted,
    conflicts: &mut Conflicts,
    errors: &mut Errors,
) -> BTreeSet<Tuple> {
    let deleted = |row: &Tuple| wanted.deletes.iter().any(|pattern| matches(pattern, row));
    let kept = stored.iter().filter(|row| !deleted(row));
    let mut rows: ByKey = kept
        .map(|row| (project(row, &relation.keys), row.to_vec()))
        .collect();
    insert(relation, &wanted.inserts, &mut rows, conflicts);
    update(relation, &wanted.updates, &mut rows, conflicts, errors);
    rows.into_values().map(Tuple::from).collect()
}

fn matches(pattern: &[Cell], row: &[Value]) -> bool {
    pattern.iter().zip(row).all(|(cell, value)| match cell {
        Cell::Is(v) => v == value,
        Cell::Any | Cell::Add(_) => true,
    })
}

fn insert(
    relation: &Relation,
    inserts: &BTreeSet<Tuple>,
    rows: &mut ByKey,
    conflicts: &mut Conflicts,
) {
    if relation.has_lattice() {
        merge_rows(relation, inserts.iter(), rows);
        return;
    }
    let mut winners: BTreeMap<Vec<Value>, &Tuple> = BTreeMap::new();
    // Ascending, so that the last one is the greatest.
    for row in inserts {
        winners.insert(project(row, &relation.keys), row);
    }
    for row in inserts {
        if let Some(winner) = winners.get(&project(row, &relation.keys))
            && *winner != row
        {
            conflicts.insert((relation.name.clone(), winner.to_vec(), row.to_vec()));
        }
    }
    rows.extend(winners.into_iter().map(|(key, row)| (key, row.to_vec())));
}

/// Merges rows into those with their keys, column by column.
pub(super) fn merge_rows<'a>(
    relation: &Relation,
    more: impl Iterator<Item = &'a Tuple>,
    rows: &mut ByKey,
) {
    for row in more {
        let key = project(row, &relation.keys);
        let old = rows.get(&key).cloned().unwrap_or_else(|| row.to_vec());
        let columns = relation.columns.iter().zip(old).zip(row.iter());
        let merged = columns.map(|((column, a), b)| match column.lattice {
            Some(lattice) => merge(lattice, &a, b),
            None => a,
        });
        let merged = merged.collect();
        rows.insert(key, merged);
    }
}

fn merge(lattice: Lattice, a: &Value, b: &Value) -> Value {
    match lattice {
        Lattice::Max => a.max(b).clone(),
        Lattice::Min => a.min(b).clone(),
        Lattice::Or => Value::Bool(*a == Value::Bool(true) || *b == Value::Bool(true)),
        Lattice::And => Value::Bool(*a == Value::Bool(true) && *b == Value::Bool(true)),
        Lattice::Set => {
            let items = a
                .as_list()
                .unwrap_or_default()
                .iter()
                .chain(b.as_list().unwrap_or_default());
            Value::list(
                items
                    .cloned()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>(),
            )
        }
    }
}

/// What is to become of one column of one row.
#[derive(Default)]
struct ColumnUpdate {
    values: BTreeSet<Value>,
    added: Vec<Value>,
    adders: BTreeSet<String>,
}

fn update(
    relation: &Relation,
    updates: &[(String, Vec<Cell>)],
    rows: &mut ByKey,
    conflicts: &mut Conflicts,
    errors: &mut Errors,
) {
    let mut by_cell: BTreeMap<(Vec<Value>, usize), ColumnUpdate> = BTreeMap::new();
    for (rule, cells) in updates {
        let key: Vec<Value> = relation
            .keys
            .iter()
            .filter_map(|k| is(cells.get(*k)?))
            .collect();
        for (c, cell) in cells
            .iter()
            .enumerate()
            .filter(|(c, _)| !relation.keys.contains(c))
        {
            let entry = by_cell.entry((key.clone(), c)).or_default();
            match cell {
                Cell::Is(v) => {
                    entry.values.insert(v.clone());
                }
                Cell::Add(v) => {
                    entry.added.push(v.clone());
                    entry.adders.insert(rule.clone());
                }
                Cell::Any => {}
            }
        }
    }
    for ((key, c), wanted) in by_cell {
        let lattice = relation.columns.get(c).and_then(|column| column.lattice);
        let Some(slot) = rows.get_mut(&key).and_then(|row| row.get_mut(c)) else {
            continue;
        };
        match (lattice, wanted.values.last()) {
            (_, None) => {}
            (Some(lattice), Some(_)) => {
                *slot = wanted
                    .values
                    .iter()
                    .fold(slot.clone(), |a, b| merge(lattice, &a, b))
            }
            (None, Some(greatest)) => {
                *slot = greatest.clone();
                for loser in wanted.values.iter().filter(|v| *v != greatest) {
                    let side = |v: &Value| key.iter().chain([v]).cloned().collect::<Vec<_>>();
                    conflicts.insert((relation.name.clone(), side(greatest), side(loser)));
                }
            }
        }
        if wanted.added.is_empty() {
            continue;
        }
        let old = slot.clone();
        match sum(&wanted.added.iter().chain([&old]).collect::<Vec<_>>()) {
            Ok(total) => *slot = total,
            Err(why) => errors.extend(wanted.adders.into_iter().map(|rule| (rule, why.clone()))),
        }
    }
}

fn is(cell: &Cell) -> Option<Value> {
    match cell {
        Cell::Is(v) => Some(v.clone()),
        Cell::Any | Cell::Add(_) => None,
    }
}
