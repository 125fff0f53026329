//! Where variables live.

use crate::syntax::ast::Variable;
use crate::types::Ty;

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Byte offset in parameter space.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
    /// Alignment.
    pub align: u32,
    /// Element type.
    pub ty: Ty,
}

/// A module-scope variable in global or constant memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// Name.
    pub name: String,
    /// Whether it is `.const`.
    pub constant: bool,
    /// Alignment.
    pub align: u32,
    /// Initial bytes.
    pub bytes: Vec<u8>,
}

/// Element type, byte size and alignment of a declaration; `None` for an unknown type. An open array `[]` has
/// size 0.
pub(super) fn extent(v: &Variable) -> Option<(Ty, u64, u32)> {
    let ty = Ty::parse(&v.ty)?;
    let unit = u64::from(ty.bytes()) * u64::from(v.vector.unwrap_or(1));
    let size = v.dims.iter().try_fold(unit, |n, &d| n.checked_mul(d))?;
    let align = v.align.unwrap_or(unit.min(16) as u32).max(1);
    Some((ty, size, align))
}

/// `offset` rounded up to `align`.
pub(super) fn align_up(offset: u32, align: u32) -> u32 {
    offset.next_multiple_of(align.max(1))
}
