//! Runs the unmutated module, then each mutant until something kills it.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Equivalents, Identity, Killer, Kind, Mutant, MutateError, Report, Result, Verdict, mutants};
use crate::check::{Class, Finding};
use crate::machine::Schedule;

/// What is mutated and how it is run.
#[derive(Debug)]
pub struct Plan<'a> {
    /// PTX text of the module.
    pub source: &'a str,
    /// The entry whose instructions are mutated, with the functions that it calls.
    pub entry: &'a str,
    /// Kinds of mutations.
    pub kinds: Vec<&'static Kind>,
    /// Schedules with their names, in the order in which they are tried.
    pub schedules: Vec<(String, Schedule)>,
    /// Mutants that are known to make no difference.
    pub equivalents: &'a Equivalents,
    /// Source lines whose mutants are left out.
    pub judged_elsewhere: HashSet<u32>,
    /// A mutant may take so many times the warp instructions of the unmutated module.
    pub budget_factor: u64,
    /// Mutants run at a time; 0 = as many as there are cores.
    pub jobs: usize,
}

impl<'a> Plan<'a> {
    /// Every kind, in round-robin order, with four times the budget.
    pub fn new(source: &'a str, entry: &'a str, equivalents: &'a Equivalents) -> Self {
        Self {
            source,
            entry,
            kinds: super::KINDS.iter().collect(),
            schedules: vec![("round-robin".to_owned(), Schedule::RoundRobin)],
            equivalents,
            judged_elsewhere: HashSet::new(),
            budget_factor: 4,
            jobs: 0,
        }
    }

    /// Under these schedules.
    #[must_use]
    pub fn schedules(mut self, schedules: impl IntoIterator<Item = (String, Schedule)>) -> Self {
        self.schedules = schedules.into_iter().collect();
        self
    }
}

/// One run that is asked for: every launch of it with these settings.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// PTX text.
    pub ptx: &'a str,
    /// Schedule.
    pub schedule: Schedule,
    /// Warp instructions per cluster, as in [`crate::machine::Launch::budget`].
    pub budget: u64,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Findings of all launches.
    pub findings: Vec<Finding>,
    /// Warp instructions of the longest cluster ([`crate::machine::Outcome::longest_cluster`]).
    pub longest_cluster: u64,
    /// Why the result is wrong, if it is.
    pub wrong: Option<String>,
    /// Bytes to be compared with those of the unmutated run, if that gave the same under every schedule; may be
    /// empty.
    pub outputs: Vec<u8>,
}

/// The unmutated runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Warp instructions of the longest cluster.
    pub longest_cluster: u64,
    /// Whether a mutant's [`Observation::outputs`] are compared: they are the same under every schedule.
    pub compares_outputs: bool,
}

/// Why no mutant was judged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There are no mutants.
    #[error(transparent)]
    Mutants(#[from] MutateError),
    /// The unmutated module is not clean and right, so that it proves nothing about a mutant.
    #[error("the unmutated module, {schedule}: {what}")]
    Baseline {
        /// Name of the schedule.
        schedule: String,
        /// What is wrong.
        what: String,
    },
}

/// Warp instructions per cluster of an unmutated run before it counts as endless.
const BASELINE_BUDGET: u64 = 1 << 32;
/// A mutant gets at least so many: a short kernel may well wait a little longer.
const LEAST_BUDGET: u64 = 10_000;

