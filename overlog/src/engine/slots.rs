//! The values of a rule's variables while its body runs.

use crate::engine::eval::Slots;
use crate::engine::events::Columns;
use crate::engine::plan::{Col, Operand};

/// Rows longer than this are not copied whole for the sake of a few columns.
const MUCH: usize = 1024;

/// Packed values in one buffer that grows as loops go deeper and shrinks as they come back.
#[derive(Default)]
pub struct Values {
    bytes: Vec<u8>,
    /// Where each variable's value starts and ends. Nothing: undefined.
    places: Vec<(usize, usize)>,
}

impl Slots for Values {
    #[inline]
    fn slot(&self, at: usize) -> &[u8] {
        let (start, end) = self.places.get(at).copied().unwrap_or_default();
        self.bytes.get(start..end).unwrap_or_default()
    }
}

impl Values {
    /// Makes room for so many variables, all undefined.
    pub fn reset(&mut self, slots: usize) {
        self.bytes.clear();
        self.places.clear();
        self.places.resize(slots, (0, 0));
    }

    /// Where to go back to with [`Values::release`].
    pub fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was set since: it must be set again before it is read.
    pub fn release(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    /// Sets a variable; no bytes make it undefined.
    #[inline]
    pub fn set(&mut self, slot: usize, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.place(slot, (start, self.bytes.len()));
    }

    #[inline]
    fn place(&mut self, slot: usize, place: (usize, usize)) {
        if let Some(p) = self.places.get_mut(slot) {
            *p = place;
        }
    }

    /// Binds or checks a value.
    #[inline]
    pub fn store(&mut self, col: &Col, value: &[u8]) -> bool {
        match col {
            Col::Skip => true,
            Col::Bind(slot) => {
                self.set(*slot, value);
                true
            }
            Col::Check(operand) => self.fits(operand, value),
        }
    }

    /// Equal, or not known.
    #[inline]
    fn fits(&self, operand: &Operand, value: &[u8]) -> bool {
        let expected = self.operand(operand);
        expected.is_empty() || expected == value
    }

    /// The value of an operand.
    #[inline]
    pub fn operand<'a>(&'a self, operand: &'a Operand) -> &'a [u8] {
        match operand {
            Operand::Slot(slot) => self.slot(*slot),
            Operand::Const(bytes) => bytes,
        }
    }

    /// Binds and checks the columns of an event's row.
    #[inline]
    pub fn bind(&mut self, cols: &[Col], row: Columns<'_>) -> bool {
        let binds = |col: &Col| matches!(col, Col::Bind(_));
        let (Some(first), Some(last)) = (cols.iter().position(binds), cols.iter().rposition(binds))
        else {
            let mut all = cols.iter().enumerate();
            return all.all(|(at, col)| self.store(col, row.get(at)));
        };
        let (from, to) = (row.span(first).0, row.span(last).1);
        if to.saturating_sub(from) > MUCH {
            let mut all = cols.iter().enumerate();
            return all.all(|(at, col)| self.store(col, row.get(at)));
        }
        // What lies between is copied along: that is less work than to copy each for itself.
        let base = self.bytes.len();
        self.bytes.extend_from_slice(row.bytes(from, to));
        cols.iter().enumerate().all(|(at, col)| match col {
            Col::Skip => true,
            Col::Bind(slot) => {
                let (start, end) = row.span(at);
                self.place(*slot, (base + start - from, base + end - from));
                true
            }
            Col::Check(operand) => self.fits(operand, row.get(at)),
        })
    }
}
