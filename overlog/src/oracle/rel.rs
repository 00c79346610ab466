//! Rows of one relation, as a sorted set.

use crate::ir::RelId;
use crate::value::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A row.
pub(super) type Tuple = Rc<[Value]>;

/// Rows that hold, by relation.
pub(super) type World = Vec<Rc<Rel>>;

type Index = BTreeMap<Vec<Value>, Vec<Tuple>>;

/// A set of rows that does not change.
#[derive(Default)]
pub(super) struct Rel {
    pub(super) rows: BTreeSet<Tuple>,
    /// Rows by the values of some columns, made when first asked for: a memo of scans, nothing more.
    memo: RefCell<BTreeMap<Vec<usize>, Rc<Index>>>,
}

impl Rel {
    pub(super) fn new(rows: BTreeSet<Tuple>) -> Rc<Rel> {
        Rc::new(Rel {
            rows,
            memo: RefCell::default(),
        })
    }

    /// Rows that have these values in these columns (ascending).
    pub(super) fn matching(&self, columns: &[usize], values: &[Value]) -> Vec<Tuple> {
        if columns.is_empty() {
            return self.rows.iter().cloned().collect();
        }
        let known = self.memo.borrow().get(columns).cloned();
        let index = known.unwrap_or_else(|| {
            let mut index = Index::new();
            for row in &self.rows {
                index
                    .entry(project(row, columns))
                    .or_default()
                    .push(row.clone());
            }
            let index = Rc::new(index);
            self.memo
                .borrow_mut()
                .insert(columns.to_vec(), index.clone());
            index
        });
        index.get(values).cloned().unwrap_or_default()
    }
}

/// The values of some columns.
pub(super) fn project(row: &[Value], columns: &[usize]) -> Vec<Value> {
    columns
        .iter()
        .filter_map(|c| row.get(*c).cloned())
        .collect()
}

/// The relation's rows.
pub(super) fn rel(world: &World, id: RelId) -> &Rel {
    #[allow(clippy::indexing_slicing)] // a world has an entry for each relation of the program
    &world[id.0 as usize]
}

/// Replaces the relation's rows.
pub(super) fn put(world: &mut World, id: RelId, rows: BTreeSet<Tuple>) {
    if let Some(slot) = world.get_mut(id.0 as usize) {
        *slot = Rel::new(rows);
    }
}
