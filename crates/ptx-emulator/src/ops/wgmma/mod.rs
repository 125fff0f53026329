//! `wgmma` (PTX ISA 9.7.15): asynchronous warpgroup MMAs of sm_90a.
//!
//! The four warps of a warpgroup each issue the instruction; when the last of them has, the operation enters the
//! warpgroup's queue. It reads its shared-memory operands and its accumulators, and writes the accumulators, when
//! the schedule completes it. From issue until a `wait_group` that covers it, the accumulators are in flight:
//! reading them carries poison, writing them or a register operand is a finding. (In `cutlass-compatible` mode both wait.)

mod decode;
mod op;
mod state;
mod wait;

pub(super) use decode::TABLE;
pub use state::State;
pub(crate) use wait::implicit_wait;
