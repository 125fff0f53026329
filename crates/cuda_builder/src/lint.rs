//! What a finished PTX module must not contain.
//!
//! | rule | refuses | because |
//! |---|---|---|
//! | `aligned` | another number of collectives than the checked-in table | compilers copy code, and a copied barrier is undefined |
//! | `rounding` | `add`/`sub`/`mul`/`mad`/`fma` on floats without a rounding mode | ptxas may contract them, and bits change |
//! | `ftz` | `.ftz` | subnormals are part of the numerics |
//! | `approx` | `.approx`, `.full` | not IEEE |
//! | `local` | `.local` memory | an array that should be registers |
//! | `call` | calls and out-of-line functions | lost inlining; a panic path |
//! | `text` | readable text in data | panic messages, source paths |
//!
//! `local`, `call` and `approx` can be allowed for one entry, with a reason ([`AllowList`]).

use crate::aligned::AlignedTable;
use crate::{Arch, CudaBuilderError, ptx};
use std::fmt;

/// One thing that the lint refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The entry or function; empty for the module.
    pub function: String,
    /// The rule.
    pub rule: &'static str,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = if self.function.is_empty() { "module" } else { &self.function };
        write!(f, "{function}: [{}] {}", self.rule, self.what)
    }
}

/// Exceptions: `ENTRY RULE REASON...`, one per line, `#` starts a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<(String, String)>);

impl AllowList {
    /// Reads the list. Only rules that can have exceptions may be named, and a reason is needed.
    pub fn parse(text: &str) -> Result<Self, CudaBuilderError> {
        let mut list = Vec::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let mut words = line.splitn(3, char::is_whitespace);
            match (words.next(), words.next(), words.next()) {
                (Some(entry), Some(rule @ ("local" | "call" | "approx")), Some(_)) => {
                    list.push((entry.to_string(), rule.to_string()));
                }
                _ => return Err(CudaBuilderError::MalformedPtx(format!("allow list: `{line}`"))),
            }
        }
        Ok(Self(list))
    }

    fn has(&self, function: &str, rule: &str) -> bool {
        self.0.iter().any(|(f, r)| f == function && r == rule)
    }
}

/// Every finding in a module; empty means clean.
pub fn lint(text: &str, table: &AlignedTable, allow: &AllowList) -> Result<Vec<Finding>, CudaBuilderError> {
    let text = ptx::blank_comments(text);
    let mut findings = Vec::new();
    let mut outside = String::new();
    let mut at = 0;
    for f in ptx::functions(&text)? {
        outside.push_str(&text[at..f.body.start]);
        at = f.body.end;
        if !f.is_entry {
            push(&mut findings, allow, &f.name, "call", "an out-of-line function".into());
        }
        for (op, operands) in ptx::operations(&text[f.body.clone()]) {
            for (rule, what) in check_operation(op, operands) {
                push(&mut findings, allow, &f.name, rule, what);
            }
        }
    }
    outside.push_str(&text[at..]);
    for (directive, rest) in ptx::operations(&outside) {
        if let Some(readable) = readable_data(rest) {
            push(&mut findings, allow, "", "text", format!("{directive} holds \"{readable}\""));
        }
    }
    for (function, what) in table.diff(&AlignedTable::count(&text)?) {
        findings.push(Finding { function, rule: "aligned", what });
    }
    Ok(findings)
}

/// As [`lint`], with findings as an error.
pub fn check(
    text: &str,
    arch: Arch,
    table: &AlignedTable,
    allow: &AllowList,
) -> Result<(), CudaBuilderError> {
    let findings = lint(text, table, allow)?;
    if findings.is_empty() { Ok(()) } else { Err(CudaBuilderError::Lint { arch: arch.name(), findings }) }
}

/// Adds a finding unless it is allowed or already there.
fn push(findings: &mut Vec<Finding>, allow: &AllowList, function: &str, rule: &'static str, what: String) {
    let finding = Finding { function: function.to_string(), rule, what };
    if !allow.has(function, rule) && !findings.contains(&finding) {
        findings.push(finding);
    }
}

fn check_operation(op: &str, operands: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut parts = op.split('.');
    let name = parts.next().unwrap_or_default();
    let modifiers: Vec<&str> = parts.collect();
    let has = |m: &str| modifiers.contains(&m);
    let is_float =
        modifiers.iter().any(|m| matches!(*m, "f32" | "f64" | "f16" | "f16x2" | "bf16" | "bf16x2" | "f32x2"));
    let rounds = ["rn", "rz", "rm", "rp"].into_iter().any(has);
    if matches!(name, "add" | "sub" | "mul" | "mad" | "fma") && is_float && !rounds {
        found.push(("rounding", format!("`{op}` has no rounding mode")));
    }
    if has("ftz") {
        found.push(("ftz", format!("`{op}`")));
    }
    if has("approx") || has("full") {
        found.push(("approx", format!("`{op}`")));
    }
    if has("local") || op == ".local" {
        let what = if op == ".local" { format!("depot: .local {operands}") } else { "ld/st.local".into() };
        found.push(("local", what));
    }
    if name == "call" {
        found.push(("call", format!("`{op} {operands}`")));
    }
    found
}

