//! Kept views as dataflows: joins, anti-joins, aggregates and recursion are differential
//! dataflow's own operators on the arrangements of what a view reads.

mod aggregate;
mod binding;
mod body;
mod merge;
mod totals;

use crate::engine::plan::graph::reads;
use crate::engine::plan::{IndexId, Indexes, order};
use crate::engine::spine::{Diff, RowTrace, Tick};
use crate::engine::tables::{Rows, arrange_by};
use crate::ir::{Program, RelId, RelKind, Rule, Term, VarId};
use crate::packed::Row;
use body::Builder;
use differential_dataflow::operators::iterate::Variable;
pub use merge::{merge_rows, merge_value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::core::Inspect;
use timely::dataflow::{ProbeHandle, Scope};
use timely::order::Product;
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
            let mut import = |id: IndexId| {
                let trace = traces.get_mut(&id)?;
                Some(trace.import_named(scope, "Import"))
            };
            let results = if recursive {
                let wholes = outside
                    .iter()
                    .filter_map(|rel| Some((*rel, body::rows_of(*rel, indexes, &mut import)?)))
                    .collect();
                recursive_views(scope, program, members, indexes, wholes, sink)?
            } else {
                let mut builder = Builder {
                    scope,
                    program,
                    indexes,
                    import: &mut import,
                    imported: BTreeMap::new(),
                    wholes: BTreeMap::new(),
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
            // What is outside comes in as rows.
            import: &mut |_| None,
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