/// Judges every mutant of a plan. `launch` loads the text and runs it on buffers of its own; an error says why it
/// could not be loaded or launched. `progress` is told how many of how many are done, in no particular thread.
///
/// # Errors
/// The text has no such entry, or the unmutated module is not clean.
pub fn run(
    plan: &Plan<'_>,
    launch: impl Fn(&Trial<'_>) -> std::result::Result<Observation, String> + Sync,
    progress: impl Fn(usize, usize) + Sync,
) -> std::result::Result<Report, RunError> {
    let mut all = mutants(plan.source, plan.entry, &plan.kinds)?;
    all.retain(|mutant| !plan.judged_elsewhere.contains(&mutant.line));
    let (baseline, outputs) = unmutated(plan, &launch)?;
    let budget = baseline.longest_cluster.saturating_mul(plan.budget_factor).max(LEAST_BUDGET);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let verdicts = Mutex::new(vec![None; all.len()]);
    let jobs = match plan.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    // Threads of our own and not rayon's: a launch waits for rayon's, and would take up another mutant meanwhile.
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(all.len()) {
            scope.spawn(|| {
                while let Some((at, mutant)) = take(&all, &next) {
                    let verdict = judge(plan, mutant, &launch, budget, &outputs);
                    if let Ok(mut verdicts) = verdicts.lock() {
                        verdicts[at] = Some(verdict);
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, all.len());
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_default();
    let stale = stale(plan, &all);
    let results = all.into_iter().zip(verdicts).map(|(mutant, verdict)| Result {
        reason: plan.equivalents.reason(&mutant.identity).map(str::to_owned),
        // Every index has been taken by a thread that stored its verdict.
        verdict: verdict.unwrap_or(Verdict::Survived),
        mutant,
    });
    Ok(Report { entry: plan.entry.to_owned(), baseline, results: results.collect(), stale })
}

fn take<'m>(all: &'m [Mutant], next: &AtomicUsize) -> Option<(usize, &'m Mutant)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    all.get(at).map(|m| (at, m))
}

/// Runs the unmutated module; also gives the outputs that mutants are compared with.
fn unmutated(
    plan: &Plan<'_>,
    launch: &impl Fn(&Trial<'_>) -> std::result::Result<Observation, String>,
) -> std::result::Result<(Baseline, Option<Vec<u8>>), RunError> {
    let mut baseline = Baseline { longest_cluster: 0, compares_outputs: true };
    let mut outputs: Option<Vec<u8>> = None;
    for (name, schedule) in &plan.schedules {
        let bad = |what: String| RunError::Baseline { schedule: name.clone(), what };
        let seen =
            launch(&Trial { ptx: plan.source, schedule: *schedule, budget: BASELINE_BUDGET }).map_err(bad)?;
        if let Some(finding) = seen.findings.first() {
            return Err(bad(format!("{} finding(s); first: {finding}", seen.findings.len())));
        }
        if let Some(wrong) = seen.wrong {
            return Err(bad(wrong));
        }
        baseline.longest_cluster = baseline.longest_cluster.max(seen.longest_cluster);
        baseline.compares_outputs &= outputs.as_ref().is_none_or(|o| *o == seen.outputs);
        outputs.get_or_insert(seen.outputs);
    }
    Ok((baseline, outputs.filter(|_| baseline.compares_outputs)))
}

fn judge(
    plan: &Plan<'_>,
    mutant: &Mutant,
    launch: &impl Fn(&Trial<'_>) -> std::result::Result<Observation, String>,
    budget: u64,
    outputs: &Option<Vec<u8>>,
) -> Verdict {
    let ptx = mutant.apply(plan.source);
    for (name, schedule) in &plan.schedules {
        let trial = Trial { ptx: &ptx, schedule: *schedule, budget };
        // A panic is a fault of the emulator or of the closure: reported, and no verdict on the kernel.
        let killer = match catch_unwind(AssertUnwindSafe(|| launch(&trial))) {
            Err(panic) => return Verdict::Crashed { message: message(&*panic), schedule: name.clone() },
            Ok(Err(why)) => Some(Killer::Load(why)),
            Ok(Ok(seen)) => killer(seen, outputs),
        };
        if let Some(by) = killer {
            return Verdict::Killed { by, schedule: name.clone() };
        }
    }
    Verdict::Survived
}

/// What of an observation kills a mutant.
fn killer(seen: Observation, outputs: &Option<Vec<u8>>) -> Option<Killer> {
    if let Some(first) = seen.findings.first() {
        let mut classes: Vec<Class> = seen.findings.iter().map(|f| f.class).collect();
        classes.sort_unstable();
        classes.dedup();
        return Some(Killer::Findings { classes, first: first.to_string() });
    }
    let differs = || {
        let want = outputs.as_ref()?;
        let differ = want.len() != seen.outputs.len() || *want != seen.outputs;
        differ.then(|| "the output is not that of the unmutated module".to_owned())
    };
    seen.wrong.clone().or_else(differs).map(Killer::Output)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Entries of the list that no mutant has, of what this plan covers: other entries of the module and other kinds may
/// be listed too, but not unknown ones.
fn stale(plan: &Plan<'_>, all: &[Mutant]) -> Vec<Identity> {
    let elsewhere = |i: &Identity| i.entry() != plan.entry && super::has_entry(plan.source, i.entry());
    let left_out = |i: &Identity| {
        let is = |k: &&Kind| k.name == i.kind;
        super::KINDS.iter().any(|k| is(&k)) && !plan.kinds.iter().any(is)
    };
    let concerned = |i: &&Identity| !elsewhere(i) && !left_out(i);
    let missing = |i: &&Identity| !all.iter().any(|m| m.identity == **i);
    plan.equivalents.identities().filter(concerned).filter(missing).cloned().collect()
}
