//! Tidiness of the whole tree, as an ordinary test: what neither rustfmt nor clippy looks at.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Longest file that we write by hand.
const MAX_LINES: usize = 800;

/// Folders that are not ours or not sources.
const SKIPPED: [&str; 5] = [".git", "target", "dist", "artifacts", "corpus"];

/// Kinds of text files.
const TEXT: [&str; 7] = ["rs", "toml", "md", "sh", "yml", "py", "svg"];

struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_path_buf()
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(dir).expect("a readable folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("a file type");
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(root, &path, files);
        } else if kind.is_file() {
            let relative =
                path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if TEXT.contains(&extension.as_str()) || relative == ".ci/run" || extension == "ptx" {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{relative}: {e}"));
                files.push(File { path: relative, text });
            }
        }
    }
}

/// Every text file, and the findings of `check` about each, as one message.
fn check_all(what: &str, check: impl Fn(&File, &mut dyn FnMut(usize, &str))) {
    let root = root();
    let mut files = Vec::new();
    walk(&root, &root, &mut files);
    assert!(files.len() > 30, "only {} files found", files.len());
    let mut findings = String::new();
    for file in &files {
        check(file, &mut |line, problem| {
            let _ = writeln!(findings, "{}:{line}: {problem}", file.path);
        });
    }
    assert!(findings.is_empty(), "{what}:\n{findings}");
}

fn is_generated(file: &File) -> bool {
    file.path.ends_with(".ptx") || file.path.ends_with(".svg") || file.path.starts_with("tests/data/")
}

#[test]
fn whitespace() {
    check_all("whitespace", |file, report| {
        if is_generated(file) {
            return;
        }
        for (i, line) in file.text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                report(i + 1, "trailing whitespace or carriage return");
            }
        }
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            report(file.text.lines().count(), "must end with exactly one line feed");
        }
    });
}

#[test]
fn no_long_files() {
    check_all("files too long", |file, report| {
        let lines = file.text.lines().count();
        if !is_generated(file) && lines > MAX_LINES {
            report(lines, "more than 800 lines: this is two files");
        }
    });
}

#[test]
fn no_machine_paths() {
    // In two halves, so that this file passes.
    let needles = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    check_all("paths of some machine", |file, report| {
        for (i, line) in file.text.lines().enumerate() {
            for needle in &needles {
                // A path starts here, and names something below the folder.
                let is_path = |at: usize| {
                    let name = |c: char| c.is_alphanumeric() || "._-}/".contains(c);
                    !line[..at].ends_with(name) && line[at + needle.len()..].starts_with(name)
                };
                if line.match_indices(needle.as_str()).any(|(at, _)| is_path(at)) {
                    report(i + 1, line.trim());
                }
            }
        }
    });
}

/// Clippy sees host code only; kernels are compiled for another target.
#[test]
fn every_unsafe_block_says_why() {
    check_all("no SAFETY comment above", |file, report| {
        if !file.path.ends_with(".rs") {
            return;
        }
        let lines: Vec<&str> = file.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_block = code.contains("unsafe {") || code.contains("unsafe impl");
            let quoted = code.contains('"') && code.find('"') < code.find("unsafe");
            let said = lines[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY:"));
            if is_block && !quoted && !said {
                report(i + 1, line.trim());
            }
        }
    });
}

#[test]
fn links_resolve() {
    let root = root();
    check_all("links to nothing", |file, report| {
        if !file.path.ends_with(".md") {
            return;
        }
        let folder = root.join(&file.path).parent().expect("a file is in a folder").to_path_buf();
        let mut fenced = false;
        for (i, line) in file.text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split([')', ' ']).next().unwrap_or_default();
                let path = target.split('#').next().unwrap_or_default();
                if !target.contains("://") && !path.is_empty() && !folder.join(path).exists() {
                    report(i + 1, target);
                }
            }
        }
    });
}

#[test]
fn every_package_has_the_licence() {
    assert!(root().join("LICENSE-APACHE").is_file() && root().join("LICENSE-MIT").is_file());
    check_all("licence fields", |file, report| {
        let is_package = file.path.ends_with("Cargo.toml") && file.text.contains("[package]");
        // fuzz/ is a workspace of its own and cannot inherit.
        let says = ["license.workspace = true", "license = \"MIT OR Apache-2.0\""];
        if is_package && !says.iter().any(|s| file.text.contains(s)) {
            report(1, "no licence field");
        }
    });
}
