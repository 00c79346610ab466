//! Diagnostics: stable codes, spans, and how they are shown.

use crate::ir::{Source, Span};
use std::fmt;

/// The codes. A code never changes its meaning; docs/OVERLOG.md explains each.
pub mod code {
    #![allow(missing_docs)] // CODES says what each is
    pub const BAD_CHAR: &str = "OLG0001";
    pub const OPEN_STRING: &str = "OLG0002";
    pub const BAD_ESCAPE: &str = "OLG0003";
    pub const BAD_NUMBER: &str = "OLG0004";
    pub const OPEN_COMMENT: &str = "OLG0005";
    pub const BAD_BYTES: &str = "OLG0006";
    pub const BAD_UNIT: &str = "OLG0007";
    pub const SYNTAX: &str = "OLG0010";
    pub const TOO_DEEP: &str = "OLG0011";
    pub const SINGLE_EQUALS: &str = "OLG0012";
    pub const MISPLACED_AGGREGATE: &str = "OLG0013";
    pub const FOREIGN_CODE: &str = "OLG0014";
    pub const NO_SOURCE: &str = "OLG0015";
    pub const BARE_NAME: &str = "OLG0016";
    pub const DUPLICATE: &str = "OLG0101";
    pub const RESERVED: &str = "OLG0102";
    pub const UNKNOWN_TYPE: &str = "OLG0103";
    pub const BAD_KEY: &str = "OLG0104";
    pub const DUPLICATE_COLUMN: &str = "OLG0105";
    pub const LATTICE_COLUMNS: &str = "OLG0106";
    pub const BAD_LOCATION: &str = "OLG0107";
    pub const BAD_REPLICATED_BY: &str = "OLG0108";
    pub const BAD_TIMER: &str = "OLG0109";
    pub const BAD_WATCH: &str = "OLG0110";
    pub const BAD_LATTICE: &str = "OLG0111";
    pub const BAD_MODIFIERS: &str = "OLG0112";
    pub const DUPLICATE_RULE: &str = "OLG0113";
    pub const UNKNOWN_RELATION: &str = "OLG0201";
    pub const UNKNOWN_COLUMN: &str = "OLG0202";
    pub const ARITY: &str = "OLG0203";
    pub const ARGUMENT_TWICE: &str = "OLG0204";
    pub const UNKNOWN_FUNCTION: &str = "OLG0205";
    pub const FUNCTION_ARITY: &str = "OLG0206";
    pub const NO_EDGE: &str = "OLG0207";
    pub const ARGUMENT_ORDER: &str = "OLG0208";
    pub const UNBOUND: &str = "OLG0301";
    pub const WILDCARD: &str = "OLG0302";
    pub const TWO_LOCATIONS: &str = "OLG0303";
    pub const FACT_VARIABLE: &str = "OLG0304";
    pub const CONSTANT_FAILS: &str = "OLG0305";
    pub const TYPE_OF_VARIABLE: &str = "OLG0401";
    pub const TYPE_OF_OPERANDS: &str = "OLG0402";
    pub const TYPE_OF_ARGUMENT: &str = "OLG0403";
    pub const NO_POSITIVE_EVENT: &str = "OLG0501";
    pub const VIEW_CHANGED: &str = "OLG0502";
    pub const TABLE_DERIVED: &str = "OLG0503";
    pub const READ_ONLY: &str = "OLG0504";
    pub const REMOTE_STATE: &str = "OLG0505";
    pub const BAD_NEXT: &str = "OLG0506";
    pub const BAD_UPDATE: &str = "OLG0507";
    pub const NOT_REPLICATED: &str = "OLG0508";
    pub const VIEW_READS_TICK: &str = "OLG0509";
    pub const DELETE_AGGREGATE: &str = "OLG0510";
    pub const NOT_A_TABLE: &str = "OLG0511";
    pub const LAZY_READ: &str = "OLG0512";
    pub const VIEW_CYCLE: &str = "OLG0601";
    pub const EVENT_CYCLE: &str = "OLG0602";
    pub const NOT_MONOTONE: &str = "OLG0603";
    pub const QUERY: &str = "OLG0701";
    pub const ENDLESS: &str = "OLG0901";
    pub const VOLATILE_PROMISE: &str = "OLG0902";
    pub const NEVER_READ: &str = "OLG0903";
}

