//! Instructions that compute one register from others, lane by lane.
//!
//! The function is a type parameter, so that every operation and type has a loop of its own that the compiler
//! vectorises.

use crate::decode::{Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;

/// Sources of an instruction, constants spread over the lanes in advance.
struct Sources<const N: usize> {
    sources: [Src; N],
    constants: [Option<Box<[u64; LANES]>>; N],
}

impl<const N: usize> Sources<N> {
    fn new(sources: [Src; N]) -> Self {
        let constants = sources.map(|s| match s {
            Src::Imm(value) => Some(Box::new([value; LANES])),
            _ => None,
        });
        Self { sources, constants }
    }

    /// The rows, without copying them; `None` if a source is neither a register nor a constant.
    #[inline(always)]
    fn rows<'a>(&'a self, ctx: &'a Ctx<'_>) -> Option<[&'a [u64; LANES]; N]> {
        let mut rows = [&[0; LANES]; N];
        for (row, (source, constant)) in rows.iter_mut().zip(self.sources.iter().zip(&self.constants)) {
            *row = match (*source, constant) {
                (Src::Reg(reg), _) => ctx.warp.row(reg),
                (_, Some(constant)) => constant,
                _ => return None,
            };
        }
        Some(rows)
    }
}

struct Lanewise<const N: usize, F> {
    dst: Reg,
    sources: Sources<N>,
    f: F,
}

impl<const N: usize, F: Fn([u64; N]) -> u64 + Send + Sync> Execute for Lanewise<N, F> {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(rows) = self.sources.rows(ctx) else {
            ctx.map(self.dst, self.sources.sources, &self.f);
            return Flow::Next;
        };
        let mut out = [0; LANES];
        for (lane, value) in out.iter_mut().enumerate() {
            *value = (self.f)(std::array::from_fn(|i| rows[i][lane]));
        }
        ctx.write_row(self.dst, &self.sources.sources, &out);
        Flow::Next
    }
}

/// An instruction that computes `f` for all lanes. `f` sees registers zero-extended, runs for lanes that do
/// not execute too, and must not panic.
pub(super) fn lanewise<const N: usize>(
    dst: Reg,
    sources: [Src; N],
    f: impl Fn([u64; N]) -> u64 + Send + Sync + 'static,
) -> Result<Op> {
    Ok(Box::new(Lanewise { dst, sources: Sources::new(sources), f }))
}

struct Slow<const N: usize, F> {
    dst: Reg,
    sources: [Src; N],
    f: F,
}

impl<const N: usize, F: Fn([u64; N]) -> u64 + Send + Sync> Execute for Slow<N, F> {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map_lanes(self.dst, self.sources, &self.f);
        Flow::Next
    }
}

/// As [`lanewise`], for functions that take long: `f` runs for executing lanes only.
pub(super) fn slow_lanewise<const N: usize>(
    dst: Reg,
    sources: [Src; N],
    f: impl Fn([u64; N]) -> u64 + Send + Sync + 'static,
) -> Result<Op> {
    Ok(Box::new(Slow { dst, sources, f }))
}

/// A machine integer as registers hold it: zero-extended to 64 bits.
pub(super) trait Bits: Copy {
    /// From the low bits of a register.
    fn from_bits(bits: u64) -> Self;
    /// To a register.
    fn into_bits(self) -> u64;
}

macro_rules! bits {
    ($($t:ty => $u:ty),+) => {
        $(impl Bits for $t {
            #[inline(always)]
            fn from_bits(bits: u64) -> Self {
                bits as $t
            }
            #[inline(always)]
            fn into_bits(self) -> u64 {
                u64::from(self as $u)
            }
        })+
    };
}

bits!(u8 => u8, i8 => u8, u16 => u16, i16 => u16, u32 => u32, i32 => u32, u64 => u64, i64 => u64);

impl Bits for bool {
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        bits & 1 == 1
    }
    #[inline(always)]
    fn into_bits(self) -> u64 {
        u64::from(self)
    }
}

/// A lane-wise instruction over the integer type `$ty`: the body sees its arguments as that type's Rust
/// integer and may return any [`Bits`]. The listed Rust types are those the instruction has.
macro_rules! integer {
    ($d:expr, $ty:expr, [$($t:ident),+], $dst:expr, $src:expr, |$a:ident| $body:expr) => {{
        use $crate::ops::lanewise::{Bits, RustInt, lanewise};
        match RustInt::of($ty) {
            $(Some(RustInt::$t) => lanewise($dst, $src, |[$a]| {
                let $a = <$t as Bits>::from_bits($a);
                Bits::into_bits($body)
            }),)+
            _ => $d.error(format!("has no type {:?}", $ty)),
        }
    }};
    ($d:expr, $ty:expr, [$($t:ident),+], $dst:expr, $src:expr, |$a:ident, $b:ident| $body:expr) => {{
        use $crate::ops::lanewise::{Bits, RustInt, lanewise};
        match RustInt::of($ty) {
            $(Some(RustInt::$t) => lanewise($dst, $src, |[$a, $b]| {
                let $a = <$t as Bits>::from_bits($a); let $b = <$t as Bits>::from_bits($b);
                Bits::into_bits($body)
            }),)+
            _ => $d.error(format!("has no type {:?}", $ty)),
        }
    }};
    ($d:expr, $ty:expr, [$($t:ident),+], $dst:expr, $src:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {{
        use $crate::ops::lanewise::{Bits, RustInt, lanewise};
        match RustInt::of($ty) {
            $(Some(RustInt::$t) => lanewise($dst, $src, |[$a, $b, $c]| {
                let $a = <$t as Bits>::from_bits($a); let $b = <$t as Bits>::from_bits($b); let $c = <$t as Bits>::from_bits($c);
                Bits::into_bits($body)
            }),)+
            _ => $d.error(format!("has no type {:?}", $ty)),
        }
    }};
}
pub(super) use integer;

/// The Rust integer of a PTX type; bit types are unsigned.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RustInt {
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
}

impl RustInt {
    /// `None` for types that are no scalar integers.
    pub(super) fn of(ty: crate::types::Ty) -> Option<Self> {
        use crate::types::Ty;
        Some(match ty {
            Ty::B8 | Ty::U8 => RustInt::u8,
            Ty::S8 => RustInt::i8,
            Ty::B16 | Ty::U16 => RustInt::u16,
            Ty::S16 => RustInt::i16,
            Ty::B32 | Ty::U32 => RustInt::u32,
            Ty::S32 => RustInt::i32,
            Ty::B64 | Ty::U64 => RustInt::u64,
            Ty::S64 => RustInt::i64,
            _ => return None,
        })
    }
}
