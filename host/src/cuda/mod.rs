//! Launching the kernels through the CUDA driver, over `cust` (feature `cuda`).
//!
//! ```text
//! Device -> Context (the device's primary context) -> Stream, Event, DeviceBuffer
//!                                                  -> Kernels (PTX of the device's architecture) -> Kernel
//! ```
//!
//! What `cust` 0.3.2 gives is its binding of the driver, [`cust::sys`]; every call of it is in one file,
//! `driver.rs`. Its safe types are not used inside: they turn every code they do not know into one "unknown
//! error", cannot adopt an engine's stream, make only blocking streams and cannot ask for more than 48 KiB of
//! dynamic shared memory. They are welcome outside: `RawStream` comes from a `&cust::stream::Stream` and
//! `DevicePtr` from a `cust::memory::DevicePointer`.
//!
//! Public signatures speak raw handles ([`RawStream`], [`DevicePtr`]), so an engine on any binding can call us.
//! Everything returns a [`Result`](crate::Result); a driver call that fails is
//! [`Error::Driver`](crate::Error::Driver) with the call's name. Nothing panics without a device.
//!
//! # Without a driver
//! `cust` links `libcuda.so.1`, so a *program* built with this feature needs the file when it starts: on a machine
//! without a driver the dynamic linker refuses it before `main`. (Building needs no driver and no toolkit:
//! `cargo xtask` links against a stub, see `docs/development.md`.) With a driver but no usable device,
//! [`Device::all`] returns the error or an empty list.
//!
//! # Contexts and threads
//! Only primary contexts are used and none is ever created beside them, so we share the context of every runtime
//! API user in the process. Each call makes its context current for its own duration and puts back what was
//! current before; all types are `Send` and `Sync`.

mod buffer;
mod device;
mod driver;
mod graph;
mod handles;
mod health;
mod kernel;
mod layer;
mod linear;
mod module;
mod queue;
mod stream;

pub use crate::runtime::{Args, DevicePtr};
pub use buffer::DeviceBuffer;
pub use device::{Context, Device};
pub use driver::LaunchWith;
pub use graph::Graph;
pub use handles::RawStream;
pub use kernel::{Kernel, Kernels};
pub use layer::{MoeLayer, Workspace};
pub use linear::{Nvfp4GroupedLinear, Nvfp4Linear};
pub use module::{Function, Module};
pub use queue::{CudaDevice, CudaQueue, KernelSet};
pub use stream::{Event, Stream};
