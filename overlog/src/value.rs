//! Values, their total order, and rows packed into bytes whose order is the order of values.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A value. All values have one total order: by type (bool, int, float, string, bytes, addr,
/// list), then by value; a list compares element by element.
///
/// A string is a sequence of bytes, by convention UTF-8, as POSIX names are.
#[derive(Clone)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A float: one NaN, the greatest; never -0.0. Make it with [`Value::float`].
    Float(f64),
    /// Text.
    Str(Arc<[u8]>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A node's or connection's address.
    Addr(Arc<[u8]>),
    /// A list.
    List(Arc<[Value]>),
}

impl Value {
    /// A float in its one form: one NaN, no -0.0.
    pub fn float(x: f64) -> Value {
        Value::Float(if x.is_nan() {
            f64::NAN
        } else if x == 0.0 {
            0.0
        } else {
            x
        })
    }

    /// A string.
    pub fn str(s: impl AsRef<[u8]>) -> Value {
        Value::Str(Arc::from(s.as_ref()))
    }

    /// Bytes.
    pub fn bytes(s: impl AsRef<[u8]>) -> Value {
        Value::Bytes(Arc::from(s.as_ref()))
    }

    /// An address.
    pub fn addr(s: impl AsRef<[u8]>) -> Value {
        Value::Addr(Arc::from(s.as_ref()))
    }

    /// A list.
    pub fn list(items: impl Into<Vec<Value>>) -> Value {
        Value::List(Arc::from(items.into()))
    }

    /// The int, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The bytes of a string, bytes or addr.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Str(b) | Value::Bytes(b) | Value::Addr(b) => Some(b),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(l) => Some(l),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Value::Bool(_) => 0,
            Value::Int(_) => 1,
            Value::Float(_) => 2,
            Value::Str(_) => 3,
            Value::Bytes(_) => 4,
            Value::Addr(_) => 5,
            Value::List(_) => 6,
        }
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Value {
        Value::Int(i)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::str(s)
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => float_bits(*a).cmp(&float_bits(*b)),
            (Value::Str(a), Value::Str(b))
            | (Value::Bytes(a), Value::Bytes(b))
            | (Value::Addr(a), Value::Addr(b)) => a.cmp(b),
            (Value::List(a), Value::List(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Value::Bool(b) => b.hash(state),
            Value::Int(i) => i.hash(state),
            Value::Float(x) => float_bits(*x).hash(state),
            Value::Str(b) | Value::Bytes(b) | Value::Addr(b) => b.hash(state),
            Value::List(l) => l.hash(state),
        }
    }
}

/// Maps a float to an integer of the same order; NaN is the greatest.
fn float_bits(x: f64) -> u64 {
    let bits = x.to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | (1 << 63)
    }
}

/// Writes a literal of the language: strings quoted, bytes as `0x..`, addresses as `@"..."`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) if x.is_nan() => write!(f, "nan"),
            Value::Float(x) if x.is_infinite() => {
                write!(f, "{}inf", if *x < 0.0 { "-" } else { "" })
            }
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Str(b) => write_quoted(f, b),
            Value::Bytes(b) => {
                write!(f, "0x")?;
                b.iter().try_for_each(|x| write!(f, "{x:02x}"))
            }
            Value::Addr(b) => {
                write!(f, "@")?;
                write_quoted(f, b)
            }
            Value::List(l) => {
                write!(f, "[")?;
                for (i, v) in l.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{v}")?;
                }
                write!(f, "]")
            }
        }
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    write!(f, "\"")?;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => write!(f, "\\n")?,
                '\t' => write!(f, "\\t")?,
                '\r' => write!(f, "\\r")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        chunk
            .invalid()
            .iter()
            .try_for_each(|b| write!(f, "\\x{b:02x}"))?;
    }
    write!(f, "\"")
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
