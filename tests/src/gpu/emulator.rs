//! A [`Device`] on the PTX emulator: one that executes the PTX of an architecture on the host, with every checker on.
//!
//! It runs the same text as a card, so it says what a card's run says about values, and more: a finding (an
//! uninitialised value that matters, a race, an access outside a buffer, a write to an input) fails the launch.

use std::sync::{Mutex, PoisonError};

use kernels::launch::{Arch, ArgType, Dims, Launch};
use ptx_emulator::check::Checks;
use ptx_emulator::device::{Device, DeviceError, LaunchConfig, LoadedModule};
use ptx_emulator::machine::{Argument, Schedule};

use super::Value;
use super::outputs::POISON;

/// Findings that an error lists.
const LISTED: usize = 10;
/// Warp instructions of one block after which it hangs; the cases need a few thousand.
const BUDGET: u64 = 1 << 26;

/// The emulator with the kernels of one architecture loaded.
pub struct Emulator {
    arch: Arch,
    schedule: Schedule,
    /// One launch at a time: its blocks use every core already.
    loaded: Mutex<(Device, LoadedModule)>,
}

impl Emulator {
    /// The built-in PTX of `arch`, run by `schedule`.
    pub fn new(arch: Arch, schedule: Schedule) -> Result<Self, String> {
        Self::with_ptx(arch, schedule, arch.ptx())
    }

    /// Another PTX text in its place.
    pub fn with_ptx(arch: Arch, schedule: Schedule, ptx: &str) -> Result<Self, String> {
        let mut device = Device::new();
        let module = device.load_module(ptx).map_err(|e| e.to_string())?;
        Ok(Self { arch, schedule, loaded: Mutex::new((device, module)) })
    }
}

impl super::Device for Emulator {
    fn describe(&self) -> String {
        format!("the emulator, PTX for {}, {:?}", self.arch.name(), self.schedule)
    }

    /// Few: the grids stay small, and blocks do several rows each.
    fn multiprocessors(&self) -> u32 {
        4
    }

    fn max_elements(&self) -> usize {
        1 << 22
    }

    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String> {
        fits(self.arch, launch, dims, values)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (device, module) = &mut *loaded;
        let (arguments, buffers): (Vec<Argument>, Vec<Option<u64>>) =
            values.iter().map(|value| argument(device, value)).unzip();
        let config = LaunchConfig {
            // 0 = without clusters.
            cluster: launch.bounds.cluster.map(|blocks| blocks.max(1)),
            dynamic_shared: dims.shared_bytes,
            schedule: self.schedule,
            checks: Checks::default(),
            budget: BUDGET,
            ..LaunchConfig::new(dims.grid, dims.block)
        };
        let ran = device.launch(module, launch.name, &config, &arguments);
        let outcome = ran.map_err(|e| e.to_string()).and_then(|outcome| match outcome.findings.len() {
            0 => Ok(()),
            count => {
                let mut text = format!("{count} findings");
                outcome.findings.iter().take(LISTED).for_each(|f| text += &format!("\n{f}"));
                Err(text)
            }
        });
        let read = values.iter_mut().zip(&buffers).try_for_each(|(value, buffer)| match (value, buffer) {
            (Value::Out(bytes), Some(address)) => read_back(device, *address, bytes),
            _ => Ok(()),
        });
        buffers.into_iter().flatten().for_each(|address| device.free(address));
        outcome.and(read.map_err(|e| e.to_string()))
    }
}

/// Whether the launch is one of the table: what the CUDA backend checks before a launch on a card.
fn fits(arch: Arch, launch: &Launch, dims: Dims, values: &[Value<'_>]) -> Result<(), String> {
    if !launch.archs.contains(&arch) {
        return Err(format!("{} is not for {}", launch.name, arch.name()));
    }
    let threads: u32 = dims.block.iter().product();
    if threads > launch.bounds.threads() {
        return Err(format!("{threads} threads, at most {}", launch.bounds.threads()));
    }
    if values.len() != launch.args.len() {
        return Err(format!("{} arguments, expected {}", values.len(), launch.args.len()));
    }
    for (arg, value) in launch.args.iter().zip(values) {
        let right = match value {
            Value::In(_) => arg.ty == ArgType::ConstPtr,
            Value::Out(_) => arg.ty == ArgType::MutPtr,
            Value::Null => matches!(arg.ty, ArgType::ConstPtr | ArgType::MutPtr),
            Value::U32(_) => arg.ty == ArgType::U32,
            Value::F32(_) => arg.ty == ArgType::F32,
        };
        if !right {
            return Err(format!("`{}` is a {:?}", arg.name, arg.ty));
        }
    }
    Ok(())
}

/// The argument, and its buffer. Inputs are read-only; an output that holds nothing but poison is uninitialised to
/// the emulator, so that reading it before writing it is a finding too.
fn argument(device: &mut Device, value: &Value<'_>) -> (Argument, Option<u64>) {
    let address = match value {
        Value::In(bytes) => {
            let address = device.upload_new(bytes);
            device.protect(address);
            address
        }
        Value::Out(bytes) if bytes.iter().all(|&b| b == POISON) => device.allocate(bytes.len()),
        Value::Out(bytes) => device.upload_new(bytes),
        Value::Null => return (Argument::B64(0), None),
        Value::U32(v) => return (Argument::B32(*v), None),
        Value::F32(v) => return (Argument::B32(v.to_bits()), None),
    };
    (Argument::B64(address), Some(address))
}

/// Copies the bytes that were written; the others keep their poison.
fn read_back(device: &Device, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
    let got = device.download(address)?;
    let written = device.written(address).unwrap_or_default();
    for ((byte, got), written) in bytes.iter_mut().zip(got).zip(written) {
        if written {
            *byte = got;
        }
    }
    Ok(())
}
