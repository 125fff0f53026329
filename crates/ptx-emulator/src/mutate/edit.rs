//! Edits of one instruction. The result is PTX that an assembler takes too, so that a mutant can be tried on a card.

use crate::syntax::ast::{Guard, Instruction, Operand};

/// Name of the register that a replacement may need; it lives in a block of its own.
const REGISTER: &str = "%mutated";

/// Nothing in its place.
pub(super) fn delete(_: &Instruction) -> Option<String> {
    Some(String::new())
}

/// The changed instruction as text.
fn changed(i: &Instruction, change: impl FnOnce(&mut Instruction) -> Option<()>) -> Option<String> {
    let mut i = i.clone();
    change(&mut i)?;
    Some(i.to_string())
}

/// An operand replaced by what `compute(old, new)` makes of it, in a register. That is done without the guard, which
/// may be about anything else.
pub(super) fn computed(
    i: &Instruction,
    operand: usize,
    ty: &str,
    compute: impl Fn(&Operand, &str) -> String,
) -> Option<String> {
    let compute = compute(i.operands.get(operand)?, REGISTER);
    let instruction = changed(i, |i| {
        i.operands[operand] = Operand::Name(REGISTER.to_owned());
        Some(())
    })?;
    Some(format!("{{ .reg .{ty} {REGISTER}; {compute} {instruction} }}"))
}

/// A 32-bit operand, immediate or register, changed by a constant.
pub(super) fn add(i: &Instruction, operand: usize, n: i32) -> Option<String> {
    if !matches!(i.operands.get(operand)?, Operand::Int(_)) {
        return computed(i, operand, "b32", |x, to| format!("add.s32 {to}, {x}, {n};"));
    }
    changed(i, |i| {
        if let Operand::Int(v) = &mut i.operands[operand] {
            *v += i128::from(n);
        }
        Some(())
    })
}

/// `[base + offset]` further on.
pub(super) fn offset_address(i: &Instruction, operand: usize, n: i64) -> Option<String> {
    changed(i, |i| match i.operands.get_mut(operand)? {
        Operand::Address { offset, .. } => {
            *offset += n;
            Some(())
        }
        _ => None,
    })
}

/// One modifier more, unless it is there.
pub(super) fn insert_modifier(i: &Instruction, at: usize, modifier: &str) -> Option<String> {
    changed(i, |i| (!has(i, modifier)).then(|| i.opcode.insert(at.min(i.opcode.len()), modifier.to_owned())))
}

/// Without a modifier that it has.
pub(super) fn remove_modifier(i: &Instruction, modifier: &str) -> Option<String> {
    changed(i, |i| {
        let at = i.opcode.iter().position(|part| part == modifier)?;
        i.opcode.remove(at);
        Some(())
    })
}

/// No wait: an mbarrier wait answers yes, any other goes.
pub(super) fn skip_wait(i: &Instruction) -> Option<String> {
    if i.opcode[0] != "mbarrier" {
        return delete(i);
    }
    let Some(Operand::Name(answer)) = i.operands.first() else { return delete(i) };
    let guard = i.guard.as_ref().map(guard).unwrap_or_default();
    Some(format!("{guard}setp.eq.u32 {answer}, 0, 0;"))
}

fn guard(guard: &Guard) -> String {
    format!("@{}{} ", if guard.negated { "!" } else { "" }, guard.name)
}

fn has(i: &Instruction, modifier: &str) -> bool {
    i.opcode.iter().any(|part| part == modifier)
}

/// The other parity.
pub(super) fn flip_parity(i: &Instruction) -> Option<String> {
    if !has(i, "parity") {
        return None;
    }
    computed(i, 2, "b32", |x, to| format!("xor.b32 {to}, {x}, 1;"))
}

/// Another number of bytes in an `expect_tx`.
pub(super) fn announce(i: &Instruction, more: i32) -> Option<String> {
    if !has(i, "expect_tx") {
        return None;
    }
    add(i, i.operands.len().checked_sub(1)?, more)
}

/// `expect_tx` goes, the arrival that it is part of stays.
pub(super) fn drop_expect_tx(i: &Instruction) -> Option<String> {
    if !has(i, "expect_tx") {
        return None;
    }
    if i.opcode.get(1).is_some_and(|op| op == "expect_tx") {
        return delete(i);
    }
    changed(i, |i| {
        i.opcode.retain(|part| part != "expect_tx");
        i.operands.pop().map(|_| ())
    })
}

/// Without `.multicast::cluster` and its mask, which stands before a cache policy.
pub(super) fn drop_multicast(i: &Instruction) -> Option<String> {
    changed(i, |i| {
        let at = i.opcode.iter().position(|part| part == "multicast::cluster")?;
        i.opcode.remove(at);
        let behind = usize::from(has(i, "L2::cache_hint"));
        let mask = i.operands.len().checked_sub(1 + behind)?;
        i.operands.remove(mask);
        Some(())
    })
}

/// `.acquire`, `.release`, `.acq_rel` become `.relaxed`; where they are the default, it is written out.
pub(super) fn relax(i: &Instruction) -> Option<String> {
    changed(i, |i| {
        if has(i, "relaxed") || has(i, "noComplete") {
            return None;
        }
        let strong = |part: &&mut String| matches!(part.as_str(), "acquire" | "release" | "acq_rel");
        if let Some(part) = i.opcode.iter_mut().find(strong) {
            "relaxed".clone_into(part);
            return Some(());
        }
        match i.opcode[0].as_str() {
            // barrier.cluster.arrive{.sem}: release by default.
            "barrier" => i.opcode.insert(3, "relaxed".to_owned()),
            // mbarrier.op{.sem.scope}{.space}.b64: release or acquire at CTA scope by default.
            "mbarrier" => {
                let at = i.opcode.iter().position(|part| part.starts_with("shared") || part == "b64")?;
                i.opcode.splice(at..at, ["relaxed".to_owned(), "cta".to_owned()]);
            }
            _ => return None,
        }
        Some(())
    })
}

