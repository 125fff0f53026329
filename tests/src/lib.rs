//! Shared by the cross-crate tests.

pub mod checkpoint_writer;
pub mod golden;
pub mod gpu;
pub mod layer;
