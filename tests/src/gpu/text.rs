//! The committed PTX by kernel: one entry by itself, and which kernels are the same code on both architectures.
//!
//! The emulator makes no difference between two entries whose [`code`] is equal, so that one of them is enough to run;
//! and a module with fewer entries loads sooner.

use std::collections::HashMap;
use std::sync::LazyLock;

use kernels::launch::{Arch, Launch};
use ptx_emulator::syntax::ast::Item;
use ptx_emulator::syntax::parse;

/// Kernels that the cases of another launch too.
const COMPANIONS: [(&str, &str); 11] = [
    ("expert_decode", "prepare_rows_bf16"),
    ("expert_decode", "expert_gemm_small_swiglu_bf16"),
    ("expert_decode", "expert_gemm_small_plain_f32"),
    ("expert_decode", "combine"),
    ("place_slots", "count_slots"),
    ("tcgen05_mega", "tcgen05_gemm_swiglu_nvfp4"),
    ("tcgen05_mega", "tcgen05_gemm_plain_f32"),
    ("tcgen05_mega", "combine"),
    ("tcgen05_mega_pair", "tcgen05_gemm_swiglu_nvfp4"),
    ("tcgen05_mega_pair", "tcgen05_gemm_plain_f32"),
    ("tcgen05_mega_pair", "combine"),
];

/// The built-in PTX without the entries that the cases of `kernels` do not launch. Lines keep their numbers.
pub fn only(arch: Arch, kernels: &[&str]) -> String {
    let needed = |name| kernels.iter().any(|&kernel| kernel == name || COMPANIONS.contains(&(kernel, name)));
    let mut text = String::new();
    let mut keeps = true;
    for line in arch.ptx().lines() {
        if let Some(entry) = line.strip_prefix(".visible .entry ") {
            keeps = needed(entry.split('(').next().unwrap_or_default());
        }
        text += if keeps { line } else { "" };
        text.push('\n');
        keeps |= line == "}";
    }
    text
}

/// The code of each entry, by architecture.
static CODE: LazyLock<HashMap<(Arch, String), String>> = LazyLock::new(|| {
    // Text that is not PTX has no entries, which fails every test that asks for one.
    let modules = Arch::ALL.into_iter().filter_map(|arch| Some((arch, parse(arch.ptx()).ok()?)));
    modules
        .flat_map(|(arch, module)| {
            let shared: String = module
                .items
                .iter()
                .filter_map(|item| match item {
                    Item::Function(f) if !f.is_entry => Some(f.to_string()),
                    Item::Variable(v) => Some(v.to_string()),
                    _ => None,
                })
                .collect();
            let entry = |item| match item {
                Item::Function(f) if f.is_entry => {
                    Some(((arch, f.name.clone()), unnumbered(&(shared.clone() + &f.to_string()))))
                }
                _ => None,
            };
            module.items.into_iter().filter_map(entry).collect::<Vec<_>>()
        })
        .collect()
});

/// Labels are `$L__BB`, the number of the function, `_`, and their own; without that of the function.
fn unnumbered(text: &str) -> String {
    let mut parts = text.split("$L__BB");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |code, part| code + "$L__BB_" + part.split_once('_').map_or(part, |(_, label)| label))
}

/// A kernel's code, with the functions and variables of its module, without what names the architecture or the kernel's
/// place in the module.
///
/// # Errors
/// There is no such entry.
pub fn code(arch: Arch, kernel: &str) -> Result<&'static str, String> {
    let code = CODE.get(&(arch, kernel.to_owned()));
    code.map(String::as_str).ok_or_else(|| format!("{}.ptx has no {kernel}", arch.name()))
}

/// The architecture before `arch` in the kernel's list on which it is the same code, if there is one.
pub fn same_as(arch: Arch, kernel: &Launch) -> Option<Arch> {
    let own = code(arch, kernel.name).ok()?;
    let before = kernel.archs.iter().take_while(|a| **a != arch);
    before.copied().find(|&before| code(before, kernel.name) == Ok(own))
}

#[cfg(test)]
mod tests {
    use kernels::launch::TABLE;

    use super::*;

    #[test]
    fn every_entry_has_code_and_loads_alone() {
        for kernel in TABLE {
            for &arch in kernel.archs {
                assert!(code(arch, kernel.name).unwrap().contains(&format!(".entry {}(", kernel.name)));
            }
        }
        let text = only(Arch::Sm90a, &["place_slots", "combine"]);
        assert_eq!(text.matches("\n.visible .entry ").count(), 3);
        assert_eq!(text.lines().count(), Arch::Sm90a.ptx().lines().count());
    }

    #[test]
    fn a_difference_in_the_code_is_seen() {
        let combine = TABLE.iter().find(|k| k.name == "combine").unwrap();
        assert_eq!(same_as(Arch::Sm100a, combine), Some(Arch::Sm90a));
        assert_eq!(same_as(Arch::Sm90a, combine), None);
        assert_eq!(unnumbered("bra $L__BB7_1; $L__BB7_12:"), "bra $L__BB_1; $L__BB_12:");
        assert_ne!(code(Arch::Sm90a, "combine"), code(Arch::Sm90a, "count_slots"));
    }
}
