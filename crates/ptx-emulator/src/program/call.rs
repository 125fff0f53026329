//! Calls: the callee's body stands in for the call (PTX ISA 9.7.12.5, `call`; 7.1, function declarations).
//!
//! Every call gets registers and variables of its own; parameters in `.param` space are the caller's variables,
//! which live in local memory; `ret` jumps behind the body. Recursion, calls through pointers and register
//! parameters are not modelled.

use std::collections::HashMap;

use crate::decode::{DecodeError, Src};
use crate::syntax::ast::{Function, Instruction, Operand, Space, Variable};

/// Functions with a body, by name.
pub(super) type Functions<'a> = HashMap<&'a str, &'a Function>;

/// A call taken apart.
pub(super) struct Call<'a> {
    /// The callee.
    pub(super) function: &'a Function,
    /// Formal parameters and return parameters with the variables given for them.
    pub(super) bindings: Vec<(&'a Variable, String)>,
}

/// Whether the instruction is a call.
pub(super) fn is_call(i: &Instruction) -> bool {
    i.opcode[0] == "call"
}

fn error<T>(i: &Instruction, why: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError { line: i.line, text: i.to_string(), why: why.into() })
}

/// Names in an argument list.
fn names(i: &Instruction, list: Option<&Operand>) -> Result<Vec<String>, DecodeError> {
    let items = match list {
        None => return Ok(Vec::new()),
        Some(Operand::List(items)) => items,
        Some(other) => return error(i, format!("`{other}` is not an argument list")),
    };
    items
        .iter()
        .map(|o| match o {
            Operand::Name(name) => Ok(name.clone()),
            other => error(i, format!("argument `{other}` is not a .param variable")),
        })
        .collect()
}

/// `call{.uni} (ret), f, (args);`, each list optional.
pub(super) fn take_apart<'a>(i: &Instruction, functions: &Functions<'a>) -> Result<Call<'a>, DecodeError> {
    if !matches!(i.opcode[1..].iter().map(String::as_str).collect::<Vec<_>>()[..], [] | ["uni"]) {
        return error(i, "has modifiers that are not modelled");
    }
    let (returns, rest) = match i.operands.split_first() {
        Some((list @ Operand::List(_), rest)) => (Some(list), rest),
        _ => (None, &i.operands[..]),
    };
    let (callee, arguments) = match rest {
        [Operand::Name(callee)] => (callee, None),
        [Operand::Name(callee), list @ Operand::List(_)] => (callee, Some(list)),
        _ => return error(i, "calls through pointers are not modelled"),
    };
    let Some(&function) = functions.get(callee.as_str()) else {
        return error(i, format!("function `{callee}` has no body in this module"));
    };
    let mut bindings = Vec::new();
    for (formal, actual) in
        [(&function.returns, names(i, returns)?), (&function.params, names(i, arguments)?)]
    {
        if formal.len() != actual.len() {
            return error(i, format!("`{callee}` has another number of parameters"));
        }
        for (formal, actual) in formal.iter().zip(actual) {
            if formal.space != Space::Param {
                return error(i, "parameters in registers are not modelled");
            }
            bindings.push((formal, actual));
        }
    }
    Ok(Call { function, bindings })
}

/// Where the parameters are, by the names that the callee knows them by.
pub(super) fn bind(
    i: &Instruction,
    call: &Call<'_>,
    symbol: impl Fn(&str) -> Option<Src>,
) -> Result<HashMap<String, Src>, DecodeError> {
    let mut symbols = HashMap::new();
    for (formal, actual) in &call.bindings {
        match symbol(actual) {
            Some(at @ Src::Local(_)) => symbols.insert(formal.name.clone(), at),
            _ => return error(i, format!("argument `{actual}` is not a .param variable of the caller")),
        };
    }
    Ok(symbols)
}
