//! A call as a list of work, as a captured graph holds it: recorded without a device, changed, played on one.
//!
//! [`Recorder`] takes a plan's launches instead of a card. A fault is planted by changing the list (an argument, an
//! order, a launch left out); the tests of layers then have to notice it.

use std::cell::RefCell;

use kernels::launch::{Arch, ArgType, Dims, Launch};
use megamoe::Result;
use megamoe::runtime::{Args, DevicePtr, Queue};

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    /// The kernel.
    pub kernel: &'static Launch,
    /// Its grid.
    pub dims: Dims,
    /// Whether it may start before its predecessor has ended.
    pub dependent: bool,
    values: Vec<u64>,
}

impl Launched {
    fn position(&self, name: &str) -> usize {
        let found = self.kernel.args.iter().position(|arg| arg.name == name);
        found.unwrap_or_else(|| panic!("{} has no argument {name}", self.kernel.name))
    }

    /// The bits of an argument.
    pub fn get(&self, name: &str) -> u64 {
        self.values[self.position(name)]
    }

    /// Sets an argument's bits.
    pub fn set(&mut self, name: &str, bits: u64) {
        let position = self.position(name);
        self.values[position] = bits;
    }

    /// Changes an argument's bits.
    pub fn change(&mut self, name: &str, change: impl Fn(u64) -> u64) {
        self.set(name, change(self.get(name)));
    }

    fn args(&self) -> Args {
        self.kernel.args.iter().zip(&self.values).fold(Args::new(self.kernel), |args, (arg, &bits)| match arg
            .ty
        {
            ArgType::ConstPtr => args.input(arg.name, DevicePtr(bits)),
            ArgType::MutPtr => args.output(arg.name, DevicePtr(bits)),
            ArgType::U32 => args.u32(arg.name, bits as u32),
            ArgType::F32 => args.f32(arg.name, f32::from_bits(bits as u32)),
        })
    }
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A kernel.
    Launch(Launched),
    /// Bytes to set.
    FillU8(DevicePtr, u8, usize),
    /// Words to set.
    FillU32(DevicePtr, u32, usize),
}

/// The launches among `work` of kernels whose name starts with `prefix`; at least one.
pub fn launches<'w>(work: &'w mut [Work], prefix: &str) -> Vec<&'w mut Launched> {
    let found: Vec<_> = work
        .iter_mut()
        .filter_map(|work| match work {
            Work::Launch(launched) if launched.kernel.name.starts_with(prefix) => Some(launched),
            _ => None,
        })
        .collect();
    assert!(!found.is_empty(), "no launch of {prefix}");
    found
}

/// Does `work` on `queue`.
///
/// # Safety
/// As [`Queue`] says.
pub unsafe fn play(queue: &dyn Queue, work: &[Work]) -> Result<()> {
    work.iter().try_for_each(|work| {
        // SAFETY: the caller's.
        unsafe {
            match work {
                Work::Launch(launched) => queue.launch(launched.dims, launched.args(), launched.dependent),
                &Work::FillU8(to, value, bytes) => queue.fill_u8(to, value, bytes),
                &Work::FillU32(to, value, words) => queue.fill_u32(to, value, words),
            }
        }
    })
}

/// A queue that only notes what it is given: as a stream in capture, it can neither copy nor wait nor allocate.
pub struct Recorder {
    arch: Arch,
    multiprocessors: u32,
    work: RefCell<Vec<Work>>,
}

impl Recorder {
    /// Records work for the device of `queue`.
    pub fn like(queue: &dyn Queue) -> Self {
        Self { arch: queue.arch(), multiprocessors: queue.multiprocessors(), work: RefCell::new(Vec::new()) }
    }

    /// What was recorded.
    pub fn finish(self) -> Vec<Work> {
        self.work.into_inner()
    }
}

impl Queue for Recorder {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        let kernel = args.launch();
        let values = args.finish()?[..kernel.args.len()].to_vec();
        self.work.borrow_mut().push(Work::Launch(Launched { kernel, dims, dependent, values }));
        Ok(())
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        self.work.borrow_mut().push(Work::FillU8(to, value, bytes));
        Ok(())
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        self.work.borrow_mut().push(Work::FillU32(to, value, words));
        Ok(())
    }
}
