//! Mutation: is every fence, wait, commit, barrier and parity of a kernel needed, and would its tests notice?
//!
//! ```text
//! PTX text -> mutants -> run: each mutant under each schedule until something kills it -> Report
//! ```
//!
//! [`KINDS`] is the table of what is changed, a line each. A mutant is PTX text with one instruction replaced; what
//! runs it is the caller's closure, so that any launch, and any number of them, can be the test. A mutant that
//! survives is either a hole in the test or in a checker, or makes no difference: those are listed, with the reason
//! why, in an [`Equivalents`] file, and the list is checked too.

mod edit;
mod equivalents;
mod identity;
mod kinds;
mod report;
mod runner;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use equivalents::{Equivalents, ListError};
pub use identity::Identity;
pub use kinds::{KINDS, Kind, UnknownKind, kinds};
pub use report::{Killer, Report, Result, Verdict};
pub use runner::{Baseline, Observation, Plan, RunError, Trial, run};

use crate::syntax::ast::{Function, Instruction, Item, Operand, Statement};
use crate::syntax::{SyntaxError, parse};

/// A change of one instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutant {
    /// Its name in lists: survives recompilation, as far as the instruction does.
    pub identity: Identity,
    /// Line of the instruction in the unmutated text.
    pub line: u32,
    /// What stands there instead; empty if the instruction is deleted.
    pub replacement: String,
    span: std::ops::Range<usize>,
}

impl Mutant {
    /// The mutated module; `source` is the text that was enumerated. Other lines keep their numbers.
    pub fn apply(&self, source: &str) -> String {
        let (before, rest) = source.split_at(self.span.start);
        let (old, after) = rest.split_at(self.span.len());
        let count = |text: &str| text.matches('\n').count();
        let lines = "\n".repeat(count(old).saturating_sub(count(&self.replacement)));
        format!("{before}{}{lines}{after}", self.replacement)
    }
}

/// Why a module has no mutants.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MutateError {
    /// The text is not PTX.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// No such entry.
    #[error("the module has no entry {name}; it has: {}", known.join(", "))]
    Entry {
        /// Name asked for.
        name: String,
        /// Entries of the module.
        known: Vec<String>,
    },
}

/// The mutants of an entry and of the functions that it calls, in the order of `kinds`, then of the text.
///
/// # Errors
/// The text does not parse, or has no such entry.
pub fn mutants(source: &str, entry: &str, kinds: &[&Kind]) -> std::result::Result<Vec<Mutant>, MutateError> {
    let module = parse(source)?;
    let functions: BTreeMap<&str, &Function> = module
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Function(f) if f.body.is_some() => Some((f.name.as_str(), f)),
            _ => None,
        })
        .collect();
    let Some(root) = functions.get(entry).filter(|f| f.is_entry) else {
        let known = functions.values().filter(|f| f.is_entry).map(|f| f.name.clone()).collect();
        return Err(MutateError::Entry { name: entry.to_owned(), known });
    };
    let code: Vec<(&str, Vec<&Instruction>)> =
        reachable(root, &functions).into_iter().map(|f| (f.name.as_str(), instructions(f))).collect();
    let mut all = Vec::new();
    for kind in kinds {
        for (function, instructions) in &code {
            let name = if *function == entry { entry.to_owned() } else { format!("{entry}/{function}") };
            let edits = instructions.iter().filter_map(|i| Some((i, kind.apply(i)?)));
            for (ordinal, (instruction, replacement)) in (1..).zip(edits) {
                all.push(Mutant {
                    identity: Identity::new(kind.name, &name, ordinal, instruction),
                    line: instruction.line,
                    replacement,
                    span: instruction.span.clone(),
                });
            }
        }
    }
    Ok(all)
}

/// Whether a module that parses has an entry of that name.
fn has_entry(source: &str, entry: &str) -> bool {
    let is = |item: &Item| matches!(item, Item::Function(f) if f.is_entry && f.name == entry);
    parse(source).is_ok_and(|module| module.items.iter().any(is))
}

/// A function and those it calls, each once, in the order in which they are met.
fn reachable<'a>(root: &'a Function, functions: &BTreeMap<&str, &'a Function>) -> Vec<&'a Function> {
    let mut seen = BTreeSet::from([root.name.as_str()]);
    let (mut queue, mut all) = (VecDeque::from([root]), Vec::new());
    while let Some(f) = queue.pop_front() {
        all.push(f);
        for call in instructions(f).into_iter().filter(|i| i.opcode[0] == "call") {
            // `call (results), name, (arguments)`: of the operands, the one that names a function.
            let callee = call.operands.iter().find_map(|operand| match operand {
                Operand::Name(name) => functions.get(name.as_str()).copied(),
                _ => None,
            });
            if let Some(callee) = callee.filter(|f| seen.insert(f.name.as_str())) {
                queue.push_back(callee);
            }
        }
    }
    all
}

/// The instructions of a function, in textual order.
fn instructions(f: &Function) -> Vec<&Instruction> {
    fn walk<'a>(statements: &'a [Statement], out: &mut Vec<&'a Instruction>) {
        for statement in statements {
            match statement {
                Statement::Instruction(i) => out.push(i),
                Statement::Block(inner) => walk(inner, out),
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk(f.body.as_deref().unwrap_or_default(), &mut out);
    out
}
