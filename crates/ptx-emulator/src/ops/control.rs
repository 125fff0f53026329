//! Control flow: `bra`, `ret`, `exit`, `trap` (PTX ISA 9.7.12).

use super::{Entry, root};
use crate::check::Class;
use crate::decode::{Decoder, Execute, Op, Result};
use crate::machine::{Ctx, Flow};

pub(super) const TABLE: &[Entry] = &[
    root("bra", decode_bra),
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

/// A jump to a code index: `ret` of a function, and around a call whose guard does not hold.
pub(crate) fn jump(target: u32) -> Op {
    Box::new(Bra { target })
}

/// `bra{.uni} label`.
fn decode_bra(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("uni");
    let target = d.label(0)?;
    d.finish(1)?;
    Ok(Box::new(Bra { target }))
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
