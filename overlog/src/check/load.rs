//! Sources and includes.

use crate::ast::Item;
use crate::diag::{Diagnostic, code};
use crate::ir::{Source, Span};
use crate::parser::{includes, parse};
use std::collections::{BTreeMap, BTreeSet};

/// The texts that a program is made of, by name.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    texts: BTreeMap<String, String>,
}

impl Sources {
    /// No sources.
    pub fn new() -> Sources {
        Sources::default()
    }

    /// Registers a text. A later one of the same name replaces it.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.texts.insert(normal(&name.into()), text.into());
    }

    /// Names that the source and what it includes include and that are not registered: what a host that
    /// reads files must still load.
    pub fn missing(&self, main: &str) -> Vec<String> {
        let mut missing = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut todo = vec![normal(main)];
        while let Some(name) = todo.pop() {
            let Some(text) = self.texts.get(&name) else {
                missing.insert(name);
                continue;
            };
            for path in includes(text) {
                let found = self
                    .find(&name, &path)
                    .unwrap_or_else(|| beside(&name, &path));
                if seen.insert(found.clone()) {
                    todo.push(found);
                }
            }
        }
        missing.into_iter().collect()
    }

    /// The registered name that a path means in a source: beside it, or as it stands.
    fn find(&self, includer: &str, path: &str) -> Option<String> {
        [beside(includer, path), normal(path)]
            .into_iter()
            .find(|name| self.texts.contains_key(name))
    }
}

/// A path as seen from the folder of a source.
fn beside(includer: &str, path: &str) -> String {
    match includer.rfind('/') {
        Some(at) if !path.starts_with('/') => normal(&format!(
            "{}/{path}",
            includer.get(..at).unwrap_or_default()
        )),
        _ => normal(path),
    }
}

/// Takes `.` and `..` out of a path.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            "" if !parts.is_empty() => {}
            ".." if parts.last().is_some_and(|p| !p.is_empty() && *p != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// All sources of a program, parsed.
pub(super) struct Loaded {
    pub(super) sources: Vec<Source>,
    pub(super) items: Vec<Item>,
    pub(super) diags: Vec<Diagnostic>,
    pub(super) broken: BTreeSet<String>,
}

pub(super) fn load(main: &str, sources: &Sources) -> Loaded {
    let mut loaded = Loaded {
        sources: Vec::new(),
        items: Vec::new(),
        diags: Vec::new(),
        broken: BTreeSet::new(),
    };
    let main = normal(main);
    if !sources.texts.contains_key(&main) {
        // No place to point at but the source itself.
        loaded.sources.push(Source {
            name: main.clone(),
            text: String::new(),
        });
        let message = format!("source {main} is not registered");
        loaded.diags.push(Diagnostic::error(
            code::NO_SOURCE,
            &Span::default(),
            message,
        ));
        return loaded;
    }
    // An include's statements stand before those of its includer, so a stack of what is left to do.
    let mut seen = BTreeSet::from([main.clone()]);
    let mut stack = vec![loaded.open(&main, sources)];
    while let Some(mut file) = stack.pop() {
        while let Some(item) = file.items.next() {
            let Item::Include { path, span } = &item else {
                loaded.items.push(item);
                continue;
            };
            let path = String::from_utf8_lossy(path);
            let Some(found) = sources.find(&file.name, &path) else {
                let message = format!("included source {path} is not there");
                let hint = format!("register it as {}", beside(&file.name, &path));
                loaded
                    .diags
                    .push(Diagnostic::error(code::NO_SOURCE, span, message).hint(hint));
                continue;
            };
            if seen.insert(found.clone()) {
                stack.push(file);
                file = loaded.open(&found, sources);
            }
        }
    }
    loaded
}

struct File {
    name: String,
    items: std::vec::IntoIter<Item>,
}

impl Loaded {
    fn open(&mut self, name: &str, sources: &Sources) -> File {
        let text = sources.texts.get(name).cloned().unwrap_or_default();
        let id = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        let parsed = parse(id, &text);
        self.sources.push(Source {
            name: name.to_owned(),
            text,
        });
        self.diags.extend(parsed.diags);
        self.broken.extend(parsed.broken);
        File {
            name: name.to_owned(),
            items: parsed.items.into_iter(),
        }
    }
}
