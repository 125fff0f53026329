//! Where the code of two entries is the same but for the names of registers and labels: what has been shown of it in one
//! holds in the other.
//!
//! The kernels of a form are one body with another epilogue, which the compiler inlines everywhere.

use std::collections::{HashMap, HashSet};

use kernels::launch::Arch;

/// Lines that must follow alike where two texts meet again.
const RUN: usize = 16;
/// Lines of both together after which they must: the epilogues between two loops are shorter.
const GAP: usize = 4000;

/// A line of code: its number in the module, what it says without names, and the names.
struct Line<'a> {
    number: u32,
    skeleton: String,
    names: Vec<&'a str>,
}

/// The numbers of those lines of `kernel` that are also in `other`, in the same order: between the same instructions, on
/// registers that are defined and used by the same, and jumping to the same places. Comments, declarations and parameters
/// of another number are not.
pub fn lines_alike(arch: Arch, kernel: &str, other: &str) -> HashSet<u32> {
    alike(&lines(arch.ptx(), other), &lines(arch.ptx(), kernel))
}

/// The lines of an entry's body.
fn lines<'a>(ptx: &'a str, entry: &str) -> Vec<Line<'a>> {
    let start = format!(".entry {entry}(");
    let body = ptx.lines().zip(1..).skip_while(|(line, _)| !line.contains(&start));
    let body = body.skip_while(|(line, _)| *line != "{").skip(1).take_while(|(line, _)| *line != "}");
    body.map(|(line, number)| (line.trim(), number))
        .filter(|(line, _)| !line.is_empty() && !line.starts_with("//") && !line.starts_with(".reg"))
        .map(|(line, number)| take_apart(line, number, entry))
        .collect()
}

fn take_apart<'a>(line: &'a str, number: u32, entry: &str) -> Line<'a> {
    let (mut skeleton, mut names, mut rest) = (String::new(), Vec::new(), line);
    while let Some(at) = rest.find(['%', '$']) {
        let end = rest[at + 1..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(rest.len(), |n| at + 1 + n);
        let name = &rest[at..end];
        // `%tid` and the like are not numbered and stand for themselves.
        if name.ends_with(|c: char| c.is_ascii_digit()) {
            skeleton += &rest[..at + 1];
            names.push(name);
        } else {
            skeleton += &rest[..end];
        }
        rest = &rest[end..];
    }
    Line { number, skeleton: (skeleton + rest).replace(entry, "entry"), names }
}

/// What lines say without names.
fn words<'a>(lines: &'a [Line<'_>]) -> Vec<&'a str> {
    lines.iter().map(|line| line.skeleton.as_str()).collect()
}

/// The numbers of lines of `b` that are in `a` too.
fn alike(a: &[Line<'_>], b: &[Line<'_>]) -> HashSet<u32> {
    let mut names = Names::default();
    let mut found = HashSet::new();
    let mut places: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
    b.windows(RUN).enumerate().for_each(|(at, run)| places.entry(words(run)).or_default().push(at));
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i].skeleton == b[j].skeleton {
            if names.agree(&a[i], &b[j]) {
                found.insert(b[j].number);
            }
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let meet = |x: usize| {
            let at = places.get(&words(a.get(i + x..i + x + RUN)?))?;
            at.get(at.partition_point(|&y| y < j)).map(|y| (x, y - j))
        };
        let meetings = (0..=GAP).filter_map(meet).filter(|(x, y)| x + y <= GAP);
        let Some((x, y)) = meetings.min_by_key(|(x, y)| x + y) else { break };
        (i, j) = (i + x, j + y);
    }
    found
}

/// Names of both texts that stand for each other.
#[derive(Default)]
struct Names<'a> {
    forth: HashMap<&'a str, &'a str>,
    back: HashMap<&'a str, &'a str>,
}

impl<'a> Names<'a> {
    /// Whether the names of two lines do; those that are new do from now on.
    fn agree(&mut self, a: &Line<'a>, b: &Line<'a>) -> bool {
        let pairs = || a.names.iter().zip(&b.names);
        let fits = pairs().all(|(a, b)| {
            self.forth.get(a).is_none_or(|known| known == b)
                && self.back.get(b).is_none_or(|known| known == a)
        });
        if fits {
            for (a, b) in pairs() {
                self.forth.insert(a, b);
                self.back.insert(b, a);
            }
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = ".visible .entry one(\n)\n{\n\t.reg .b32 %r<3>;\n\tmov.u32 %r1, %tid.x;\n\
        $L__BB0_1:\n\tadd.s32 %r2, %r1, 1;\n\tbar.sync 0;\n\tbra $L__BB0_1;\n}\n";

    fn found(two: &str) -> Vec<u32> {
        let mut found: Vec<u32> = alike(&lines(ONE, "one"), &lines(two, "two")).into_iter().collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn other_names_are_no_difference() {
        let two = ONE.replace("one", "two").replace("%r1,", "%r7,").replace("BB0_1", "BB3_4");
        assert_eq!(found(&two), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_difference_is_seen() {
        let two = ONE.replace("one", "two");
        assert_eq!(found(&two.replace("%r2, %r1,", "%r2, %r2,")), [5, 6, 8, 9]);
        assert_eq!(found(&two.replace("bra $L__BB0_1", "bra $L__BB0_2")), [5, 6, 7, 8]);
        assert_eq!(found(&two.replace("%tid.x", "%ctaid.x")), [0u32; 0], "too short to meet again");
    }

    #[test]
    fn texts_meet_again_behind_a_difference() {
        let body = |extra: &str| {
            let tail: String = (0..30).map(|n| format!("\tadd.s32 %r1, %r1, {n};\n")).collect();
            format!(".visible .entry e(\n)\n{{\n\tmov.u32 %r1, %tid.x;\n{extra}{tail}}}\n")
        };
        let (a, b) = (body(""), body("\tbar.sync 0;\n\tfence.proxy.async;\n"));
        let found = alike(&lines(&a, "e"), &lines(&b, "e"));
        assert_eq!(found.len(), 31);
        assert!(!found.contains(&5) && !found.contains(&6));
    }
}
