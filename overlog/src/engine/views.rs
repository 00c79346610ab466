//! Kept views as dataflows: joins, anti-joins, aggregates and recursion are differential
//! dataflow's own operators on the arrangements of what a view reads.

use crate::engine::agg::Acc;
use crate::engine::eval::{self, Slots};
use crate::engine::plan::graph::reads;
use crate::engine::plan::{IndexDef, IndexId, Indexes, order};
use crate::engine::spine::{Diff, RowArranged, RowBuilder, RowSpine, RowTrace, Tick};
use crate::engine::tables::{
    Rows, arrange_by, arrange_pairs, check_row, columns_of, permute, restore_order,
};
use crate::functions::Function;
use crate::ir::{
    Aggregate, Arg, Atom, Expr, HeadArg, Lattice as Merge, Program, RelId, RelKind, Rule, Term,
    VarId,
};
use crate::packed::{self, Row};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::iterate::Variable;
use differential_dataflow::{AsCollection, VecCollection};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use timely::dataflow::operators::core::Inspect;
use timely::dataflow::operators::vec::{Filter, Map, ToStream};
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{ProbeHandle, Scope};
use timely::order::Product;
use timely::progress::Timestamp;
use timely::worker::Worker;

/// What views report to the host: changed rows, and errors of expressions.
#[derive(Clone, Default)]
pub struct Sink {
    /// Rows of views that came and went.
    pub changes: Rc<RefCell<Vec<(RelId, Row, Diff)>>>,
    /// Rule names and messages.
    pub errors: Rc<RefCell<Vec<(String, String)>>>,
}

/// The dataflow of one view, or of views that depend on one another.
pub struct ViewFlow {
    /// The views.
    pub members: Vec<RelId>,
    /// What it reads from outside.
    pub reads: BTreeSet<RelId>,
    probe: ProbeHandle<Tick>,
    /// The dataflow's number in the worker.
    pub dataflow: usize,
}

impl ViewFlow {
    /// All changes before `now` are in the arrangements?
    pub fn done(&self, now: Tick) -> bool {
        !self.probe.less_than(&now)
    }

    /// Installs the dataflow of a component of kept views; adds the traces of its arrangements.
    pub fn install(
        worker: &mut Worker,
        program: &Program,
        members: &[RelId],
        recursive: bool,
        indexes: &Indexes,
        traces: &mut BTreeMap<IndexId, RowTrace<Tick>>,
        sink: &Sink,
    ) -> Result<ViewFlow, (String, String)> {
        let probe = ProbeHandle::new();
        let mut outside = BTreeSet::new();
        for rule in rules_of(program, members) {
            reads(&rule.body, &mut outside);
        }
        outside.retain(|r| !members.contains(r));
        let dataflow = worker.next_dataflow_index();
        let made = worker.dataflow(|scope| {
            let mut imported = BTreeMap::new();
            let mut wholes = BTreeMap::new();
            for rel in &outside {
                for id in indexes.of(*rel) {
                    if let Some(trace) = traces.get_mut(id) {
                        imported.insert(*id, trace.import_named(scope, "Import"));
                    }
                }
                let primary = indexes.of(*rel).first();
                if let Some((id, arranged)) = primary.and_then(|id| imported.get_key_value(id)) {
                    let order = indexes.get(*id).order.clone();
                    let rows = arranged
                        .clone()
                        .as_collection(move |k, v| restore_order(k, v, &order));
                    wholes.insert(*rel, rows);
                }
            }
            let results = if recursive {
                recursive_views(scope, program, members, indexes, wholes, sink)?
            } else {
                let mut builder = Builder {
                    scope,
                    program,
                    indexes,
                    imported,
                    wholes,
                    sink: sink.clone(),
                    made: BTreeMap::new(),
                };
                let mut results = Vec::new();
                for rel in members {
                    results.push((*rel, builder.view(*rel)?));
                }
                results
            };
            let mut exported = BTreeMap::new();
            for (rel, rows) in results {
                for id in indexes.of(rel) {
                    let arranged = arrange_by(rows.clone(), indexes.get(*id));
                    let stream = arranged.stream.clone().probe_with(&probe);
                    drop(stream);
                    exported.insert(*id, arranged.trace);
                }
                let changes = Rc::clone(&sink.changes);
                rows.inner
                    .inspect(move |(row, _, diff)| {
                        changes.borrow_mut().push((rel, row.clone(), *diff))
                    })
                    .probe_with(&probe);
            }
            Ok::<_, (String, String)>(exported)
        })?;
        traces.extend(made);
        Ok(ViewFlow {
            members: members.to_vec(),
            reads: outside,
            probe,
            dataflow,
        })
    }
}

