//! The layer as launches: one plan, run by every backend that runs kernels.
//!
//! ```text
//! weights::LayerWeights -> image::LayerImage (one allocation) \
//! (max tokens, shape)   -> workspace::Workspace (one per device) > plan::enqueue -> Queue (a card's stream | the emulator)
//! io (device pointers)                                         /
//! ```
//!
//! Nothing here knows CUDA. `cuda` (feature `cuda`) and `emulator` (feature `emulator`) implement [`Queue`] and [`Device`].

mod args;
pub mod backend;
mod block_gemm;
mod block_rows;
mod call;
mod decode;
mod device;
mod dims;
mod gemm;
mod grids;
pub mod image;
pub mod linear;
pub mod mega;
pub mod plan;
mod ptr;
mod regions;
mod rows;
pub mod shape;
pub mod shared;
pub mod workspace;

pub use args::{Args, MAX_ARGS};
pub use device::{Device, Memory, Queue};
pub use dims::check_dims;
pub use ptr::DevicePtr;
pub use regions::{Region, Regions};
