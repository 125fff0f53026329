//! Data races by happens-before, with the generic/async proxy distinction (PTX ISA chapter 8).
//!
//! Actors are threads (vector clocks) and asynchronous operations (each its own actor, known or not known to have
//! completed). Every thread has what it has *seen*, and what of that has been *fenced* for the async proxy, per
//! state space: `fence.proxy.async` copies seen to fenced; releases publish both, acquires join both. An
//! asynchronous operation carries a copy of its issuer's knowledge.
//!
//! An access conflicts with an earlier one of another actor to the same bytes, one of them a write, unless it knows
//! of it; and an access through the async proxy with a generic one unless it is fenced. Completion of an operation
//! carries an implicit fence, so that a waiter needs none.
//!
//! Shadow granularity is four bytes with a byte mask: a cell of 32 bytes holds the last write and the reader since
//! then, or a set of readers (of which the last 64 warps and operations are kept). Global memory is tracked within a
//! cluster, for allocations that the kernel writes, in pages.

mod access;
mod clock;
mod conflict;
mod detector;
mod readers;
mod shadow;
#[cfg(test)]
mod tests;

pub use access::WarpAccess;
pub use conflict::{Conflict, Who};
pub use detector::Detector;
