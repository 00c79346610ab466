//! Which arrangements there are. A column order serves every prefix of it, so needs are gathered
//! first and then met with few orders.

use crate::ir::{Program, RelId, RelKind, Relation};
use std::collections::{BTreeMap, BTreeSet};

/// Index of an arrangement in [`Indexes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexId(pub usize);

/// An arrangement of a table or kept view.
#[derive(Clone, Debug)]
pub struct IndexDef {
    /// The relation.
    pub rel: RelId,
    /// All its columns, in the arrangement's order.
    pub order: Vec<usize>,
    /// How many leading columns are the arrangement's key; the rest is its value.
    pub key_columns: usize,
    /// So many leading columns identify a row.
    pub unique_width: usize,
}

/// A need of some rule: these columns are known; this one is limited to a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Known columns.
    pub known: BTreeSet<usize>,
    /// The column with a range.
    pub ranged: Option<usize>,
    /// A join in a view: the known columns must be exactly the key.
    pub join: bool,
}

/// All arrangements. The first of a relation is its primary one, ordered by its key.
#[derive(Clone, Debug, Default)]
pub struct Indexes {
    defs: Vec<IndexDef>,
    of: BTreeMap<RelId, Vec<IndexId>>,
}

/// A column order that is not fixed yet: sets of columns, in order.
struct Blocks {
    blocks: Vec<BTreeSet<usize>>,
    key_columns: Option<usize>,
}

impl Blocks {
    /// Can the known columns come first, and the ranged one next? Fixes the order so far if so.
    fn fit(&mut self, need: &Need) -> bool {
        let mut left = need.known.clone();
        let mut at = 0;
        while !left.is_empty() {
            let Some(block) = self.blocks.get(at) else {
                return false;
            };
            if block.is_subset(&left) {
                left = &left - block;
                at += 1;
            } else if left.is_subset(block) {
                break;
            } else {
                return false;
            }
        }
        let next: BTreeSet<usize> = match self.blocks.get(at) {
            Some(block) => block - &left,
            None => BTreeSet::new(),
        };
        if let Some(r) = need.ranged
            && !next.contains(&r)
        {
            return false;
        }
        if need.join && self.key_columns.is_some_and(|k| k != need.known.len()) {
            return false;
        }
        self.split(at, &left);
        if !left.is_empty() {
            at += 1;
        }
        if let Some(r) = need.ranged {
            self.split(at, &BTreeSet::from([r]));
        }
        if need.join {
            self.key_columns = Some(need.known.len());
        }
        true
    }

    /// Puts a part of a block first.
    fn split(&mut self, at: usize, part: &BTreeSet<usize>) {
        let Some(block) = self.blocks.get_mut(at) else {
            return;
        };
        let rest = &*block - part;
        if part.is_empty() || rest.is_empty() {
            return;
        }
        *block = part.clone();
        self.blocks.insert(at + 1, rest);
    }
}

impl Indexes {
    /// Chooses arrangements that meet all needs.
    pub fn choose(program: &Program, needs: &BTreeMap<RelId, BTreeSet<Need>>) -> Indexes {
        let mut indexes = Indexes::default();
        for (i, relation) in program.relations.iter().enumerate() {
            let rel = RelId(u32::try_from(i).unwrap_or(u32::MAX));
            let stored = match relation.kind {
                RelKind::Table(_) => true,
                RelKind::View { kept, .. } => kept,
                _ => false,
            };
            if stored {
                indexes.choose_for(rel, relation, needs.get(&rel));
            }
        }
        indexes
    }

    fn choose_for(&mut self, rel: RelId, relation: &Relation, needs: Option<&BTreeSet<Need>>) {
        let all: BTreeSet<usize> = (0..relation.columns.len()).collect();
        let keys: BTreeSet<usize> = relation.keys.iter().copied().collect();
        let mut orders = vec![Blocks {
            blocks: split_off(&keys, &all),
            key_columns: None,
        }];
        let mut wanted: Vec<&Need> = needs.into_iter().flatten().collect();
        // Long ones first: the short ones then fit into their prefixes.
        wanted.sort_by_key(|n| {
            (
                std::cmp::Reverse(n.known.len()),
                n.ranged.is_none(),
                !n.join,
            )
        });
        for need in wanted {
            let unique = !keys.is_empty()
                && keys.is_subset(&need.known)
                && need.ranged.is_none()
                && !need.join;
            if unique || orders.iter_mut().any(|o| o.fit(need)) {
                continue;
            }
            let mut order = Blocks {
                blocks: split_off(&need.known, &all),
                key_columns: None,
            };
            order.fit(need);
            orders.push(order);
        }
        for (i, order) in orders.into_iter().enumerate() {
            let columns: Vec<usize> = order.blocks.into_iter().flatten().collect();
            let unique_width = unique_width(&columns, &keys);
            let default = if i == 0 {
                keys.len()
            } else {
                unique_width.min(columns.len())
            };
            let id = IndexId(self.defs.len());
            let key_columns = order.key_columns.unwrap_or(default);
            self.defs.push(IndexDef {
                rel,
                order: columns,
                key_columns,
                unique_width,
            });
            self.of.entry(rel).or_default().push(id);
        }
    }

    /// Adds the primary arrangement of one more relation.
    pub fn add_primary(&mut self, rel: RelId, relation: &Relation) {
        self.choose_for(rel, relation, None);
    }

    /// The arrangement whose order starts with the most of the known columns (and then the ranged
    /// one), and how many of them lead.
    pub fn best(
        &self,
        rel: RelId,
        known: &BTreeSet<usize>,
        ranged: Option<usize>,
    ) -> (IndexId, usize) {
        let mut best = (IndexId(usize::MAX), 0);
        let mut score = None;
        for id in self.of(rel) {
            let def = self.get(*id);
            let width = def.order.iter().take_while(|c| known.contains(c)).count();
            let unique = width >= def.unique_width;
            let ranged_next = ranged.is_some() && def.order.get(width).copied() == ranged;
            let this = (unique, width, ranged_next);
            if score.is_none_or(|s| this > s) {
                score = Some(this);
                best = (*id, width);
            }
        }
        best
    }

    /// The arrangement of a relation whose key is exactly these columns, if there is one.
    pub fn keyed(&self, rel: RelId, columns: &BTreeSet<usize>) -> Option<IndexId> {
        self.of(rel).iter().copied().find(|id| {
            let def = self.get(*id);
            let key: BTreeSet<usize> = def.order.iter().take(def.key_columns).copied().collect();
            def.key_columns == columns.len() && &key == columns
        })
    }

    /// All arrangements of a relation, the primary one first.
    pub fn of(&self, rel: RelId) -> &[IndexId] {
        self.of.get(&rel).map_or(&[], Vec::as_slice)
    }

    /// The arrangement with this id.
    pub fn get(&self, id: IndexId) -> &IndexDef {
        #[allow(clippy::indexing_slicing)] // ids come from this table
        &self.defs[id.0]
    }

    /// All arrangements with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (IndexId, &IndexDef)> {
        self.defs.iter().enumerate().map(|(i, d)| (IndexId(i), d))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.defs.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.defs.is_empty()
    }
}

fn split_off(first: &BTreeSet<usize>, all: &BTreeSet<usize>) -> Vec<BTreeSet<usize>> {
    [first.clone(), all - first]
        .into_iter()
        .filter(|b| !b.is_empty())
        .collect()
}

/// How many leading columns contain the key.
fn unique_width(order: &[usize], keys: &BTreeSet<usize>) -> usize {
    order
        .iter()
        .rposition(|c| keys.contains(c))
        .map_or(0, |p| p + 1)
}
