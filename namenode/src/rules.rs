//! The rules, built in.

use crate::planted::{Mistake, planted};
use overlog::check::{CompileOptions, Sources, compile};
use overlog::diag::Diagnostics;
use overlog::ir::Program;
use std::borrow::Cow;

macro_rules! rule_files {
    ($($name:literal),* $(,)?) => {
        /// Each rule file's name and text; `namenode.olg` includes the others.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../rules/", $name)))),*];
    };
}

rule_files!(
    "namenode.olg",
    "main.olg",
    "schema.olg",
    "batch.olg",
    "session.olg",
    "order.olg",
    "path.olg",
    "create.olg",
    "remove.olg",
    "rename.olg",
    "attr.olg",
    "block.olg",
    "member.olg",
    "propose.olg",
    "look.olg",
    "read.olg",
    "datanode.olg",
    "repair.olg",
    "views.olg",
    "paxos/main.olg",
    "paxos/schema.olg",
    "paxos/acceptor.olg",
    "paxos/election.olg",
    "paxos/leader.olg",
    "paxos/learner.olg",
    "paxos/lease.olg",
    "paxos/space.olg",
    "paxos/state.olg",
);

/// A rule file's text, with the mistake that a test may have planted.
fn changed(text: &'static str) -> Cow<'static, str> {
    match planted() {
        Some(Mistake::Rule(from, to)) if text.contains(from) => text.replace(from, to).into(),
        _ => text.into(),
    }
}

/// A test has planted a mistake in them.
pub(crate) fn are_changed() -> bool {
    matches!(planted(), Some(Mistake::Rule(..)))
}

/// The rule files as sources of the language.
pub fn sources() -> Sources {
    let mut sources = Sources::new();
    for (name, text) in FILES {
        sources.add(*name, changed(text));
    }
    sources
}

/// The text of all rule files, in a fixed order: NameNodes of one cluster run the same.
pub fn text() -> String {
    FILES
        .iter()
        .flat_map(|(name, text)| [*name, "\n", *text, "\n"])
        .collect()
}

/// The checked program that a NameNode runs.
///
/// # Errors
/// A rule file is wrong; a test sees to it that none is.
pub fn program() -> Result<Program, Diagnostics> {
    compile("namenode.olg", &sources(), &[], CompileOptions::default()).map(|(program, _)| program)
}
