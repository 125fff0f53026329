//! Mutants of the committed PTX: one instruction changed at a time, and a kernel's cases on the emulator to notice it.
//!
//! Every kernel of the table takes part with the cases that bear its name. `tests/data/equivalents/KERNEL.txt` lists
//! the mutants that make no difference, with the reason (`ptx_emulator::mutate::Equivalents`); no file, no such mutant.

use std::collections::HashSet;
use std::path::Path;

use kernels::launch::{Arch, Launch, find};
use ptx_emulator::machine::Schedule;
use ptx_emulator::mutate::{
    Equivalents, KINDS, Mutant, Observation, Plan, Report, RunError, Trial, mutants, run,
};

use super::alike::lines_alike;
use super::coverage::Coverage;
use super::emulator::Emulator;
use super::expert_gemm_mutation::{self, Prepared};
use super::{Case, Sizes, cases_at, routing, text};

/// Schedules, by what is likely to notice most: warps in turn, consumers first, late copies.
pub const SCHEDULES: [&str; 3] = ["round-robin", "consumer-first", "async-late"];
/// Those for a kernel. The first one does for those whose code is long: where both were tried it killed all of their mutants
/// that [`SCHEDULES`] do.
pub fn schedules(kernel: &Launch) -> &'static [&'static str] {
    let is_long = ["expert_", "tcgen05_"].iter().any(|family| kernel.name.starts_with(family));
    if is_long { &SCHEDULES[..1] } else { &SCHEDULES }
}

/// Every schedule that has a name, and two at random.
pub const EXHAUSTIVE: [&str; 8] = [
    "round-robin",
    "producer-first",
    "consumer-first",
    "async-at-once",
    "async-late",
    "async-reversed",
    "seed:1",
    "seed:2",
];

