//! Rules of kept views as operators: a view is the union of its rules, a body a chain of joins and anti-joins on the
//! arrangements of what it reads.

use super::binding::{
    add, extend, fresh_columns, key_first, keyed, known_columns, owned, run_local, slot, slots_of,
    var,
};
use super::merge::merge_rows;
use super::{Sink, rules_of};
use crate::engine::plan::{IndexDef, IndexId, Indexes, order};
use crate::engine::spine::{Diff, RowArranged, RowBuilder, RowSpine};
use crate::engine::tables::{Rows, arrange_by, arrange_pairs, permute, restore_order};
use crate::functions::Function;
use crate::ir::{Atom, Lattice as Merge, Program, RelId, RelKind, Rule, Term, VarId};
use crate::packed::Row;
use differential_dataflow::AsCollection;
use differential_dataflow::lattice::Lattice;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use timely::dataflow::Scope;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::vec::{Map, ToStream};
use timely::progress::Timestamp;

/// The bindings of a body so far: packed values of the slots in `layout`.
pub(super) struct Bindings<'scope, T: Timestamp + Lattice> {
    pub(super) rows: Rows<'scope, T>,
    pub(super) layout: Vec<usize>,
}

pub(super) struct Builder<'a, 'scope, T: Timestamp + Lattice> {
    pub(super) scope: Scope<'scope, T>,
    pub(super) program: &'a Program,
    pub(super) indexes: &'a Indexes,
    /// Brings an arrangement into the dataflow: what nothing asks for costs nothing.
    pub(super) import: &'a mut Import<'scope, T>,
    pub(super) imported: BTreeMap<IndexId, RowArranged<'scope, T>>,
    pub(super) wholes: BTreeMap<RelId, Rows<'scope, T>>,
    pub(super) sink: Sink,
    pub(super) made: BTreeMap<(RelId, Vec<usize>), RowArranged<'scope, T>>,
}

pub(super) type Failed = (String, String);

/// Gives an arrangement from outside, if there is one.
pub(super) type Import<'scope, T> = dyn FnMut(IndexId) -> Option<RowArranged<'scope, T>> + 'scope;

