//! The mnemonics that integer, floating-point and half-precision arithmetic share: dispatch by operand type.

use super::{Entry, float, float_special, half, integer, root};
use crate::decode::{DecodeFn, Decoder, Op, Result};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("add", |d| by_type(d, integer::decode_add_sub, float::decode_binary, half::decode_binary)),
    root("sub", |d| by_type(d, integer::decode_add_sub, float::decode_binary, half::decode_binary)),
    root("mul", |d| by_type(d, integer::decode_mul, float::decode_binary, half::decode_binary)),
    root("mad", |d| by_type(d, integer::decode_mad, float::decode_fma, none)),
    root("fma", |d| by_type(d, none, float::decode_fma, half::decode_fma)),
    root("div", |d| by_type(d, integer::decode_div_rem, float_special::decode_div, none)),
    root("rem", integer::decode_div_rem),
    root("abs", |d| by_type(d, integer::decode_abs_neg, float::decode_abs_neg, half::decode_abs_neg)),
    root("neg", |d| by_type(d, integer::decode_abs_neg, float::decode_abs_neg, half::decode_abs_neg)),
    root("min", |d| by_type(d, integer::decode_min_max, float::decode_min_max, half::decode_min_max)),
    root("max", |d| by_type(d, integer::decode_min_max, float::decode_min_max, half::decode_min_max)),
    root("ex2", |d| by_type(d, none, float_special::decode_function, half::decode_function)),
    root("tanh", |d| by_type(d, none, float_special::decode_function, half::decode_function)),
    root("copysign", float::decode_copysign),
    root("testp", float::decode_testp),
    root("mul24", integer::decode_24),
    root("mad24", integer::decode_24),
    root("sad", integer::decode_sad),
];

fn by_type(d: &mut Decoder<'_>, integer: DecodeFn, float: DecodeFn, half: DecodeFn) -> Result<Op> {
    // A mixed form such as add.f32.bf16 has f32 besides its last type.
    let mixed = d.rest().contains(&"f32");
    match d.peek_ty() {
        Some(Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2) if !mixed => half(d),
        Some(ty) if ty.is_float() => float(d),
        _ => integer(d),
    }
}

fn none(d: &mut Decoder<'_>) -> Result<Op> {
    d.error("has no such type")
}
