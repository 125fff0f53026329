//! Instructions, a file per family. Each family has `decode_fn`s for its mnemonics in the table below.

mod access;
mod addresses;
mod arithmetic;
mod async_store;
mod atomic_ops;
mod atomics;
mod barrier;
mod bulk;
mod bulk_reduce;
mod bulk_transfer;
mod cache;
mod carry;
mod cluster_barrier;
mod compare;
mod control;
mod convert;
mod convert_packed;
mod cp_async;
mod descriptor;
mod fence;
mod float;
mod float_special;
mod grid;
mod groups;
mod half;
pub mod hooks;
mod integer;
mod integer_bits;
mod lanewise;
mod logic;
mod matrix;
mod matrix_bytes;
pub mod mbarrier;
mod mbarrier_state;
mod meeting;
mod memory;
mod mma_sync;
mod moves;
mod partial;
mod registers;
pub(crate) mod repeated;
pub mod sync_state;
pub mod tcgen05;
mod tensor_copy;
pub mod tensor_map;
mod tensor_map_codec;
mod tensor_map_ops;
mod traffic;
mod warp;
mod warp_memory;
mod wgmma;

pub(crate) use control::{assert_fail, bad_call, call_if, copy_register, jump};
pub(crate) use wgmma::implicit_wait;

use crate::check::Checks;
use crate::decode::DecodeFn;
use crate::machine::{Cluster, Cta, Environment, Wait, Warp};

/// One row of a family's table: which instructions it decodes.
#[derive(Clone, Copy)]
pub struct Entry {
    /// First component of the opcode.
    pub root: &'static str,
    /// Modifiers that must all be there for this entry; the first matching entry wins, so the more special
    /// ones come first.
    pub when: &'static [&'static str],
    /// Decodes it.
    pub decode: DecodeFn,
}

/// An entry for every instruction with that root.
pub const fn root(root: &'static str, decode: DecodeFn) -> Entry {
    Entry { root, when: &[], decode }
}

/// An entry for instructions with that root and all of those modifiers.
pub const fn form(root: &'static str, when: &'static [&'static str], decode: DecodeFn) -> Entry {
    Entry { root, when, decode }
}

/// The families, searched in order.
const FAMILIES: &[&[Entry]] = &[
    control::TABLE,
    tensor_map_ops::TABLE,
    async_store::TABLE,
    matrix::TABLE,
    mma_sync::TABLE,
    wgmma::TABLE,
    moves::TABLE,
    carry::TABLE,
    arithmetic::TABLE,
    integer_bits::TABLE,
    float_special::TABLE,
    logic::TABLE,
    compare::TABLE,
    addresses::TABLE,
    convert::TABLE,
    warp::TABLE,
    barrier::TABLE,
    mbarrier::TABLE,
    fence::TABLE,
    grid::TABLE,
    registers::TABLE,
    tcgen05::TABLES[0],
    tcgen05::TABLES[1],
    tcgen05::TABLES[2],
    tcgen05::TABLES[3],
    tcgen05::TABLES[4],
    tcgen05::TABLES[5],
    tcgen05::TABLES[6],
    cp_async::TABLE,
    tensor_copy::TABLE,
    bulk::TABLE,
    memory::TABLE,
    atomics::TABLE,
    cache::TABLE,
];

/// The decode function of an opcode; `None` = not modelled.
pub fn decode_fn(opcode: &[String]) -> Option<DecodeFn> {
    let (root, modifiers) = opcode.split_first()?;
    let fits = |e: &&Entry| e.root == root && e.when.iter().all(|w| modifiers.iter().any(|m| m == w));
    FAMILIES.iter().copied().flatten().find(fits).map(|e| e.decode)
}

/// Whether an instruction can make CTAs of different clusters wait for each other, or makes results depend on
/// their order: atomics, reductions and strong accesses to global or generic memory.
pub fn may_sync_ctas(text: &str) -> bool {
    let opcode = text.trim_start_matches(|c| c != ' ').trim_start();
    let opcode = if text.starts_with('@') { opcode } else { text };
    let opcode = opcode.split_whitespace().next().unwrap_or_default();
    let mut parts = opcode.split('.');
    let root = parts.next().unwrap_or_default();
    let has = |names: &[&str]| opcode.split('.').any(|p| names.contains(&p.trim_end_matches(';')));
    let shared = opcode.contains(".shared");
    match root {
        "atom" | "red" => !shared,
        "cp" => has(&["reduce"]) && has(&["bulk_group"]),
        "ld" | "st" => !shared && has(&["acquire", "release", "relaxed", "volatile", "mmio"]),
        _ => false,
    }
}

/// State that instruction families keep in a cluster.
#[derive(Default)]
pub struct State {
    /// wgmma.
    pub wgmma: wgmma::State,
    /// Barriers, mbarriers, asynchronous groups.
    pub sync: sync_state::SyncState,
    /// Tensor memory.
    pub tcgen05: tcgen05::State,
    /// The race detector.
    pub races: Box<crate::check::race::Detector>,
    /// Number of this cluster's first CTA in the race detector.
    pub first_cta: u32,
    /// Conflicts of two stores, until the instruction has moved its data.
    pub repeated: Vec<repeated::Repeated>,
    /// Threads of a CTA, rounded up to whole warps.
    pub threads_per_cta: u32,
}

impl State {
    /// For a cluster of `ctas` CTAs of `warps` warps.
    pub fn new(ctas: usize, warps: usize, checks: &Checks) -> Self {
        let threads = warps * crate::machine::LANES;
        let mut races = crate::check::race::Detector::new(ctas as u32, threads as u32);
        let compatible = checks.mode == crate::check::Mode::CutlassCompatible;
        races.ignore_tensor_fences = !checks.tcgen05 || compatible;
        races.compatible = compatible;
        Self {
            sync: sync_state::SyncState::new(ctas, warps),
            races: Box::new(races),
            threads_per_cta: threads as u32,
            ..Self::default()
        }
    }

    /// Lanes of a warp (taken out of its CTA) exit.
    pub fn on_exit(cluster: &mut Cluster, cta: usize, warp: &mut Warp, _mask: u32) {
        meeting::on_exit(warp);
        sync_state::on_exit(cluster, cta, warp);
    }

    /// All threads have exited and nothing is in flight, or the cluster was stopped.
    pub fn on_finish(cluster: &mut Cluster, env: &Environment<'_>) {
        tcgen05::State::on_finish(cluster, env);
    }

    /// What a wait of a thread of CTA rank `cta` waits for, in words with numbers, for deadlock reports.
    pub fn describe_wait(&self, ctas: &[Cta], cta: usize, wait: Wait) -> String {
        match wait {
            Wait::Lanes { mask } => {
                format!("the other lanes of member mask {mask:#010x} to come to this instruction")
            }
            Wait::TensorMemory => self.tcgen05.describe_wait(cta as u32),
            _ => self.sync.describe_wait(ctas, cta, wait).unwrap_or_else(|| format!("{wait:?}")),
        }
    }
}