fn rules_of<'a>(program: &'a Program, members: &'a [RelId]) -> impl Iterator<Item = &'a Rule> {
    program
        .rules
        .iter()
        .filter(|r| r.head.action == crate::ir::Action::Derive && members.contains(&r.head.rel))
}

/// Views with their rows.
type Named<'scope> = Vec<(RelId, Rows<'scope, Tick>)>;

/// Views that depend on one another: a fixpoint in a nested scope.
fn recursive_views<'scope>(
    scope: Scope<'scope, Tick>,
    program: &Program,
    members: &[RelId],
    indexes: &Indexes,
    outside: BTreeMap<RelId, Rows<'scope, Tick>>,
    sink: &Sink,
) -> Result<Named<'scope>, (String, String)> {
    scope.iterative::<u64, _, _>(|inner| {
        let mut wholes: BTreeMap<RelId, Rows<'_, Product<Tick, u64>>> = outside
            .into_iter()
            .map(|(rel, rows)| (rel, rows.enter(inner)))
            .collect();
        let mut variables = Vec::new();
        for rel in members {
            let (variable, rows) = Variable::new(inner, Product::new(Default::default(), 1));
            wholes.insert(*rel, rows);
            variables.push((*rel, variable));
        }
        let mut builder = Builder {
            scope: inner,
            program,
            indexes,
            imported: BTreeMap::new(),
            wholes,
            sink: sink.clone(),
            made: BTreeMap::new(),
        };
        let mut results = Vec::new();
        for (rel, variable) in variables {
            let rows = builder.view(rel)?;
            variable.set(rows.clone());
            results.push((rel, rows.leave(scope)));
        }
        Ok(results)
    })
}

/// The bindings of a body so far: packed values of the slots in `layout`.
struct Bindings<'scope, T: Timestamp + Lattice> {
    rows: Rows<'scope, T>,
    layout: Vec<usize>,
}

struct Builder<'a, 'scope, T: Timestamp + Lattice> {
    scope: Scope<'scope, T>,
    program: &'a Program,
    indexes: &'a Indexes,
    imported: BTreeMap<IndexId, RowArranged<'scope, T>>,
    wholes: BTreeMap<RelId, Rows<'scope, T>>,
    sink: Sink,
    made: BTreeMap<(RelId, Vec<usize>), RowArranged<'scope, T>>,
}

type Failed = (String, String);

