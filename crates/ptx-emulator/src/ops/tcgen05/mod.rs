//! `tcgen05` (PTX ISA 9.7.16): tensor memory and the asynchronous MMAs of sm_100a.
//!
//! `mma`, `cp`, `shift` and `commit` enter a queue per CTA and complete in issue order when the schedule says so; `ld` and
//! `st` move data when they are issued. Tensor memory is one bank of 128 lanes x 512 columns per CTA: two resident
//! CTAs sharing a bank are not modelled.

mod alloc;
mod commit;
mod copy;
mod descriptor;
mod fence;
mod memory;
mod mma;
mod move_;
mod shapes;
mod shift;
mod state;

pub use memory::{COLUMNS, LANES as TENSOR_LANES, TensorMemory};
pub use state::State;

use super::Entry;

/// All instructions of the family.
pub(super) const TABLES: [&[Entry]; 7] =
    [alloc::TABLE, move_::TABLE, copy::TABLE, mma::TABLE, shift::TABLE, commit::TABLE, fence::TABLE];
