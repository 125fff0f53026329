//! The table of collective operations: how many of each stand in each entry.
//!
//! A collective executed by one warp from two places is undefined, and compilers copy code. So every `.sync` or
//! `.aligned` operation is counted, and the counts are checked in: a change has to be looked at. Human-readable,
//! one line per entry and operation: `ENTRY OPERATION COUNT`.

use crate::{CudaBuilderError, ptx};
use std::collections::BTreeMap;

/// Counts by (entry or function, operation).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlignedTable(BTreeMap<(String, String), usize>);

/// Whether an opcode is a collective: executed by a warp, a block or a cluster together.
pub fn is_collective(opcode: &str) -> bool {
    const FAMILIES: [&str; 9] =
        ["bar", "barrier", "wgmma", "tcgen05", "ldmatrix", "stmatrix", "setmaxnreg", "activemask", "elect"];
    let mut parts = opcode.split(['.', ':']);
    let family = parts.next().unwrap_or_default();
    FAMILIES.contains(&family) || parts.any(|p| p == "sync" || p == "aligned")
}

impl AlignedTable {
    /// Counts the collectives of a module.
    pub fn count(text: &str) -> Result<Self, CudaBuilderError> {
        let text = ptx::blank_comments(text);
        let mut table = BTreeMap::new();
        for f in ptx::functions(&text)? {
            for (op, _) in ptx::operations(&text[f.body.clone()]).filter(|(op, _)| is_collective(op)) {
                *table.entry((f.name.clone(), op.to_string())).or_insert(0) += 1;
            }
        }
        Ok(Self(table))
    }

    /// Reads a checked-in table; `#` starts a comment.
    pub fn parse(text: &str) -> Result<Self, CudaBuilderError> {
        let mut table = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let bad = || CudaBuilderError::MalformedPtx(format!("aligned table: `{line}`"));
            match words.as_slice() {
                [] => {}
                [entry, op, n] => {
                    let n = n.parse().map_err(|_| bad())?;
                    if table.insert((entry.to_string(), op.to_string()), n).is_some() {
                        return Err(bad());
                    }
                }
                _ => return Err(bad()),
            }
        }
        Ok(Self(table))
    }

    /// The table as it is checked in.
    pub fn render(&self, arch: crate::Arch) -> String {
        let mut out = format!(
            "# Collective (.sync/.aligned) operations of each {arch} entry: ENTRY OPERATION COUNT.\n\
             # Checked by the PTX lint; after looking at a change, `cargo xtask build-ptx --bless` rewrites it.\n"
        );
        for ((entry, op), n) in &self.0 {
            out.push_str(&format!("{entry} {op} {n}\n"));
        }
        out
    }

    /// One line per difference, `self` being the checked-in table.
    pub fn diff(&self, found: &Self) -> Vec<(String, String)> {
        let mut keys: Vec<_> = self.0.keys().chain(found.0.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .filter_map(|key| {
                let (want, got) = (self.0.get(key).copied(), found.0.get(key).copied());
                (want != got).then(|| {
                    let show = |n: Option<usize>| n.map_or("none".to_string(), |n| n.to_string());
                    (key.0.clone(), format!("{}: table {}, PTX {}", key.1, show(want), show(got)))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_collective() {
        for op in [
            "bar.sync",
            "barrier.cta.sync.aligned.all",
            "bar.warp.sync",
            "shfl.sync.bfly.b32",
            "vote.sync.ballot.b32",
            "redux.sync.max.u32",
            "elect.sync",
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
            "wgmma.fence.sync.aligned",
            "tcgen05.ld.sync.aligned.32x32b.x32.b32",
            "tcgen05.wait::ld.sync.aligned",
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            "setmaxnreg.inc.sync.aligned.u32",
            "barrier.cluster.arrive.aligned",
        ] {
            assert!(is_collective(op), "{op}");
        }
        for op in [
            "add.rn.f32",
            "ld.global.v4.b32",
            "mbarrier.try_wait.parity.shared::cta.b64",
            "fence.proxy.async",
        ] {
            assert!(!is_collective(op), "{op}");
        }
    }

    #[test]
    fn table_round_trips_and_differs() {
        let a = AlignedTable::count(".entry k() { bar.sync 0; bar.sync 0; ret; }").unwrap();
        let b = AlignedTable::parse(&a.render(crate::Arch::Sm90a)).unwrap();
        assert_eq!(a, b);
        assert!(a.diff(&b).is_empty());
        let once = AlignedTable::parse("k bar.sync 1 # one").unwrap();
        assert_eq!(once.diff(&a), [("k".to_string(), "bar.sync: table 1, PTX 2".to_string())]);
        assert_eq!(once.diff(&AlignedTable::default()).len(), 1);
        for bad in ["k bar.sync", "k bar.sync x", "k bar.sync 1\nk bar.sync 1"] {
            assert!(AlignedTable::parse(bad).is_err(), "{bad}");
        }
    }
}
