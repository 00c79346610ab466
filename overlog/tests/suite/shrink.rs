//! Makes a failing program small: drops statements, steps, inputs and terms as long as it fails in the same way.

use super::compare::{Seen, Step};
use super::harness::check;
use overlog::ir::Program;

/// Runs a program and steps, and says what differs.
pub type Check<'a> = &'a dyn Fn(Program, &[Step]) -> Result<Seen, String>;

/// The smallest program and steps found that still fail, and how.
pub fn shrunk(
    mut statements: Vec<String>,
    mut steps: Vec<Step>,
    mut why: String,
    test: Check<'_>,
) -> String {
    let kind = |why: &str| why.split(" differ ").next().unwrap_or_default().to_owned();
    let first = kind(&why);
    let mut fails = |statements: &[String], steps: &[Step]| match check(&statements.join("\n")) {
        Err(_) => false,
        Ok(program) => match test(program, steps) {
            Err(now) if kind(&now) == first => {
                why = now;
                true
            }
            _ => false,
        },
    };
    loop {
        let before = (statements.clone(), format!("{steps:?}"));
        drop_items(&mut steps, |less| fails(&statements, less));
        for at in 0..steps.len() {
            let Some(Step::Run(mut inputs)) = steps.get(at).cloned() else {
                continue;
            };
            drop_items(&mut inputs, |less| {
                let mut changed = steps.clone();
                changed[at] = Step::Run(less.to_vec());
                fails(&statements, &changed)
            });
            steps[at] = Step::Run(inputs);
        }
        drop_items(&mut statements, |less| fails(less, &steps));
        for at in 0..statements.len() {
            let Some((head, body)) = statements[at].split_once(" :- ") else {
                continue;
            };
            let (head, body) = (head.to_owned(), body.trim_end_matches(';').to_owned());
            let with = |terms: &[String]| format!("{head} :- {};", terms.join(", "));
            let mut terms = split(&body);
            drop_items(&mut terms, |less| {
                let mut changed = statements.clone();
                changed[at] = with(less);
                !less.is_empty() && fails(&changed, &steps)
            });
            statements[at] = with(&terms);
        }
        if before == (statements.clone(), format!("{steps:?}")) {
            break;
        }
    }
    let steps: Vec<String> = steps.iter().map(|s| format!("  {s:?}\n")).collect();
    format!(
        "program:\n{}\nsteps:\n{}\n{why}\n",
        statements.join("\n"),
        steps.concat()
    )
}

/// Drops what can be dropped, one by one from the end.
fn drop_items<T: Clone>(items: &mut Vec<T>, mut still: impl FnMut(&[T]) -> bool) {
    for at in (0..items.len()).rev() {
        let mut less = items.clone();
        less.remove(at);
        if still(&less) {
            *items = less;
        }
    }
}

/// Terms: at commas outside of brackets and quotes.
fn split(body: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let (mut depth, mut quoted) = (0, false);
    for c in body.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if depth == 0 && !quoted => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        out.last_mut().unwrap().push(c);
    }
    out.into_iter().map(|t| t.trim().to_owned()).collect()
}
