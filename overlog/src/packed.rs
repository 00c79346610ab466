//! Packed rows: each value as a tag and bytes, so that comparing bytes compares values, and a
//! row's bytes are the concatenation of its columns' bytes.
//!
//! | value | bytes |
//! |---|---|
//! | end of a list | `00` |
//! | false, true | `01`, `02` |
//! | int | `10 + n` and n big-endian bytes for n significant bytes; a negative one `0f - n` and the bytes of `!x` inverted |
//! | float | `20` and 8 bytes, sign-folded |
//! | string, bytes, addr | `30`, `31`, `32`, the bytes with `00` as `00 ff`, and `00 00` |
//! | list | `40`, the elements, `00` |

use crate::value::Value;
use std::fmt;

const LIST_END: u8 = 0x00;
const FALSE: u8 = 0x01;
const TRUE: u8 = 0x02;
const INT_ZERO: u8 = 0x10;
const FLOAT: u8 = 0x20;
pub(crate) const STR: u8 = 0x30;
const BYTES: u8 = 0x31;
const ADDR: u8 = 0x32;
pub(crate) const LIST: u8 = 0x40;

/// A row: packed values, one after the other.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(Box<[u8]>);

impl Row {
    /// Packs values.
    pub fn new(values: &[Value]) -> Row {
        let mut out = Vec::with_capacity(values.len() * 8);
        for v in values {
            pack(v, &mut out);
        }
        Row::from_bytes(out)
    }

