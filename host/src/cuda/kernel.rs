//! The kernels of the launch table, and launches checked against it.

use std::sync::Arc;

use kernels::launch::{Arch, ArgType, Dims, Geometry, Launch};

use super::{Context, DevicePtr, Function, Module, RawStream};
use crate::{Error, Result};

/// Most parameters of any kernel.
const MAX_ARGS: usize = 24;

/// The kernels, loaded for one device.
#[derive(Clone, Debug)]
pub struct Kernels {
    module: Arc<Module>,
    arch: Arch,
}

impl Kernels {
    /// Loads the shipped PTX of the device's architecture. Once per context: the driver compiles it.
    pub fn load(context: &Context) -> Result<Kernels> {
        let arch = context.device().arch()?;
        Kernels::from_ptx(context, arch, arch.ptx())
    }

    /// Loads other PTX for `arch`, such as freshly built one.
    pub fn from_ptx(context: &Context, arch: Arch, ptx: &str) -> Result<Kernels> {
        if ptx.trim().is_empty() {
            return Err(Error::unsupported(
                format!("the kernels for {}", arch.name()),
                "this build has no PTX for it; `cargo xtask build-ptx` makes it",
            ));
        }
        let module = Module::from_ptx(context, ptx)?;
        tracing::debug!(arch = arch.name(), "loaded kernels");
        Ok(Kernels { module, arch })
    }

    /// Kernels from a module that is loaded already.
    pub fn from_module(module: Arc<Module>, arch: Arch) -> Kernels {
        Kernels { module, arch }
    }

    /// The architecture they are for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The kernel of a row of the launch table, ready to launch.
    pub fn get(&self, launch: &'static Launch) -> Result<Kernel> {
        if !launch.archs.contains(&self.arch) {
            return Err(Error::unsupported(launch.name, format!("no such kernel for {}", self.arch.name())));
        }
        let function = self.module.function(launch.name)?;
        function.allow_dynamic_shared(launch.shared_bytes)?;
        let (threads, most) = (launch.bounds.threads(), function.max_threads_per_block()?);
        if threads > most {
            return Err(Error::mismatch(
                format!("threads of a block of `{}`", launch.name),
                format!("{threads} or more"),
                most,
            ));
        }
        Ok(Kernel { function, launch })
    }
}

/// A kernel of the launch table.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: Function,
    launch: &'static Launch,
}

impl Kernel {
    /// Its row of the launch table.
    pub fn table(&self) -> &'static Launch {
        self.launch
    }

    /// The loaded entry.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Launches with the dimensions that the table gives, such as [`Launch::rows`].
    ///
    /// Checked here: every argument is there, in order and of its type; block, shared memory and grid are ones that
    /// the table allows. No allocation, no synchronisation: may be captured into a graph.
    ///
    /// # Safety
    /// `stream` is a live stream of the kernel's context. The pointers have the shapes, alignments and lifetimes
    /// that the table and the kernel's documentation ask for, until the kernel is finished; so have the dimensions.
    pub unsafe fn launch(&self, stream: impl Into<RawStream>, dims: Dims, args: Args) -> Result<()> {
        let mut values = args.finish(self.launch)?;
        check_dims(self.launch, &dims)?;
        let mut parameters = values.each_mut().map(|value| core::ptr::from_mut(value).cast());
        let parameters = &mut parameters[..self.launch.args.len()];
        // SAFETY: as many parameters as the table has, each in a word at least as large; the rest is the caller's.
        unsafe {
            self.function.launch_raw(stream.into(), dims.grid, dims.block, dims.shared_bytes, parameters)
        }
    }
}

fn check_dims(launch: &Launch, dims: &Dims) -> Result<()> {
    let mismatch = |what: &str, expected: String, got: String| {
        Err(Error::mismatch(format!("{what} of `{}`", launch.name), expected, got))
    };
    let bounds = &launch.bounds;
    let threads: u32 = dims.block.iter().product();
    let block_fits = match launch.geometry {
        Geometry::Fixed => dims.block == bounds.block,
        Geometry::Rows | Geometry::Warps => {
            threads != 0 && threads <= bounds.threads() && dims.block[1..] == [1, 1]
        }
    };
    if !block_fits {
        return mismatch("block", format!("{:?} at most", bounds.block), format!("{:?}", dims.block));
    }
    if dims.shared_bytes != launch.shared_bytes {
        return mismatch("shared memory", launch.shared_bytes.to_string(), dims.shared_bytes.to_string());
    }
    let whole = |(&grid, &cluster): (&u32, &u32)| grid != 0 && grid.is_multiple_of(cluster.max(1));
    if !dims.grid.iter().zip(&bounds.cluster).all(whole) {
        let expected = format!("whole clusters of {:?}, at least one", bounds.cluster);
        return mismatch("grid", expected, format!("{:?}", dims.grid));
    }
    Ok(())
}

/// The arguments of one launch, in the order of the table. Each is named, so that swapped pointers do not go
/// unnoticed. The first mistake is remembered and reported by the launch.
///
/// ```
/// use megamoe::cuda::{Args, DevicePtr};
/// let row = kernels::launch::find("quantize_nvfp4_rows").unwrap();
/// let args = Args::new(row).input("x", DevicePtr(4096)).output("packed", DevicePtr(8192));
/// ```
#[derive(Clone, Debug)]
pub struct Args {
    launch: &'static Launch,
    // A value sits in the low bytes of its word: little-endian, so the word's address is the value's.
    values: [u64; MAX_ARGS],
    len: usize,
    wrong: Option<Wrong>,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    position: usize,
    name: &'static str,
    ty: &'static str,
}

