//! Tokens.

/// A token and the line it starts on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub line: u32,
    pub kind: Kind,
    /// Byte range in the source, so that raw directives can be kept as written.
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Identifier, register (`%r1`), label (`$L__1`), without dots.
    Name(String),
    /// `.name` or `.name::a::b`, without the leading dot.
    Dot(String),
    Int(i128),
    F32(u32),
    F64(u64),
    Text(String),
    Punct(char),
}

pub(super) struct LexError {
    pub line: u32,
    pub text: String,
}

pub(super) fn tokens(source: &str) -> Result<Vec<Token>, LexError> {
    Lexer { source, bytes: source.as_bytes(), at: 0, line: 1 }.run()
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

fn is_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || matches!(b, b'_' | b'$' | b'%')
}

fn is_continue(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$')
}

impl Lexer<'_> {
    fn run(mut self) -> Result<Vec<Token>, LexError> {
        let mut out = Vec::new();
        loop {
            self.skip_blank()?;
            let Some(&b) = self.bytes.get(self.at) else { return Ok(out) };
            let (line, start) = (self.line, self.at);
            let kind = match b {
                b'.' if self.bytes.get(self.at + 1).is_some_and(|&c| is_continue(c)) => {
                    self.at += 1;
                    Kind::Dot(self.qualified())
                }
                b'"' => Kind::Text(self.text()?),
                b'0'..=b'9' => self.number()?,
                b if is_start(b) => Kind::Name(self.word()),
                b if b.is_ascii_punctuation() => {
                    self.at += 1;
                    Kind::Punct(char::from(b))
                }
                _ => return Err(self.error()),
            };
            out.push(Token { line, kind, start, end: self.at });
        }
    }

    fn error(&self) -> LexError {
        let rest = &self.source[self.at..];
        LexError { line: self.line, text: rest.chars().take(20).collect() }
    }

    fn skip_blank(&mut self) -> Result<(), LexError> {
        while let Some(&b) = self.bytes.get(self.at) {
            match b {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b if b.is_ascii_whitespace() => self.at += 1,
                b'/' if self.bytes.get(self.at + 1) == Some(&b'/') => {
                    while self.bytes.get(self.at).is_some_and(|&b| b != b'\n') {
                        self.at += 1;
                    }
                }
                b'/' if self.bytes.get(self.at + 1) == Some(&b'*') => {
                    let end = self.source[self.at..].find("*/").ok_or_else(|| self.error())?;
                    let comment = &self.bytes[self.at..self.at + end + 2];
                    self.line += comment.iter().filter(|&&b| b == b'\n').count() as u32;
                    self.at += end + 2;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn word(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while self.bytes.get(self.at).is_some_and(|&b| is_continue(b)) {
            self.at += 1;
        }
        self.source[start..self.at].to_owned()
    }

    /// `a::b::c`; a component may start with a digit (`.tile::gather4`, `.warpx2::02_13`).
    fn qualified(&mut self) -> String {
        let mut name = self.word();
        while self.bytes[self.at..].starts_with(b"::")
            && self.bytes.get(self.at + 2).is_some_and(|&b| is_continue(b))
        {
            self.at += 2;
            name.push_str("::");
            name.push_str(&self.word());
        }
        name
    }

    fn text(&mut self) -> Result<String, LexError> {
        let end = self.bytes[self.at + 1..].iter().position(|&b| b == b'"' || b == b'\n');
        match end {
            Some(n) if self.bytes[self.at + 1 + n] == b'"' => {
                let text = self.source[self.at + 1..self.at + 1 + n].to_owned();
                self.at += n + 2;
                Ok(text)
            }
            _ => Err(self.error()),
        }
    }

    fn number(&mut self) -> Result<Kind, LexError> {
        let start = self.at;
        let alnum = |this: &mut Self| {
            while this.bytes.get(this.at).is_some_and(|&b| b.is_ascii_alphanumeric()) {
                this.at += 1;
            }
        };
        alnum(self);
        let mut text = &self.source[start..self.at];
        if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
            return u32::from_str_radix(hex, 16).map(Kind::F32).map_err(|_| self.error());
        }
        if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
            return u64::from_str_radix(hex, 16).map(Kind::F64).map_err(|_| self.error());
        }
        // A decimal constant: `1.5`, `2.0e-3`. The dot of `.b32` never follows a digit.
        if self.bytes.get(self.at) == Some(&b'.')
            && self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit)
        {
            self.at += 1;
            alnum(self);
            if text_ends_with_exponent(&self.source[start..self.at])
                && self.bytes.get(self.at).is_some_and(|b| matches!(b, b'+' | b'-'))
            {
                self.at += 1;
                alnum(self);
            }
            let value: f64 = self.source[start..self.at].parse().map_err(|_| self.error())?;
            return Ok(Kind::F64(value.to_bits()));
        }
        text = text.strip_suffix(['U', 'u']).unwrap_or(text);
        let radix = |digits: &str, radix| i128::from_str_radix(digits, radix);
        let value = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
            radix(hex, 16)
        } else if let Some(binary) = text.strip_prefix("0b").or(text.strip_prefix("0B")) {
            radix(binary, 2)
        } else if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
            radix(text, 8)
        } else {
            radix(text, 10)
        };
        value.ok().filter(|v| *v <= i128::from(u64::MAX)).map(Kind::Int).ok_or_else(|| self.error())
    }
}

fn text_ends_with_exponent(text: &str) -> bool {
    text.ends_with(['e', 'E'])
}
