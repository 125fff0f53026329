//! What a mutant is called.

use std::fmt::{Display, Formatter};

use crate::syntax::ast::{Instruction, Operand};

/// Kind, entry, ordinal among the mutants of that kind in the entry, and the instruction.
///
/// Written `kind entry#ordinal` and the instruction between backquotes. Line numbers and register numbers, which
/// change with every compilation, are left out: a register is its prefix (`%rd12` is `%rd`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Name of the kind.
    pub kind: String,
    /// The entry, or `entry/function` in a function that it calls.
    pub function: String,
    /// From 1.
    pub ordinal: usize,
    /// The instruction, with its guard.
    pub text: String,
}

impl Identity {
    pub(super) fn new(kind: &str, function: &str, ordinal: usize, instruction: &Instruction) -> Self {
        let text = anonymous(instruction).to_string();
        Self { kind: kind.to_owned(), function: function.to_owned(), ordinal, text }
    }

    /// The entry.
    pub fn entry(&self) -> &str {
        self.function.split('/').next().unwrap_or_default()
    }

    /// Reads what `Display` writes, from the start of a line; also gives the rest of it.
    pub(super) fn parse(line: &str) -> Option<(Self, &str)> {
        let (kind, rest) = line.trim_start().split_once(char::is_whitespace)?;
        let (at, rest) = rest.split_once('`')?;
        let (text, rest) = rest.split_once('`')?;
        let (function, ordinal) = at.trim().rsplit_once('#')?;
        let ordinal = ordinal.parse().ok().filter(|&n| n > 0)?;
        let identity =
            Self { kind: kind.to_owned(), function: function.to_owned(), ordinal, text: text.to_owned() };
        Some((identity, rest))
    }
}

impl Display for Identity {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}#{} `{}`", self.kind, self.function, self.ordinal, self.text)
    }
}

/// The instruction without register numbers.
fn anonymous(instruction: &Instruction) -> Instruction {
    let mut i = instruction.clone();
    if let Some(guard) = &mut i.guard {
        guard.name = prefix(&guard.name);
    }
    i.operands.iter_mut().for_each(anonymise);
    i
}

fn anonymise(operand: &mut Operand) {
    match operand {
        Operand::Name(name) | Operand::Not(name) => *name = prefix(name),
        Operand::Vector(items) | Operand::List(items) => {
            items.iter_mut().for_each(anonymise);
            // An accumulator is up to 128 registers.
            let n = items.len();
            if n > 4 && items.iter().all(|x| *x == items[0]) {
                *items = vec![Operand::Name(format!("{} x {n}", items[0]))];
            }
        }
        Operand::Address { base, extra, .. } => {
            anonymise(base);
            extra.iter_mut().for_each(anonymise);
        }
        Operand::Pair(a, b) => {
            anonymise(a);
            anonymise(b);
        }
        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Sink => {}
    }
}

/// `%rd12` is `%rd`; what does not end with a number stays (`%tid.x`, names of variables).
fn prefix(name: &str) -> String {
    match name.strip_prefix('%') {
        Some(rest) => format!("%{}", rest.trim_end_matches(|c: char| c.is_ascii_digit())),
        None => name.to_owned(),
    }
}
