//! Small programs and exactly what is made or said of them.
//!
//! `BOOMFS_GOLDEN=1 cargo test -p overlog golden` rewrites the files in `golden/`; read the difference before
//! you keep it.
#![allow(
    clippy::disallowed_methods,
    reason = "golden files and the documentation are on disk"
)]

mod show;

use crate::diag::{CODES, Diagnostics};
use crate::functions::{EvalError, Function};
use crate::ir::{Program, Type};
use crate::value::Value;
use crate::{CompileOptions, Dialect, Sources, compile, compile_query};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn host() -> Vec<Function> {
    vec![Function::new(
        "double",
        &[Type::Int],
        Type::Int,
        |args| match args {
            [Value::Int(i)] => i
                .checked_mul(2)
                .map(Value::Int)
                .ok_or_else(|| EvalError("overflow".to_owned())),
            _ => Err(EvalError("no int".to_owned())),
        },
    )]
}

fn build(text: &str) -> Result<(Program, String), Diagnostics> {
    let mut sources = Sources::new();
    sources.add("t.olg", text);
    // `schema.olg` is there for the programs that include something.
    sources.add(
        "schema.olg",
        "table from_schema(A: int, B: string) keys(A);\nwatch(from_schema);\n",
    );
    let jol = text.starts_with("// jol");
    let dialect = if jol { Dialect::Jol } else { Dialect::Overlog };
    let (program, warnings) = compile("t.olg", &sources, &host(), CompileOptions { dialect })?;
    let said: Vec<String> = warnings
        .iter()
        .map(|d| d.render(&program.sources))
        .collect();
    Ok((program, said.join("\n")))
}

/// What is said of a program: its diagnostics, or `ok`.
fn said(text: &str) -> String {
    match build(text) {
        Ok((_, warnings)) if warnings.is_empty() => "ok\n".to_owned(),
        Ok((_, warnings)) => warnings,
        Err(diagnostics) => diagnostics.render(),
    }
}

/// A case of a golden file: a name, a text and what comes of it.
struct Case {
    name: String,
    text: String,
    expected: String,
}

const CASE: &str = "\n==== ";
const RESULT: &str = "\n---- result\n";

fn golden(file: &str, run: impl Fn(&str) -> String) -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/check/golden")
        .join(file);
    let all = format!("\n{}", std::fs::read_to_string(&path).unwrap());
    let mut cases = Vec::new();
    for part in all.split(CASE).skip(1) {
        let (name, rest) = part.split_once('\n').unwrap();
        let (text, expected) = rest.split_once(RESULT).unwrap_or((rest, ""));
        let text = text.trim_end().to_owned();
        cases.push(Case {
            name: name.to_owned(),
            text,
            expected: expected.trim_end().to_owned(),
        });
    }
    if std::env::var_os("BOOMFS_GOLDEN").is_some() {
        let write = |case: &Case| {
            format!(
                "==== {}\n{}{RESULT}{}\n",
                case.name,
                case.text,
                run(&case.text).trim_end()
            )
        };
        let text: Vec<String> = cases.iter().map(write).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        return cases;
    }
    for case in &cases {
        assert_eq!(
            run(&case.text).trim_end(),
            case.expected,
            "{}: {}",
            file,
            case.name
        );
    }
    cases
}

#[test]
fn golden_diagnostics() {
    let cases = golden("diagnostics.txt", |text| match text.strip_prefix("?") {
        // A query on the program after the first empty line.
        Some(rest) => {
            let (query, program) = rest.split_once('\n').unwrap();
            let (program, _) = build(program).unwrap();
            compile_query(&program, query.trim()).map_or_else(|d| d.render(), |_| "ok".to_owned())
        }
        None => said(text),
    });
    let covered: BTreeSet<&str> = cases
        .iter()
        .filter_map(|c| c.name.split(' ').next())
        .collect();
    for (code, _) in CODES {
        assert!(covered.contains(code), "no case for {code}");
    }
    for case in &cases {
        let code = case.name.split(' ').next().unwrap();
        let expected = if code == "ok" { "ok" } else { code };
        assert!(
            case.expected.contains(expected),
            "{} does not show {expected}",
            case.name
        );
    }
}

