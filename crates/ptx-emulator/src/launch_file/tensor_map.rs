//! Tensor maps in launch files.

use serde::Deserialize;

use crate::ops::tensor_map::{Element, Fill, Interleave, Swizzle, TensorMap};

/// `{"buffer", "element_type", "dims", "strides_bytes", "box", "element_strides", "swizzle", "interleave",
/// "oob_fill"}`, `{.., "im2col": {"lower", "upper", "channels", "pixels"}}` in place of `box`: dims innermost first, strides of dims 1.. in bytes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    buffer: String,
    #[serde(alias = "dtype")]
    element_type: String,
    dims: Vec<u64>,
    #[serde(default, alias = "strides")]
    strides_bytes: Vec<u64>,
    #[serde(rename = "box", alias = "box_dims", default)]
    box_dims: Vec<u32>,
    /// In place of `box`.
    #[serde(default)]
    im2col: Option<Im2colBox>,
    element_strides: Option<Vec<u32>>,
    #[serde(default)]
    swizzle: Option<String>,
    #[serde(default)]
    interleave: Option<String>,
    #[serde(default)]
    oob_fill: Option<String>,
    /// No effect on results.
    #[serde(default)]
    #[allow(dead_code)]
    l2_promotion: Option<serde_json::Value>,
    /// Bytes from the start of the buffer.
    #[serde(default)]
    offset: u64,
}

/// Corners in W, H, D, channels per pixel, pixels per column.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Im2colBox {
    lower: Vec<i32>,
    upper: Vec<i32>,
    channels: u32,
    pixels: u32,
}

impl Description {
    /// Name of the buffer.
    pub fn buffer(&self) -> &String {
        &self.buffer
    }

    /// The 128 bytes of the map over a buffer at `address`.
    pub fn encode(&self, address: u64) -> Result<Vec<u8>, String> {
        let normal = |s: &Option<String>| {
            let text = s.as_deref().unwrap_or("none").to_ascii_lowercase();
            text.trim_start_matches("swizzle_").trim_start_matches("interleave_").to_owned()
        };
        let swizzle = match normal(&self.swizzle).as_str() {
            "none" | "0" => Swizzle::None,
            "32b" | "32" => Swizzle::B32,
            "64b" | "64" => Swizzle::B64,
            "128b" | "128" => Swizzle::B128,
            "128b_atom_32b" => Swizzle::B128Atom32,
            "128b_atom_32b_flip_8b" => Swizzle::B128Atom32Flip8,
            "128b_atom_64b" => Swizzle::B128Atom64,
            other => return Err(format!("swizzle {other} is not known")),
        };
        let interleave = match normal(&self.interleave).as_str() {
            "none" | "0" => Interleave::None,
            "16b" | "16" => Interleave::B16,
            "32b" | "32" => Interleave::B32,
            other => return Err(format!("interleave {other} is not known")),
        };
        let fill = match normal(&self.oob_fill).as_str() {
            "none" | "zero" | "zeros" | "0" => Fill::Zero,
            "nan" | "nans" | "nan_request_zero_fma" => Fill::Nan,
            other => return Err(format!("oob_fill {other} is not known")),
        };
        let mut map = TensorMap::new(
            element(&self.element_type)?,
            address + self.offset,
            &self.dims,
            &self.strides_bytes,
            &self.box_dims,
        );
        if let Some(b) = &self.im2col {
            map = map.im2col(&b.lower, &b.upper, b.channels, b.pixels);
        }
        if let Some(strides) = &self.element_strides {
            map.element_strides.clone_from(strides);
        }
        (map.swizzle, map.interleave, map.fill) = (swizzle, interleave, fill);
        map.encode().map(|bytes| bytes.to_vec()).map_err(|e| e.to_string())
    }
}

fn element(name: &str) -> Result<Element, String> {
    let name = name.to_ascii_lowercase();
    Ok(match name.trim_start_matches("cu_tensor_map_data_type_") {
        "uint8" | "u8" | "int8" | "i8" | "s8" | "b8" | "float8_e4m3" | "float8_e4m3fn" | "float8_e5m2"
        | "e4m3" | "e5m2" | "fp8" => Element::U8,
        "uint16" | "u16" | "int16" | "i16" | "b16" => Element::U16,
        "uint32" | "u32" | "b32" => Element::U32,
        "int32" | "i32" | "s32" => Element::S32,
        "uint64" | "u64" | "b64" => Element::U64,
        "int64" | "i64" | "s64" => Element::S64,
        "float16" | "f16" | "half" => Element::F16,
        "bfloat16" | "bf16" => Element::BF16,
        "float32" | "f32" | "float" => Element::F32,
        "float32_ftz" => Element::F32Ftz,
        "float64" | "f64" | "double" => Element::F64,
        "tfloat32" | "tf32" => Element::TF32,
        "tfloat32_ftz" => Element::TF32Ftz,
        "16u4_align8b" | "u4_align8" | "b4x16" => Element::U4Align8,
        "16u4_align16b" | "u4_align16" | "b4x16_p64" => Element::U4Align16,
        "16u6_align16b" | "b6x16_p32" => Element::U6Align16,
        other => return Err(format!("element type {other} is not known")),
    })
}
