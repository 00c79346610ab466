//! Text to tokens. Never fails: what is no token is reported and skipped.

use crate::diag::{Diagnostic, code};
use crate::ir::Span;
use std::ops::Range;

/// A token.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the punctuation names itself
pub enum Tok {
    /// A name, `_` included.
    Ident(String),
    /// A decimal int, up to 2^63 (for `-9223372036854775808`).
    Int(u64),
    /// A number with a unit, in ns.
    Duration(u64),
    Float(f64),
    Str(Vec<u8>),
    /// `0x..`
    Bytes(Vec<u8>),
    LParen,
    RParen,
    LBrace,
    RBrace,
    LBracket,
    RBracket,
    Comma,
    Semi,
    Colon,
    /// `::`
    Path,
    /// `:-`
    If,
    /// `:=`
    Assign,
    PlusEq,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    EqEq,
    Eq,
    Ne,
    Not,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Question,
    At,
    Hash,
    Dot,
    Eof,
}

impl Tok {
    /// What it is called in a message.
    pub fn describe(&self) -> String {
        match self {
            Tok::Ident(name) => format!("`{name}`"),
            Tok::Int(i) => format!("`{i}`"),
            Tok::Duration(_) => "a duration".to_owned(),
            Tok::Float(x) => format!("`{x:?}`"),
            Tok::Str(_) => "a string".to_owned(),
            Tok::Bytes(_) => "bytes".to_owned(),
            Tok::Eof => "the end of the file".to_owned(),
            other => format!("`{}`", other.punctuation()),
        }
    }

    fn punctuation(&self) -> &'static str {
        PUNCTUATION
            .iter()
            .find(|(_, tok)| tok == self)
            .map_or("", |(text, _)| text)
    }
}

/// Longer ones first.
const PUNCTUATION: &[(&str, Tok)] = &[
    ("::", Tok::Path),
    (":-", Tok::If),
    (":=", Tok::Assign),
    ("+=", Tok::PlusEq),
    ("==", Tok::EqEq),
    ("!=", Tok::Ne),
    ("<=", Tok::Le),
    (">=", Tok::Ge),
    ("&&", Tok::And),
    ("||", Tok::Or),
    ("(", Tok::LParen),
    (")", Tok::RParen),
    ("{", Tok::LBrace),
    ("}", Tok::RBrace),
    ("[", Tok::LBracket),
    ("]", Tok::RBracket),
    (",", Tok::Comma),
    (";", Tok::Semi),
    (":", Tok::Colon),
    ("+", Tok::Plus),
    ("-", Tok::Minus),
    ("*", Tok::Star),
    ("/", Tok::Slash),
    ("%", Tok::Percent),
    ("=", Tok::Eq),
    ("!", Tok::Not),
    ("<", Tok::Lt),
    (">", Tok::Gt),
    ("?", Tok::Question),
    ("@", Tok::At),
    ("#", Tok::Hash),
    (".", Tok::Dot),
];

/// A token and its byte range.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub tok: Tok,
    /// Its bytes.
    pub range: Range<usize>,
    /// It is the first of its line.
    pub starts_line: bool,
}

/// The greatest magnitude of an int, that of the least one.
const MAX_MAGNITUDE: u64 = 1 << 63;

/// Splits a text. The last token is [`Tok::Eof`].
pub fn lex(source: u32, text: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    let mut lexer = Lexer {
        source,
        text,
        at: 0,
        tokens: Vec::new(),
        diags: Vec::new(),
        starts_line: true,
    };
    while lexer.skip_blank() {
        lexer.token();
    }
    lexer.push(Tok::Eof, text.len());
    (lexer.tokens, lexer.diags)
}

