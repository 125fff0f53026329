//! The arguments of a launch, checked against the kernels' table.

use kernels::launch::{ArgType, Launch};

use super::DevicePtr;
use crate::{Error, Result};

/// Most parameters of any kernel.
pub const MAX_ARGS: usize = 40;

/// The arguments of one launch, in the order of the table. Each is named, so that swapped pointers do not go
/// unnoticed. The first mistake is remembered and reported by the launch.
///
/// ```
/// use megamoe::runtime::{Args, DevicePtr};
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

    /// The kernel that they are for.
    pub fn launch(&self) -> &'static Launch {
        self.launch
    }

    /// The values, each in the low bytes of its word; complete, or the first mistake.
    pub fn finish(&self) -> Result<[u64; MAX_ARGS]> {
        let launch = self.launch;
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
        assert_eq!(full().finish().unwrap()[..2], [1, 2]);
    }

    #[test]
    fn every_table_fits() {
        assert!(kernels::launch::TABLE.iter().all(|row| row.args.len() <= MAX_ARGS));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |args: Args| args.finish().unwrap_err().to_string();
        assert_eq!(
            message(Args::new(row())),
            "argument 0 of `quantize_nvfp4_rows`: expected input pointer `x`, got nothing"
        );
        assert_eq!(
            message(Args::new(row()).input("x", DevicePtr(1)).output("scales", DevicePtr(1))),
            "argument 1 of `quantize_nvfp4_rows`: expected output pointer `packed`, got output pointer `scales`"
        );
        assert!(message(full().u32("more", 1)).contains("expected no more arguments, got u32 `more`"));
    }
}