impl<'scope, T: Timestamp + Lattice> Builder<'_, 'scope, T> {
    /// All rows of a view: the union of its rules and facts, each once; merged where it has lattice columns.
    fn view(&mut self, rel: RelId) -> Result<Rows<'scope, T>, Failed> {
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

    fn body(
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
            && let Some(arranged) = self.imported.get(&id)
        {
            return Ok((arranged.clone(), self.indexes.get(id).clone()));
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

    fn whole(&self, rule: &Rule, rel: RelId) -> Result<Rows<'scope, T>, Failed> {
        self.wholes.get(&rel).cloned().ok_or_else(|| {
            let name = &self.program.relation(rel).name;
            (
                rule.name.clone(),
                format!("a kept view cannot read {name}: it is not stored and not a kept view"),
            )
        })
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
        let key: Vec<usize> = known.iter().copied().collect();
        let def = key_first(
            atom.rel,
            &key,
            self.program.relation(atom.rel).columns.len(),
        );
        let (columns, width) = (def.order.clone(), def.key_columns);
        let present = self
            .whole(rule, atom.rel)?
            .map(move |row| permute(&row, &columns, width).0);
        let present = arrange_pairs(distinct(present).map(|k| (k, Row::default())));
        let left = keyed(b.rows.clone(), &b.layout, rule.vars.len(), atom, &def);
        let hit = arrange_pairs(left).join_core(present, |_, binding, _| Some(owned(binding)));
        let rows = b.rows.concat(hit.negate());
        Ok(Bindings {
            rows,
            layout: b.layout,
        })
    }

    /// For each distinct combination of the outer variables: the nested body, reduced; nothing gives
    /// the aggregate's value of nothing.
    fn aggregate(
        &mut self,
        rule: &Rule,
        result: VarId,
        agg: &Aggregate,
        body: &[Term],
        outer: &[VarId],
        b: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        let width = rule.vars.len();
        let shared: Vec<usize> = outer.iter().map(|v| slot(*v)).collect();
        let (layout, pick) = (b.layout.clone(), shared.clone());
        let paired = b
            .rows
            .map(move |row| (project(&row, &layout, width, &pick), row));
        let groups = distinct(paired.clone().map(|(k, _)| k));
        let terms: Vec<&Term> = body.iter().collect();
        let start = Bindings {
            rows: groups.clone(),
            layout: shared.clone(),
        };
        let inner = self.body(rule, &terms, start)?;
        let counted = self.contributions(rule, inner, shared, std::slice::from_ref(agg));
        let empty = vec![Acc::new(agg)];
        let reduced = reduce(rule, counted, vec![agg.clone()], &self.sink);
        let mut results = reduced.clone().filter(|(_, value)| has_value(value));
        if let Ok(Some(nothing)) = finish(empty) {
            // A group that failed is there too: it is not nothing.
            let have = distinct(reduced.map(|(k, _)| k)).map(|k| (k, Row::default()));
            let pairs = groups.clone().map(|k| (k, Row::default()));
            let hit = arrange_pairs(pairs).join_core(arrange_pairs(have), |k, _, _| Some(owned(k)));
            let missing = groups.concat(hit.negate());
            results = results.concat(missing.map(move |k| (k, nothing.clone())));
        }
        let mut layout = b.layout;
        let rows = if layout.contains(&slot(result)) {
            let at = layout.clone();
            arrange_pairs(paired).join_core(arrange_pairs(results), move |_, binding, value| {
                let slots = slots_of(binding, &at, width);
                (slots.slot(slot(result)) == value).then(|| owned(binding))
            })
        } else {
            add(&mut layout, slot(result));
            arrange_pairs(paired).join_core(arrange_pairs(results), |_, binding, value| {
                Some(concat(binding, value))
            })
        };
        Ok(Bindings { rows, layout })
    }

    /// The arguments of aggregates, by group.
    fn contributions(
        &self,
        rule: &Rule,
        b: Bindings<'scope, T>,
        group: Vec<usize>,
        aggs: &[Aggregate],
    ) -> VecCollection<'scope, T, (Row, Row), Diff> {
        let group: Vec<Expr> = group.into_iter().map(|s| Expr::Var(var(s))).collect();
        let values: Vec<Expr> = aggs.iter().flat_map(|a| a.args.iter().cloned()).collect();
        self.project_exprs(rule, b, group, values)
    }

    /// Evaluates two lists of expressions for each binding.
    fn project_exprs(
        &self,
        rule: &Rule,
        b: Bindings<'scope, T>,
        first: Vec<Expr>,
        second: Vec<Expr>,
    ) -> VecCollection<'scope, T, (Row, Row), Diff> {
        let functions = self.program.functions.clone();
        let errors = Rc::clone(&self.sink.errors);
        let name = rule.name.clone();
        let width = rule.vars.len();
        let layout = b.layout;
        b.rows
            .inner
            .flat_map(move |(row, time, diff)| {
                let slots = slots_of(row.as_bytes(), &layout, width);
                let both = pack_all(&first, &slots, &functions)
                    .and_then(|a| Ok((a, pack_all(&second, &slots, &functions)?)));
                match both {
                    Ok(pair) => Some((pair, time, diff)),
                    Err(error) => {
                        if diff > 0 {
                            errors.borrow_mut().push((name.clone(), error.0));
                        }
                        None
                    }
                }
            })
            .as_collection()
    }

    fn head(&self, rule: &Rule, b: Bindings<'scope, T>) -> Rows<'scope, T> {
        let mut group = Vec::new();
        let mut aggs = Vec::new();
        // Where each column of the head comes from: the group or the aggregates.
        let mut places = Vec::new();
        for arg in &rule.head.args {
            match arg {
                HeadArg::Agg(agg) => {
                    places.push((true, aggs.len()));
                    aggs.push(agg.clone());
                }
                HeadArg::Expr(e) | HeadArg::Add(e) => {
                    places.push((false, group.len()));
                    group.push(e.clone());
                }
                HeadArg::Any => {}
            }
        }
        if aggs.is_empty() {
            let rows = self
                .project_exprs(rule, b, group, Vec::new())
                .map(|(row, _)| row);
            return self.fitting(rule, rows);
        }
        let values: Vec<Expr> = aggs.iter().flat_map(|a| a.args.iter().cloned()).collect();
        let pairs = self.project_exprs(rule, b, group, values);
        let reduced = reduce(rule, pairs, aggs, &self.sink);
        let rows =
            reduced
                .filter(|(_, results)| has_value(results))
                .map(move |(group, results)| {
                    let (group, results) =
                        (columns_of(group.as_bytes()), columns_of(results.as_bytes()));
                    let mut out = Vec::new();
                    for (from_aggs, at) in &places {
                        let side = if *from_aggs { &results } else { &group };
                        out.extend_from_slice(
                            side.as_slice().get(*at).copied().unwrap_or_default(),
                        );
                    }
                    Row::from_bytes(out)
                });
        self.fitting(rule, rows)
    }

    /// Rows whose values have the types of their columns.
    fn fitting(&self, rule: &Rule, rows: Rows<'scope, T>) -> Rows<'scope, T> {
        let relation = self.program.relation(rule.head.rel).clone();
        let errors = Rc::clone(&self.sink.errors);
        let name = rule.name.clone();
        rows.inner
            .filter(move |(row, _, diff)| {
                let outcome = check_row(&relation, row.as_bytes());
                if let Err(message) = &outcome
                    && *diff > 0
                {
                    errors.borrow_mut().push((name.clone(), message.clone()));
                }
                outcome.is_ok()
            })
            .as_collection()
    }
}

/// Reduces contributions by group. A group that has no value is there with [no value](has_value).
fn reduce<'scope, T: Timestamp + Lattice>(
    rule: &Rule,
    pairs: VecCollection<'scope, T, (Row, Row), Diff>,
    aggs: Vec<Aggregate>,
    sink: &Sink,
) -> VecCollection<'scope, T, (Row, Row), Diff> {
    let errors = Rc::clone(&sink.errors);
    let name = rule.name.clone();
    arrange_pairs(pairs)
        .reduce_abelian::<_, RowBuilder<T>, RowSpine<T>, _, _>(
            "Aggregate",
            move |_, vals, out| {
                let mut accs: Vec<Acc> = aggs.iter().map(Acc::new).collect();
                contribute(&mut accs, &aggs, vals);
                match finish(accs) {
                    Ok(Some(row)) => out.push((row, 1)),
                    Ok(None) => {}
                    Err(error) => {
                        errors.borrow_mut().push((name.clone(), error.0));
                        out.push((Row::default(), 1));
                    }
                }
            },
            push_updates,
        )
        .as_collection(|k, v| (owned(k), owned(v)))
}