/// The kernel whose mutants are judged everywhere, and its siblings' only where their code is not its: of a form of the
/// expert GEMMs the one without activation. Any other kernel is its own.
fn representative(kernel: &'static Launch) -> &'static Launch {
    let form = kernel.name.strip_prefix("expert_gemm_").and_then(|name| name.split('_').next());
    form.and_then(|form| find(&format!("expert_gemm_{form}_plain_f32"))).unwrap_or(kernel)
}

/// The mutants of a kernel, judged by its cases at `sizes`, each launch after a [`super::predecessor`]. Those in code that
/// the kernel shares with its representative are judged there.
pub fn mutate(
    arch: Arch,
    kernel: &'static Launch,
    sizes: &Sizes,
    schedules: &[&str],
) -> Result<Report, String> {
    let parse = |name: &&str| {
        let schedule = Schedule::parse(name).ok_or_else(|| format!("no schedule {name}"))?;
        Ok(((*name).to_owned(), schedule))
    };
    let schedules: Vec<(String, Schedule)> = schedules.iter().map(parse).collect::<Result<_, String>>()?;
    let equivalents = equivalents(kernel.name)?;
    let ptx = text::only(arch, &[kernel.name]);
    let mut plan = Plan::new(&ptx, kernel.name, &equivalents).schedules(schedules);
    let (cases, coverage) = (Cases::of(kernel, sizes), Coverage::new(&ptx));
    plan.judged_elsewhere = judged_elsewhere(arch, kernel);
    run(&plan, |trial| observe(arch, trial, &cases, &coverage), |_, _| ())
        .map_err(|e: RunError| format!("{}, {}: {e}", kernel.name, arch.name()))
}

/// Lines of a kernel whose mutants are judged with its representative or, of SwiGLU in f32, with SwiGLU in bf16.
fn judged_elsewhere(arch: Arch, kernel: &'static Launch) -> HashSet<u32> {
    let sibling = kernel.name.strip_suffix("_swiglu_f32").filter(|form| form.starts_with("expert_gemm_"));
    let sibling = sibling.and_then(|form| find(&format!("{form}_swiglu_bf16")));
    let others = [Some(representative(kernel)), sibling].into_iter().flatten();
    others
        .filter(|other| other.name != kernel.name)
        .flat_map(|other| lines_alike(arch, kernel.name, other.name))
        .collect()
}

/// Kinds and instructions of the mutants of a kernel that are judged with another, and of those that are not.
pub fn shared_and_own(arch: Arch, kernel: &'static Launch) -> Result<Option<[Vec<Mutant>; 2]>, String> {
    if !kernel.name.starts_with("expert_gemm_") {
        return Ok(None);
    }
    let lines = judged_elsewhere(arch, kernel);
    let all =
        mutants(arch.ptx(), kernel.name, &KINDS.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let (shared, own) = all.into_iter().partition(|mutant| lines.contains(&mutant.line));
    Ok(Some([shared, own]))
}

/// A kernel's PTX with a clamp of SwiGLU left out everywhere, by name; empty if it has none. In unrolled code no case
/// need reach each clamp by itself, so that these are no mutants of one instruction.
pub fn without_clamps(arch: Arch, kernel: &Launch) -> Vec<(&'static str, String)> {
    let ptx = text::only(arch, &[kernel.name]);
    let drop = |clamp: &str, which: fn(usize) -> bool| -> String {
        let mut count = 0;
        let line = |line: &str| match line.trim_start().strip_prefix(clamp).map(|rest| rest.split(',')) {
            Some(mut operands) => {
                count += 1;
                match (which(count), operands.next(), operands.next()) {
                    (true, Some(to), Some(from)) => format!("mov.b32 {to}, {from};\n"),
                    _ => format!("{line}\n"),
                }
            }
            None => format!("{line}\n"),
        };
        ptx.lines().map(line).collect()
    };
    if !ptx.contains("min.NaN.f32") {
        return Vec::new();
    }
    // The compiler leaves the two minima of a pair of gate and up next to each other.
    vec![
        ("half of the upper clamps", drop("min.NaN.f32", |n| n % 2 == 0)),
        ("the other half", drop("min.NaN.f32", |n| n % 2 == 1)),
        ("the lower clamps", drop("max.NaN.f32", |_| true)),
    ]
}

/// Why a kernel's cases fail with another PTX text; `None` if they do not.
pub fn failure(arch: Arch, kernel: &Launch, ptx: &str, sizes: &Sizes) -> Result<Option<String>, String> {
    let trial = Trial { ptx, schedule: Schedule::default(), budget: 1 << 26 };
    Ok(observe(arch, &trial, &Cases::of(kernel, sizes), &Coverage::new(ptx))?.wrong)
}

/// Cases for any number of runs.
enum Cases<'a> {
    /// Of the few that are prepared.
    Prepared(Prepared),
    /// Those that the other tests have, made anew for each.
    Ordinary(&'a Launch, &'a Sizes),
}

impl<'a> Cases<'a> {
    fn of(kernel: &'a Launch, sizes: &'a Sizes) -> Self {
        expert_gemm_mutation::prepare(kernel).map_or(Self::Ordinary(kernel, sizes), Self::Prepared)
    }

    /// How many parts are for every mutant.
    fn core(&self) -> usize {
        match self {
            Self::Prepared(prepared) => prepared.core,
            Self::Ordinary(..) => usize::MAX,
        }
    }

    fn get(&self) -> Vec<Case> {
        match self {
            Self::Prepared(prepared) => prepared.cases(),
            Self::Ordinary(kernel, sizes) => cases_of(kernel, sizes),
        }
    }
}

/// The cases of a kernel.
pub fn cases_of(kernel: &Launch, sizes: &Sizes) -> Vec<Case> {
    let mut cases = cases_at(sizes);
    cases.extend(routing::cases(routing::Scale::Few));
    cases.retain(|case| case.name.split('/').next() == Some(kernel.name));
    cases
}

/// Runs cases until one fails.
fn observe(
    arch: Arch,
    trial: &Trial<'_>,
    cases: &Cases<'_>,
    coverage: &Coverage<'_>,
) -> Result<Observation, String> {
    let emulator =
        Emulator::with_ptx(arch, trial.schedule, trial.ptx)?.budget(trial.budget).after_predecessor()?;
    let failed = coverage.run(&emulator, trial.ptx, trial.schedule, cases.get(), cases.core());
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
