//! Launch bounds into the PTX: rustc has no attribute for `.maxntid`, `.minnctapersm`, `.maxnreg` and
//! `.reqnctapercluster`.
//!
//! `#[kernel(bounds = ..)]` leaves one comment per entry in the module's assembly,
//! `// @launch NAME maxntid=X,Y,Z minnctapersm=N maxnreg=N cluster=X,Y,Z`; the directives are made from these rows.

use crate::{CudaBuilderError, ptx};
use std::fmt::Write as _;

/// Launch bounds of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRow {
    /// Name of the entry.
    pub name: String,
    /// `.maxntid`: most threads of a block along x, y, z.
    pub maxntid: [u32; 3],
    /// `.minnctapersm`: blocks that must fit on an SM; 0 = not written.
    pub min_ctas_per_sm: u32,
    /// `.maxnreg`: most registers per thread; 0 = not written.
    pub max_registers: u32,
    /// `.reqnctapercluster`: blocks of a cluster along x, y, z; all 0 = not written.
    pub cluster: [u32; 3],
}

const MARK: &str = "// @launch ";

impl LaunchRow {
    fn parse(row: &str) -> Result<Self, CudaBuilderError> {
        let bad = |problem: &str| CudaBuilderError::BadLaunchRow { row: row.into(), problem: problem.into() };
        let mut words = row.split_whitespace();
        let name = words.next().ok_or_else(|| bad("no name"))?.to_string();
        let mut out = Self { name, maxntid: [0; 3], min_ctas_per_sm: 0, max_registers: 0, cluster: [0; 3] };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| bad("expected key=value"))?;
            let numbers: Vec<u32> = value
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| bad("not a number"))?;
            match (key, numbers.as_slice()) {
                ("maxntid", &[x, y, z]) => out.maxntid = [x, y, z],
                ("cluster", &[x, y, z]) => out.cluster = [x, y, z],
                ("minnctapersm", &[n]) => out.min_ctas_per_sm = n,
                ("maxnreg", &[n]) => out.max_registers = n,
                _ => return Err(bad(&format!("unknown or malformed `{key}`"))),
            }
        }
        let threads: u64 = out.maxntid.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > 1024 {
            return Err(bad("a block has 1 to 1024 threads"));
        }
        let blocks: u64 = out.cluster.iter().map(|&n| u64::from(n)).product();
        if (blocks == 0 && out.cluster != [0; 3]) || blocks > 16 {
            return Err(bad("a cluster has 1 to 16 blocks"));
        }
        Ok(out)
    }

    /// The directives, one per line.
    pub fn directives(&self) -> String {
        let [x, y, z] = self.maxntid;
        let mut out = format!("\n.maxntid {x}, {y}, {z}");
        // Writing to a String cannot fail.
        if self.min_ctas_per_sm > 0 {
            let _ = write!(out, "\n.minnctapersm {}", self.min_ctas_per_sm);
        }
        if self.max_registers > 0 {
            let _ = write!(out, "\n.maxnreg {}", self.max_registers);
        }
        if self.cluster != [0; 3] {
            let [x, y, z] = self.cluster;
            let _ = write!(out, "\n.reqnctapercluster {x}, {y}, {z}");
        }
        out
    }
}

/// Takes the `// @launch` rows out of the text.
pub fn take_launch_table(text: &str) -> Result<(String, Vec<LaunchRow>), CudaBuilderError> {
    let mut rows: Vec<LaunchRow> = Vec::new();
    let mut rest = String::with_capacity(text.len());
    for line in text.lines() {
        match line.trim_start().strip_prefix(MARK) {
            Some(row) => rows.push(LaunchRow::parse(row)?),
            None => {
                rest.push_str(line.trim_end());
                rest.push('\n');
            }
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = rows.windows(2).find(|w| w[0].name == w[1].name) {
        return Err(CudaBuilderError::BadLaunchRow { row: pair[1].name.clone(), problem: "repeated".into() });
    }
    Ok((rest, rows))
}

/// Writes the directives of `rows` behind the parameters of each entry.
///
/// An entry without a row is an error, and so is a row without an entry.
pub fn insert_launch_bounds(text: &str, rows: &[LaunchRow]) -> Result<String, CudaBuilderError> {
    let functions = ptx::functions(&ptx::blank_comments(text))?;
    let entries: Vec<_> = functions.iter().filter(|f| f.is_entry).collect();
    if let Some(row) = rows.iter().find(|r| !entries.iter().any(|e| e.name == r.name)) {
        return Err(CudaBuilderError::NoSuchEntry(row.name.clone()));
    }
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for entry in entries {
        let row = rows
            .iter()
            .find(|r| r.name == entry.name)
            .ok_or_else(|| CudaBuilderError::NoLaunchRow(entry.name.clone()))?;
        out.push_str(&text[copied..entry.directives_at]);
        out.push_str(&row.directives());
        copied = entry.directives_at;
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "// @launch a maxntid=256,1,1 minnctapersm=2 cluster=0,0,0
// @launch b maxntid=128,1,1 minnctapersm=0 maxnreg=80 cluster=2,1,1
.visible .entry a(
	.param .u32 a_param_0
)
{
	ret;
}
.visible .entry b()
{
	ret;
}
";

    #[test]
    fn directives_stand_between_parameters_and_body() {
        let (rest, rows) = take_launch_table(TEXT).unwrap();
        assert!(!rest.contains("@launch"));
        let text = insert_launch_bounds(&rest, &rows).unwrap();
        assert!(text.contains("a_param_0\n)\n.maxntid 256, 1, 1\n.minnctapersm 2\n{"), "{text}");
        assert!(
            text.contains("b()\n.maxntid 128, 1, 1\n.maxnreg 80\n.reqnctapercluster 2, 1, 1\n{"),
            "{text}"
        );
    }

    #[test]
    fn every_entry_needs_a_row_and_every_row_an_entry() {
        let (rest, rows) = take_launch_table(TEXT).unwrap();
        let err = insert_launch_bounds(&rest, &rows[..1]).unwrap_err();
        assert!(matches!(err, CudaBuilderError::NoLaunchRow(name) if name == "b"));
        let only_a = &rest[..rest.find(".visible .entry b").unwrap()];
        let err = insert_launch_bounds(only_a, &rows).unwrap_err();
        assert!(matches!(err, CudaBuilderError::NoSuchEntry(name) if name == "b"));
    }

    #[test]
    fn malformed_rows_are_errors() {
        for row in [
            "k maxntid=0,1,1",
            "k maxntid=2048,1,1",
            "k maxntid=1,1",
            "k threads=1",
            "k maxntid=x,1,1",
            "k 3",
            "",
            "k maxntid=32,1,1 cluster=0,1,1",
            "k maxntid=32,1,1 cluster=17,1,1",
        ] {
            assert!(LaunchRow::parse(row).is_err(), "{row}");
        }
        let twice = "// @launch a maxntid=1,1,1\n// @launch a maxntid=1,1,1\n";
        assert!(matches!(take_launch_table(twice), Err(CudaBuilderError::BadLaunchRow { .. })));
    }
}
