//! `ptx-emulator mutate`: exit codes, the table, JSON.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

fn data(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance").join(file)
}

fn mutate_case(case: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-emulator"));
    command.arg("mutate").arg(data(case).join("launch.json")).args(arguments).output().unwrap()
}

fn mutate(arguments: &[&str]) -> Output {
    mutate_case("softmax_sm90", arguments)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of this process that is removed at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ptx-emulator-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn killed() {
    let json = Temporary::new("report.json", "");
    let run = mutate(&["--verbose", "--json", json.path(), "--schedule", "round-robin,seed:3"]);
    let text = out(&run);
    assert_eq!(run.status.code(), Some(0), "{text}");
    assert!(text.contains("killed: delete-barrier softmax#2 `bar.sync 0;`"), "{text}");
    assert!(text.contains("softmax: 4 mutants, 4 killed, 0 equivalent, 0 survived"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json.path()).unwrap()).unwrap();
    assert_eq!(report["good"], true);
    assert_eq!(report["compares_outputs"], true);
    let mutants = report["mutants"].as_array().unwrap();
    assert_eq!(mutants.len(), 4);
    assert!(mutants.iter().all(|m| m["status"] == "killed" && m["schedule"] == "round-robin"));
    assert!(mutants[2]["killed_by"].as_str().unwrap().contains("race"), "{}", mutants[2]);
}

#[test]
fn lives_or_is_listed_wrongly() {
    let commits = ["--kinds", "delete-commit", "--schedule", "round-robin"];
    let run = mutate_case("gemm_bf16_sm90", &commits);
    assert_eq!(run.status.code(), Some(1), "{}", out(&run));
    assert!(out(&run).contains("survived: delete-commit mm#1 `cp.async.commit_group;`"), "{}", out(&run));
    let list = data("gemm_bf16_sm90/equivalents.txt");
    let run =
        mutate_case("gemm_bf16_sm90", &[&commits[..], &["--equivalents", list.to_str().unwrap()]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", out(&run));
    assert!(out(&run).contains("7 mutants, 6 killed, 1 equivalent, 0 survived"), "{}", out(&run));
    for (list, expected) in [
        ("delete-barrier softmax#2 `bar.sync 0;`: a guess\n", "listed-but-killed: delete-barrier softmax#2"),
        ("delete-barrier softmax#9 `bar.sync 0;`: gone\n", "no such mutant: delete-barrier softmax#9"),
    ] {
        let list = Temporary::new(&format!("list{}", list.len()), list);
        let run = mutate(&["--equivalents", list.path()]);
        assert_eq!(run.status.code(), Some(1), "{}", out(&run));
        assert!(out(&run).contains(expected), "{}", out(&run));
    }
}

#[test]
fn lists() {
    let run = mutate(&["--list"]);
    assert_eq!(run.status.code(), Some(0));
    assert_eq!(out(&run).lines().count(), 4, "{}", out(&run));
    assert!(out(&run).contains("(line 171): (nothing)"), "{}", out(&run));
    let run = mutate(&["--kinds", "help"]);
    assert!(out(&run).contains("flip-parity"), "{}", out(&run));
    assert_eq!(mutate(&["--kinds", "no-such"]).status.code(), Some(2));
    assert_eq!(mutate(&["--schedule", "no-such"]).status.code(), Some(2));
    assert_eq!(mutate(&["--equivalents", "/no/such/file"]).status.code(), Some(2));
}
