//! A device, close to the driver's API: modules from PTX text, buffers, launches.
//!
//! ```
//! use ptx_emulator::device::{Device, LaunchConfig};
//! use ptx_emulator::machine::Argument;
//!
//! let mut device = Device::new();
//! let module = device.load_module(
//!     ".version 8.0\n.target sm_90a\n.visible .entry add(.param .u64 p) {
//!        .reg .b64 %d<3>; .reg .b32 %r<3>;
//!        ld.param.u64 %d0, [p]; mov.u32 %r0, %tid.x;
//!        mul.wide.u32 %d1, %r0, 4; add.s64 %d2, %d0, %d1;
//!        st.global.u32 [%d2], %r0; ret; }",
//! )?;
//! let buffer = device.allocate(128);
//! let outcome = device.launch(&module, "add", &LaunchConfig::new([1, 1, 1], [32, 1, 1]), &[Argument::B64(buffer)])?;
//! assert!(outcome.findings.is_empty());
//! assert_eq!(device.download(buffer)?[4..8], 1u32.to_le_bytes());
//! # Ok::<(), ptx_emulator::device::DeviceError>(())
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use crate::check::Checks;
use crate::check::race::Touched;
use crate::machine::{
    Argument, Dim3, GlobalMemory, Launch, LaunchError, MemoryError, Outcome, Progress, Residency, Schedule,
    launch,
};
use crate::numerics::Precision;
use crate::program::{LoadError, Module, load};

/// What can go wrong on a device. What a *kernel* does wrong is in [`Outcome::findings`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A module cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A launch was refused.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A copy from or to the host is out of bounds.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No such entry.
    #[error("the module has no entry {name}; it has: {}", known.join(", "))]
    Entry {
        /// Name asked for.
        name: String,
        /// Entries of the module.
        known: Vec<String>,
    },
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// A module on a device.
pub struct LoadedModule {
    module: Module,
    symbols: Vec<u64>,
}

impl LoadedModule {
    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }
}

/// Geometry and options of a launch.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// CTAs.
    pub grid: Dim3,
    /// Threads per CTA.
    pub block: Dim3,
    /// CTAs per cluster.
    pub cluster: Dim3,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Schedule.
    pub schedule: Schedule,
    /// Checkers.
    pub checks: Checks,
    /// Tensor-core arithmetic.
    pub precision: Precision,
    /// Whether [`Outcome::trace`] is wanted.
    pub trace: bool,
    /// How much of the grid runs at one time.
    pub residency: Residency,
    /// Programmatic stream serialisation: the kernel may start before the one launched before it has ended (back to
    /// the last ordinary launch). What those touch must not be written before `griddepcontrol.wait`, nor what they
    /// write be read.
    pub programmatic_dependent: bool,
    /// Where the launch tells how far it is.
    pub progress: Option<Arc<Progress>>,
    /// Warp instructions per cluster before a run is stopped; 0 = no limit.
    pub budget: u64,
}

impl LaunchConfig {
    /// A grid of blocks; everything else by default.
    pub fn new(grid: Dim3, block: Dim3) -> Self {
        Self {
            grid,
            block,
            cluster: [1, 1, 1],
            dynamic_shared: 0,
            schedule: Schedule::default(),
            checks: Checks::default(),
            precision: Precision::default(),
            trace: false,
            residency: Residency::default(),
            programmatic_dependent: false,
            progress: None,
            budget: 0,
        }
    }
}

/// A device: its memory.
#[derive(Default)]
pub struct Device {
    memory: GlobalMemory,
    /// What the last kernels have touched, back to the last one that was launched in the ordinary way.
    kernels: Mutex<Vec<Arc<Touched>>>,
}

impl Device {
    /// An empty device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allocates uninitialised memory; the address is 256-byte aligned.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes)
    }

    /// Allocates memory holding `data`.
    pub fn upload_new(&mut self, data: &[u8]) -> u64 {
        let address = self.memory.allocate(data.len());
        // In bounds by construction.
        let _ = self.memory.upload(address, data);
        address
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// Out of bounds.
    pub fn upload(&mut self, address: u64, data: &[u8]) -> Result<()> {
        Ok(self.memory.upload(address, data)?)
    }

    /// The bytes of a whole allocation.
    ///
    /// # Errors
    /// No such allocation.
    pub fn download(&self, address: u64) -> Result<Vec<u8>> {
        let (base, bytes) = self.memory.allocation(address).ok_or(MemoryError::Unmapped(address))?;
        let mut out = vec![0; bytes];
        self.memory.read(base, &mut out)?;
        Ok(out)
    }

    /// Copies the bytes at `address`, anywhere in an allocation, into `out`. Bytes that nobody wrote read as they happen
    /// to be.
    ///
    /// # Errors
    /// Out of bounds.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        self.memory.read(address, out)?;
        Ok(())
    }

    /// Which bytes of an allocation have been written; `None` if there is none.
    pub fn written(&self, address: u64) -> Option<Vec<bool>> {
        self.memory.init_map(address)
    }

    /// Frees an allocation.
    pub fn free(&mut self, address: u64) {
        self.memory.free(address);
    }

    /// Makes an allocation read-only: a kernel that writes there is reported.
    pub fn protect(&mut self, address: u64) {
        self.memory.protect(address);
    }

    /// Loads a module: its variables get memory, its entries can be launched.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load_module(&mut self, ptx: &str) -> Result<LoadedModule> {
        let module = load(ptx)?;
        let mut symbols = Vec::new();
        for global in &module.globals {
            let address = self.upload_new(&global.bytes);
            if global.constant {
                self.memory.protect(address);
            }
            symbols.push(address);
        }
        Ok(LoadedModule { module, symbols })
    }

    /// Launches an entry and runs it to its end.
    ///
    /// # Errors
    /// An unknown entry or a refused launch.
    pub fn launch(
        &self,
        module: &LoadedModule,
        entry: &str,
        config: &LaunchConfig,
        arguments: &[Argument],
    ) -> Result<Outcome> {
        let program = module.module.entry(entry).ok_or_else(|| DeviceError::Entry {
            name: entry.to_owned(),
            known: module.module.entries.iter().map(|e| e.name.clone()).collect(),
        })?;
        // Kernels that a programmatic launch does not wait for; an ordinary one waits for all.
        let before = if config.programmatic_dependent {
            self.kernels.lock().unwrap_or_else(PoisonError::into_inner).clone()
        } else {
            Vec::new()
        };
        let outcome = launch(&Launch {
            program,
            symbols: &module.symbols,
            global: &self.memory,
            grid: config.grid,
            block: config.block,
            cluster: config.cluster,
            dynamic_shared: config.dynamic_shared,
            arguments,
            schedule: config.schedule,
            checks: config.checks,
            precision: config.precision,
            trace: config.trace,
            residency: config.residency,
            predecessors: &before,
            progress: config.progress.as_deref(),
            budget: config.budget,
        })?;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        *kernels = before;
        kernels.push(Arc::clone(&outcome.touched));
        Ok(outcome)
    }
}
