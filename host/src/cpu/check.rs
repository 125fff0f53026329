//! A layer's weights are public structs: their sizes are checked before anything is indexed.

use crate::error::{Error, Result};
use crate::weights::{FP8_BLOCK, LayerWeights, Linear, Nvfp4Matrix, SharedExpertWeights};

fn expect(what: &str, want: usize, got: usize) -> Result<()> {
    if want == got { Ok(()) } else { Err(Error::mismatch(what, format!("{want} elements"), got)) }
}

fn area(what: &str, rows: usize, cols: usize) -> Result<usize> {
    rows.checked_mul(cols).ok_or_else(|| Error::invalid(what, format!("{rows} x {cols} overflows")))
}

fn shape(what: &str, want: (usize, usize), got: (usize, usize)) -> Result<()> {
    if want == got {
        Ok(())
    } else {
        Err(Error::mismatch(what, format!("[{}, {}]", want.0, want.1), format!("[{}, {}]", got.0, got.1)))
    }
}

/// Buffers as long as the shape says, K whole blocks.
pub(super) fn nvfp4(what: &str, m: &Nvfp4Matrix) -> Result<()> {
    if m.cols == 0 || !m.cols.is_multiple_of(nvfp4::BLOCK) {
        return Err(Error::mismatch(format!("{what}: columns"), "a positive multiple of 16", m.cols));
    }
    let n = area(what, m.rows, m.cols)?;
    expect(&format!("{what}: packed bytes"), n / 2, m.packed.len())?;
    expect(&format!("{what}: scales"), n / nvfp4::BLOCK, m.scales.len())
}

fn linear(what: &str, m: &Linear) -> Result<()> {
    match m {
        Linear::Nvfp4(m) => nvfp4(what, m),
        Linear::Bf16(m) => expect(what, area(what, m.rows, m.cols)?, m.data.len()),
        Linear::Fp8(m) => {
            expect(what, area(what, m.rows, m.cols)?, m.data.len())?;
            let blocks = area(what, m.rows.div_ceil(FP8_BLOCK), m.cols.div_ceil(FP8_BLOCK))?;
            expect(&format!("{what}: scales"), blocks, m.scales.len())
        }
    }
}

/// A shared expert; returns its `(hidden, intermediate)`.
pub(super) fn shared(s: &SharedExpertWeights) -> Result<(usize, usize)> {
    let (intermediate, hidden) = s.gate.shape();
    for (what, m, want) in [
        ("shared expert gate", &s.gate, (intermediate, hidden)),
        ("shared expert up", &s.up, (intermediate, hidden)),
        ("shared expert down", &s.down, (hidden, intermediate)),
    ] {
        linear(what, m)?;
        shape(what, want, m.shape())?;
    }
    if hidden == 0 || intermediate == 0 {
        return Err(Error::invalid("shared expert", "has no rows or no columns"));
    }
    Ok((hidden, intermediate))
}

/// Every expert and the shared one against the configuration. (The router checks itself.)
pub(super) fn layer(layer: &LayerWeights) -> Result<()> {
    let c = &layer.config;
    if c.hidden == 0 || c.intermediate == 0 {
        return Err(Error::invalid("config", "hidden and intermediate must be positive"));
    }
    limit(c.swiglu_limit)?;
    if layer.experts.len() != c.experts {
        return Err(Error::mismatch("experts", c.experts, layer.experts.len()));
    }
    for (e, expert) in layer.experts.iter().enumerate() {
        for (name, m, want) in [
            ("gate", &expert.gate, (c.intermediate, c.hidden)),
            ("up", &expert.up, (c.intermediate, c.hidden)),
            ("down", &expert.down, (c.hidden, c.intermediate)),
        ] {
            // The name is only worth its allocation if something is wrong.
            if (m.rows, m.cols) != want || nvfp4("", m).is_err() {
                let what = format!("expert {e} {name}");
                shape(&what, want, (m.rows, m.cols))?;
                nvfp4(&what, m)?;
            }
        }
    }
    if let Some(s) = &layer.shared {
        let (hidden, intermediate) = shared(s)?;
        shape("shared expert gate", (c.shared_intermediate, c.hidden), (intermediate, hidden))?;
    }
    Ok(())
}

/// The clamp of SwiGLU as a number: `+inf` without one.
pub(super) fn limit(limit: Option<f32>) -> Result<f32> {
    match limit {
        None => Ok(f32::INFINITY),
        Some(l) if l > 0.0 => Ok(l),
        Some(l) => Err(Error::invalid("swiglu_limit", format!("{l} is not positive"))),
    }
}

/// `[tokens, cols]` bf16 rows.
pub(super) fn rows(what: &str, tokens: usize, cols: usize, got: usize) -> Result<()> {
    if tokens >= u32::MAX as usize {
        return Err(Error::invalid(what, format!("{tokens} rows do not fit into one call")));
    }
    expect(what, area(what, tokens, cols)?, got)
}
