//! A PTX emulator for the instruction families of sm_90a and sm_100a kernels: tcgen05, wgmma, TMA, mbarriers
//! and everything around them, with checkers for what hardware hides.
//!
//! ```text
//! PTX text -> syntax::parse -> program::load -> machine::launch -> findings, counters, device memory
//! ```
//!
//! Nothing is silently ignored: an instruction or modifier that is not modelled is an error at load, naming
//! line and text. `docs/emulator.md` says what is modelled, and how to add an instruction.

pub mod check;
pub mod counters;
pub mod decode;
pub mod device;
#[cfg(feature = "launch-file")]
pub mod launch_file;
pub mod machine;
pub mod mutate;
pub mod numerics;
pub mod ops;
pub mod program;
pub mod softfloat;
pub mod syntax;
pub mod trace;
pub mod types;
