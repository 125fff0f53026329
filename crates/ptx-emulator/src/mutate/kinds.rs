//! The table of mutations. To add one, add a line: a name, the fault, the instructions, and the edit (`edit.rs`).

use super::edit::*;
use crate::syntax::ast::Instruction;

/// What an edit makes of an instruction: text in its place, or `None` where it does not apply.
pub(super) type Edit = fn(&Instruction) -> Option<String>;

/// A kind of mutation. It makes at most one mutant of an instruction.
pub struct Kind {
    /// Name, as in identities and on the command line.
    pub name: &'static str,
    /// The fault that it plants.
    pub fault: &'static str,
    /// Opcodes up to a dot.
    on: &'static [&'static str],
    edit: Edit,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kind {
    /// The replacement of an instruction, if this kind applies to it.
    pub(super) fn apply(&self, i: &Instruction) -> Option<String> {
        let matches = |prefix: &&str| {
            prefix.split('.').enumerate().all(|(n, part)| i.opcode.get(n).is_some_and(|p| p == part))
        };
        self.on.iter().any(matches).then(|| (self.edit)(i)).flatten()
    }
}

const fn kind(name: &'static str, fault: &'static str, on: &'static [&'static str], edit: Edit) -> Kind {
    Kind { name, fault, on, edit }
}

/// Every kind. Sections are those of the PTX ISA.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    // Ordering: 9.7.13.4, 9.7.13.15, 9.7.16.11, 9.7.15.7.
    kind("delete-fence", "a fence is missing",
        &["fence", "membar", "wgmma.fence",
          "tcgen05.fence::before_thread_sync", "tcgen05.fence::after_thread_sync"], delete),
    kind("relax", "an acquire or release, explicit or by default, is relaxed",
        &["ld", "st", "atom", "red", "multimem", "mbarrier.arrive", "mbarrier.arrive_drop",
          "mbarrier.test_wait", "mbarrier.try_wait", "barrier.cluster.arrive"], relax),
    kind("narrow-scope", "a scope is one smaller",
        &["ld", "st", "atom", "red", "multimem", "fence", "membar", "mbarrier"], narrow_scope),
    // Waits.
    kind("delete-wait", "nothing is waited for; the answer of an mbarrier is yes",
        &["mbarrier.test_wait", "mbarrier.try_wait", "cp.async.wait_group", "cp.async.wait_all",
          "cp.async.bulk.wait_group", "wgmma.wait_group", "tcgen05.wait::ld", "tcgen05.wait::st", "griddepcontrol.wait",
          "barrier.cluster.wait"], skip_wait),
    kind("shorten-wait", "one group more may be pending",
        &["cp.async.wait_group", "cp.async.bulk.wait_group", "wgmma.wait_group"], |i| add(i, 0, 1)),
    kind("wait-for-reads", "a bulk group's writes are not waited for",
        &["cp.async.bulk.wait_group"], |i| insert_modifier(i, 4, "read")),
    kind("flip-parity", "the other phase is waited for",
        &["mbarrier.test_wait", "mbarrier.try_wait"], flip_parity),
    // Commits and arrivals.
    kind("delete-commit", "operations are not committed",
        &["cp.async.commit_group", "cp.async.bulk.commit_group", "wgmma.commit_group", "tcgen05.commit"],
        delete),
    kind("delete-arrive", "nobody arrives",
        &["mbarrier.arrive", "mbarrier.arrive_drop", "mbarrier.complete_tx", "cp.async.mbarrier.arrive",
          "barrier.cluster.arrive"], delete),
    kind("delete-expect-tx", "bytes are not announced; an arrival stays", &["mbarrier"], drop_expect_tx),
    kind("expect-tx-more", "16 bytes too many are announced", &["mbarrier"], |i| announce(i, 16)),
    kind("expect-tx-less", "16 bytes too few are announced", &["mbarrier"], |i| announce(i, -16)),
    kind("count-noinc", "the arrival of copies counts as one more pending",
        &["cp.async.mbarrier.arrive"], |i| remove_modifier(i, "noinc")),
    kind("drop-multicast", "only the own CTA gets the data or the signal",
        &["tcgen05.commit", "cp.async.bulk"], drop_multicast),
    // Life of an mbarrier.
    kind("delete-init", "an mbarrier is not initialised", &["mbarrier.init"], delete),
    kind("init-count-more", "one arrival too many is expected", &["mbarrier.init"], |i| add(i, 1, 1)),
    kind("init-count-less", "one arrival too few is expected", &["mbarrier.init"], |i| add(i, 1, -1)),
    kind("delete-inval", "an mbarrier stays alive", &["mbarrier.inval"], delete),
    // Barriers of threads.
    kind("delete-barrier", "a CTA barrier is missing",
        &["bar.sync", "bar.arrive", "bar.red", "bar.cta",
          "barrier.sync", "barrier.arrive", "barrier.red", "barrier.cta"], delete),
    kind("delete-warp-sync", "a warp barrier is missing", &["bar.warp.sync"], delete),
    // Reductions.
    kind("drop-red", "a reduction is missing", &["red", "multimem.red"], delete),
    kind("drop-atom", "an atomic operation only reads", &["atom"], atom_to_load),
    // Matrix instructions.
    kind("toggle-accumulate", "the accumulator is added where it is not, and not where it is",
        &["tcgen05.mma", "wgmma.mma_async"], toggle_accumulate),
    kind("swap-descriptors", "the matrices A and B are exchanged",
        &["tcgen05.mma", "wgmma.mma_async"], swap_descriptors),
    kind("swap-scales", "the scales of A and B are exchanged", &["tcgen05.mma"], swap_scales),
    kind("shift-scale-a", "the scales of A are taken from the next column", &["tcgen05.mma"], |i| shift_scale(i, 4)),
    kind("shift-scale-b", "the scales of B are taken from the next column", &["tcgen05.mma"], |i| shift_scale(i, 5)),
    kind("shift-copy-column", "a copy goes to the next column of tensor memory",
        &["tcgen05.cp"], |i| offset_address(i, 0, 1)),
    kind("shift-copy-row", "a copy starts 16 bytes on: at the next row of scales",
        &["tcgen05.cp"], |i| computed(i, 1, "b64", |x, to| format!("add.s64 {to}, {x}, 1;"))),
    // Values: 9.7.9.21, and the wrong buffer.
    kind("swap-pair", "two converted 8-bit values, scales of two rows for instance, change places",
        &["cvt"], swap_pair),
    kind("parameter-before", "a pointer is the parameter before it, alpha of gate instead of up's",
        &["ld.param.b64", "ld.param.u64"], parameter_before),
    kind("delete-dealloc", "tensor memory is not given back", &["tcgen05.dealloc"], delete),
];

/// A name that is none of [`KINDS`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no kind of mutation is called {0}; there are: {known}", known = KINDS.iter().map(|k| k.name).collect::<Vec<_>>().join(", "))]
pub struct UnknownKind(String);

/// The kinds of those names; of none, all.
///
/// # Errors
/// An unknown name.
pub fn kinds<S: AsRef<str>>(names: &[S]) -> Result<Vec<&'static Kind>, UnknownKind> {
    if names.is_empty() {
        return Ok(KINDS.iter().collect());
    }
    let find = |name: &S| {
        let name = name.as_ref();
        KINDS.iter().find(|k| k.name == name).ok_or_else(|| UnknownKind(name.to_owned()))
    };
    names.iter().map(find).collect()
}
