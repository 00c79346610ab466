//! `boomfs check`: checks rule files.

use crate::failure::{Tally, warn};
use crate::output;
use anyhow::{Context, anyhow};
use overlog::diag::Severity;
use overlog::ir::Program;
use overlog::{CompileOptions, Dialect, Sources, compile};
use std::path::{Path, PathBuf};

/// Arguments of `boomfs check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Rule files; what they include is read from beside them
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Read `define` without keys as JOL does: an event
    #[arg(long)]
    jol: bool,
}

/// Checks each file by itself, and prints all errors and warnings on stderr.
///
/// # Errors
/// A file cannot be read, or has errors.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let dialect = if args.jol {
        Dialect::Jol
    } else {
        Dialect::Overlog
    };
    let mut tally = Tally::default();
    for file in &args.files {
        tally.take(check(file, CompileOptions { dialect }));
    }
    tally.end()
}

fn check(file: &Path, options: CompileOptions) -> anyhow::Result<()> {
    let name = file
        .to_str()
        .ok_or_else(|| anyhow!("{}: the name is no UTF-8; rename the file", file.display()))?;
    let sources = load(name)?;
    match compile(name, &sources, &[], options) {
        Ok((program, warnings)) => {
            for warning in &warnings {
                eprintln!("{}", warning.render(&program.sources));
            }
            output::line(&format!("{name}: {}", summary(&program, warnings.len())))
        }
        Err(diagnostics) => {
            let errors = diagnostics
                .list
                .iter()
                .filter(|d| d.severity == Severity::Error)
                .count();
            eprintln!("{}", diagnostics.render());
            Err(anyhow!(
                "{name}: {errors} error{}",
                if errors == 1 { "" } else { "s" }
            ))
        }
    }
}

/// The file and all that it includes. An included file that cannot be read is left to the compiler, which
/// knows where it is included.
fn load(name: &str) -> anyhow::Result<Sources> {
    let mut sources = Sources::new();
    let text = read(Path::new(name)).with_context(|| format!("cannot check {name}"))?;
    sources.add(name, text);
    let mut tried = std::collections::BTreeSet::new();
    loop {
        let mut new = false;
        for missing in sources.missing(name) {
            if !tried.insert(missing.clone()) {
                continue;
            }
            match read(Path::new(&missing)) {
                Ok(text) => {
                    sources.add(&missing, text);
                    new = true;
                }
                Err(why) => warn(&why.context(format!("cannot read {missing}, which is included"))),
            }
        }
        if !new {
            return Ok(sources);
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path)?;
    String::from_utf8(bytes)
        .map_err(|why| anyhow!("not UTF-8 at byte {}", why.utf8_error().valid_up_to()))
}

fn summary(program: &Program, warnings: usize) -> String {
    let own = program
        .relations
        .iter()
        .filter(|relation| !relation.name.starts_with("sys_"))
        .count();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "ok: {}, {}, {}",
        count(own, "relation"),
        count(program.rules.len(), "rule"),
        count(warnings, "warning")
    )
}
