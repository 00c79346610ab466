//! The functions and operators that rules use most, on packed values. Each gives what the ordinary
//! one gives, or nothing: wrong types, limits and errors are left to that.

use crate::engine::eval::Ev;
use crate::functions::{MAX_BYTES, MAX_ITEMS};
use crate::packed;
use std::cmp::Ordering;

/// A function on packed values.
pub type Fast = for<'a> fn(&[Ev<'a>]) -> Option<Ev<'a>>;

/// The fast form of a built-in function.
pub fn of(name: &str) -> Option<Fast> {
    Some(match name {
        "contains" => contains,
        "size" => size,
        "head" => head,
        "tail" => tail,
        "slice" => slice,
        "min" => min,
        "max" => max,
        "band" => band,
        "bor" => bor,
        "shr" => shr,
        _ => return None,
    })
}

fn list<'e>(value: &'e Ev<'_>) -> Option<&'e [u8]> {
    value.packed().filter(|b| packed::is_list(b))
}

/// The bytes of a string that has no zero byte: as they are.
fn plain<'e>(value: &'e Ev<'_>) -> Option<&'e [u8]> {
    let (&tag, rest) = value.packed()?.split_first()?;
    let text = rest.get(..rest.len().checked_sub(2)?)?;
    (tag == packed::STR && !text.contains(&0)).then_some(text)
}

fn contains<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    let [l, x] = args else { return None };
    let Some(l) = list(l) else {
        let (text, part) = (plain(l)?, x.packed()?);
        let part = part.strip_prefix(&[packed::STR])?;
        let part = part.get(..part.len().checked_sub(2)?)?;
        // A packed zero byte is two bytes, which are not both in the text.
        return (!part.is_empty())
            .then(|| Ev::Bool(text.windows(part.len()).any(|window| window == part)));
    };
    Some(Ev::Bool(x.with(|x| packed::list_items(l).any(|i| i == x))))
}

fn size<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    let [l] = args else { return None };
    let n = match list(l) {
        Some(l) => packed::list_items(l).count(),
        None => plain(l)?.len(),
    };
    Some(Ev::Int(i64::try_from(n).ok()?))
}

fn head<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    match args {
        [Ev::Ref(l)] => packed::list_items(l).next().map(Ev::Ref),
        [Ev::Own(l)] => Some(Ev::Own(packed::list_items(l).next()?.to_vec())),
        _ => None,
    }
}

fn tail<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    let [l] = args else { return None };
    let l = list(l)?;
    let first = packed::list_items(l).next()?;
    let mut out = Vec::with_capacity(l.len() - first.len());
    packed::begin_list(&mut out);
    out.extend_from_slice(l.get(1 + first.len()..)?);
    Some(Ev::Own(out))
}

fn slice<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    let [l, from, len] = args else { return None };
    let l = list(l)?;
    let from = usize::try_from(from.int()?).ok()?;
    let len = usize::try_from(len.int()?).ok()?;
    let mut out = Vec::with_capacity(l.len());
    packed::begin_list(&mut out);
    packed::list_items(l)
        .skip(from)
        .take(len)
        .for_each(|item| out.extend_from_slice(item));
    packed::end_list(&mut out);
    Some(Ev::Own(out))
}

fn min<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    ints(args, i64::min)
}

fn max<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    ints(args, i64::max)
}

fn band<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    ints(args, |x, y| x & y)
}

fn bor<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    ints(args, |x, y| x | y)
}

fn shr<'a>(args: &[Ev<'a>]) -> Option<Ev<'a>> {
    let [x, by] = args else { return None };
    let by = u32::try_from(by.int()?).ok()?;
    x.int()?.checked_shr(by).map(Ev::Int)
}

fn ints<'a>(args: &[Ev<'a>], f: fn(i64, i64) -> i64) -> Option<Ev<'a>> {
    let [x, y] = args else { return None };
    Some(Ev::Int(f(x.int()?, y.int()?)))
}

/// `+` of two lists or two strings.
pub fn concat(a: &Ev<'_>, b: &Ev<'_>) -> Option<Ev<'static>> {
    let (a, b) = (a.packed()?, b.packed()?);
    // Fewer bytes than items or bytes are allowed: within the limit in any case.
    if a.len() + b.len() >= MAX_ITEMS.min(MAX_BYTES) {
        return None;
    }
    let end = match (a.first()?, b.first()?) {
        (&packed::LIST, &packed::LIST) => 1,
        (&packed::STR, &packed::STR) => 2,
        _ => return None,
    };
    let mut out = Vec::with_capacity(a.len() + b.len());
    out.extend_from_slice(a.get(..a.len().checked_sub(end)?)?);
    out.extend_from_slice(b.get(1..)?);
    Some(Ev::Own(out))
}

/// Compares values; `None` if their bytes have to be made first.
pub fn compare(a: &Ev<'_>, b: &Ev<'_>) -> Option<Ordering> {
    match (a, b) {
        (Ev::Int(a), Ev::Int(b)) => Some(a.cmp(b)),
        (Ev::Bool(a), Ev::Bool(b)) => Some(a.cmp(b)),
        (Ev::Int(a), b) => Some(a.cmp(&packed::unpack_int(b.packed()?)?)),
        (a, Ev::Int(b)) => Some(packed::unpack_int(a.packed()?)?.cmp(b)),
        _ => Some(a.packed()?.cmp(b.packed()?)),
    }
}
