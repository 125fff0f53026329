//! Mutants of the committed PTX: one instruction changed at a time, and a kernel's cases on the emulator to notice it.
//!
//! Every kernel of the table takes part with the cases that bear its name. `tests/data/equivalents/KERNEL.txt` lists
//! the mutants that make no difference, with the reason (`ptx_emulator::mutate::Equivalents`); no file, no such mutant.

use std::path::Path;

use kernels::launch::{Arch, Launch};
use ptx_emulator::machine::Schedule;
use ptx_emulator::mutate::{Equivalents, Observation, Plan, Report, RunError, Trial, run};
use ptx_emulator::syntax::ast::Item;
use ptx_emulator::syntax::parse;

use super::emulator::Emulator;
use super::{Case, Sizes, cases_at, routing};

/// Schedules, by what is likely to notice most: warps in turn, consumers first, late copies.
pub const SCHEDULES: [&str; 3] = ["round-robin", "consumer-first", "async-late"];

/// The mutants of a kernel, judged by its cases at `sizes`.
pub fn mutate(arch: Arch, kernel: &Launch, sizes: &Sizes) -> Result<Report, String> {
    let schedules = SCHEDULES.map(|name| (name.to_owned(), Schedule::parse(name).unwrap_or_default()));
    let equivalents = equivalents(kernel.name)?;
    let plan = Plan::new(arch.ptx(), kernel.name, &equivalents).schedules(schedules);
    run(&plan, |trial| observe(arch, trial, cases_of(kernel, sizes)), |_, _| ())
        .map_err(|e: RunError| format!("{}, {}: {e}", kernel.name, arch.name()))
}

/// A kernel's code without what names the architecture: the emulator makes no difference between two that are equal.
pub fn code(arch: Arch, kernel: &Launch) -> Result<String, String> {
    let module = parse(arch.ptx()).map_err(|e| e.to_string())?;
    let shared = |item: &&Item| match item {
        Item::Function(f) => f.name == kernel.name || !f.is_entry,
        Item::Variable(_) => true,
        Item::Raw(_) => false,
    };
    Ok(module
        .items
        .iter()
        .filter(shared)
        .map(|item| match item {
            Item::Function(f) => f.to_string(),
            Item::Variable(v) => v.to_string(),
            Item::Raw(text) => text.clone(),
        })
        .collect())
}

/// The cases of a kernel.
pub fn cases_of(kernel: &Launch, sizes: &Sizes) -> Vec<Case> {
    let mut cases = cases_at(sizes);
    cases.extend(routing::cases(routing::Scale::Few));
    cases.retain(|case| case.name.split('/').next() == Some(kernel.name));
    cases
}

/// Runs cases until one fails.
fn observe(arch: Arch, trial: &Trial<'_>, cases: Vec<Case>) -> Result<Observation, String> {
    let emulator = Emulator::with_ptx(arch, trial.schedule, trial.ptx)?.budget(trial.budget);
    let failed = cases.into_iter().find_map(|case| {
        let name = case.name.clone();
        case.run(&emulator).err().map(|e| format!("{name}: {e}"))
    });
    let seen = emulator.seen();
    Ok(Observation {
        findings: seen.findings,
        longest_cluster: seen.longest_cluster,
        wrong: failed,
        outputs: Vec::new(),
    })
}

fn equivalents(kernel: &str) -> Result<Equivalents, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/equivalents/{kernel}.txt"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Equivalents::default()),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    Equivalents::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}
