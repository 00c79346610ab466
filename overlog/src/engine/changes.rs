//! The end of a tick: deletions, then insertions, then updates of each table, key by key.

use crate::engine::tables::{columns_of, key_of};
use crate::engine::views::merge_value;
use crate::ir::{RelId, Relation};
use crate::oracle::exact::ExactSum;
use crate::packed::{self, Row};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A new value of a column, or an amount to add to it.
#[derive(Clone, Debug)]
pub struct Set {
    /// The column.
    pub column: usize,
    /// `+=`.
    pub add: bool,
    /// The packed value.
    pub value: Vec<u8>,
    /// The rule that asks for it.
    pub rule: usize,
}

/// What a tick's rules ask of one row.
#[derive(Default)]
struct KeyChange {
    deleted: bool,
    inserts: Vec<Row>,
    sets: Vec<Set>,
}

/// What a tick's rules ask of the tables, by table and key.
#[derive(Default)]
pub struct Changes {
    tables: BTreeMap<RelId, BTreeMap<Row, KeyChange>>,
}

/// What became of it.
#[derive(Default)]
pub struct Applied {
    /// Changed rows: table, row, came or went.
    pub deltas: Vec<(RelId, Row, bool)>,
    /// Table, winner, loser.
    pub conflicts: BTreeSet<(RelId, Row, Row)>,
    /// Rule and message.
    pub errors: BTreeSet<(usize, String)>,
}

impl Changes {
    /// True if nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    fn key(&mut self, rel: RelId, key: Row) -> &mut KeyChange {
        self.tables.entry(rel).or_default().entry(key).or_default()
    }

    /// Asks for a row. `order` is the primary arrangement's, `keys` the number of its key columns.
    pub fn insert(&mut self, rel: RelId, row: Row, order: &[usize], keys: usize) {
        let key = key_of(&row, order, keys);
        self.key(rel, key).inserts.push(row);
    }

    /// Asks to delete a stored row.
    pub fn delete(&mut self, rel: RelId, row: &Row, order: &[usize], keys: usize) {
        let key = key_of(row, order, keys);
        self.delete_key(rel, key);
    }

    /// The same of the row with a key, if there is one.
    pub fn delete_key(&mut self, rel: RelId, key: Row) {
        self.key(rel, key).deleted = true;
    }

    /// Asks to change columns of the row with a key, given in the primary arrangement's order.
    pub fn update(&mut self, rel: RelId, key: Row, sets: Vec<Set>) {
        self.key(rel, key).sets.extend(sets);
    }

    /// Works out the changed rows. `stored` finds the row with a key.
    pub fn apply<'a>(
        self,
        relation: impl Fn(RelId) -> &'a Relation,
        mut stored: impl FnMut(RelId, &Row) -> Option<Row>,
    ) -> Applied {
        let mut applied = Applied::default();
        for (rel, keys) in self.tables {
            let relation = relation(rel);
            for (key, change) in keys {
                let old = stored(rel, &key);
                let kept = if change.deleted { None } else { old.clone() };
                let inserted = insert(rel, relation, kept, change.inserts, &mut applied);
                let new =
                    inserted.map(|row| update(rel, relation, row, &change.sets, &mut applied));
                if old != new {
                    applied.deltas.extend(old.map(|row| (rel, row, false)));
                    applied.deltas.extend(new.map(|row| (rel, row, true)));
                }
            }
        }
        applied
    }
}

fn insert(
    rel: RelId,
    relation: &Relation,
    kept: Option<Row>,
    mut inserts: Vec<Row>,
    applied: &mut Applied,
) -> Option<Row> {
    inserts.sort_unstable();
    inserts.dedup();
    if relation.has_lattice() {
        let mut rows = kept.into_iter().chain(inserts);
        let first = rows.next()?;
        // With itself: a set is sorted and without repeats.
        let first = merge(relation, &first, &first);
        return Some(rows.fold(first, |a, b| merge(relation, &a, &b)));
    }
    let Some(winner) = inserts.pop() else {
        return kept;
    };
    for loser in inserts {
        applied.conflicts.insert((rel, winner.clone(), loser));
    }
    Some(winner)
}

fn merge(relation: &Relation, a: &Row, b: &Row) -> Row {
    let mut out = Vec::new();
    let (a, b) = (columns_of(a.as_bytes()), columns_of(b.as_bytes()));
    for ((x, y), column) in a.iter().zip(&b).zip(&relation.columns) {
        let mut value = x.to_vec();
        if let Some(lattice) = column.lattice {
            merge_value(&mut value, y, lattice);
        }
        out.extend_from_slice(&value);
    }
    Row::from_bytes(out)
}

fn update(rel: RelId, relation: &Relation, row: Row, sets: &[Set], applied: &mut Applied) -> Row {
    if sets.is_empty() {
        return row;
    }
    let mut columns: Vec<Vec<u8>> = columns_of(row.as_bytes())
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    let key: Vec<u8> = relation
        .keys
        .iter()
        .filter_map(|k| columns.get(*k))
        .flatten()
        .copied()
        .collect();
    for (c, declared) in relation.columns.iter().enumerate() {
        let Some(value) = columns.get_mut(c) else {
            continue;
        };
        let here = || sets.iter().filter(|s| s.column == c);
        let values: BTreeSet<&Vec<u8>> = here().filter(|s| !s.add).map(|s| &s.value).collect();
        if let Some(greatest) = values.last() {
            match declared.lattice {
                Some(lattice) => values.iter().for_each(|v| merge_value(value, v, lattice)),
                None => {
                    value.clone_from(greatest);
                    let side = |v: &[u8]| Row::from_bytes([key.as_slice(), v].concat());
                    for loser in values.iter().filter(|v| *v != greatest) {
                        applied.conflicts.insert((rel, side(greatest), side(loser)));
                    }
                }
            }
        }
        if here().any(|s| s.add) {
            match total(value, here().filter(|s| s.add)) {
                Ok(sum) => *value = sum,
                Err(message) => {
                    applied
                        .errors
                        .extend(here().filter(|s| s.add).map(|s| (s.rule, message.clone())));
                }
            }
        }
    }
    Row::from_bytes(columns.concat())
}

/// The stored value and all amounts, added up exactly.
fn total<'a>(value: &[u8], sets: impl Iterator<Item = &'a Set>) -> Result<Vec<u8>, String> {
    let mut ints = 0_i128;
    let mut floats: Option<ExactSum> = None;
    let mut any_int = false;
    for bytes in std::iter::once(value).chain(sets.map(|s| s.value.as_slice())) {
        match packed::unpack(bytes, 0) {
            Some((Value::Int(i), _)) => {
                ints += i128::from(i);
                any_int = true;
            }
            Some((Value::Float(x), _)) => floats.get_or_insert_with(ExactSum::default).add(x),
            _ => return Err("+= of what is no number".to_string()),
        }
    }
    let sum = match floats {
        Some(_) if any_int => return Err("ints and floats do not add".to_string()),
        Some(f) => Value::float(f.round()),
        None => Value::Int(i64::try_from(ints).map_err(|_| "+= does not fit 64 bits")?),
    };
    let mut out = Vec::new();
    packed::pack(&sum, &mut out);
    Ok(out)
}
