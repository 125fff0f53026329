//! Control flow: `bra`, `brx.idx`, `ret`, `exit`, `trap`, `__assertfail`, and what calls are made of (PTX ISA 9.7.12).

use super::{Entry, form, root};
use crate::check::Class;
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("bra", decode_bra),
    form("brx", &["idx"], decode_brx),
    root("exit", decode_exit),
    root("ret", decode_exit),
    root("trap", decode_trap),
];

struct Bra {
    target: u32,
}

impl Execute for Bra {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Jump(self.target)
    }
}

/// `brx.idx`: a branch table.
struct Brx {
    index: Src,
    targets: Vec<u32>,
}

impl Execute for Brx {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            ctx.report_poison(ctx.origin(self.index, lane), lane, "the index of a branch");
        }
        let indices = ctx.row(self.index);
        let first = ctx.mask.trailing_zeros() as usize;
        // Lanes with another index stay here, and jump when they execute next.
        ctx.mask = ctx.lanes().filter(|&l| indices[l] == indices[first]).fold(0, |m, l| m | 1 << l);
        if let Some(&target) = self.targets.get(indices[first] as usize) {
            return Flow::Jump(target);
        }
        let message = format!("index {} of a branch with {} targets", indices[first], self.targets.len());
        ctx.finding(Class::Undefined, first, message, None);
        Flow::Abort
    }
}

struct Exit;

impl Execute for Exit {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Exit
    }
}

struct Trap;

impl Execute for Trap {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        ctx.finding(Class::Trap, lane, "trap executed".to_owned(), None);
        Flow::Abort
    }
}

/// A call of `__assertfail`: its message, file, line and function.
struct AssertFail([Src; 4]);

impl AssertFail {
    /// An argument of `N` bytes, from the variable that it was stored to.
    fn argument<const N: usize>(&self, ctx: &mut Ctx<'_>, lane: usize, i: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let at = ctx.resolve(AddressSpace::Param, self.0[i], ctx.get(self.0[i], lane), lane)?;
        ctx.read(at, lane, &mut bytes)?.then_some(bytes)
    }

    /// The text that an argument points to, without its end if that is far away.
    fn text(&self, ctx: &mut Ctx<'_>, lane: usize, i: usize) -> Option<String> {
        let pointer = u64::from_le_bytes(self.argument(ctx, lane, i)?);
        let mut text = Vec::new();
        for address in (0..256).map(|n| pointer.wrapping_add(n)) {
            let at = ctx.resolve(AddressSpace::Generic, Src::Imm(0), address, lane)?;
            let mut byte = [0];
            if !ctx.read(at, lane, &mut byte)? || byte == [0] {
                break;
            }
            text.push(byte[0]);
        }
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Execute for AssertFail {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        let [message, file, function] = [0, 1, 3].map(|i| self.text(ctx, lane, i).unwrap_or_default());
        let line = self.argument(ctx, lane, 2).map_or(0, u32::from_le_bytes);
        let message = format!("assertion `{message}` failed at {file}:{line}, in {function}");
        ctx.finding(Class::Trap, lane, message, None);
        Flow::Abort
    }
}

/// A call of `__assertfail`; the arguments are in `.param` variables.
pub(crate) fn assert_fail(arguments: [Src; 4]) -> Op {
    Box::new(AssertFail(arguments))
}

/// A jump to a code index: `ret` of a function, and around a call whose guard does not hold.
pub(crate) fn jump(target: u32) -> Op {
    Box::new(Bra { target })
}

struct CallIf {
    pointer: Src,
    address: u64,
    next: u32,
}

impl Execute for CallIf {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            ctx.report_poison(ctx.origin(self.pointer, lane), lane, "the pointer of a call");
        }
        let pointers = ctx.row(self.pointer);
        let first = pointers[ctx.mask.trailing_zeros() as usize] == self.address;
        // Lanes that go the other way stay here, and do it when they execute next.
        let same = |l: &usize| (pointers[*l] == self.address) == first;
        ctx.mask = ctx.lanes().filter(same).fold(0, |m, l| m | 1 << l);
        if first { Flow::Next } else { Flow::Jump(self.next) }
    }
}

/// In front of a callee of a call through a pointer: other pointers go on to the next callee.
pub(crate) fn call_if(pointer: Src, address: u64, next: u32) -> Op {
    Box::new(CallIf { pointer, address, next })
}

struct BadCall;

impl Execute for BadCall {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        let message =
            "a call through a pointer to none of its targets (recursion is not modelled)".to_owned();
        ctx.finding(Class::Undefined, lane, message, None);
        Flow::Abort
    }
}

/// Behind the last callee of a call through a pointer.
pub(crate) fn bad_call() -> Op {
    Box::new(BadCall)
}

struct CopyRegister {
    dst: Reg,
    src: Src,
}

impl Execute for CopyRegister {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, [self.src], |[a]| a);
        Flow::Next
    }
}

/// A parameter in a register.
pub(crate) fn copy_register(dst: Reg, src: Src) -> Op {
    Box::new(CopyRegister { dst, src })
}

/// `bra{.uni} label`.
fn decode_bra(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("uni");
    let target = d.label(0)?;
    d.finish(1)?;
    Ok(Box::new(Bra { target }))
}

/// `brx.idx{.uni} index, targets`.
fn decode_brx(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("idx");
    d.take("uni");
    let op = Brx { index: d.value(0, Ty::U32)?, targets: d.branch_targets(1)? };
    d.finish(2)?;
    Ok(Box::new(op))
}

/// `ret{.uni}` of an entry, `exit`.
fn decode_exit(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("uni");
    d.finish(0)?;
    Ok(Box::new(Exit))
}

/// `trap`.
fn decode_trap(d: &mut Decoder<'_>) -> Result<Op> {
    d.finish(0)?;
    Ok(Box::new(Trap))
}