/// Every code with a line on what it means.
pub const CODES: &[(&str, &str)] = &[
    (code::BAD_CHAR, "a character that has no meaning here"),
    (
        code::OPEN_STRING,
        "a string without its closing quote on the same line",
    ),
    (code::BAD_ESCAPE, "an unknown escape in a string"),
    (
        code::BAD_NUMBER,
        "a number that is malformed or does not fit 64 bits",
    ),
    (code::OPEN_COMMENT, "a /* comment without its */"),
    (
        code::BAD_BYTES,
        "a bytes literal with an odd number of digits, or with digits that are not hexadecimal",
    ),
    (code::BAD_UNIT, "a number with an unknown unit"),
    (code::SYNTAX, "something else was expected here"),
    (code::TOO_DEEP, "an expression or body nested too deeply"),
    (code::SINGLE_EQUALS, "`=` where `==` or `:=` is meant"),
    (
        code::MISPLACED_AGGREGATE,
        "an aggregate outside a head and outside `N := agg<..> { .. }`",
    ),
    (
        code::FOREIGN_CODE,
        "a Java import or call, or something else that cannot run here",
    ),
    (code::NO_SOURCE, "an included source that is not registered"),
    (
        code::BARE_NAME,
        "a lower-case name where a value is expected",
    ),
    (code::DUPLICATE, "a relation declared twice"),
    (code::RESERVED, "a reserved name declared"),
    (code::UNKNOWN_TYPE, "an unknown type"),
    (
        code::BAD_KEY,
        "a key that names no column, or names one twice",
    ),
    (code::DUPLICATE_COLUMN, "two columns of one name"),
    (
        code::LATTICE_COLUMNS,
        "a column that is neither key nor lattice beside a lattice column, or one that is both",
    ),
    (
        code::BAD_LOCATION,
        "two location columns, one that is no address, or `@` on a column that is no location",
    ),
    (
        code::BAD_REPLICATED_BY,
        "`replicated by` something that is no event",
    ),
    (
        code::BAD_TIMER,
        "a timer whose period is not positive, or that asks for what timers cannot do",
    ),
    (code::BAD_WATCH, "unknown watch flags"),
    (code::BAD_LATTICE, "a lattice column where none can be"),
    (
        code::BAD_MODIFIERS,
        "modifiers that contradict one another, or that this kind of declaration does not take",
    ),
    (code::DUPLICATE_RULE, "two rules of one name"),
    (code::UNKNOWN_RELATION, "a relation that is not declared"),
    (
        code::UNKNOWN_COLUMN,
        "a column that the relation does not have",
    ),
    (code::ARITY, "the wrong number of arguments for a relation"),
    (code::ARGUMENT_TWICE, "two arguments for one column"),
    (
        code::UNKNOWN_FUNCTION,
        "a function that is neither built in nor registered",
    ),
    (
        code::FUNCTION_ARITY,
        "the wrong number of arguments for a function or an aggregate",
    ),
    (
        code::NO_EDGE,
        "`#insert` or `#delete` of something that has no edges",
    ),
    (
        code::ARGUMENT_ORDER,
        "an argument by position after one by name",
    ),
    (
        code::UNBOUND,
        "a variable that no positive term and no := binds",
    ),
    (code::WILDCARD, "`_` where a value is needed"),
    (code::TWO_LOCATIONS, "two locations in one body"),
    (
        code::FACT_VARIABLE,
        "a fact with a variable, an aggregate or `_`",
    ),
    (
        code::CONSTANT_FAILS,
        "a constant expression that has no value",
    ),
    (
        code::TYPE_OF_VARIABLE,
        "a variable that would need two types",
    ),
    (
        code::TYPE_OF_OPERANDS,
        "an operator, function or aggregate applied to the wrong types",
    ),
    (
        code::TYPE_OF_ARGUMENT,
        "a value whose type is not that of its column",
    ),
    (
        code::NO_POSITIVE_EVENT,
        "a body whose only events are under notin or in an aggregate",
    ),
    (
        code::VIEW_CHANGED,
        "a view changed by an event, delete, update or next",
    ),
    (
        code::TABLE_DERIVED,
        "a rule without an event whose head is a table",
    ),
    (
        code::READ_ONLY,
        "a rule or fact for a relation that only the system or the host fills",
    ),
    (
        code::REMOTE_STATE,
        "a change or derivation of state at another node",
    ),
    (
        code::BAD_NEXT,
        "next on something that is not an event of this node",
    ),
    (
        code::BAD_UPDATE,
        "an update without its keys, without a change, or with a += that cannot be",
    ),
    (
        code::NOT_REPLICATED,
        "a replicated table changed from something that is not replicated",
    ),
    (
        code::VIEW_READS_TICK,
        "a rule without an event that reads sys_tick",
    ),
    (
        code::DELETE_AGGREGATE,
        "an aggregate in the head of a delete",
    ),
    (
        code::NOT_A_TABLE,
        "delete or update of something that is not a table",
    ),
    (
        code::LAZY_READ,
        "a lazy view read by what must be kept up to date",
    ),
    (
        code::VIEW_CYCLE,
        "negation or aggregation through recursion among views",
    ),
    (
        code::EVENT_CYCLE,
        "negation or aggregation through recursion among the events of a tick",
    ),
    (
        code::NOT_MONOTONE,
        "recursion through a lattice column by a rule that is not monotone in it",
    ),
    (code::QUERY, "a query that is no query"),
    (
        code::ENDLESS,
        "warning: recursion whose head computes new values; it may not end",
    ),
    (
        code::VOLATILE_PROMISE,
        "warning: a message that promises what a volatile table holds",
    ),
    (code::NEVER_READ, "warning: a table that nothing reads"),
];

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The program cannot run.
    Error,
    /// It can, but perhaps not as meant.
    Warning,
}

