//! The CPU backend against plain f64 loops, and the promises it makes bit for bit.

mod errors;
mod golden_e2e;
mod invariance;
mod modes;
mod non_finite;
mod pieces;
mod reference;
mod routing;
mod support;
