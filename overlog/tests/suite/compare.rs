//! Runs two nodes side by side, and says where they differ.

use super::generator::{Choices, Kind, RELS, Rel, constant};
use super::harness::{check, events, show};
use super::subject::Subject;
use overlog::api::{Options, Output, RunError, Time};
use overlog::ir::{Action, BinaryOp, Expr, Program, RelId, RelKind, TableClass, Term};
use overlog::{Row, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a node goes through.
#[derive(Clone, Debug)]
pub enum Step {
    Run(Vec<(String, Vec<String>)>),
    /// The process ends and starts again, with what it stored.
    Restart,
}

/// Random inputs for the events of a program.
pub fn steps(program: &Program, all: &[Vec<u8>]) -> Vec<Step> {
    let filled = |name: &str| program.find(name).is_some();
    let mut inputs: Vec<(String, &Rel)> = Vec::new();
    for rel in RELS {
        let names = [
            rel.name.to_owned(),
            format!("put_{}", rel.name),
            format!("put_{}", rel.name),
            format!("del_{}", rel.name),
        ];
        let own = rel.is_event();
        inputs.extend(
            names
                .into_iter()
                .filter(|n| filled(n) && (own || n != rel.name))
                .map(|n| (n, rel)),
        );
    }
    let step = |bytes: &Vec<u8>| {
        let mut c = Choices::new(bytes);
        if c.one_in(8) {
            return Step::Restart;
        }
        let mut rows = Vec::new();
        for _ in 0..if inputs.is_empty() { 0 } else { c.below(16) } {
            let (name, rel) = c.pick(&inputs);
            let args = rel.columns.iter().map(|(_, ty, _)| {
                if rel.kind == Kind::Timer {
                    c.below(3).to_string()
                } else {
                    constant(&mut c, *ty)
                }
            });
            let args = args.collect();
            rows.push((name.clone(), args));
        }
        Step::Run(rows)
    };
    all.iter().map(step).collect()
}

/// A value from its literal, by way of a program with a fact.
fn rows(inputs: &[(String, Vec<String>)], program: &Program) -> Vec<(RelId, Row)> {
    let mut out = Vec::new();
    for (name, args) in inputs {
        let Some(rel) = program.find(name) else {
            continue;
        };
        let values: Vec<Value> = args.iter().map(|a| literal(a)).collect();
        out.push((rel, Row::new(&values)));
    }
    out
}

fn literal(text: &str) -> Value {
    thread_local! {
        // The same few literals make all inputs.
        static KNOWN: RefCell<BTreeMap<String, Value>> = RefCell::default();
    }
    let read = || {
        let program = check(&format!("table t(A: any); t({text});")).unwrap();
        program.facts[0].row[0].clone()
    };
    KNOWN.with_borrow_mut(|known| known.entry(text.to_owned()).or_insert_with(read).clone())
}

const WALL: i64 = 1_700_000_000_000_000_000;

/// A node and what it stored.
struct Stored<S> {
    program: Arc<Program>,
    node: S,
    tables: BTreeMap<RelId, BTreeSet<Row>>,
    runs: i64,
}

impl<S: Subject> Stored<S> {
    fn new(program: &Arc<Program>) -> Stored<S> {
        Stored {
            program: program.clone(),
            node: make(program),
            tables: BTreeMap::new(),
            runs: 0,
        }
    }

    fn step(&mut self, step: Option<&Step>) -> Result<Output, RunError> {
        self.runs += 1;
        let time = Time {
            wall_ns: WALL + self.runs,
            mono_ns: self.runs,
        };
        let output = match step {
            None => self.node.start(true, time),
            Some(Step::Run(inputs)) => self.node.run(rows(inputs, &self.program), time),
            Some(Step::Restart) => {
                self.node = make(&self.program);
                for (rel, rows) in &self.tables {
                    self.node
                        .restore(*rel, rows.iter().cloned().collect())
                        .unwrap();
                }
                self.node.start(false, time)
            }
        };
        for change in output.iter().flat_map(|o| &o.changes) {
            let table = self.tables.entry(change.rel).or_default();
            let fresh = if change.insert {
                table.insert(change.row.clone())
            } else {
                table.remove(&change.row)
            };
            assert!(
                fresh,
                "{}: a change that changes nothing: {change:?}",
                S::NAME
            );
        }
        output
    }
}

fn make<S: Subject>(program: &Arc<Program>) -> S {
    let mut options = Options::new(Value::addr("me"));
    options.observe = events(program);
    options.max_ticks = 12;
    options.max_rows = 100_000;
    options.recent_rows = [1, 3, 512][program.rules.len() % 3];
    S::new(program.clone(), options).unwrap()
}

/// What happened in a case: to know that the cases are worth something.
pub type Seen = BTreeMap<&'static str, usize>;

/// Runs the steps on both, and compares outputs and states after each. `Err` says what differs.
pub fn agree<A: Subject, B: Subject>(
    one: &Arc<Program>,
    other: &Arc<Program>,
    steps: &[Step],
) -> Result<Seen, String> {
    let (mut a, mut b) = (Stored::<A>::new(one), Stored::<B>::new(other));
    let mut seen = Seen::new();
    for (i, step) in std::iter::once(None)
        .chain(steps.iter().map(Some))
        .enumerate()
    {
        let (x, y) = (a.step(step), b.step(step));
        let differ = |what: &str, x: &str, y: &str| {
            let step = step.map_or_else(|| "start".to_owned(), |s| format!("{s:?}"));
            Err(format!(
                "{what} differ after step {i} ({step})\n{:>8}: {x}\n{:>8}: {y}",
                A::NAME,
                B::NAME
            ))
        };
        for ((what, left), (_, right)) in plain(&x, one).iter().zip(&plain(&y, other)) {
            if left != right {
                return differ(what, left, right);
            }
            *seen.entry(what).or_default() += usize::from(!left.is_empty());
        }
        *seen.entry("runs over a limit").or_default() += usize::from(x.is_err());
        *seen.entry("runs of several ticks").or_default() +=
            usize::from(x.is_ok_and(|o| o.ticks > 1));
        for (id, relation) in (0..).map(RelId).zip(&one.relations) {
            let class = match &relation.kind {
                RelKind::Table(class) => Some(*class),
                RelKind::View { .. } if !relation.name.starts_with('$') => None,
                _ => continue,
            };
            let other = other.find(&relation.name).unwrap();
            let (left, right) = (state(&a.node.rows(id)), state(&b.node.rows(other)));
            if left != right {
                return differ(&format!("rows of {}", relation.name), &left, &right);
            }
            *seen
                .entry(if class.is_some() {
                    "rows of tables"
                } else {
                    "rows of views"
                })
                .or_default() += usize::from(!left.is_empty());
            let stored: Vec<Row> = a.tables.get(&id).into_iter().flatten().cloned().collect();
            if class.is_some_and(|c| c != TableClass::Volatile) && state(&stored) != left {
                return differ(
                    &format!("stored and actual rows of {}", relation.name),
                    &state(&stored),
                    &left,
                );
            }
        }
    }
    Ok(seen)
}

/// A nested body with an expression that may have no value.
fn nested_fails(term: &Term) -> bool {
    let Term::Agg { agg, body, .. } = term else {
        return false;
    };
    agg.args.iter().any(may_fail)
        || body.iter().any(|t| match t {
            Term::Test(e) | Term::Assign(_, e) | Term::Unnest { list: e, .. } => may_fail(e),
            Term::Atom(_) | Term::Not(_) => false,
            Term::Agg { .. } => nested_fails(t),
        })
}

fn may_fail(e: &Expr) -> bool {
    use BinaryOp::{Add, Div, Mul, Rem, Sub};
    match e {
        Expr::Const(_) | Expr::Var(_) => false,
        Expr::Binary(op, x, y) => {
            matches!(op, Add | Sub | Mul | Div | Rem) || may_fail(x) || may_fail(y)
        }
        Expr::List(items) => items.iter().any(may_fail),
        Expr::Unary(..) | Expr::Cond(..) | Expr::Index(..) | Expr::Call(..) => true,
    }
}

fn state(rows: &[Row]) -> String {
    rows.iter()
        .map(|r| format!("({})", show(r)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The parts of an output, each as text. The words of an error are the evaluator's own, so only its rule counts, once.
fn plain(output: &Result<Output, RunError>, program: &Program) -> Vec<(&'static str, String)> {
    let o = match output {
        Ok(o) => o,
        Err(RunError::Limit { .. }) => return vec![("outcomes", "over a limit".to_owned())],
        Err(other) => return vec![("outcomes", other.to_string())],
    };
    let name = |rel: RelId| program.relation(rel).name.as_str();
    let all = |items: Vec<String>| items.join(" ");
    // Where the engine reports more, or less, than it should: tests of their own say so.
    let loose = |rule: &str| {
        program.rules.iter().any(|r| {
            r.name == rule && (r.head.action == Action::Derive || r.body.iter().any(nested_fails))
        })
    };
    let failed: BTreeSet<&str> = o
        .errors
        .iter()
        .map(|(rule, _)| rule.as_str())
        .filter(|r| !loose(r))
        .collect();
    let sign = |insert: bool| if insert { '+' } else { '-' };
    vec![
        ("outcomes", "a run".to_owned()),
        (
            "observed events",
            all(o
                .observed
                .iter()
                .map(|(r, row)| format!("{}({})", name(*r), show(row)))
                .collect()),
        ),
        (
            "rules with errors",
            all(failed.into_iter().map(str::to_owned).collect()),
        ),
        (
            "conflicts",
            all(o
                .conflicts
                .iter()
                .map(|(t, w, l)| format!("{t}({}; {})", show(w), show(l)))
                .collect()),
        ),
        (
            "changes",
            all(o
                .changes
                .iter()
                .map(|c| format!("{}{}({})", sign(c.insert), name(c.rel), show(&c.row)))
                .collect()),
        ),
        (
            "messages",
            all(o
                .messages
                .iter()
                .map(|m| format!("{}({}) to {}", name(m.rel), show(&m.row), m.to))
                .collect()),
        ),
        (
            "violations",
            all(o
                .violations
                .iter()
                .map(|(n, row)| format!("{n}({})", show(row)))
                .collect()),
        ),
        ("watch lines", o.watch.join("\n")),
        ("ticks", o.ticks.to_string()),
        ("run numbers", o.run.to_string()),
    ]
}
