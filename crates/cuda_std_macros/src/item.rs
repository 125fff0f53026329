//! Just enough of a parser for `attributes visibility qualifiers fn name<generics>(params) -> ret where.. {}`.

use crate::Error;
use proc_macro::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};

/// One parameter: `name: ty`.
pub struct Param {
    /// The identifier; patterns are rejected.
    pub name: Ident,
    /// Tokens of the type.
    pub ty: TokenStream,
}

/// A function item, in pieces.
pub struct Function {
    /// `#[..]` in front, doc comments included.
    pub attributes: TokenStream,
    /// `pub`, `pub(crate)` or nothing.
    pub visibility: TokenStream,
    /// `const`, `async`, `unsafe`, `extern "..."` in source order.
    qualifiers: Vec<TokenTree>,
    /// The function's name.
    pub name: Ident,
    /// Everything between the name and the parameters.
    generics: Vec<TokenTree>,
    /// The parameters, parsed.
    pub params: Vec<Param>,
    /// The parameters with their parentheses.
    param_group: Group,
    /// Everything between the parameters and the body: return type, where clause.
    tail: Vec<TokenTree>,
    /// The body with its braces.
    pub body: Group,
}

impl Function {
    /// Splits a function item; the error says what was found instead.
    pub fn parse(input: TokenStream) -> Result<Self, Error> {
        let tokens: Vec<TokenTree> = input.into_iter().collect();
        let not_fn = |span| Error::new(span, "expected a function");
        let fn_at = tokens
            .iter()
            .position(|t| is_ident(t, "fn"))
            .ok_or_else(|| not_fn(tokens.first().map_or_else(Span::call_site, TokenTree::span)))?;

        let mut at = 0;
        while matches!(&tokens[at], TokenTree::Punct(p) if p.as_char() == '#') {
            at += 2;
        }
        let attributes = tokens[..at].iter().cloned().collect();
        let vis_start = at;
        if is_ident(&tokens[at], "pub") {
            at += 1;
            if matches!(&tokens[at], TokenTree::Group(g) if g.delimiter() == Delimiter::Parenthesis) {
                at += 1;
            }
        }
        if at > fn_at {
            return Err(not_fn(tokens[fn_at].span()));
        }
        let visibility = tokens[vis_start..at].iter().cloned().collect();
        let qualifiers = tokens[at..fn_at].to_vec();

        let Some(TokenTree::Ident(name)) = tokens.get(fn_at + 1).cloned() else {
            return Err(not_fn(tokens[fn_at].span()));
        };
        let params_at = (fn_at + 2..tokens.len())
            .find(|&i| matches!(&tokens[i], TokenTree::Group(g) if g.delimiter() == Delimiter::Parenthesis))
            .ok_or_else(|| not_fn(name.span()))?;
        let (TokenTree::Group(param_group), Some(TokenTree::Group(body))) =
            (tokens[params_at].clone(), tokens.last().cloned())
        else {
            return Err(not_fn(name.span()));
        };
        Ok(Self {
            attributes,
            visibility,
            qualifiers,
            generics: tokens[fn_at + 2..params_at].to_vec(),
            params: parse_params(&param_group)?,
            param_group,
            tail: tokens[params_at + 1..tokens.len() - 1].to_vec(),
            name,
            body,
        })
    }

    /// What `#[kernel]` demands of the signature.
    pub fn check_kernel(&self) -> Result<(), Error> {
        let name = &self.name;
        if !self.qualifiers.iter().any(|t| is_ident(t, "unsafe")) {
            return Err(Error::new(name.span(), format!("kernel `{name}` must be an `unsafe fn`")));
        }
        if let Some(t) = self.qualifiers.iter().find(|t| !is_ident(t, "unsafe")) {
            return Err(Error::new(t.span(), format!("kernel `{name}` cannot be `{t}`")));
        }
        if let Some(t) = self.generics.first() {
            return Err(Error::new(
                t.span(),
                format!("kernel `{name}` cannot be generic: an entry has one body"),
            ));
        }
        if let Some(t) = self.tail.first() {
            return Err(Error::new(t.span(), format!("kernel `{name}` cannot return a value")));
        }
        Ok(())
    }

    /// `name(params) { body }`.
    pub fn after_fn(&self) -> TokenStream {
        [
            TokenTree::Ident(self.name.clone()),
            TokenTree::Group(self.param_group.clone()),
            TokenTree::Group(self.body.clone()),
        ]
        .into_iter()
        .collect()
    }

    /// The whole item with another body.
    pub fn whole(&self, body: Group) -> TokenStream {
        let mut out = self.attributes.clone();
        out.extend(self.visibility.clone());
        out.extend(self.qualifiers.iter().cloned());
        out.extend([
            TokenTree::Ident(Ident::new("fn", self.name.span())),
            TokenTree::Ident(self.name.clone()),
        ]);
        out.extend(self.generics.iter().cloned());
        out.extend([TokenTree::Group(self.param_group.clone())]);
        out.extend(self.tail.iter().cloned());
        out.extend([TokenTree::Group(body)]);
        out
    }
}

fn is_ident(token: &TokenTree, text: &str) -> bool {
    matches!(token, TokenTree::Ident(i) if i.to_string() == text)
}

/// `a: T, mut b: U<V, W>`: split at commas outside angle brackets.
fn parse_params(group: &Group) -> Result<Vec<Param>, Error> {
    let mut params = Vec::new();
    let mut current: Vec<TokenTree> = Vec::new();
    let mut depth = 0i32;
    let mut after_minus = false;
    for token in group.stream() {
        if let TokenTree::Punct(p) = &token {
            // The `>` of `->` closes nothing.
            let arrow = std::mem::replace(&mut after_minus, p.as_char() == '-');
            match p.as_char() {
                '<' => depth += 1,
                '>' if !arrow => depth -= 1,
                ',' if depth == 0 => {
                    params.push(parse_param(&current)?);
                    current.clear();
                    continue;
                }
                _ => {}
            }
        }
        current.push(token);
    }
    if !current.is_empty() {
        params.push(parse_param(&current)?);
    }
    Ok(params)
}

fn parse_param(tokens: &[TokenTree]) -> Result<Param, Error> {
    let mut at = 0;
    while matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == '#') {
        at += 2;
    }
    if tokens.get(at).is_some_and(|t| is_ident(t, "mut")) {
        at += 1;
    }
    match (tokens.get(at), tokens.get(at + 1)) {
        (Some(TokenTree::Ident(name)), Some(TokenTree::Punct(colon))) if colon.as_char() == ':' => {
            Ok(Param { name: name.clone(), ty: tokens[at + 2..].iter().cloned().collect() })
        }
        (Some(t), _) => Err(Error::new(t.span(), "a parameter must be `name: Type`")),
        (None, _) => Err(Error::new(Span::call_site(), "empty parameter")),
    }
}
