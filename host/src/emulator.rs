//! The runtime's [`Queue`] and [`Device`] on the PTX emulator (feature `emulator`): the shipped PTX of either
//! architecture, executed on the CPU with every checker on. Slow, and meant for small layers: a finding is an error.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kernels::launch::{Arch, Dims};
use ptx_emulator::device::{Device as Machine, LaunchConfig, LoadedModule};
use ptx_emulator::machine::{Argument, Schedule};

use crate::runtime::{Args, Device, DevicePtr, Queue, check_dims};
use crate::{Error, Result};

/// Multiprocessors: few, so that grids stay small and CTAs stride.
const MULTIPROCESSORS: u32 = 4;
/// Findings that an error lists.
const LISTED: usize = 5;

/// The emulated device.
pub struct EmulatorDevice {
    arch: Arch,
    schedule: Schedule,
    state: Mutex<(Machine, LoadedModule)>,
}

impl EmulatorDevice {
    /// A device of `arch` with the shipped PTX.
    pub fn new(arch: Arch) -> Result<Self> {
        Self::with_ptx(arch, arch.ptx(), Schedule::default())
    }

    /// Other PTX, another schedule.
    pub fn with_ptx(arch: Arch, ptx: &str, schedule: Schedule) -> Result<Self> {
        let mut machine = Machine::new();
        let module = machine.load_module(ptx).map_err(|e| failed("loading PTX", e))?;
        Ok(Self { arch, schedule, state: Mutex::new((machine, module)) })
    }

    fn state(&self) -> MutexGuard<'_, (Machine, LoadedModule)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::Emulator { what: what.to_owned(), why: why.to_string() }
}

impl Queue for EmulatorDevice {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn multiprocessors(&self) -> u32 {
        MULTIPROCESSORS
    }

    unsafe fn launch(&self, dims: Dims, args: Args, _dependent: bool) -> Result<()> {
        let launch = args.launch();
        if !launch.archs.contains(&self.arch) {
            return Err(Error::unsupported(launch.name, format!("no such kernel for {}", self.arch.name())));
        }
        let values = args.finish()?;
        check_dims(launch, &dims)?;
        let arguments: Vec<Argument> = launch
            .args
            .iter()
            .zip(values)
            .map(|(arg, value)| match arg.ty.size() {
                8 => Argument::B64(value),
                // A 4-byte value sits in the low half of its word.
                _ => Argument::B32(value as u32),
            })
            .collect();
        let config = LaunchConfig {
            cluster: launch.bounds.cluster.map(|blocks| blocks.max(1)),
            dynamic_shared: dims.shared_bytes,
            schedule: self.schedule,
            ..LaunchConfig::new(dims.grid, dims.block)
        };
        let state = self.state();
        let outcome = state.0.launch(&state.1, launch.name, &config, &arguments);
        let outcome = outcome.map_err(|e| failed(launch.name, e))?;
        if outcome.findings.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} findings", outcome.findings.len());
        outcome.findings.iter().take(LISTED).for_each(|finding| text += &format!("\n{finding}"));
        Err(failed(launch.name, text))
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        self.state().0.upload(to.0, &vec![value; bytes]).map_err(|e| failed("fill", e))
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        let bytes: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), words).flatten().collect();
        self.state().0.upload(to.0, &bytes).map_err(|e| failed("fill", e))
    }
}

impl Device for EmulatorDevice {
    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        Ok(DevicePtr(self.state().0.allocate(bytes)))
    }

    unsafe fn free(&self, memory: DevicePtr) {
        self.state().0.free(memory.0);
    }

    unsafe fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.state().0.upload(to.0, bytes).map_err(|e| failed("copy to the device", e))
    }

    unsafe fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        self.state().0.read(from.0, bytes).map_err(|e| failed("copy from the device", e))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn tracks_writes(&self) -> bool {
        true
    }
}
