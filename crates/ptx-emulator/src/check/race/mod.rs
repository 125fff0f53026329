//! Data races by happens-before, with the generic/async proxy distinction (PTX ISA chapter 8).
//!
//! Actors are threads (vector clocks) and asynchronous operations (each its own actor, known or not known to have
//! completed). Every thread has what it has *seen*, and what of that has been *fenced* for the async proxy, per
//! state space: `fence.proxy.async` fences all that its thread has seen by then; releases publish both, acquires join
//! both. An asynchronous operation carries its issuer's knowledge.
//!
//! An access conflicts with an earlier one of another actor to the same bytes, one of them a write, unless it knows
//! of it, or both are morally strong; and an access through the async proxy with a generic one unless it is fenced.
//! Completion of an operation of the async proxy carries an implicit fence, so that a waiter needs none.
//!
//! Clocks are kept by CTA, only for CTAs that an actor has heard of, and shared until they change (`clock`): a grid of
//! many CTAs costs what its synchronisation spreads. What is released is kept with the scope and the CTA of its release;
//! strong locations hand it on as the memory model says (`release`).
//!
//! **Many CTAs.** Clusters that can synchronise (kernels with strong accesses to global memory or atomics) are
//! interleaved on one host thread, deterministically, and share one detector: CTAs are numbered by cluster and rank,
//! threads by CTA. Clusters that cannot run in parallel with a detector each; which global bytes each of them has touched
//! is noted, and compared in cluster order when all have ended (`footprint`). Neither depends on host timing. The same
//! note of a whole kernel is what may be in flight while a dependent kernel starts.
//!
//! Shadow granularity is four bytes with a byte mask: a cell of 32 bytes holds the last write and the reader since
//! then, or a set of readers. Global memory is tracked in pages: all that is touched, or, for clusters that run in
//! parallel, the allocations that the cluster writes.

mod access;
mod clock;
mod conflict;
mod detector;
mod footprint;
mod operations;
mod readers;
mod release;
mod shadow;
#[cfg(test)]
mod tests;
mod touch;

pub use access::WarpAccess;
pub use conflict::{Conflict, Missing, Who};
pub use detector::{Detector, key};
pub use footprint::{Span, Touched, compare};
pub use release::StrongAccess;
