//! What became of the mutants.

use std::fmt::{Display, Formatter};

use super::{Baseline, Identity, KINDS, Mutant};
use crate::check::Class;

/// What killed a mutant.
#[derive(Clone, Debug, PartialEq)]
pub enum Killer {
    /// Findings; a deadlock and an exhausted budget are classes too.
    Findings {
        /// Their classes, each once.
        classes: Vec<Class>,
        /// The first finding.
        first: String,
    },
    /// The result is wrong.
    Output(String),
    /// The emulator refuses to load or to launch it.
    Load(String),
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Something noticed.
    Killed {
        /// What.
        by: Killer,
        /// Under which schedule.
        schedule: String,
    },
    /// Nothing noticed, under any schedule.
    Survived,
    /// The run panicked.
    Crashed {
        /// The panic's message.
        message: String,
        /// Under which schedule.
        schedule: String,
    },
}

/// A mutant and its fate.
#[derive(Clone, Debug, PartialEq)]
pub struct Result {
    /// The mutant.
    pub mutant: Mutant,
    /// Its fate.
    pub verdict: Verdict,
    /// Why it makes no difference, if it is listed.
    pub reason: Option<String>,
}

impl Result {
    /// `killed`, `equivalent` (it survived and is listed), `survived`, `listed-but-killed` or `crashed`.
    pub fn status(&self) -> &'static str {
        match (&self.verdict, &self.reason) {
            (Verdict::Killed { .. }, None) => "killed",
            (Verdict::Killed { .. }, Some(_)) => "listed-but-killed",
            (Verdict::Survived, Some(_)) => "equivalent",
            (Verdict::Survived, None) => "survived",
            (Verdict::Crashed { .. }, _) => "crashed",
        }
    }

    /// Whether it is as it should be.
    pub fn good(&self) -> bool {
        matches!(self.status(), "killed" | "equivalent")
    }
}

/// The fates of all mutants of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The entry.
    pub entry: String,
    /// The unmutated runs.
    pub baseline: Baseline,
    /// The mutants, in the order of the kinds, then of the text.
    pub results: Vec<Result>,
    /// Entries of the list for which there is no mutant.
    pub stale: Vec<Identity>,
}

impl Report {
    /// Whether every mutant is killed or listed, and the list is true.
    pub fn good(&self) -> bool {
        self.stale.is_empty() && self.results.iter().all(Result::good)
    }

    /// How many have a status.
    pub fn count(&self, status: &str) -> usize {
        self.results.iter().filter(|r| r.status() == status).count()
    }
}

impl Display for Killer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Killer::Findings { classes, .. } => {
                let names: Vec<&str> = classes.iter().map(|c| c.name()).collect();
                f.write_str(&names.join("+"))
            }
            Killer::Output(_) => f.write_str("output"),
            Killer::Load(_) => f.write_str("load"),
        }
    }
}

impl Killer {
    /// In full: the first finding, how the output is wrong, the error.
    pub fn detail(&self) -> &str {
        match self {
            Killer::Findings { first, .. } => first,
            Killer::Output(text) | Killer::Load(text) => text,
        }
    }
}

impl Display for Result {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (line {})", self.status(), self.mutant.identity, self.mutant.line)?;
        match &self.verdict {
            Verdict::Killed { by, schedule } => write!(f, ": {by}, {schedule}"),
            Verdict::Crashed { message, schedule } => write!(f, ": {message}, {schedule}"),
            Verdict::Survived => Ok(()),
        }
    }
}

/// A table by kind, then whatever is not as it should be.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<18} {:>7} {:>6} {:>10} {:>8}  killed by",
            "kind", "mutants", "killed", "equivalent", "other"
        )?;
        for kind in KINDS {
            let of: Vec<&Result> =
                self.results.iter().filter(|r| r.mutant.identity.kind == kind.name).collect();
            if of.is_empty() {
                continue;
            }
            let count = |status: &str| of.iter().filter(|r| r.status() == status).count();
            let (killed, equivalent) = (count("killed"), count("equivalent"));
            let mut killers: Vec<String> = of
                .iter()
                .filter_map(|r| match &r.verdict {
                    Verdict::Killed { by, .. } => Some(by.to_string()),
                    _ => None,
                })
                .collect();
            killers.sort_unstable();
            killers.dedup();
            writeln!(
                f,
                "{:<18} {:>7} {killed:>6} {equivalent:>10} {:>8}  {}",
                kind.name,
                of.len(),
                of.len() - killed - equivalent,
                killers.join(", ")
            )?;
        }
        let all = self.results.len();
        writeln!(
            f,
            "{}: {all} mutants, {} killed, {} equivalent, {} survived",
            self.entry,
            self.count("killed"),
            self.count("equivalent"),
            self.count("survived")
        )?;
        for result in self.results.iter().filter(|r| !r.good()) {
            writeln!(f, "{result}")?;
        }
        for identity in &self.stale {
            writeln!(f, "listed, but there is no such mutant: {identity}")?;
        }
        Ok(())
    }
}
