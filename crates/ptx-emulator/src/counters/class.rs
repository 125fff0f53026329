//! Pipes that instructions go to, as far as PTX tells.

/// A pipe class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Integer arithmetic, logic, comparisons, selection, moves, addresses.
    Integer,
    /// Floating-point add, multiply, fused multiply-add.
    Fma,
    /// `cvt`.
    Conversion,
    /// Functions: reciprocal, roots, exponential, division.
    Special,
    /// Loads, stores, atomics, copies, in every space.
    Memory,
    /// MMA.
    Tensor,
    /// Barriers, fences, waits, votes and shuffles.
    Synchronisation,
    /// Branches, calls, exit.
    Control,
}

impl Class {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Class); 8] = [
        ("integer", Class::Integer),
        ("fma", Class::Fma),
        ("conversion", Class::Conversion),
        ("special", Class::Special),
        ("memory", Class::Memory),
        ("tensor", Class::Tensor),
        ("synchronisation", Class::Synchronisation),
        ("control", Class::Control),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|c| c.1 == self).map_or("", |c| c.0)
    }
}

/// First components of opcodes. What is not here is [`Class::Integer`].
const ROOTS: &[(Class, &[&str])] = &[
    (Class::Conversion, &["cvt"]),
    (Class::Special, &["rcp", "sqrt", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh"]),
    (
        Class::Memory,
        &[
            "ld",
            "ldu",
            "st",
            "atom",
            "red",
            "cp",
            "ldmatrix",
            "stmatrix",
            "prefetch",
            "prefetchu",
            "applypriority",
            "discard",
            "tensormap",
            "multimem",
        ],
    ),
    (Class::Tensor, &["mma"]),
    (
        Class::Synchronisation,
        &[
            "bar",
            "barrier",
            "mbarrier",
            "fence",
            "membar",
            "vote",
            "match",
            "redux",
            "shfl",
            "elect",
            "activemask",
            "griddepcontrol",
            "clusterlaunchcontrol",
            "setmaxnreg",
            "nanosleep",
        ],
    ),
    (Class::Control, &["bra", "brx", "call", "ret", "exit", "trap", "brkpt", "pmevent"]),
];

const FLOATS: &[&str] = &["f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64"];

/// The class of an instruction's text.
pub fn class(text: &str) -> Class {
    let mut words = text.split_whitespace();
    let opcode = words.find(|w| !w.starts_with('@')).unwrap_or_default().trim_end_matches(';');
    let (root, rest) = opcode.split_once('.').unwrap_or((opcode, ""));
    let has = |names: &[&str]| rest.split('.').any(|m| names.contains(&m));
    match root {
        "add" | "sub" | "mul" | "mad" | "fma" if has(FLOATS) => Class::Fma,
        "div" if has(FLOATS) => Class::Special,
        "wgmma" | "tcgen05" if has(&["mma_async", "mma"]) => Class::Tensor,
        "tcgen05" if has(&["ld", "st", "cp"]) && !has(&["wait"]) => Class::Memory,
        "wgmma" | "tcgen05" => Class::Synchronisation,
        "cp" if has(&["commit_group", "wait_group", "wait_all", "mbarrier"]) => Class::Synchronisation,
        _ => ROOTS.iter().find(|(_, roots)| roots.contains(&root)).map_or(Class::Integer, |r| r.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (text, expected) in [
            ("@%p0 bra loop;", Class::Control),
            ("@!%p1 ret;", Class::Control),
            ("ret;", Class::Control),
            ("fma.rn.f32 %f0, %f1, %f2, %f3;", Class::Fma),
            ("mad.lo.u32 %r4, %r3, %r1, %r2;", Class::Integer),
            ("setp.lt.f32 %p0, %f0, %f1;", Class::Integer),
            ("cvt.rn.bf16x2.f32 %r1, %f0, %f1;", Class::Conversion),
            ("cvta.to.global.u64 %rd1, %rd2;", Class::Integer),
            ("div.rn.f32 %f0, %f1, %f2;", Class::Special),
            ("ld.shared.v4.b32 {%r1,%r2,%r3,%r4}, [%r29];", Class::Memory),
            ("cp.async.wait_group 0;", Class::Synchronisation),
            ("cp.async.cg.shared.global [%r1], [%rd1], 16;", Class::Memory),
            ("tcgen05.wait::ld.sync.aligned;", Class::Synchronisation),
            ("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r1}, [%r2];", Class::Memory),
            ("tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd1, %rd2, %r3, %p0;", Class::Tensor),
            (
                "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {}, %rd1, %rd2, 1, 1, 1, 0, 0;",
                Class::Tensor,
            ),
            ("wgmma.commit_group.sync.aligned;", Class::Synchronisation),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }
}