struct Lexer<'a> {
    source: u32,
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
    diags: Vec<Diagnostic>,
    starts_line: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, tok: Tok, start: usize) {
        self.tokens.push(Token {
            tok,
            range: start..self.at,
            starts_line: self.starts_line,
        });
        self.starts_line = false;
    }

    fn error(
        &mut self,
        code: &'static str,
        range: Range<usize>,
        message: String,
    ) -> &mut Diagnostic {
        let at = self.diags.len();
        self.diags.push(Diagnostic::error(
            code,
            &Span {
                source: self.source,
                range,
            },
            message,
        ));
        #[allow(clippy::indexing_slicing)] // pushed above
        &mut self.diags[at]
    }

    /// Skips white space and comments; false at the end.
    fn skip_blank(&mut self) -> bool {
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return false;
            };
            if c == '\n' {
                self.starts_line = true;
            }
            if c.is_whitespace() {
                self.at += c.len_utf8();
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.block_comment(rest);
            } else {
                return true;
            }
        }
    }

    fn block_comment(&mut self, rest: &str) {
        match rest.get(2..).and_then(|body| body.find("*/")) {
            Some(end) => self.at += end + 4,
            None => {
                let range = self.at..self.at + 2;
                self.error(
                    code::OPEN_COMMENT,
                    range,
                    "comment is not closed".to_owned(),
                )
                .hint = Some("close it with */".to_owned());
                self.at = self.text.len();
            }
        }
    }

    fn token(&mut self) {
        let start = self.at;
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return };
        if c.is_ascii_alphabetic() || c == '_' {
            let len = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            self.at += len;
            self.push(
                Tok::Ident(rest.get(..len).unwrap_or_default().to_owned()),
                start,
            );
        } else if c.is_ascii_digit() {
            self.number(start, rest);
        } else if c == '"' {
            self.string(start, rest);
        } else if let Some((text, tok)) =
            PUNCTUATION.iter().find(|(text, _)| rest.starts_with(text))
        {
            self.at += text.len();
            self.push(tok.clone(), start);
        } else {
            self.at += c.len_utf8();
            let shown = c.escape_default();
            self.error(
                code::BAD_CHAR,
                start..self.at,
                format!("unexpected character `{shown}`"),
            );
        }
    }

    fn number(&mut self, start: usize, rest: &str) {
        if rest.starts_with("0x") || rest.starts_with("0X") {
            return self.bytes(start, rest);
        }
        let digits = digits_at(rest, 0);
        let mut len = digits;
        let mut float = false;
        if rest.get(len..).is_some_and(|r| r.starts_with('.')) && digits_at(rest, len + 1) > 0 {
            len += 1 + digits_at(rest, len + 1);
            float = true;
        }
        if let Some(exponent) = exponent_at(rest, len) {
            len += exponent;
            float = true;
        }
        let text = rest.get(..len).unwrap_or_default();
        let tail = rest.get(len..).unwrap_or_default();
        let unit_len = tail
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(tail.len());
        let unit = tail.get(..unit_len).unwrap_or_default();
        self.at += len + unit_len;
        let range = start..self.at;
        if float {
            if !unit.is_empty() {
                self.error(
                    code::BAD_UNIT,
                    range,
                    format!("`{text}{unit}` is no number"),
                )
                .hint = Some("durations are whole numbers of ns, us, ms, s, m or h".to_owned());
            }
            return self.push(Tok::Float(text.parse().unwrap_or(f64::INFINITY)), start);
        }
        let value = text.parse::<u64>().ok().filter(|v| *v <= MAX_MAGNITUDE);
        let tok = match (value, unit_ns(unit)) {
            (Some(v), _) if unit.is_empty() => Some(Tok::Int(v)),
            (Some(v), Some(ns)) => match v.checked_mul(ns).filter(|v| *v < MAX_MAGNITUDE) {
                Some(v) => Some(Tok::Duration(v)),
                None => {
                    self.error(
                        code::BAD_NUMBER,
                        range,
                        format!("`{text}{unit}` does not fit 64 bits of ns"),
                    );
                    None
                }
            },
            (None, _) => {
                self.error(
                    code::BAD_NUMBER,
                    range,
                    format!("`{text}` does not fit 64 bits"),
                );
                None
            }
            (Some(_), None) => {
                self.error(code::BAD_UNIT, range, format!("unknown unit `{unit}`"))
                    .hint = Some("units are ns, us, ms, s, m and h".to_owned());
                None
            }
        };
        self.push(tok.unwrap_or(Tok::Int(0)), start);
    }

    fn bytes(&mut self, start: usize, rest: &str) {
        let body = rest.get(2..).unwrap_or_default();
        let len = body
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(body.len());
        let digits = body.get(..len).unwrap_or_default().as_bytes();
        self.at += 2 + len;
        let parsed: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| match pair {
                [hi, lo] => Some(hex_digit(*hi)? << 4 | hex_digit(*lo)?),
                _ => None,
            })
            .collect();
        if parsed.is_none() {
            self.error(
                code::BAD_BYTES,
                start..self.at,
                "bytes need an even number of hexadecimal digits".to_owned(),
            )
            .hint = Some("0x.. is a bytes literal; ints are decimal".to_owned());
        }
        self.push(Tok::Bytes(parsed.unwrap_or_default()), start);
    }

    fn string(&mut self, start: usize, rest: &str) {
        let mut out = Vec::new();
        let mut skip_to = 0;
        for (i, c) in rest.char_indices().skip(1) {
            if i < skip_to {
                continue;
            }
            match c {
                '"' => {
                    self.at = start + i + 1;
                    return self.push(Tok::Str(out), start);
                }
                '\n' => {
                    self.at = start + i;
                    return self.open_string(start, out);
                }
                '\\' => {
                    let after = rest.get(i + 1..).unwrap_or_default();
                    match escape(after, &mut out) {
                        Some(len) => skip_to = i + 1 + len,
                        None => {
                            let range = start + i..start + i + 1;
                            self.error(
                                code::BAD_ESCAPE,
                                range,
                                "unknown escape in a string".to_owned(),
                            )
                            .hint = Some(
                                "escapes are \\n \\r \\t \\0 \\\\ \\\" \\xHH and \\u{..}"
                                    .to_owned(),
                            );
                            // A quote after the backslash does not close the string.
                            let next = after.chars().next().filter(|c| *c != '\n');
                            skip_to = i + 1 + next.map_or(0, char::len_utf8);
                        }
                    }
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        self.at = self.text.len();
        self.open_string(start, out);
    }

    fn open_string(&mut self, start: usize, out: Vec<u8>) {
        self.error(
            code::OPEN_STRING,
            start..start + 1,
            "string is not closed on its line".to_owned(),
        )
        .hint = Some("close it with \", and write a line feed as \\n".to_owned());
        self.push(Tok::Str(out), start);
    }
}

/// Decodes the escape after a backslash: its length, or `None`.
fn escape(after: &str, out: &mut Vec<u8>) -> Option<usize> {
    let byte = |out: &mut Vec<u8>, b: u8| {
        out.push(b);
        Some(1)
    };
    match after.chars().next()? {
        'n' => byte(out, b'\n'),
        'r' => byte(out, b'\r'),
        't' => byte(out, b'\t'),
        '0' => byte(out, 0),
        '\\' => byte(out, b'\\'),
        '"' => byte(out, b'"'),
        'x' => {
            let digits = after.get(1..3)?.as_bytes();
            out.push(hex_digit(*digits.first()?)? << 4 | hex_digit(*digits.get(1)?)?);
            Some(3)
        }
        'u' => {
            let body = after.get(1..)?.strip_prefix('{')?;
            let end = body.find('}').filter(|end| (1..=6).contains(end))?;
            let c = char::from_u32(u32::from_str_radix(body.get(..end)?, 16).ok()?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            Some(end + 3)
        }
        _ => None,
    }
}

fn digits_at(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.bytes().take_while(u8::is_ascii_digit).count()
}

/// The length of `e9`, `e+9`, `E-9` at this place.
fn exponent_at(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let tail = rest.strip_prefix(['e', 'E'])?;
    let sign = usize::from(tail.starts_with(['+', '-']));
    let digits = digits_at(tail, sign);
    (digits > 0).then_some(1 + sign + digits)
}

fn hex_digit(b: u8) -> Option<u8> {
    char::from(b)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}
