//! Rows of queries as JSON arrays.

use overlog::Value;
use serde_json::{Number, Value as Json};

/// A row as the text of a JSON array.
pub fn row(values: &[Value]) -> String {
    Json::Array(values.iter().map(value).collect()).to_string()
}

/// Strings and addresses as strings (what is no UTF-8 is replaced), bytes as hexadecimal digits,
/// floats that JSON cannot say as strings.
fn value(value_: &Value) -> Json {
    let text = |b: &[u8]| Json::String(String::from_utf8_lossy(b).into_owned());
    match value_ {
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::Number((*i).into()),
        Value::Float(x) => {
            Number::from_f64(*x).map_or_else(|| Json::String(value_.to_string()), Json::Number)
        }
        Value::Str(b) | Value::Addr(b) => text(b),
        Value::Bytes(b) => Json::String(b.iter().map(|x| format!("{x:02x}")).collect()),
        Value::List(items) => Json::Array(items.iter().map(value).collect()),
    }
}