/// The aggregates of the group did not fail.
fn has_value(results: &Row) -> bool {
    !results.as_bytes().is_empty()
}

fn contribute(accs: &mut [Acc], aggs: &[Aggregate], vals: &[(&[u8], Diff)]) {
    for (val, times) in vals {
        for _ in 0..*times {
            let mut args = columns_of(val).into_iter();
            for (acc, agg) in accs.iter_mut().zip(aggs) {
                let mut pair = [Vec::new(), Vec::new()];
                for out in pair.iter_mut().take(agg.args.len()) {
                    out.extend_from_slice(args.next().unwrap_or_default());
                }
                acc.add_packed(pair);
            }
        }
    }
}

fn finish(accs: Vec<Acc>) -> Result<Option<Row>, crate::functions::EvalError> {
    let mut out = Vec::new();
    for acc in accs {
        match acc.finish()? {
            Some(bytes) => out.extend_from_slice(&bytes),
            None => return Ok(None),
        }
    }
    Ok(Some(Row::from_bytes(out)))
}

/// Each row once.
fn distinct<'scope, T: Timestamp + Lattice>(rows: Rows<'scope, T>) -> Rows<'scope, T> {
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

fn push_updates<T: Clone>(
    buffer: &mut Vec<((Row, Row), T, Diff)>,
    key: &[u8],
    updates: &mut Vec<(Row, T, Diff)>,
) {
    buffer.clear();
    buffer.extend(updates.drain(..).map(|(v, t, d)| ((owned(key), v), t, d)));
}