#[test]
fn golden_lowering() {
    golden("lowering.txt", |text| match build(text) {
        Ok((program, _)) => show::program(&program),
        Err(diagnostics) => diagnostics.render(),
    });
}

#[test]
fn golden_queries() {
    let schema = "table inode(Ino: int, Kind: string, Size: int) keys(Ino);\n\
                  table dentry(Parent: int, Name: string, Ino: int) keys(Parent, Name);\n\
                  view big(Ino: int); big(I) :- inode(Ino: I, Size: S), S > 1000;\n\
                  event made(Ino: int); event gone(Ino: int); gone(I) :- inode#delete(I, _, _);\n\
                  table twice(A: int); twice(double(I)) :- made(I);\n";
    let (program, _) = build(schema).unwrap();
    golden("queries.txt", |text| {
        match compile_query(&program, text.trim()) {
            Ok(query) => {
                let mut whole = program.clone();
                whole.functions = query.functions.clone();
                format!(
                    "columns: {}\n{}",
                    query.columns.join(" | "),
                    show::rule(&whole, &query.rule)
                )
            }
            Err(diagnostics) => diagnostics.render(),
        }
    });
}

#[test]
fn codes_are_unique_and_sorted() {
    assert!(CODES.windows(2).all(|w| w[0].0 < w[1].0));
}

#[test]
fn includes_are_read_once_and_relative_to_the_includer() {
    let mut sources = Sources::new();
    sources.add(
        "rules/main.olg",
        "include \"a.olg\"; include \"../lib/b.olg\"; include \"a.olg\"; x(2);",
    );
    assert_eq!(
        sources.missing("rules/main.olg"),
        ["lib/b.olg", "rules/a.olg"]
    );
    sources.add(
        "rules/a.olg",
        "include \"main.olg\"; include \"../lib/b.olg\"; table x(A: int); watch(x);",
    );
    sources.add("lib/b.olg", "x(1);");
    assert_eq!(sources.missing("rules/main.olg"), Vec::<String>::new());
    let (program, warnings) =
        compile("rules/main.olg", &sources, &[], CompileOptions::default()).unwrap();
    assert!(warnings.is_empty());
    let rows: Vec<String> = program
        .facts
        .iter()
        .map(|f| format!("{:?}", f.row))
        .collect();
    assert_eq!(rows, ["[1]", "[2]"]);
    let names: Vec<&str> = program.sources.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["rules/main.olg", "rules/a.olg", "lib/b.olg"]);
}

#[test]
fn a_missing_main_source_is_reported() {
    let error = compile("none.olg", &Sources::new(), &[], CompileOptions::default()).unwrap_err();
    assert!(
        error
            .render()
            .starts_with("error[OLG0015]: source none.olg is not registered"),
        "{error}"
    );
}

#[test]
fn all_errors_of_a_file_come_in_one_go() {
    let text = "table t(A: int;\nevent e(X: itn);\nt(X) :- e(X), ;\nt(A) :- f(A);\ne(B) :- e(A);\n";
    let codes: Vec<&str> = build(text)
        .unwrap_err()
        .list
        .iter()
        .map(|d| d.code)
        .collect();
    assert_eq!(
        codes,
        ["OLG0010", "OLG0103", "OLG0010", "OLG0201", "OLG0301"]
    );
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let deep = [
        format!("t({}1{});", "(".repeat(50_000), ")".repeat(50_000)),
        format!("t({}1{});", "[".repeat(50_000), "]".repeat(50_000)),
        format!("t({}X);", "!".repeat(50_000)),
        format!("t({}X);", "- ".repeat(50_000)),
        format!("t(1{});", " + 1".repeat(50_000)),
        format!("t(X{});", "[0]".repeat(50_000)),
        format!("t({}1);", "f(".repeat(50_000)),
        format!("t(1{});", " ? 1 : 1".repeat(50_000)),
        format!("a(X) :- {}b(X);", "N := count<X> { ".repeat(50_000)),
    ];
    for text in deep {
        let error = build(&text).unwrap_err();
        assert!(
            error.list.iter().any(|d| d.code == "OLG0011"),
            "{}",
            error.list.len()
        );
    }
}

