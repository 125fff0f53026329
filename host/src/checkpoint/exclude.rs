//! Exclude lists: names of modules that are not quantised.

/// One entry of an exclude list. It covers a module if it is the module's name, a wildcard (`*`, `?`) or regular
/// expression (`re:`) that matches it, or the name of a module around it (at a dot: `layers.1` does not cover
/// `layers.10`). A leading `model.` on either side does not matter.
///
/// Of regular expressions only those made of literals, `.`, `.*`, `\.`, `^` and `$` are understood; others cover
/// nothing, see [`Pattern::is_understood`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Literal(String),
    Wildcard(Vec<Token>),
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Literal(u8),
    /// One byte.
    Any,
    /// Any number of bytes.
    Star,
}

impl Pattern {
    /// From the text of a list.
    pub fn new(text: &str) -> Self {
        let kind = match text.strip_prefix("re:") {
            Some(regex) => regex_tokens(regex).map_or(Kind::Unknown, Kind::Wildcard),
            None if text.contains(['*', '?']) => Kind::Wildcard(glob_tokens(text)),
            None => Kind::Literal(text.trim_end_matches('.').to_owned()),
        };
        Self { text: text.to_owned(), kind }
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is of a kind that can be matched.
    pub fn is_understood(&self) -> bool {
        self.kind != Kind::Unknown
    }

    /// Whether the pattern covers `module`.
    pub fn matches<'a>(&'a self, module: &'a str) -> bool {
        match &self.kind {
            Kind::Unknown => false,
            Kind::Literal(text) => {
                let bare = |name: &'a str| name.strip_prefix("model.").unwrap_or(name);
                let rest = bare(module).strip_prefix(bare(text));
                !text.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
            Kind::Wildcard(tokens) => {
                let bare = module.strip_prefix("model.");
                let prefixed = format!("model.{module}");
                [Some(module), bare, Some(&prefixed)].into_iter().flatten().any(|name| covers(tokens, name))
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn glob_tokens(text: &str) -> Vec<Token> {
    let token = |b| match b {
        b'*' => Token::Star,
        b'?' => Token::Any,
        b => Token::Literal(b),
    };
    text.trim_end_matches('.').bytes().map(token).collect()
}

/// A simple regular expression, anchored in front (Python's `re.match`) and, with `$`, behind.
fn regex_tokens(regex: &str) -> Option<Vec<Token>> {
    let body = regex.strip_prefix('^').unwrap_or(regex);
    let (body, anchored) = match body.strip_suffix('$') {
        Some(body) if !body.ends_with('\\') => (body, true),
        _ => (body, false),
    };
    let mut tokens = Vec::new();
    let mut bytes = body.bytes().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'.' if bytes.peek() == Some(&b'*') => {
                bytes.next();
                tokens.push(Token::Star);
            }
            b'.' => tokens.push(Token::Any),
            b'\\' => match bytes.next() {
                Some(b @ (b'.' | b'_' | b'-')) => tokens.push(Token::Literal(b)),
                _ => return None,
            },
            b'*' | b'+' | b'?' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'|' | b'^' | b'$' => return None,
            b => tokens.push(Token::Literal(b)),
        }
        if matches!(bytes.peek(), Some(b'*' | b'+' | b'?' | b'{')) {
            return None;
        }
    }
    if !anchored {
        tokens.push(Token::Star);
    }
    Some(tokens)
}

/// Whether the pattern matches the name, or its part up to some dot.
fn covers(tokens: &[Token], name: &str) -> bool {
    let ends = name.bytes().enumerate().filter(|(_, b)| *b == b'.').map(|(i, _)| i).chain([name.len()]);
    ends.into_iter().any(|end| matches(tokens, &name.as_bytes()[..end]))
}

/// Wildcard matching in O(tokens x name), without recursion: on a mismatch the last star takes one byte more.
fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut t, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match tokens.get(t) {
            Some(Token::Star) => {
                t += 1;
                retry = Some((t, n));
            }
            Some(Token::Any) => (t, n) = (t + 1, n + 1),
            Some(Token::Literal(b)) if *b == name[n] => (t, n) = (t + 1, n + 1),
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (t, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    tokens[t..].iter().all(|t| *t == Token::Star)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, module: &str) -> bool {
        Pattern::new(pattern).matches(module)
    }

    #[test]
    fn exact_prefix_and_wildcard() {
        for pattern in [
            "layers.1.ffn.shared_experts.w1",
            "model.layers.1.ffn.shared_experts.w1",
            "layers.1.ffn.shared_experts",
            "layers.1",
            "layers.1.",
            "*.ffn.shared_experts.*",
            "*shared_experts*",
            "layers.?.ffn.shared*",
            "*.shared_experts",
            "re:.*shared_experts.*",
            "re:^layers\\.1\\..*w1$",
            "re:.*shared_experts",
            "*",
        ] {
            assert!(covers(pattern, "layers.1.ffn.shared_experts.w1"), "{pattern}");
            assert!(covers(pattern, "model.layers.1.ffn.shared_experts.w1"), "{pattern}");
        }
        for pattern in [
            "layers.1",
            "layers.1.ffn.experts",
            "*.attn.*",
            "head",
            "",
            "w1",
            "shared_experts",
            "re:.*mlp\\.gate$",
            "re:.*w2",
            "re:.*\\.(w1|w2)$",
        ] {
            assert!(!covers(pattern, "layers.10.ffn.shared_experts.w1"), "{pattern}");
        }
    }

    #[test]
    fn a_router_pattern_does_not_cover_experts() {
        for pattern in ["*.mlp.gate", "model.layers.3.mlp.gate", "re:.*mlp\\.gate$", "re:.*mlp.gate\\..*"] {
            assert!(covers(pattern, "model.layers.3.mlp.gate") || pattern.ends_with("\\..*"), "{pattern}");
            assert!(!covers(pattern, "model.layers.3.mlp.experts.0.gate_proj"), "{pattern}");
        }
    }

    #[test]
    fn regular_expressions_beyond_the_subset_are_marked() {
        for text in ["re:.*(a|b)", "re:a+", "re:a\\d", "re:[ab]", "re:ab*", "re:a{2}", "re:.+"] {
            assert!(!Pattern::new(text).is_understood(), "{text}");
        }
        assert!(Pattern::new("re:.*self_attn.*").is_understood());
    }

    #[test]
    fn many_stars_are_no_trouble() {
        let pattern = Pattern::new(&"*a".repeat(200));
        assert!(!pattern.matches(&"a".repeat(199)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(500))));
    }
}
