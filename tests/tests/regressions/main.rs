//! Every bug that was met before, as a test and a mutation that the test kills. The table of all of them is
//! `tests/REGRESSIONS.md`; [`table`] keeps table and tests together.
//!
//! A mutant is a small alternative implementation with the bug in it. [`harness::prove`] runs one and the same check on
//! the real implementation, which must pass, and on every mutant, which must not: a test that cannot fail proves
//! nothing.

mod arguments;
mod blackwell;
mod blind;
mod calls;
mod device;
mod formats;
mod harness;
mod layer;
mod layout;
mod loader;
mod measure;
mod mini;
mod quantise;
mod router;
mod slots;
mod table;