/// The blocks of docs/OVERLOG.md between fences that start with this word.
fn blocks(fence: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/OVERLOG.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut out = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            Some(_) if line == "```" => out.extend(block.take()),
            Some(text) => text.extend([line, "\n"]),
            None if line.strip_prefix("```") == Some(fence) => block = Some(String::new()),
            None => {}
        }
    }
    out
}

#[test]
fn examples_of_the_documentation_compile() {
    let blocks = blocks("overlog");
    assert!(blocks.len() > 10);
    for text in blocks {
        if let Err(diagnostics) = build(&text) {
            panic!("{text}\n{diagnostics}");
        }
    }
}

#[test]
fn wrong_examples_of_the_documentation_fail_as_it_says() {
    let blocks = blocks("overlog,error");
    assert!(!blocks.is_empty());
    for text in blocks {
        let code = text.split("// ").nth(1).and_then(|c| c.get(..7)).unwrap();
        let error = build(&text).unwrap_err();
        assert!(error.list.iter().any(|d| d.code == code), "{text}\n{error}");
    }
}

#[test]
fn the_documentation_lists_every_code_and_function() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/OVERLOG.md");
    let text = std::fs::read_to_string(path).unwrap();
    for (code, _) in CODES {
        assert!(
            text.contains(code),
            "docs/OVERLOG.md does not explain {code}"
        );
    }
    for function in crate::functions::builtins() {
        assert!(
            text.contains(&format!("`{}(", function.name)),
            "docs/OVERLOG.md does not list {}",
            function.name
        );
    }
}

/// Words that make programs which get far before they fail.
const SOUP: &[&str] = &[
    "table",
    "view",
    "event",
    "timer",
    "watch",
    "invariant",
    "define",
    "include",
    "program",
    "import",
    "delete",
    "update",
    "next",
    "public",
    "notin",
    "in",
    "keys",
    "volatile",
    "replicated",
    "by",
    "kept",
    "lazy",
    "eager",
    "t",
    "v",
    "e",
    "f",
    "X",
    "Y",
    "N",
    "_",
    "count",
    "sum",
    "max",
    "argmax",
    "top",
    "int",
    "string",
    "addr",
    "list",
    "any",
    "size",
    "split",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    ":",
    "::",
    ":-",
    ":=",
    "+=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "=",
    "!=",
    "!",
    "<",
    "<=",
    ">",
    ">=",
    "&&",
    "||",
    "?",
    "@",
    "#",
    ".",
    "#insert",
    "#delete",
    "1",
    "0",
    "2.5",
    "9223372036854775808",
    "500ms",
    "0xff",
    "\"a\"",
    "@\"h:1\"",
    "true",
    "null",
    "\n",
    "/*",
    "*/",
    "//",
    "\"",
    "\\",
    "table t(A: int, B: int) keys(A);",
    "view v(A: int);",
    "event e(X: int);",
    "event f(@To: addr, X: int);",
    "t(X, Y) :- e(X), Y := X + 1;",
    "v(X) :- t(X, _), notin v(X);",
    "N := count<X> { t(X, _) }",
    "X, Y in L",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn token_soup_never_panics(words in prop::collection::vec(0..SOUP.len(), 0..80)) {
        let text = words.into_iter().map(|w| SOUP[w]).collect::<Vec<_>>().join(" ");
        let _ = said(&text);
    }

    #[test]
    fn statements_of_soup_never_panic(words in prop::collection::vec(0..SOUP.len(), 0..20)) {
        let body = words.into_iter().map(|w| SOUP[w]).collect::<Vec<_>>().join(" ");
        let text = format!("table t(A: int, B: int) keys(A); event e(X: int); view v(A: int); t(X, Y) :- e(X), {body};");
        let _ = said(&text);
        let (program, _) = build("table t(A: int, B: int) keys(A); event e(X: int); view v(A: int);").unwrap();
        let _ = compile_query(&program, &body).map_err(|d| d.render());
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = said(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn text_never_panics(text in "\\PC{0,200}") {
        let _ = said(&text);
    }
}

#[test]
fn a_warning_does_not_stop_a_program() {
    // An unread table is a warning and does not stop the program.
    let (_, warnings) = build("table t(A: int); t(1);").unwrap();
    assert!(warnings.starts_with("warning[OLG0903]"), "{warnings}");
}