const _: () = assert!(cfg!(target_endian = "little"));

impl Args {
    /// No arguments yet.
    #[must_use]
    pub fn new(launch: &'static Launch) -> Args {
        Args { launch, values: [0; MAX_ARGS], len: 0, wrong: None }
    }

    /// The next argument: a pointer to what is only read, or null where the table allows it.
    #[must_use]
    pub fn input(self, name: &'static str, value: DevicePtr) -> Self {
        self.push(name, ArgType::ConstPtr, value.0)
    }

    /// The next argument: a pointer to what is written.
    #[must_use]
    pub fn output(self, name: &'static str, value: DevicePtr) -> Self {
        self.push(name, ArgType::MutPtr, value.0)
    }

    /// The next argument: a `u32`.
    #[must_use]
    pub fn u32(self, name: &'static str, value: u32) -> Self {
        self.push(name, ArgType::U32, u64::from(value))
    }

    /// The next argument: an `f32`.
    #[must_use]
    pub fn f32(self, name: &'static str, value: f32) -> Self {
        self.push(name, ArgType::F32, u64::from(value.to_bits()))
    }

    fn push(mut self, name: &'static str, ty: ArgType, value: u64) -> Self {
        let fits = self.launch.args.get(self.len).is_some_and(|arg| arg.name == name && arg.ty == ty);
        if !fits || self.len == MAX_ARGS {
            self.wrong.get_or_insert(Wrong { position: self.len, name, ty: type_name(ty) });
            return self;
        }
        self.values[self.len] = value;
        self.len += 1;
        self
    }

    fn finish(self, launch: &'static Launch) -> Result<[u64; MAX_ARGS]> {
        if !core::ptr::eq(self.launch, launch) && self.launch != launch {
            return Err(Error::mismatch("arguments", launch.name, self.launch.name));
        }
        let expected = |position: usize| match launch.args.get(position) {
            Some(arg) => format!("{} `{}`", type_name(arg.ty), arg.name),
            None => "no more arguments".to_owned(),
        };
        if let Some(Wrong { position, name, ty }) = self.wrong {
            let what = format!("argument {position} of `{}`", launch.name);
            return Err(Error::mismatch(what, expected(position), format!("{ty} `{name}`")));
        }
        if self.len != launch.args.len() {
            let what = format!("argument {} of `{}`", self.len, launch.name);
            return Err(Error::mismatch(what, expected(self.len), "nothing"));
        }
        Ok(self.values)
    }
}

fn type_name(ty: ArgType) -> &'static str {
    match ty {
        ArgType::ConstPtr => "input pointer",
        ArgType::MutPtr => "output pointer",
        ArgType::U32 => "u32",
        ArgType::F32 => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> &'static Launch {
        kernels::launch::find("quantize_nvfp4_rows").unwrap()
    }

    fn full() -> Args {
        row().args.iter().fold(Args::new(row()), |args, arg| match arg.ty {
            ArgType::ConstPtr => args.input(arg.name, DevicePtr(1)),
            ArgType::MutPtr => args.output(arg.name, DevicePtr(2)),
            ArgType::U32 => args.u32(arg.name, 3),
            ArgType::F32 => args.f32(arg.name, 1.0),
        })
    }

    #[test]
    fn complete_arguments_pass() {
        let values = full().finish(row()).unwrap();
        assert_eq!(values[..2], [1, 2]);
    }

    #[test]
    fn dimensions_are_checked() {
        let good = row().rows(1000, 2880, 132);
        check_dims(row(), &good).unwrap();
        for bad in [
            Dims { grid: [0, 1, 1], ..good },
            Dims { block: [0, 1, 1], ..good },
            Dims { block: [32, 2, 1], ..good },
            Dims { block: [row().bounds.threads() + 32, 1, 1], ..good },
            Dims { shared_bytes: good.shared_bytes + 1, ..good },
        ] {
            assert!(matches!(check_dims(row(), &bad), Err(Error::Mismatch { .. })), "{bad:?}");
        }
    }

    #[test]
    fn every_table_fits() {
        assert!(kernels::launch::TABLE.iter().all(|row| row.args.len() <= MAX_ARGS));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |args: Args| args.finish(row()).unwrap_err().to_string();
        assert_eq!(
            message(Args::new(row())),
            "argument 0 of `quantize_nvfp4_rows`: expected input pointer `x`, got nothing"
        );
        assert_eq!(
            message(Args::new(row()).input("x", DevicePtr(1)).output("scales", DevicePtr(1))),
            "argument 1 of `quantize_nvfp4_rows`: expected output pointer `packed`, got output pointer `scales`"
        );
        assert!(message(full().u32("more", 1)).contains("expected no more arguments, got u32 `more`"));
        let other = kernels::launch::find("swiglu_quantize_nvfp4").unwrap();
        assert!(Args::new(other).finish(row()).is_err());
    }
}
