//! A kernel that a launch depends on, as the kernels of a layer depend on one another: it has written the launch's
//! inputs and read its outputs, and may still run when the launch starts (programmatic stream serialisation).
//!
//! With it before a launch, an access that does not wait (`griddepcontrol.wait`, PTX ISA 9.7.13.13) is a race.

use kernels::expert_gemm_mma::ROUTING_SETTLED;
use kernels::launch::{Arch, Launch};

use super::Value;

/// Threads of its block.
pub const THREADS: u32 = 256;
/// Entry that writes `words` u32 at `p` as they are.
pub const REWRITE: &str = "rewrite";
/// Entry that reads them.
pub const READ: &str = "read";

/// Inputs that no kernel of the layer writes: a kernel may read them before it waits.
const CONSTANT: [&str; 9] =
    ["weight", "weight_up", "weights", "scales", "scales_up", "alpha", "alpha_up", "bias", "table"];
/// Inputs that an expert GEMM may read before it waits if the flag [`ROUTING_SETTLED`] says so.
const ROUTING: [&str; 2] = ["counts", "offsets"];

/// Its PTX for an architecture.
pub fn ptx(arch: Arch) -> String {
    let entry = |name: &str, store: &str| {
        format!(
            ".visible .entry {name}(.param .u64 p, .param .u32 words) {{\n\
             .reg .pred %q; .reg .b32 %r<4>; .reg .b64 %d<4>;\n\
             ld.param.u64 %d0, [p]; ld.param.u32 %r0, [words]; mov.u32 %r1, %tid.x;\n\
             again: setp.ge.u32 %q, %r1, %r0; @%q bra end;\n\
             mul.wide.u32 %d1, %r1, 4; add.s64 %d2, %d0, %d1; ld.global.u32 %r2, [%d2]; {store}\n\
             add.u32 %r1, %r1, {THREADS}; bra again; end: ret; }}\n"
        )
    };
    let target = arch.name();
    let (rewrite, read) = (entry(REWRITE, "st.global.u32 [%d2], %r2;"), entry(READ, ""));
    format!(".version 8.7\n.target {target}\n.address_size 64\n{rewrite}{read}")
}

/// Names of the entries of an architecture's module that wait for what they depend on.
pub fn waiting(arch: Arch) -> impl Iterator<Item = &'static str> {
    let entries = arch.ptx().split(".visible .entry ").skip(1);
    entries.filter(|text| text.contains("griddepcontrol.wait;")).filter_map(|text| text.split('(').next())
}

/// Which entry is for each argument of a launch, if any is.
pub fn touches<'a>(
    launch: &'a Launch,
    values: &'a [Value<'_>],
) -> impl Iterator<Item = Option<&'static str>> {
    let settled = launch.args.iter().zip(values).any(|(arg, value)| {
        let Value::U32(flags) = value else { return false };
        arg.name == "fold_alpha" && flags & ROUTING_SETTLED != 0
    });
    launch.args.iter().zip(values).map(move |(arg, value)| match value {
        Value::In(_) if CONSTANT.contains(&arg.name) => None,
        Value::In(_) if settled && ROUTING.contains(&arg.name) => None,
        Value::In(_) => Some(REWRITE),
        Value::Out(_) => Some(READ),
        Value::Null | Value::U32(_) | Value::F32(_) => None,
    })
}
