//! Which parts of a kernel's cases execute which lines of its PTX, so that a mutant runs only what reaches it: a change
//! of an instruction that is not executed changes nothing, as a schedule is deterministic.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use ptx_emulator::machine::Schedule;

use super::Case;
use super::emulator::Emulator;

/// Lines that each part has executed, in order of the parts.
type Parts = Vec<HashSet<u32>>;

/// What the unmutated text executes.
pub struct Coverage<'a> {
    source: &'a str,
    /// By schedule.
    known: Mutex<Vec<(Schedule, Parts)>>,
}

impl<'a> Coverage<'a> {
    /// Of a text; nothing is known before it has run.
    pub fn new(source: &'a str) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// Runs the parts of cases on an emulator with `ptx` until one fails, and says why it does. The text itself runs in
    /// all parts, and what they execute is noted; a mutant of it in those that execute its line in this schedule. Parts from
    /// `core` on are for lines that none before them executes.
    pub fn run(
        &self,
        emulator: &Emulator,
        ptx: &str,
        schedule: Schedule,
        cases: Vec<Case>,
        core: usize,
    ) -> Option<String> {
        let parts = cases.into_iter().flat_map(Case::split);
        let mutated = changed(self.source, ptx);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let reached: Option<Vec<bool>> = mutated.and_then(|line| {
            let known = known();
            let (_, parts) = known.iter().find(|k| k.0 == schedule)?;
            let mut reached: Vec<bool> = parts.iter().map(|lines| lines.contains(&line)).collect();
            let (core, more) = reached.split_at_mut(core.min(parts.len()));
            if core.contains(&true) {
                more.fill(false);
            }
            Some(reached)
        });
        let mut executed = Parts::new();
        for (i, part) in parts.enumerate() {
            if reached.as_ref().is_some_and(|reached| reached.get(i) == Some(&false)) {
                continue;
            }
            let name = part.name.clone();
            if let Err(e) = part.run(emulator) {
                return Some(format!("{name}: {e}"));
            }
            if mutated.is_none() {
                executed.push(emulator.take_lines());
            }
        }
        if mutated.is_none() {
            known().push((schedule, executed));
        }
        None
    }
}

/// The first line in which two texts differ.
fn changed(a: &str, b: &str) -> Option<u32> {
    if a == b {
        return None;
    }
    let same = a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count();
    Some(same as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn the_changed_line_is_found() {
        assert_eq!(changed("a\nb\n", "a\nb\n"), None);
        assert_eq!(changed("a\nb\nc\n", "a\nx\nc\n"), Some(2));
        assert_eq!(changed("a\nb\n", "\nb\n"), Some(1));
        assert_eq!(changed("a\nb", "a\nb\nc"), Some(3));
    }
}