impl<'scope, T: Timestamp + Lattice> Builder<'_, 'scope, T> {
    /// All rows of a view: the union of its rules and facts, each once; merged where it has lattice columns.
    pub(super) fn view(&mut self, rel: RelId) -> Result<Rows<'scope, T>, Failed> {
        let program = self.program;
        let facts: Vec<(Row, T, Diff)> = program
            .facts
            .iter()
            .filter(|f| f.rel == rel)
            .map(|f| (Row::new(&f.row), T::minimum(), 1))
            .collect();
        let mut parts = Vec::new();
        if !facts.is_empty() {
            parts.push(facts.to_stream(self.scope));
        }
        for rule in rules_of(program, &[rel]) {
            parts.push(self.rule(rule)?.inner);
        }
        let all = self.scope.concatenate(parts).as_collection();
        let relation = program.relation(rel);
        if relation.has_lattice() {
            let def = key_first(rel, &relation.keys, relation.columns.len());
            let merges: Vec<Option<Merge>> = def
                .order
                .iter()
                .skip(def.key_columns)
                .map(|c| relation.columns.get(*c).and_then(|x| x.lattice))
                .collect();
            let merged = arrange_by(all, &def)
                .reduce_abelian::<_, RowBuilder<T>, RowSpine<T>, _, _>(
                    "Merge",
                    move |_, vals, out| {
                        out.push((merge_rows(vals.iter().map(|(v, _)| *v), &merges), 1))
                    },
                    push_updates,
                );
            let order = def.order;
            return Ok(merged.as_collection(move |k, v| restore_order(k, v, &order)));
        }
        Ok(distinct(all))
    }

    fn rule(&mut self, rule: &Rule) -> Result<Rows<'scope, T>, Failed> {
        let terms: Vec<&Term> = rule.body.iter().collect();
        let unit = self.unit();
        let bindings = self.body(rule, &terms, unit)?;
        Ok(self.head(rule, bindings))
    }

    fn unit(&mut self) -> Bindings<'scope, T> {
        let one = vec![(Row::default(), T::minimum(), 1)]
            .to_stream(self.scope)
            .as_collection();
        Bindings {
            rows: one,
            layout: Vec::new(),
        }
    }

    pub(super) fn body(
        &mut self,
        rule: &Rule,
        terms: &[&Term],
        mut bindings: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        let bound: BTreeSet<VarId> = bindings.layout.iter().map(|s| var(*s)).collect();
        let ordered = order::order_terms(self.program, self.indexes, terms, &bound)
            .map_err(|reason| (rule.name.clone(), reason))?;
        for term in ordered {
            bindings = self.term(rule, term, bindings)?;
        }
        Ok(bindings)
    }

    fn term(
        &mut self,
        rule: &Rule,
        term: &Term,
        b: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        match term {
            Term::Atom(atom) => self.join(rule, atom, b),
            Term::Not(atom) => self.antijoin(rule, atom, b),
            Term::Agg {
                var,
                agg,
                body,
                outer,
            } => self.aggregate(rule, *var, agg, body, outer, b),
            Term::Test(_) | Term::Assign(..) | Term::Unnest { .. } => Ok(self.local(rule, term, b)),
        }
    }

    /// A term that needs only the binding.
    fn local(&self, rule: &Rule, term: &Term, b: Bindings<'scope, T>) -> Bindings<'scope, T> {
        let mut layout = b.layout.clone();
        let before = b.layout;
        let width = rule.vars.len();
        let functions: Rc<Vec<Function>> = Rc::new(self.program.functions.clone());
        let errors = Rc::clone(&self.sink.errors);
        let name = rule.name.clone();
        let term = term.clone();
        match &term {
            Term::Assign(v, _) => add(&mut layout, slot(*v)),
            Term::Unnest { pos, item, .. } => {
                pos.iter().for_each(|p| add(&mut layout, slot(*p)));
                add(&mut layout, slot(*item));
            }
            _ => {}
        }
        let after = layout.clone();
        let rows = b
            .rows
            .inner
            .flat_map(move |(row, time, diff)| {
                let mut results = Vec::new();
                let slots = slots_of(row.as_bytes(), &before, width);
                if let Err(error) = run_local(
                    &term,
                    &slots,
                    &functions,
                    &before,
                    &after,
                    &row,
                    &mut results,
                ) && diff > 0
                {
                    errors.borrow_mut().push((name.clone(), error.0));
                }
                results.into_iter().map(move |r| (r, time.clone(), diff))
            })
            .as_collection();
        Bindings { rows, layout }
    }

    /// The arrangement of a relation by these columns, and its column order.
    fn arranged(
        &mut self,
        rule: &Rule,
        rel: RelId,
        known: &BTreeSet<usize>,
    ) -> Result<(RowArranged<'scope, T>, IndexDef), Failed> {
        if let Some(id) = self.indexes.keyed(rel, known)
            && let Some(arranged) = self.imported(id)
        {
            return Ok((arranged, self.indexes.get(id).clone()));
        }
        let key: Vec<usize> = known.iter().copied().collect();
        let columns = self.program.relation(rel).columns.len();
        let def = key_first(rel, &key, columns);
        if let Some(arranged) = self.made.get(&(rel, key.clone())) {
            return Ok((arranged.clone(), def));
        }
        let rows = self.whole(rule, rel)?;
        let arranged = arrange_by(rows, &def);
        self.made.insert((rel, key), arranged.clone());
        Ok((arranged, def))
    }

    fn imported(&mut self, id: IndexId) -> Option<RowArranged<'scope, T>> {
        if let Some(arranged) = self.imported.get(&id) {
            return Some(arranged.clone());
        }
        let arranged = (self.import)(id)?;
        self.imported.insert(id, arranged.clone());
        Some(arranged)
    }

    fn whole(&mut self, rule: &Rule, rel: RelId) -> Result<Rows<'scope, T>, Failed> {
        if let Some(rows) = self.wholes.get(&rel) {
            return Ok(rows.clone());
        }
        let indexes = self.indexes;
        let rows = rows_of(rel, indexes, &mut |id| self.imported(id)).ok_or_else(|| {
            let name = &self.program.relation(rel).name;
            (
                rule.name.clone(),
                format!("a kept view cannot read {name}: it is not stored and not a kept view"),
            )
        })?;
        self.wholes.insert(rel, rows.clone());
        Ok(rows)
    }

    fn join(
        &mut self,
        rule: &Rule,
        atom: &Atom,
        b: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        let known = known_columns(atom, &b.layout);
        let (right, def) = self.arranged(rule, atom.rel, &known)?;
        let left = arrange_pairs(keyed(b.rows, &b.layout, rule.vars.len(), atom, &def));
        let mut layout = b.layout;
        let fresh = fresh_columns(atom, &def, &mut layout);
        let rows = left.join_core(right, move |_, binding, val| extend(binding, val, &fresh));
        Ok(Bindings { rows, layout })
    }

    fn antijoin(
        &mut self,
        rule: &Rule,
        atom: &Atom,
        b: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        let known = known_columns(atom, &b.layout);
        let relation = self.program.relation(atom.rel);
        let stored = matches!(relation.kind, RelKind::Table(_));
        let (present, def) = if stored && relation.keys.iter().all(|k| known.contains(k)) {
            // At most one row for each key: its arrangement is as good as one of the keys alone.
            self.arranged(rule, atom.rel, &known)?
        } else {
            let key: Vec<usize> = known.iter().copied().collect();
            let def = key_first(atom.rel, &key, relation.columns.len());
            let (columns, width) = (def.order.clone(), def.key_columns);
            let keys = self
                .whole(rule, atom.rel)?
                .map(move |row| permute(&row, &columns, width).0);
            let keys = arrange_pairs(distinct(keys).map(|k| (k, Row::default())));
            (keys, def)
        };
        let left = keyed(b.rows.clone(), &b.layout, rule.vars.len(), atom, &def);
        let hit = arrange_pairs(left).join_core(present, |_, binding, _| Some(owned(binding)));
        let rows = b.rows.concat(hit.negate());
        Ok(Bindings {
            rows,
            layout: b.layout,
        })
    }
}

