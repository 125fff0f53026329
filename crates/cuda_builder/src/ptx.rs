//! Just enough reading of PTX text for the edits and the lint: functions, their bodies, their operations.

use crate::CudaBuilderError;

/// A function of a module, by byte ranges of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is an `.entry` (else a `.func`).
    pub is_entry: bool,
    /// Just behind the `)` of the parameters: where performance directives go.
    pub directives_at: usize,
    /// Range of the body with its braces; empty for a declaration.
    pub body: std::ops::Range<usize>,
}

/// `text` with comments replaced by blanks, byte for byte, so that positions stay.
pub fn blank_comments(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < out.len() {
        let end = match out[at..] {
            [b'/', b'/', ..] => text[at..].find('\n').map_or(out.len(), |n| at + n),
            [b'/', b'*', ..] => text[at + 2..].find("*/").map_or(out.len(), |n| at + n + 4),
            [b'"', ..] => {
                at = text[at + 1..].find('"').map_or(out.len(), |n| at + n + 2);
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole comments were replaced, by ASCII.
    String::from_utf8_lossy(&out).into_owned()
}

/// Every function of the module `text` (comments blanked).
pub fn functions(text: &str) -> Result<Vec<Function>, CudaBuilderError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((offset, keyword)) = next_keyword(&text[at..]) {
        let mut pos = at + offset + keyword.len();
        let malformed =
            |what: &str| CudaBuilderError::MalformedPtx(format!("{keyword} at byte {}: {what}", at + offset));
        // A .func may return a parameter: `.func (.param .b32 r) name (..)`.
        pos += blanks(&text[pos..]);
        if text[pos..].starts_with('(') {
            pos += closing(&text[pos..], b'(', b')').ok_or_else(|| malformed("unclosed return parameter"))?;
            pos += blanks(&text[pos..]);
        }
        let name_len = text[pos..].find(|c: char| !is_name(c)).unwrap_or(text.len() - pos);
        let name = text[pos..pos + name_len].to_string();
        if name.is_empty() {
            return Err(malformed("no name"));
        }
        pos += name_len + blanks(&text[pos + name_len..]);
        if text[pos..].starts_with('(') {
            pos += closing(&text[pos..], b'(', b')').ok_or_else(|| malformed("unclosed parameters"))?;
        }
        let directives_at = pos;
        let stop = text[pos..].find(['{', ';']).ok_or_else(|| malformed("no body"))? + pos;
        let body = if text[stop..].starts_with('{') {
            let len = closing(&text[stop..], b'{', b'}').ok_or_else(|| malformed("unclosed body"))?;
            stop..stop + len
        } else {
            stop..stop
        };
        at = body.end.max(stop + 1);
        found.push(Function { name, is_entry: keyword == ".entry", directives_at, body });
    }
    Ok(found)
}

fn next_keyword(text: &str) -> Option<(usize, &'static str)> {
    [".entry", ".func"]
        .into_iter()
        .filter_map(|k| {
            let mut from = 0;
            loop {
                let at = from + text[from..].find(k)?;
                if text[at + k.len()..].starts_with([' ', '\t', '\n', '(']) {
                    return Some((at, k));
                }
                from = at + k.len();
            }
        })
        .min()
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '%')
}

/// Length from an opening delimiter to behind its closing one.
fn closing(text: &str, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0usize;
    for (i, b) in text.bytes().enumerate() {
        if b == open {
            depth += 1;
        } else if b == close {
            depth -= 1;
            if depth == 0 {
                return Some(i + 1);
            }
        }
    }
    None
}

/// The operations of a body (comments blanked): opcode with modifiers, and the operands as text. Directives, which
/// start with a dot, are given too.
pub fn operations(body: &str) -> impl Iterator<Item = (&str, &str)> {
    body.split(';').filter_map(|statement| {
        let mut s = statement.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '{' | '}'));
        loop {
            // Labels and predicates in front.
            let word_len = s.find(char::is_whitespace).unwrap_or(s.len());
            let word = &s[..word_len];
            if word.ends_with(':') || word.starts_with('@') {
                s = s[word_len..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '{' | '}'));
            } else if word.is_empty() {
                return None;
            } else {
                return Some((word, s[word_len..].trim()));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
.version 8.7 // .entry in a comment
.extern .func (.param .b32 r) ext
(
  .param .b32 p
)
;
.visible .entry k(
	.param .u64 k_param_0
)
{
	.reg .b32 %r<4>;
$L__BB0_1:
	@%p1 bra $L__BB0_1;
	{ .reg .b64 ga; ld.global.nc.L1::no_allocate.v4.b32 {%r1, %r2, %r3, %r4}, [ga]; }
	bar.sync 0; // bar.sync 1;
	ret;
}
";

    #[test]
    fn functions_and_their_bodies() {
        let text = blank_comments(TEXT);
        assert_eq!(text.len(), TEXT.len());
        let f = functions(&text).unwrap();
        assert_eq!(f.len(), 2);
        assert_eq!((f[0].name.as_str(), f[0].is_entry, f[0].body.is_empty()), ("ext", false, true));
        assert_eq!((f[1].name.as_str(), f[1].is_entry), ("k", true));
        assert!(text[..f[1].directives_at].ends_with(')'));
        assert!(text[f[1].body.clone()].starts_with('{') && text[f[1].body.clone()].ends_with('}'));
    }

    #[test]
    fn operations_without_labels_predicates_and_comments() {
        let text = blank_comments(TEXT);
        let f = &functions(&text).unwrap()[1];
        let ops: Vec<_> = operations(&text[f.body.clone()]).map(|(op, _)| op).collect();
        assert_eq!(ops, [".reg", "bra", ".reg", "ld.global.nc.L1::no_allocate.v4.b32", "bar.sync", "ret"]);
    }

    #[test]
    fn broken_text_is_an_error() {
        assert!(functions(".entry k( .param .u64 a").is_err());
        assert!(functions(".entry k() { ret;").is_err());
        assert!(functions(".entry k()").is_err());
    }
}