/// `.sys` becomes `.gpu`, `.gpu` and `.cluster` become `.cta`; `membar` has words of its own.
pub(super) fn narrow_scope(i: &Instruction) -> Option<String> {
    // These have one scope only.
    let fixed = |part: &String| {
        matches!(part.as_str(), "mbarrier_init" | "async" | "async::generic")
            || part.starts_with("sync_restrict")
    };
    if i.opcode.iter().any(fixed) {
        return None;
    }
    let membar = i.opcode[0] == "membar";
    changed(i, |i| {
        i.opcode.iter_mut().skip(1).find_map(|part| {
            let narrower = match part.as_str() {
                "sys" if membar => "gl",
                "sys" => "gpu",
                "gl" | "gpu" | "cluster" => "cta",
                _ => return None,
            };
            narrower.clone_into(part);
            Some(())
        })
    })
}

/// An atomic operation becomes a load of what it would have changed.
pub(super) fn atom_to_load(i: &Instruction) -> Option<String> {
    if matches!(i.operands.first()?, Operand::Sink) {
        return delete(i);
    }
    let ty = i.opcode.last()?;
    let bits = match ty.as_str() {
        "f16x2" | "bf16x2" => "b32".to_owned(),
        other => format!("b{}", other.trim_start_matches(|c: char| c.is_ascii_alphabetic())),
    };
    let space = |part: &&String| part.starts_with("global") || part.starts_with("shared");
    let vector = |part: &&String| matches!(part.as_str(), "v2" | "v4" | "v8");
    let mut opcode = vec!["ld".to_owned()];
    opcode.extend(i.opcode.iter().find(space).cloned());
    opcode.extend(i.opcode.iter().find(vector).cloned());
    opcode.push(bits);
    changed(i, |i| {
        i.opcode = opcode;
        i.operands.truncate(2);
        Some(())
    })
}

/// The predicate that says whether D is added: `enable-input-d` or `scale-d`.
pub(super) fn toggle_accumulate(i: &Instruction) -> Option<String> {
    let at = match i.opcode[0].as_str() {
        "wgmma" => 3,
        _ if has(i, "block_scale") => 6,
        // disable-output-lane may stand in front of it.
        _ => 4 + usize::from(matches!(i.operands.get(4)?, Operand::Vector(_))),
    };
    match i.operands.get(at)? {
        Operand::Int(v) => {
            let flipped = i128::from(*v == 0);
            changed(i, |i| {
                i.operands[at] = Operand::Int(flipped);
                Some(())
            })
        }
        Operand::Not(name) => {
            let name = name.clone();
            changed(i, |i| {
                i.operands[at] = Operand::Name(name);
                Some(())
            })
        }
        _ => computed(i, at, "pred", |p, to| format!("not.pred {to}, {p};")),
    }
}

/// Descriptors of A and B exchanged, if A has one.
pub(super) fn swap_descriptors(i: &Instruction) -> Option<String> {
    let registers = matches!(i.operands.get(1..3)?, [Operand::Name(_), Operand::Name(_)]);
    swapped(i, registers, 1, 2)
}

/// Scale addresses of A and B exchanged.
pub(super) fn swap_scales(i: &Instruction) -> Option<String> {
    swapped(i, has(i, "block_scale") && i.operands.len() > 5, 4, 5)
}

/// Two operands exchanged, if they differ.
fn swapped(i: &Instruction, applies: bool, a: usize, b: usize) -> Option<String> {
    if !applies || i.operands[a] == i.operands[b] {
        return None;
    }
    changed(i, |i| {
        i.operands.swap(a, b);
        Some(())
    })
}

/// A scale address one column on.
pub(super) fn shift_scale(i: &Instruction, operand: usize) -> Option<String> {
    if !has(i, "block_scale") {
        return None;
    }
    offset_address(i, operand, 1)
}

/// The halves of what two 8-bit values are converted to, exchanged.
pub(super) fn swap_pair(i: &Instruction) -> Option<String> {
    let pair = has(i, "f16x2") && (has(i, "e4m3x2") || has(i, "e5m2x2")) && i.opcode.last()?.ends_with("x2");
    match i.operands.first()? {
        Operand::Name(to) if pair && i.guard.is_none() && i.opcode.last()? != "f16x2" => {
            Some(format!("{i} shf.l.wrap.b32 {to}, {to}, {to}, 16;"))
        }
        _ => None,
    }
}

/// `[name_param_N]` becomes `[name_param_M]` with M = N - 1.
pub(super) fn parameter_before(i: &Instruction) -> Option<String> {
    changed(i, |i| match i.operands.get_mut(1)? {
        Operand::Address { base, .. } => {
            let Operand::Name(name) = &mut **base else { return None };
            let (entry, number) = name.rsplit_once("_param_")?;
            *name = format!("{entry}_param_{}", number.parse::<u32>().ok()?.checked_sub(1)?);
            Some(())
        }
        _ => None,
    })
}
