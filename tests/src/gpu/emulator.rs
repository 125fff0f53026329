//! A [`Device`] on the PTX emulator: one that executes the PTX of an architecture on the host, with every checker on.
//!
//! It runs the same text as a card, so it says what a card's run says about values, and more: a finding (an
//! uninitialised value that matters, a race, an access outside a buffer, a write to an input) fails the launch.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use kernels::launch::{Arch, ArgType, Dims, Launch};
use ptx_emulator::check::{Checks, Finding};
use ptx_emulator::counters::Counters;
use ptx_emulator::device::{Device, DeviceError, LaunchConfig, LoadedModule};
use ptx_emulator::machine::{Argument, Outcome, Schedule};

use super::outputs::POISON;
use super::{Value, predecessor};

/// Findings that an error lists.
const LISTED: usize = 10;
/// Warp instructions of one block after which it hangs; the cases need a few thousand.
const BUDGET: u64 = 1 << 26;

/// The emulator with the kernels of one architecture loaded.
pub struct Emulator {
    arch: Arch,
    schedule: Schedule,
    budget: u64,
    /// One launch at a time: its blocks use every core already.
    loaded: Mutex<(Device, LoadedModule)>,
    predecessor: Option<Predecessor>,
    seen: Mutex<Seen>,
}

/// What runs before a launch.
struct Predecessor {
    module: LoadedModule,
    /// Entries that wait for it; the others are launched in the ordinary way.
    waiting: HashSet<&'static str>,
}

