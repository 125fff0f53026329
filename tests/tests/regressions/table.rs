//! `REGRESSIONS.md` against the tests: what it names exists, and everything that must be listed is.

use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../REGRESSIONS.md");

struct Row<'a> {
    id: &'a str,
    test: &'a str,
    mutation: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for line in
        TABLE.lines().filter(|l| l.starts_with('|') && !l.starts_with("|---") && !l.starts_with("| id"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, _, test, mutation] = cells[..] else { panic!("five columns: {line}") };
        rows.push(Row { id, test, mutation });
    }
    rows
}

/// What stands between pairs of `quote`.
fn quoted(text: &str, quote: char) -> Vec<&str> {
    text.split(quote).skip(1).step_by(2).collect()
}

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The source that holds the test `path`, and the test's name.
fn source_of(path: &str) -> (PathBuf, &str) {
    let parts: Vec<&str> = path.split("::").collect();
    let (name, modules) = parts.split_last().expect("a name");
    let candidates = match modules {
        ["ptx-emulator", file] => {
            vec![tests_dir().join("../../crates/ptx-emulator/tests").join(format!("{file}.rs"))]
        }
        [file] => {
            vec![tests_dir().join(format!("regressions/{file}.rs")), tests_dir().join(format!("{file}.rs"))]
        }
        [dir, file] => vec![tests_dir().join(dir).join(format!("{file}.rs"))],
        _ => panic!("{path}: module::function"),
    };
    let found = candidates.iter().find(|c| c.exists()).unwrap_or_else(|| panic!("{path}: no such file"));
    (found.clone(), name)
}

fn all_sources() -> String {
    let mut text = String::new();
    for entry in fs::read_dir(tests_dir().join("regressions")).expect("the folder") {
        text.push_str(&fs::read_to_string(entry.expect("an entry").path()).expect("readable"));
    }
    text
}

#[test]
fn every_test_exists() {
    for row in rows() {
        let tests = quoted(row.test, '`').into_iter().filter(|t| t.contains("::")).collect::<Vec<_>>();
        assert!(row.test.starts_with("not yet: ") || !tests.is_empty(), "{}: no test", row.id);
        for test in tests {
            let (file, name) = source_of(test);
            let source = fs::read_to_string(&file).expect("readable");
            assert!(
                source.contains(&format!("fn {name}(")),
                "{}: {test} is not in {}",
                row.id,
                file.display()
            );
        }
    }
}

#[test]
fn every_mutation_exists() {
    let sources = all_sources();
    for row in rows() {
        assert!(row.test.starts_with("not yet: ") || !row.mutation.is_empty(), "{}: no mutation", row.id);
        for bug in quoted(row.mutation, '`') {
            assert!(sources.contains(&format!("Bug::{bug},")), "{}: no mutant {bug}", row.id);
        }
        for mutant in quoted(row.mutation, '"') {
            assert!(sources.contains(&format!("\"{mutant}\",")), "{}: no mutant {mutant:?}", row.id);
        }
    }
}

#[test]
fn nothing_is_missing() {
    let rows = rows();
    let has = |id: String| assert!(rows.iter().any(|r| r.id == id), "{id} is missing");
    (1..=25).for_each(|i| has(format!("B{i}")));
    has("B8b".to_owned());
    (1..=38).for_each(|i| has(format!("T{i}")));
    for (i, row) in rows.iter().enumerate() {
        assert!(rows[..i].iter().all(|r| r.id != row.id), "{} is there twice", row.id);
    }
    // Every bug of the mini layer is somebody's.
    let mini = fs::read_to_string(tests_dir().join("regressions/mini.rs")).expect("readable");
    let bugs = mini.split("pub enum Bug {").nth(1).and_then(|rest| rest.split('}').next()).expect("the enum");
    let bugs: Vec<&str> =
        bugs.lines().filter_map(|l| l.trim().strip_suffix(',')).filter(|b| *b != "None").collect();
    assert!(bugs.len() > 40);
    for bug in bugs {
        assert!(TABLE.contains(&format!("`{bug}`")), "{bug} is in no row");
    }
}