/// Something wrong at a place of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// One of [`CODES`].
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub span: Span,
    /// What.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Longest part of a source line that is shown, in characters.
const SHOWN: usize = 160;

impl Diagnostic {
    /// An error.
    pub fn error(code: &'static str, span: &Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            span: span.clone(),
            message: message.into(),
            hint: None,
        }
    }

    /// A warning.
    pub fn warning(code: &'static str, span: &Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(code, span, message)
        }
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }

    /// Shows it: message, place, the source line with a caret, hint. Ends with a line feed.
    pub fn render(&self, sources: &[Source]) -> String {
        let what = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut out = format!("{what}[{}]: {}\n", self.code, self.message);
        if let Some(source) = sources.get(self.span.source as usize) {
            let place = Place::of(source, &self.span);
            let margin = " ".repeat(place.line.to_string().len());
            out.push_str(&format!(
                "{margin}--> {}:{}:{}\n",
                source.name, place.line, place.column
            ));
            out.push_str(&format!("{margin} |\n{} | {}\n", place.line, place.text));
            out.push_str(&format!(
                "{margin} | {}{}\n",
                " ".repeat(place.indent),
                "^".repeat(place.width)
            ));
            if let Some(hint) = &self.hint {
                let hint = hint.replace('\n', &format!("\n{margin}         "));
                out.push_str(&format!("{margin} = hint: {hint}\n"));
            }
        } else if let Some(hint) = &self.hint {
            out.push_str(&format!(" = hint: {hint}\n"));
        }
        out
    }
}

/// A span's first line, as it is shown.
struct Place {
    line: usize,
    column: usize,
    text: String,
    indent: usize,
    width: usize,
}

impl Place {
    fn of(source: &Source, span: &Span) -> Place {
        let text = source.text.as_str();
        let start = floor_boundary(text, span.range.start);
        let end = floor_boundary(text, span.range.end).max(start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let line_text = rest
            .split('\n')
            .next()
            .unwrap_or_default()
            .trim_end_matches('\r');
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        let covered = text
            .get(start..end)
            .unwrap_or_default()
            .split('\n')
            .next()
            .unwrap_or_default();
        let skipped = column.saturating_sub(SHOWN / 2);
        let shown: String = line_text
            .chars()
            .skip(skipped)
            .take(SHOWN)
            .map(plain)
            .collect();
        let indent = column - skipped;
        let width = covered
            .chars()
            .count()
            .min(SHOWN.saturating_sub(indent))
            .max(1);
        Place {
            line: before.matches('\n').count() + 1,
            column: column + 1,
            text: shown,
            indent,
            width,
        }
    }
}

fn plain(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control() {
        '?'
    } else {
        c
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// All that is wrong with a program, in the order of the sources.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// Errors and warnings.
    pub list: Vec<Diagnostic>,
    /// The sources that the spans mean.
    pub sources: Vec<Source>,
}

impl Diagnostics {
    /// Shows all of it.
    pub fn render(&self) -> String {
        self.list
            .iter()
            .map(|d| d.render(&self.sources))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The errors, without the warnings.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().filter(|d| d.severity == Severity::Error)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

impl std::error::Error for Diagnostics {}

/// Sorts by place, for a reader goes through a file from its top.
pub(crate) fn sort(list: &mut Vec<Diagnostic>) {
    list.sort_by(|a, b| {
        (a.span.source, a.span.range.start, a.code).cmp(&(
            b.span.source,
            b.span.range.start,
            b.code,
        ))
    });
    list.dedup();
}
