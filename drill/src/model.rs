//! A directory, as its clients may see it: names that are there or not, and which file each is.

use crate::linear::Model;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a client does in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Makes a file, if there is none of that name.
    Create(String),
    /// Removes a file.
    Unlink(String),
    /// Moves a file, over another one if there is one.
    Rename(String, String),
    /// Looks a name up.
    Lookup(String),
    /// Lists the directory.
    List,
}

impl Op {
    /// It changes something when it succeeds.
    pub fn writes(&self) -> bool {
        matches!(self, Op::Create(_) | Op::Unlink(_) | Op::Rename(..))
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// The file that was made, moved or found.
    File(u64),
    /// Names and files.
    Names(BTreeMap<String, u64>),
    /// There is one already.
    Exists,
    /// There is none.
    Missing,
}

/// A file whose number nobody has been told yet.
const UNTOLD: u64 = 0;

/// One directory, empty at the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory;

fn same(known: u64, told: u64) -> bool {
    known == UNTOLD || known == told
}

impl Model for Directory {
    type State = BTreeMap<String, u64>;
    type Op = Op;
    type Answer = Answer;

    fn start(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn step(
        &self,
        state: &BTreeMap<String, u64>,
        op: &Op,
        answer: Option<&Answer>,
    ) -> Option<BTreeMap<String, u64>> {
        let mut next = state.clone();
        match (op, answer) {
            (Op::Create(name), answer) => match (state.get(name), answer) {
                (None, Some(Answer::File(file))) => next.insert(name.clone(), *file),
                (None, None) => next.insert(name.clone(), UNTOLD),
                (Some(_), Some(Answer::Exists) | None) => None,
                _ => return None,
            },
            (Op::Unlink(name), answer) => match (next.remove(name), answer) {
                (Some(_), Some(Answer::Done) | None) | (None, Some(Answer::Missing) | None) => None,
                _ => return None,
            },
            (Op::Rename(from, to), answer) => match (next.remove(from), answer) {
                (Some(file), Some(Answer::File(told))) if same(file, *told) => {
                    next.insert(to.clone(), *told)
                }
                (Some(file), None) => next.insert(to.clone(), file),
                (None, Some(Answer::Missing) | None) => None,
                _ => return None,
            },
            (Op::Lookup(name), answer) => match (state.get(name), answer) {
                // Now its number is known.
                (Some(file), Some(Answer::File(told))) if same(*file, *told) => {
                    next.insert(name.clone(), *told)
                }
                (None, Some(Answer::Missing)) | (_, None) => None,
                _ => return None,
            },
            (Op::List, None) => None,
            (Op::List, Some(Answer::Names(names))) => {
                let fits = |((name, file), (other, told)): ((&String, &u64), (&String, &u64))| {
                    name == other && same(*file, *told)
                };
                if state.len() != names.len() || !state.iter().zip(names).all(fits) {
                    return None;
                }
                next.clone_from(names);
                None
            }
            (Op::List, _) => return None,
        };
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Operation;
    use crate::linear::{Verdict, check};

    fn history(all: &[(Op, Option<Answer>)]) -> Vec<Operation<Op, Answer>> {
        let one = |(at, (op, answer)): (u64, &(Op, Option<Answer>))| Operation {
            process: if answer.is_some() { 1 } else { 100 + at },
            op: op.clone(),
            begun_ns: at * 10,
            ended: answer.clone().map(|answer| (at * 10 + 5, answer)),
        };
        (0..).zip(all).map(one).collect()
    }

    fn holds(all: &[(Op, Option<Answer>)]) -> bool {
        check(&Directory, &history(all), 100_000) == Verdict::Linearizable
    }

    fn name(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn a_directory_does_what_it_says() {
        let (a, b) = (name("a"), name("b"));
        let create = (Op::Create(a.clone()), Some(Answer::File(7)));
        assert!(holds(&[
            create.clone(),
            (Op::Create(a.clone()), Some(Answer::Exists)),
            (Op::Rename(a.clone(), b.clone()), Some(Answer::File(7))),
            (Op::Lookup(a.clone()), Some(Answer::Missing)),
            (
                Op::List,
                Some(Answer::Names(BTreeMap::from([(b.clone(), 7)])))
            ),
            (Op::Unlink(b.clone()), Some(Answer::Done)),
            (Op::Unlink(b.clone()), Some(Answer::Missing)),
        ]));
        // An acknowledged file is lost.
        assert!(!holds(&[
            create.clone(),
            (Op::Lookup(a.clone()), Some(Answer::Missing))
        ]));
        // A retry was applied twice: the file that was removed is back.
        assert!(!holds(&[
            create.clone(),
            (Op::Unlink(a.clone()), Some(Answer::Done)),
            (Op::Lookup(a.clone()), Some(Answer::File(8))),
        ]));
        // Another file stands in its place.
        assert!(!holds(&[create, (Op::Lookup(a), Some(Answer::File(8)))]));
    }

    #[test]
    fn an_unanswered_create_may_show_up_later_as_one_file() {
        let a = name("a");
        let lost = (Op::Create(a.clone()), None);
        let found = |file| (Op::Lookup(a.clone()), Some(Answer::File(file)));
        assert!(holds(&[
            lost.clone(),
            (Op::Lookup(a.clone()), Some(Answer::Missing)),
            found(3)
        ]));
        assert!(!holds(&[lost, found(3), found(4)]));
    }
}