    /// Takes bytes that [`pack`] wrote.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Row {
        Row(bytes.into_boxed_slice())
    }

    /// Takes bytes from outside: `None` if they are not exactly `columns` packed values.
    pub fn check(bytes: Vec<u8>, columns: usize) -> Option<Row> {
        let mut rest: &[u8] = &bytes;
        for _ in 0..columns {
            rest = pass(rest, 0)?;
        }
        rest.is_empty().then(|| Row::from_bytes(bytes))
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The values.
    pub fn values(&self) -> Vec<Value> {
        unpack_all(&self.0)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// Appends a value.
pub fn pack(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(b) => out.push(if *b { TRUE } else { FALSE }),
        Value::Int(i) => pack_int(*i, out),
        Value::Float(x) => {
            out.push(FLOAT);
            let bits = x.to_bits();
            let folded = if bits >> 63 == 1 {
                !bits
            } else {
                bits | (1 << 63)
            };
            out.extend_from_slice(&folded.to_be_bytes());
        }
        Value::Str(b) => pack_text(STR, b, out),
        Value::Bytes(b) => pack_text(BYTES, b, out),
        Value::Addr(b) => pack_text(ADDR, b, out),
        Value::List(l) => {
            out.push(LIST);
            for v in l.iter() {
                pack(v, out);
            }
            out.push(LIST_END);
        }
    }
}

/// Appends an int.
pub fn pack_int(i: i64, out: &mut Vec<u8>) {
    let magnitude = if i < 0 { !i } else { i };
    let bytes = magnitude.to_be_bytes();
    let skip = (magnitude.leading_zeros() / 8) as usize;
    let significant = bytes.get(skip..).unwrap_or_default();
    // At most 8 bytes, so the tag stays within its range.
    let n = significant.len() as u8;
    if i < 0 {
        out.push(INT_ZERO - 1 - n);
        out.extend(significant.iter().map(|b| !b));
    } else {
        out.push(INT_ZERO + n);
        out.extend_from_slice(significant);
    }
}

/// Starts a list; pack its elements and then call [`end_list`].
pub(crate) fn begin_list(out: &mut Vec<u8>) {
    out.push(LIST);
}

/// Ends a list.
pub(crate) fn end_list(out: &mut Vec<u8>) {
    out.push(LIST_END);
}

fn pack_text(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| *b == 0) {
        let (head, tail) = rest.split_at(at);
        out.extend_from_slice(head);
        out.extend_from_slice(&[0, 0xff]);
        rest = tail.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

/// The length of the first packed value; 0 if there is none or it is cut short.
#[inline]
pub fn skip(bytes: &[u8]) -> usize {
    match bytes.first() {
        None => 0,
        Some(&tag) => match tag {
            FALSE | TRUE => 1,
            0x07..=0x0f => 1 + usize::from(INT_ZERO - 1 - tag),
            0x10..=0x18 => 1 + usize::from(tag - INT_ZERO),
            FLOAT => 9,
            STR | BYTES | ADDR => skip_text(bytes),
            LIST => skip_list(bytes),
            _ => 0,
        },
    }
}

fn skip_text(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(rest) = bytes.get(at..) {
        let Some(zero) = rest.iter().position(|b| *b == 0) else {
            return 0;
        };
        match rest.get(zero + 1) {
            Some(0) => return at + zero + 2,
            Some(0xff) => at += zero + 2,
            _ => return 0,
        }
    }
    0
}

fn skip_list(bytes: &[u8]) -> usize {
    // Iterative: the depth of nested lists is the sender's choice.
    let mut depth = 1_usize;
    let mut at = 1;
    while depth > 0 {
        match bytes.get(at) {
            None => return 0,
            Some(&LIST_END) => {
                depth -= 1;
                at += 1;
            }
            Some(&LIST) => {
                depth += 1;
                at += 1;
            }
            Some(_) => {
                let n = skip(bytes.get(at..).unwrap_or_default());
                if n == 0 {
                    return 0;
                }
                at += n;
            }
        }
    }
    at
}

/// Splits off the first packed value.
#[inline]
pub fn split_first(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(skip(bytes).min(bytes.len()))
}

/// An int, if the bytes are one.
#[inline]
pub fn unpack_int(bytes: &[u8]) -> Option<i64> {
    let (&tag, rest) = bytes.split_first()?;
    let (n, negative) = match tag {
        0x10..=0x18 => (usize::from(tag - INT_ZERO), false),
        0x07..=0x0f => (usize::from(INT_ZERO - 1 - tag), true),
        _ => return None,
    };
    let mut x: u64 = 0;
    for b in rest.get(..n)? {
        x = (x << 8) | u64::from(if negative { !*b } else { *b });
    }
    let x = i64::try_from(x).ok()?;
    Some(if negative { !x } else { x })
}

/// Limit on nested lists that come from outside.
const MAX_DEPTH: usize = 64;

/// Decodes the first value and gives the rest; `None` if the bytes are no packed value.
pub fn unpack(bytes: &[u8], depth: usize) -> Option<(Value, &[u8])> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some((&LIST, mut inner)) = bytes.split_first() {
        let mut items = Vec::new();
        while inner.first() != Some(&LIST_END) {
            let (v, after) = unpack(inner, depth + 1)?;
            items.push(v);
            inner = after;
        }
        return Some((Value::List(items.into()), inner.get(1..)?));
    }
    let (item, rest) = bytes.split_at_checked(skip(bytes))?;
    let (tag, body) = item.split_first()?;
    let value = match *tag {
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        0x07..=0x18 => Value::Int(unpack_int(item)?),
        FLOAT => {
            let folded = u64::from_be_bytes(body.try_into().ok()?);
            Value::float(f64::from_bits(if folded >> 63 == 1 {
                folded & !(1 << 63)
            } else {
                !folded
            }))
        }
        STR => Value::Str(unpack_text(body).into()),
        BYTES => Value::Bytes(unpack_text(body).into()),
        ADDR => Value::Addr(unpack_text(body).into()),
        _ => return None,
    };
    Some((value, rest))
}

/// What follows the first value, if that is one that [`unpack`] decodes.
fn pass(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some((&LIST, mut inner)) = bytes.split_first() {
        while inner.first() != Some(&LIST_END) {
            inner = pass(inner, depth + 1)?;
        }
        return inner.get(1..);
    }
    let (item, rest) = bytes.split_at_checked(skip(bytes))?;
    match item.first()? {
        0x07..=0x18 => unpack_int(item).map(|_| rest),
        _ => Some(rest),
    }
}

fn unpack_text(body: &[u8]) -> Vec<u8> {
    let body = body.get(..body.len().saturating_sub(2)).unwrap_or_default();
    let mut out = Vec::with_capacity(body.len());
    let mut escaped = false;
    for &b in body {
        if !escaped {
            out.push(b);
        }
        escaped = b == 0 && !escaped;
    }
    out
}

/// Decodes all values.
pub fn unpack_all(bytes: &[u8]) -> Vec<Value> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((v, after)) = unpack(rest, 0) {
        out.push(v);
        rest = after;
    }
    out
}

/// The elements of a packed list, as packed bytes; empty if it is no list.
pub(crate) fn list_items(bytes: &[u8]) -> ListItems<'_> {
    match bytes.split_first() {
        Some((&LIST, rest)) => ListItems(rest),
        _ => ListItems(&[]),
    }
}

/// True if the bytes are a packed list.
pub(crate) fn is_list(bytes: &[u8]) -> bool {
    bytes.first() == Some(&LIST)
}

/// Iterates over a packed list's elements.
pub(crate) struct ListItems<'a>(&'a [u8]);

impl<'a> Iterator for ListItems<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() || self.0.first() == Some(&LIST_END) {
            return None;
        }
        let (item, rest) = split_first(self.0);
        self.0 = rest;
        (!item.is_empty()).then_some(item)
    }
}

/// The type of a packed value.
pub fn type_of(bytes: &[u8]) -> Option<crate::ir::Type> {
    use crate::ir::Type;
    Some(match bytes.first()? {
        &FALSE | &TRUE => Type::Bool,
        0x07..=0x18 => Type::Int,
        &FLOAT => Type::Float,
        &STR => Type::Str,
        &BYTES => Type::Bytes,
        &ADDR => Type::Addr,
        &LIST => Type::List,
        _ => return None,
    })
}