/// All rows of what is stored, in its own column order.
pub(super) fn rows_of<'scope, T: Timestamp + Lattice>(
    rel: RelId,
    indexes: &Indexes,
    import: &mut dyn FnMut(IndexId) -> Option<RowArranged<'scope, T>>,
) -> Option<Rows<'scope, T>> {
    let id = *indexes.of(rel).first()?;
    let order = indexes.get(id).order.clone();
    let arranged = import(id)?;
    Some(arranged.as_collection(move |k, v| restore_order(k, v, &order)))
}

/// Each row once.
pub(super) fn distinct<'scope, T: Timestamp + Lattice>(rows: Rows<'scope, T>) -> Rows<'scope, T> {
    arrange_pairs(rows.map(|r| (r, Row::default())))
        .reduce_abelian::<_, RowBuilder<T>, RowSpine<T>, _, _>(
            "Distinct",
            |_, vals, out| {
                if vals.iter().any(|(_, n)| *n > 0) {
                    out.push((Row::default(), 1));
                }
            },
            push_updates,
        )
        .as_collection(|k, _| owned(k))
}

pub(super) fn push_updates<T: Clone>(
    buffer: &mut Vec<((Row, Row), T, Diff)>,
    key: &[u8],
    updates: &mut Vec<(Row, T, Diff)>,
) {
    buffer.clear();
    buffer.extend(updates.drain(..).map(|(v, t, d)| ((owned(key), v), t, d)));
}