/// The text that a `.b8 name[n] = {..}` initialiser spells, if it has 8 printable characters in a row.
fn readable_data(declaration: &str) -> Option<String> {
    let (_, values) = declaration.split_once('=')?;
    let mut run = String::new();
    let mut longest = String::new();
    for value in values.trim_matches(|c: char| c.is_whitespace() || matches!(c, '{' | '}')).split(',') {
        match value.trim().parse::<u8>() {
            Ok(byte) if byte == b' ' || byte.is_ascii_graphic() => run.push(char::from(byte)),
            _ => run.clear(),
        }
        if run.len() > longest.len() {
            longest.clone_from(&run);
        }
    }
    (longest.len() >= 8).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = ".visible .entry k(.param .u64 p) .maxntid 32, 1, 1 {
        .reg .f32 %f<4>;
        mul.rn.f32 %f1, %f2, %f3; add.rn.f32 %f1, %f1, %f2; add.s32 %r1, %r2, %r3;
        barrier.cta.sync.aligned.all 0; ret; }";

    fn table() -> AlignedTable {
        AlignedTable::parse("k barrier.cta.sync.aligned.all 1").unwrap()
    }

    fn rules(text: &str, allow: &str) -> Vec<&'static str> {
        let allow = AllowList::parse(allow).unwrap();
        lint(text, &table(), &allow).unwrap().into_iter().map(|f| f.rule).collect()
    }

    /// `CLEAN` with one statement more.
    fn with(statement: &str) -> String {
        CLEAN.replace("ret;", &format!("{statement} ret;"))
    }

    #[test]
    fn clean_text_passes() {
        assert!(rules(CLEAN, "").is_empty());
    }

    #[test]
    fn a_duplicated_barrier_is_caught_and_shown() {
        let text = with("@%p1 barrier.cta.sync.aligned.all 0;");
        let err = check(&text, Arch::Sm90a, &table(), &AllowList::default()).unwrap_err().to_string();
        assert!(err.contains("k: [aligned] barrier.cta.sync.aligned.all: table 1, PTX 2"), "{err}");
    }

    #[test]
    fn seeded_faults_are_caught() {
        for (statement, rule) in [
            ("add.f32 %f1, %f1, %f2;", "rounding"),
            ("sub.f32 %f1, %f1, %f2;", "rounding"),
            ("mul.f32 %f1, %f1, %f2;", "rounding"),
            ("fma.f32 %f1, %f1, %f2, %f3;", "rounding"),
            ("@%p2 add.f64 %fd1, %fd1, %fd2;", "rounding"),
            ("add.f16x2 %r1, %r1, %r2;", "rounding"),
            ("add.rn.ftz.f32 %f1, %f1, %f2;", "ftz"),
            ("ex2.approx.f32 %f1, %f1;", "approx"),
            ("div.full.f32 %f1, %f1, %f2;", "approx"),
            (".local .align 4 .b8 __local_depot0[192];", "local"),
            ("st.local.b32 [%rd9], 0;", "local"),
            ("call.uni (r), f, (p);", "call"),
            ("elect.sync _|%p1, -1;", "aligned"),
        ] {
            assert_eq!(rules(&with(statement), ""), [rule], "{statement}");
        }
    }

    #[test]
    fn explicit_rounding_passes() {
        for statement in
            ["fma.rn.f32 %f1, %f1, %f2, %f3;", "div.rn.f32 %f1, %f1, %f2;", "mad.lo.s32 %r1, %r2, %r3, %r4;"]
        {
            assert!(rules(&with(statement), "").is_empty(), "{statement}");
        }
    }

    #[test]
    fn panic_text_and_functions_are_caught() {
        let bytes: Vec<String> = b"panicked at src/lib.rs".iter().map(u8::to_string).collect();
        let text = format!(".global .align 1 .b8 anon[22] = {{{}}};\n{CLEAN}", bytes.join(", "));
        assert_eq!(rules(&text, ""), ["text"]);
        let table = ".global .align 4 .b8 lut[4] = {1, 2, 3, 200};\n";
        assert!(rules(&format!("{table}{CLEAN}"), "").is_empty());
        assert_eq!(rules(&format!(".func helper() {{ ret; }}\n{CLEAN}"), ""), ["call"]);
    }

    #[test]
    fn exceptions_are_for_one_entry_and_need_a_reason() {
        let text = with("st.local.b32 [%rd9], 0;");
        assert!(rules(&text, "k local a table indexed at run time").is_empty());
        assert_eq!(rules(&text, "other local a reason"), ["local"]);
        for bad in ["k local", "k rounding never", "k"] {
            assert!(AllowList::parse(bad).is_err(), "{bad}");
        }
    }
}