/// Merges the values of one key column by column.
pub fn merge_rows<'a>(rows: impl Iterator<Item = &'a [u8]>, merges: &[Option<Merge>]) -> Row {
    let mut best: Vec<Vec<u8>> = Vec::new();
    for row in rows {
        for (i, value) in columns_of(row).into_iter().enumerate() {
            if best.len() <= i {
                best.push(value.to_vec());
            }
            // Also with itself: a set is sorted and without repeats.
            if let (Some(b), Some(merge)) = (
                best.as_mut_slice().get_mut(i),
                merges.get(i).copied().flatten(),
            ) {
                merge_value(b, value, merge);
            }
        }
    }
    Row::from_bytes(best.concat())
}

/// Merges a value into another.
pub fn merge_value(best: &mut Vec<u8>, value: &[u8], merge: Merge) {
    let take = match merge {
        // `true` is greater than `false`, so `or` is the greater and `and` the lesser.
        Merge::Max | Merge::Or => value > best.as_slice(),
        Merge::Min | Merge::And => value < best.as_slice(),
        Merge::Set => {
            let union: BTreeSet<Vec<u8>> = packed::list_items(best)
                .chain(packed::list_items(value))
                .map(<[u8]>::to_vec)
                .collect();
            best.clear();
            packed::begin_list(best);
            union.iter().for_each(|x| best.extend_from_slice(x));
            packed::end_list(best);
            return;
        }
    };
    if take {
        best.clear();
        best.extend_from_slice(value);
    }
}

