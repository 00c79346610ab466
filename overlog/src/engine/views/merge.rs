//! Lattice columns: values that merge when rows have one key.

use crate::engine::tables::columns_of;
use crate::ir::Lattice as Merge;
use crate::packed::{self, Row};
use std::collections::BTreeSet;

/// Merges the values of one key column by column.
pub fn merge_rows<'a>(rows: impl Iterator<Item = &'a [u8]>, merges: &[Option<Merge>]) -> Row {
    let mut best: Vec<Vec<u8>> = Vec::new();
    for row in rows {
        for (i, value) in columns_of(row).into_iter().enumerate() {
            if best.len() <= i {
                best.push(value.to_vec());
            }
            // Also with itself: a set is sorted and without repeats.
            if let (Some(b), Some(merge)) = (
                best.as_mut_slice().get_mut(i),
                merges.get(i).copied().flatten(),
            ) {
                merge_value(b, value, merge);
            }
        }
    }
    Row::from_bytes(best.concat())
}

/// Merges a value into another.
pub fn merge_value(best: &mut Vec<u8>, value: &[u8], merge: Merge) {
    let take = match merge {
        // `true` is greater than `false`, so `or` is the greater and `and` the lesser.
        Merge::Max | Merge::Or => value > best.as_slice(),
        Merge::Min | Merge::And => value < best.as_slice(),
        Merge::Set => {
            let union: BTreeSet<Vec<u8>> = packed::list_items(best)
                .chain(packed::list_items(value))
                .map(<[u8]>::to_vec)
                .collect();
            best.clear();
            packed::begin_list(best);
            union.iter().for_each(|x| best.extend_from_slice(x));
            packed::end_list(best);
            return;
        }
    };
    if take {
        best.clear();
        best.extend_from_slice(value);
    }
}