/// What the launches so far have shown.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Findings.
    pub findings: Vec<Finding>,
    /// Warp instructions of the longest cluster.
    pub longest_cluster: u64,
    /// Counters of all launches.
    pub counters: Counters,
    /// Lines that were executed.
    lines: HashSet<u32>,
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
        let (loaded, seen) = (Mutex::new((device, module)), Mutex::default());
        Ok(Self { arch, schedule, budget: BUDGET, loaded, predecessor: None, seen })
    }

    /// With a [`predecessor`] of each launch of a kernel that waits, as the built-in PTX has it.
    pub fn after_predecessor(mut self) -> Result<Self, String> {
        let (device, _) = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        let module = device.load_module(&predecessor::ptx(self.arch)).map_err(|e| e.to_string())?;
        self.predecessor = Some(Predecessor { module, waiting: predecessor::waiting(self.arch).collect() });
        Ok(self)
    }

    /// With another limit of warp instructions per cluster.
    #[must_use]
    pub fn budget(self, budget: u64) -> Self {
        Self { budget, ..self }
    }

    /// What the launches so far have shown.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Source lines that launches have executed since the last call.
    pub fn take_lines(&self) -> HashSet<u32> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).lines)
    }

    fn note(&self, outcome: &Outcome) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.findings.extend_from_slice(&outcome.findings);
        let executed = outcome.counters.lines.iter().filter(|line| line.site.executed > 0);
        seen.lines.extend(executed.map(|line| line.line));
        seen.longest_cluster = seen.longest_cluster.max(outcome.longest_cluster);
        seen.counters.merge(&outcome.counters);
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

    fn has(&self, launch: &Launch) -> bool {
        launch.archs.contains(&self.arch)
    }

    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String> {
        fits(self.arch, launch, dims, values)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (device, module) = &mut *loaded;
        let (arguments, buffers): (Vec<Argument>, Vec<Option<u64>>) =
            values.iter().map(|value| argument(device, value)).unzip();
        let depends = match &self.predecessor {
            Some(before) if before.waiting.contains(launch.name) => {
                before.run(device, launch, values, &buffers)?;
                true
            }
            _ => false,
        };
        for (value, address) in values.iter().zip(&buffers) {
            if let (Value::In(_), Some(address)) = (value, address) {
                device.protect(*address);
            }
        }
        let config = LaunchConfig {
            // 0 = without clusters.
            cluster: launch.bounds.cluster.map(|blocks| blocks.max(1)),
            dynamic_shared: dims.shared_bytes,
            schedule: self.schedule,
            checks: Checks::default(),
            budget: self.budget,
            programmatic_dependent: depends,
            ..LaunchConfig::new(dims.grid, dims.block)
        };
        let ran =
            device.launch(module, launch.name, &config, &arguments).inspect(|outcome| self.note(outcome));
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

impl Predecessor {
    /// Touches every buffer that other kernels of a layer touch.
    fn run(
        &self,
        device: &Device,
        launch: &Launch,
        values: &[Value<'_>],
        buffers: &[Option<u64>],
    ) -> Result<(), String> {
        let mut is_first = true;
        for ((entry, value), address) in predecessor::touches(launch, values).zip(values).zip(buffers) {
            let (Some(entry), Some(address)) = (entry, address) else { continue };
            let words = match value {
                Value::In(bytes) => bytes.len() / 4,
                Value::Out(bytes) => bytes.len() / 4,
                _ => 0,
            };
            let config = LaunchConfig {
                // The first one takes the place of what has been before.
                programmatic_dependent: !is_first,
                ..LaunchConfig::new([1, 1, 1], [predecessor::THREADS, 1, 1])
            };
            is_first = false;
            let arguments = [Argument::B64(*address), Argument::B32(words as u32)];
            let outcome =
                device.launch(&self.module, entry, &config, &arguments).map_err(|e| e.to_string())?;
            if let Some(finding) = outcome.findings.first() {
                return Err(format!("the kernel before: {finding}"));
            }
        }
        Ok(())
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

/// The argument, and its buffer. An output that holds nothing but poison is uninitialised to
/// the emulator, so that reading it before writing it is a finding too.
fn argument(device: &mut Device, value: &Value<'_>) -> (Argument, Option<u64>) {
    let address = match value {
        Value::In(bytes) => device.upload_new(bytes),
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

#[cfg(test)]
mod tests {
    use kernels::launch::{Arg, Geometry, LaunchBounds};

    use super::super::Device as _;
    use super::*;

    static COPY: Launch = Launch {
        name: "copy",
        bounds: LaunchBounds::block(32),
        shared_bytes: 0,
        args: &[Arg::input("x", "[8]"), Arg::output("y", "[8]"), Arg::u32("n", "4 * 8"), Arg::f32("f", "")],
        archs: &[Arch::Sm90a],
        geometry: Geometry::Fixed,
    };

    /// Copies a word per thread after `more` has run; `%d2` and `%d3` are the thread's words.
    fn copy(more: &str, x: &[u8], y: &mut [u8]) -> Result<(), String> {
        let ptx = format!(
            ".version 8.7\n.target sm_90a\n.address_size 64\n\
             .visible .entry copy(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 f) {{\n\
             .reg .b64 %d<5>; .reg .b32 %r<5>;\n\
             ld.param.u64 %d0, [x]; ld.param.u64 %d1, [y]; mov.u32 %r0, %tid.x;\n\
             mul.wide.u32 %d4, %r0, 4; add.s64 %d2, %d0, %d4; add.s64 %d3, %d1, %d4;\n\
             {more}\nld.global.u32 %r1, [%d2]; st.global.u32 [%d3], %r1; ret; }}\n"
        );
        let emulator = Emulator::with_ptx(Arch::Sm90a, Schedule::RoundRobin, &ptx)?;
        let dims = Dims { grid: [1, 1, 1], block: [8, 1, 1], shared_bytes: 0 };
        let values = &mut [Value::In(x), Value::Out(y), Value::U32(32), Value::F32(1.0)];
        emulator.launch(&COPY, dims, values)
    }

    fn finding(more: &str, class: &str) {
        let message = copy(more, &[7; 32], &mut [POISON; 32]).unwrap_err();
        assert!(message.contains(class), "{more}: {message}");
    }

    #[test]
    fn written_bytes_come_back_and_the_others_stay() {
        let mut y = [POISON; 40];
        copy("", &[7; 32], &mut y).unwrap();
        assert_eq!(y[..32], [7; 32]);
        assert_eq!(y[32..], [POISON; 8]);
        // What is not poison is there for the kernel to read.
        let mut y = [1; 32];
        copy("ld.global.u32 %r2, [%d3]; st.global.u32 [%d3], %r2;", &[7; 32], &mut y).unwrap();
        assert_eq!(y, [7; 32]);
    }

    #[test]
    fn findings_fail_the_launch() {
        finding("ld.global.u32 %r2, [%d3]; st.global.u32 [%d3], %r2;", "uninitialised");
        finding("st.global.u32 [%d3+32], %r0;", "out-of-bounds");
        finding("ld.global.u32 %r2, [%d2+4];", "out-of-bounds");
        finding("st.global.u32 [%d3+1], %r0;", "misaligned");
        finding("st.global.u32 [%d1], %r0;", "race");
        finding("st.global.u32 [%d2], %r0;", "read-only");
    }

    #[test]
    fn a_launch_must_fit_the_table() {
        let emulator = Emulator::new(Arch::Sm100a, Schedule::RoundRobin).unwrap();
        let dims = Dims { grid: [1, 1, 1], block: [64, 1, 1], shared_bytes: 0 };
        assert!(emulator.launch(&COPY, dims, &mut []).unwrap_err().contains("sm_100a"));
        assert!(fits(Arch::Sm90a, &COPY, dims, &[]).unwrap_err().contains("threads"));
        let dims = Dims { block: [32, 1, 1], ..dims };
        assert!(fits(Arch::Sm90a, &COPY, dims, &[]).unwrap_err().contains("arguments"));
        let values = [Value::In(&[]), Value::Null, Value::F32(0.0), Value::F32(0.0)];
        assert!(fits(Arch::Sm90a, &COPY, dims, &values).unwrap_err().contains("`n`"));
        let values = [Value::In(&[]), Value::Null, Value::U32(0), Value::F32(0.0)];
        assert!(fits(Arch::Sm90a, &COPY, dims, &values).is_ok());
    }
}