fn run_local(
    term: &Term,
    slots: &Vec<&[u8]>,
    functions: &[Function],
    before: &[usize],
    after: &[usize],
    row: &Row,
    results: &mut Vec<Row>,
) -> Result<(), crate::functions::EvalError> {
    match term {
        Term::Test(e) => {
            let holds = eval::test(e, slots, functions)?;
            results.extend(holds.then(|| row.clone()));
        }
        Term::Assign(v, e) => {
            let mut value = Vec::new();
            eval::eval(e, slots, functions)?.write(&mut value);
            if before.len() < after.len() {
                results.push(concat(row.as_bytes(), &value));
            } else if slots.slot(slot(*v)) == value {
                results.push(row.clone());
            }
        }
        Term::Unnest { pos, item, list } => {
            let mut bytes = Vec::new();
            eval::eval(list, slots, functions)?.write(&mut bytes);
            if !packed::is_list(&bytes) {
                return Err(crate::functions::EvalError(
                    "unnesting what is no list".to_string(),
                ));
            }
            for (i, element) in packed::list_items(&bytes).enumerate() {
                let mut number = Vec::new();
                packed::pack_int(i64::try_from(i).unwrap_or(i64::MAX), &mut number);
                let mut out = row.as_bytes().to_vec();
                let mut matches = true;
                let given = [
                    (pos.map(slot), number.as_slice()),
                    (Some(slot(*item)), element),
                ];
                let mut fresh: Vec<(usize, &[u8])> = Vec::new();
                for (at, value) in given {
                    let Some(at) = at else { continue };
                    let earlier = fresh.iter().find(|(s, _)| *s == at).map(|(_, v)| *v);
                    if before.contains(&at) {
                        matches &= slots.slot(at) == value;
                    } else if let Some(earlier) = earlier {
                        matches &= earlier == value;
                    } else {
                        out.extend_from_slice(value);
                        fresh.push((at, value));
                    }
                }
                if matches {
                    results.push(Row::from_bytes(out));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn pack_all(
    exprs: &[Expr],
    slots: &Vec<&[u8]>,
    functions: &[Function],
) -> Result<Row, crate::functions::EvalError> {
    let mut out = Vec::new();
    for e in exprs {
        eval::eval(e, slots, functions)?.write(&mut out);
    }
    Ok(Row::from_bytes(out))
}

/// Columns of the value part of a join that are bound by it, or checked against a column before.
enum Fresh {
    Skip,
    Bind,
    /// Equal to the nth fresh one.
    Same(usize),
}

fn fresh_columns(atom: &Atom, def: &IndexDef, layout: &mut Vec<usize>) -> Vec<Fresh> {
    let mut new: Vec<usize> = Vec::new();
    let columns = def
        .order
        .iter()
        .skip(def.key_columns)
        .map(|c| match atom.args.get(*c) {
            Some(Arg::Var(v)) => match new.iter().position(|s| *s == slot(*v)) {
                Some(at) => Fresh::Same(at),
                None => {
                    new.push(slot(*v));
                    Fresh::Bind
                }
            },
            _ => Fresh::Skip,
        })
        .collect();
    layout.extend(new);
    columns
}

fn extend(binding: &[u8], val: &[u8], fresh: &[Fresh]) -> Option<Row> {
    let mut out = binding.to_vec();
    let mut bound: Vec<&[u8]> = Vec::new();
    let mut rest = val;
    for column in fresh {
        let (value, after) = packed::split_first(rest);
        rest = after;
        match column {
            Fresh::Skip => {}
            Fresh::Bind => {
                out.extend_from_slice(value);
                bound.push(value);
            }
            Fresh::Same(at) => {
                if bound.as_slice().get(*at).copied() != Some(value) {
                    return None;
                }
            }
        }
    }
    Some(Row::from_bytes(out))
}

fn keyed<'scope, T: Timestamp + Lattice>(
    rows: Rows<'scope, T>,
    layout: &[usize],
    width: usize,
    atom: &Atom,
    def: &IndexDef,
) -> VecCollection<'scope, T, (Row, Row), Diff> {
    let layout = layout.to_vec();
    let key: Vec<Arg> = def
        .order
        .iter()
        .take(def.key_columns)
        .filter_map(|c| atom.args.get(*c).cloned())
        .collect();
    rows.map(move |row| {
        let slots = slots_of(row.as_bytes(), &layout, width);
        let mut out = Vec::new();
        for arg in &key {
            match arg {
                Arg::Var(v) => out.extend_from_slice(slots.slot(slot(*v))),
                Arg::Const(c) => packed::pack(c, &mut out),
                Arg::Any => {}
            }
        }
        (Row::from_bytes(out), row)
    })
}

fn known_columns(atom: &Atom, layout: &[usize]) -> BTreeSet<usize> {
    atom.args
        .iter()
        .enumerate()
        .filter(|(_, a)| match a {
            Arg::Var(v) => layout.contains(&slot(*v)),
            Arg::Const(_) => true,
            Arg::Any => false,
        })
        .map(|(c, _)| c)
        .collect()
}

fn key_first(rel: RelId, key: &[usize], columns: usize) -> IndexDef {
    let mut order = key.to_vec();
    order.extend((0..columns).filter(|c| !key.contains(c)));
    IndexDef {
        rel,
        order,
        key_columns: key.len(),
        unique_width: columns,
    }
}

fn slots_of<'a>(row: &'a [u8], layout: &[usize], width: usize) -> Vec<&'a [u8]> {
    let mut slots: Vec<&[u8]> = vec![&[]; width];
    let mut rest = row;
    for at in layout {
        let (value, after) = packed::split_first(rest);
        if let Some(s) = slots.as_mut_slice().get_mut(*at) {
            *s = value;
        }
        rest = after;
    }
    slots
}

fn project(row: &Row, layout: &[usize], width: usize, pick: &[usize]) -> Row {
    let slots = slots_of(row.as_bytes(), layout, width);
    Row::from_bytes(
        pick.iter()
            .map(|s| slots.slot(*s))
            .collect::<Vec<_>>()
            .concat(),
    )
}

fn slot(v: VarId) -> usize {
    v.0 as usize
}

fn var(slot: usize) -> VarId {
    VarId(u32::try_from(slot).unwrap_or(u32::MAX))
}

fn add(layout: &mut Vec<usize>, slot: usize) {
    if !layout.contains(&slot) {
        layout.push(slot);
    }
}

fn owned(bytes: &[u8]) -> Row {
    Row::from_bytes(bytes.to_vec())
}

fn concat(a: &[u8], b: &[u8]) -> Row {
    Row::from_bytes([a, b].concat())
}

/// What joins in views need of arrangements.
pub fn join_needs(
    program: &Program,
    kept: impl Fn(RelId) -> bool,
    note: &mut dyn FnMut(RelId, BTreeSet<usize>),
) {
    for rule in &program.rules {
        if rule.head.action == crate::ir::Action::Derive && kept(rule.head.rel) {
            let mut bound = BTreeSet::new();
            let terms: Vec<&Term> = rule.body.iter().collect();
            note_joins(program, &terms, &mut bound, note);
        }
    }
}

fn note_joins(
    program: &Program,
    terms: &[&Term],
    bound: &mut BTreeSet<VarId>,
    note: &mut dyn FnMut(RelId, BTreeSet<usize>),
) {
    let Ok(ordered) = order::order_terms(program, &Indexes::default(), terms, bound) else {
        return;
    };
    for term in ordered {
        match term {
            Term::Atom(a) => {
                let known = crate::engine::plan::bound_columns(a, bound);
                let stored = match program.relation(a.rel).kind {
                    RelKind::Table(_) => true,
                    RelKind::View { kept, .. } => kept,
                    _ => false,
                };
                if stored && !known.is_empty() {
                    note(a.rel, known);
                }
            }
            Term::Agg { body, outer, .. } => {
                let mut inner: BTreeSet<VarId> = outer.iter().copied().collect();
                note_joins(program, &body.iter().collect::<Vec<_>>(), &mut inner, note);
            }
            _ => {}
        }
        order::binds(term, bound);
    }
}
