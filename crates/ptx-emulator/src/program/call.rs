//! Calls: the callee's body stands in for the call (PTX ISA 9.7.12.5, `call`; 7.1, function declarations).
//!
//! Every call gets registers and variables of its own. Parameters in `.param` space are the caller's variables, which
//! live in local memory; those in registers are copied in and out. `ret` jumps behind the body. A call through a
//! pointer is a test and a body for each function that it may reach. Recursion is not modelled.

use std::collections::HashMap;

use crate::decode::{DecodeError, Src};
use crate::syntax::ast::{Function, Instruction, Operand, Space, Variable};

/// Functions with a body, by name, with their addresses.
pub(super) type Functions<'a> = HashMap<&'a str, (&'a Function, u64)>;

/// What the label of a directive stands for (PTX ISA 11.3).
#[derive(Clone, Debug)]
pub(super) enum Targets {
    /// `.calltargets`: functions.
    Functions(Vec<String>),
    /// `.callprototype`: any function with as many parameters, in registers or in `.param` space.
    Any(Space),
}

impl Targets {
    /// From the text of a directive.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (directive, list) = text.split_once(char::is_whitespace)?;
        let names =
            || list.trim().trim_end_matches(';').split(',').map(|name| name.trim().to_owned()).collect();
        match directive {
            ".calltargets" => Some(Targets::Functions(names())),
            ".callprototype" => {
                Some(Targets::Any(if list.contains(".reg") { Space::Reg } else { Space::Param }))
            }
            _ => None,
        }
    }
}

/// A parameter in a register.
pub(super) struct Copied<'a> {
    /// The callee's register.
    pub(super) formal: &'a Variable,
    /// What the caller gives for it.
    pub(super) actual: Operand,
}

/// A call taken apart.
pub(super) struct Call<'a> {
    /// The callee.
    pub(super) function: &'a Function,
    /// Through a pointer: the pointer, and the callee's address.
    pub(super) pointer: Option<(String, u64)>,
    /// Formal parameters and return parameters with the variables given for them.
    pub(super) bindings: Vec<(&'a Variable, String)>,
    /// Parameters in registers.
    pub(super) into: Vec<Copied<'a>>,
    /// Return parameters in registers.
    pub(super) out_of: Vec<Copied<'a>>,
}

/// Whether the instruction is a call.
pub(super) fn is_call(i: &Instruction) -> bool {
    i.opcode[0] == "call"
}

/// The function behind the `assert` of CUDA and Triton, which every module only declares: `(message, file, line, function,
/// bytes of a character)`.
const ASSERT_FAIL: &str = "__assertfail";

/// The arguments, if the instruction calls `__assertfail` and the module does not define it.
pub(super) fn assert_fail<'i>(i: &'i Instruction, functions: &Functions<'_>) -> Option<&'i [Operand]> {
    let plain =
        matches!(i.opcode.iter().map(String::as_str).collect::<Vec<_>>()[..], ["call"] | ["call", "uni"]);
    match &i.operands[..] {
        [Operand::Name(name), Operand::List(arguments)]
            if plain && name == ASSERT_FAIL && arguments.len() == 5 =>
        {
            (!functions.contains_key(ASSERT_FAIL)).then_some(arguments)
        }
        _ => None,
    }
}

fn error<T>(i: &Instruction, why: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError { line: i.line, text: i.to_string(), why: why.into() })
}

/// An argument list.
fn arguments(i: &Instruction, list: Option<&Operand>) -> Result<Vec<Operand>, DecodeError> {
    match list {
        None => Ok(Vec::new()),
        Some(Operand::List(items)) => Ok(items.clone()),
        Some(other) => error(i, format!("`{other}` is not an argument list")),
    }
}

/// `call{.uni} (ret), f, (args);`, each list optional, or `call (ret), pointer, (args), targets;`: one call for each
/// function that may be meant. `named` finds the targets of a label or a table.
pub(super) fn take_apart<'a>(
    i: &Instruction,
    functions: &Functions<'a>,
    named: impl Fn(&str) -> Option<Targets>,
) -> Result<Vec<Call<'a>>, DecodeError> {
    if !matches!(i.opcode[1..].iter().map(String::as_str).collect::<Vec<_>>()[..], [] | ["uni"]) {
        return error(i, "has modifiers that are not modelled");
    }
    let (returns, rest) = match i.operands.split_first() {
        Some((list @ Operand::List(_), rest)) => (Some(list), rest),
        _ => (None, &i.operands[..]),
    };
    let (callee, list, targets) = match rest {
        [Operand::Name(callee)] => (callee, None, None),
        [Operand::Name(callee), list @ Operand::List(_)] => (callee, Some(list), None),
        [Operand::Name(callee), Operand::Name(targets)] => (callee, None, Some(targets)),
        [Operand::Name(callee), list @ Operand::List(_), Operand::Name(targets)] => {
            (callee, Some(list), Some(targets))
        }
        _ => return error(i, "has operands that are not modelled"),
    };
    let (returns, arguments) = (arguments(i, returns)?, arguments(i, list)?);
    let Some(targets) = targets else {
        let Some(&(function, _)) = functions.get(callee.as_str()) else {
            return error(i, format!("function `{callee}` has no body in this module"));
        };
        return Ok(vec![bound(i, function, None, &returns, &arguments)?]);
    };
    let fits = |f: &Function| f.returns.len() == returns.len() && f.params.len() == arguments.len();
    let mut candidates: Vec<(&Function, u64)> = match named(targets) {
        Some(Targets::Functions(names)) => {
            let mut found = Vec::new();
            for name in names {
                match functions.get(name.as_str()) {
                    Some(&f) => found.push(f),
                    None => return error(i, format!("function `{name}` has no body in this module")),
                }
            }
            found
        }
        Some(Targets::Any(space)) => {
            let same = |f: &Function| f.returns.iter().chain(&f.params).all(|v| v.space == space);
            functions.values().copied().filter(|(f, _)| fits(f) && same(f)).collect()
        }
        None => return error(i, format!("`{targets}` is not a list of functions or a prototype")),
    };
    candidates.sort_by_key(|&(_, address)| address);
    candidates.dedup_by_key(|&mut (_, address)| address);
    let bind_one = |(f, address)| bound(i, f, Some((callee.clone(), address)), &returns, &arguments);
    candidates.into_iter().map(bind_one).collect()
}

/// A call of one function with its parameters.
fn bound<'a>(
    i: &Instruction,
    function: &'a Function,
    pointer: Option<(String, u64)>,
    returns: &[Operand],
    arguments: &[Operand],
) -> Result<Call<'a>, DecodeError> {
    let mut call = Call { function, pointer, bindings: Vec::new(), into: Vec::new(), out_of: Vec::new() };
    for (formal, actual, returned) in
        [(&function.returns, returns, true), (&function.params, arguments, false)]
    {
        if formal.len() != actual.len() {
            return error(i, format!("`{}` has another number of parameters", function.name));
        }
        for (formal, actual) in formal.iter().zip(actual) {
            match (formal.space, actual) {
                (Space::Reg, _) => {
                    let copied = Copied { formal, actual: actual.clone() };
                    if returned { call.out_of.push(copied) } else { call.into.push(copied) }
                }
                (Space::Param, Operand::Name(name)) => call.bindings.push((formal, name.clone())),
                _ => return error(i, format!("argument `{actual}` is not a .param variable")),
            }
        }
    }
    Ok(call)
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
