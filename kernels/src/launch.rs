//! The launch table: what a host must know to launch each kernel.
//!
//! The bounds of a row are the ones that its `#[kernel(bounds = ..)]` names, so the table and the PTX cannot
//! differ; a test compares them all the same.

pub use cuda_std::launch::LaunchBounds;

use crate::row;
#[cfg(not(target_arch = "nvptx64"))]
use crate::{
    combine, count_slots, dense_bf16_linear, dense_bf16_swiglu, dense_fp8_linear, dense_fp8_swiglu,
    expert_decode, expert_gemm_medium, expert_gemm_small, expert_gemm_wide, gather_lines, place_slots,
    prepare_rows_bf16, prepare_rows_nvfp4_bf16, prepare_rows_nvfp4_f32, quantise_blocks_bf16,
    quantise_blocks_f32, quantize_nvfp4_rows, read_stream, repack_nvfp4, repack_nvfp4_blocks, route_tokens,
    router_logits, rows_amax_bf16, rows_amax_f32, sort_slots, swiglu_quantize_nvfp4, tcgen05_gemm,
    tcgen05_mega,
};

/// An architecture that a PTX module is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Hopper with its architecture-specific features: compute capability 9.0 only.
    Sm90a,
    /// Blackwell with its architecture-specific features: compute capability 10.0 only.
    Sm100a,
}

impl Arch {
    /// Every architecture that PTX is shipped for.
    pub const ALL: [Arch; 2] = [Arch::Sm90a, Arch::Sm100a];

    /// The name in `.target`: `sm_90a` or `sm_100a`.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
        }
    }

    /// The PTX module for this architecture.
    #[cfg(not(target_arch = "nvptx64"))]
    pub const fn ptx(self) -> &'static str {
        match self {
            Arch::Sm90a => crate::PTX_SM_90A,
            Arch::Sm100a => crate::PTX_SM_100A,
        }
    }

    /// The architecture whose module runs on a device of compute capability `major.minor`.
    pub const fn for_compute_capability(major: i32, minor: i32) -> Option<Arch> {
        match (major, minor) {
            (9, 0) => Some(Arch::Sm90a),
            (10, 0) => Some(Arch::Sm100a),
            _ => None,
        }
    }
}

/// Type of one kernel parameter, in the order and with the size that the launch passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgType {
    /// Device pointer to data that is only read; 8 bytes.
    ConstPtr,
    /// Device pointer to data that is written; 8 bytes.
    MutPtr,
    /// `u32`; 4 bytes.
    U32,
    /// `f32`; 4 bytes.
    F32,
}

impl ArgType {
    /// Bytes of the parameter, which are also its alignment.
    pub const fn size(self) -> usize {
        match self {
            ArgType::ConstPtr | ArgType::MutPtr => 8,
            ArgType::U32 | ArgType::F32 => 4,
        }
    }
}

/// One kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The parameter's name in the kernel.
    pub name: &'static str,
    /// Its type.
    pub ty: ArgType,
    /// Shape, element type and unit.
    pub doc: &'static str,
}

impl Arg {
    /// A pointer to data that is only read.
    pub const fn input(name: &'static str, doc: &'static str) -> Self {
        Self { name, ty: ArgType::ConstPtr, doc }
    }

    /// A pointer to data that is written.
    pub const fn output(name: &'static str, doc: &'static str) -> Self {
        Self { name, ty: ArgType::MutPtr, doc }
    }

    /// A `u32`.
    pub const fn u32(name: &'static str, doc: &'static str) -> Self {
        Self { name, ty: ArgType::U32, doc }
    }

    /// An `f32`.
    pub const fn f32(name: &'static str, doc: &'static str) -> Self {
        Self { name, ty: ArgType::F32, doc }
    }
}

/// One row of the table: a kernel and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    /// Name of the entry in the PTX module.
    pub name: &'static str,
    /// What the PTX promises: the largest block (the exact one for [`Geometry::Fixed`]), blocks per SM, cluster.
    pub bounds: LaunchBounds,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Parameters in order.
    pub args: &'static [Arg],
    /// Architectures whose module has the entry.
    pub archs: &'static [Arch],
    /// How block and grid follow from the problem.
    pub geometry: Geometry,
}

/// How a launch chooses its block and grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// The block of [`LaunchBounds`]; the kernel's own documentation says the grid.
    Fixed,
    /// One block per row, striding: the block follows from the row's length, the grid from the row count and the
    /// device. Any grid from 1 block on is right; [`Launch::rows`] gives the fast one.
    Rows,
    /// Any number of whole warps from this one up to the block of [`LaunchBounds`]; the kernel's own documentation says
    /// which are fast, and the grid.
    Warps(u32),
    /// As [`Fixed`](Self::Fixed); the blocks wait for each other, so all must be resident at once: a cooperative launch,
    /// of at most as many blocks as fit the device.
    Resident,
}

/// Block and grid of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

/// Threads of one SM on both architectures.
const SM_THREADS: u32 = 2048;

/// Whether `blocks` blocks of `warps` warps with `registers` registers a thread fit on one SM at a time: each of its
/// four sub-partitions has 16384 registers and takes every fourth warp of a block, from a place that may differ from
/// block to block; registers are given to a warp in steps of 8 for each thread (CUDA C++ Programming Guide, compute
/// capability 9.x: 64 K registers per multiprocessor; the division into four follows from what launches: nine
/// warps of 224 do not).
pub const fn registers_fit(blocks: u32, warps: u32, registers: u32) -> bool {
    (blocks * warps).div_ceil(4) * 32 * registers.next_multiple_of(8) <= 16384
}

const _: () = assert!(registers_fit(1, 9, 168) && !registers_fit(1, 9, 176) && registers_fit(2, 8, 128));

impl Launch {
    /// Dimensions for a kernel of [`Geometry::Rows`]: up to `max_rows` rows of `k` elements on a device of `sms`
    /// multiprocessors. One block per row (padding rows up to a multiple of 128 included: they are written too),
    /// but no more blocks than the device can hold at once. The result does not depend on the dimensions.
    pub const fn rows(&self, max_rows: u32, k: u32, sms: u32) -> Dims {
        let slots = if max_rows <= 2 * sms { 1 } else { row::SLOTS };
        let threads = row::block_threads(k, slots);
        // At most what the hardware holds; registers may allow fewer, and the stride takes up the rest.
        let resident = sms * (SM_THREADS / threads);
        let work = max_rows.div_ceil(128) * 128;
        let blocks = if work < resident { work } else { resident };
        Dims {
            grid: [if blocks == 0 { 1 } else { blocks }, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: self.shared_bytes,
        }
    }
}

/// Every kernel.
#[cfg(not(target_arch = "nvptx64"))]
pub const TABLE: &[Launch] = &[
    combine::LAUNCH,
    count_slots::LAUNCH,
    dense_bf16_linear::LAUNCH,
    dense_bf16_swiglu::LAUNCH,
    dense_fp8_linear::LAUNCH,
    dense_fp8_swiglu::LAUNCH,
    expert_decode::LAUNCH,
    expert_gemm_medium::SWIGLU_BF16,
    expert_gemm_medium::SWIGLU_F32,
    expert_gemm_medium::PLAIN_F32,
    expert_gemm_small::SWIGLU_BF16,
    expert_gemm_small::SWIGLU_F32,
    expert_gemm_small::PLAIN_F32,
    expert_gemm_wide::BROAD_SWIGLU_BF16,
    expert_gemm_wide::BROAD_SWIGLU_F32,
    expert_gemm_wide::BROAD_PLAIN_F32,
    expert_gemm_wide::WIDE_SWIGLU_BF16,
    expert_gemm_wide::WIDE_SWIGLU_F32,
    expert_gemm_wide::WIDE_PLAIN_F32,
    expert_gemm_wide::NARROW_SWIGLU_BF16,
    expert_gemm_wide::NARROW_SWIGLU_F32,
    expert_gemm_wide::NARROW_PLAIN_F32,
    gather_lines::LAUNCH,
    place_slots::LAUNCH,
    prepare_rows_bf16::LAUNCH,
    prepare_rows_nvfp4_bf16::LAUNCH,
    prepare_rows_nvfp4_f32::LAUNCH,
    quantise_blocks_bf16::LAUNCH,
    quantise_blocks_f32::LAUNCH,
    quantize_nvfp4_rows::LAUNCH,
    read_stream::LAUNCH,
    repack_nvfp4::LAUNCH,
    repack_nvfp4_blocks::LAUNCH,
    route_tokens::LAUNCH,
    router_logits::LAUNCH,
    rows_amax_bf16::LAUNCH,
    rows_amax_f32::LAUNCH,
    sort_slots::LAUNCH,
    swiglu_quantize_nvfp4::LAUNCH,
    tcgen05_gemm::PLAIN_F32,
    tcgen05_gemm::SWIGLU_F32,
    tcgen05_gemm::SWIGLU_NVFP4,
    tcgen05_gemm::PLAIN_F32_PAIR,
    tcgen05_gemm::SWIGLU_F32_PAIR,
    tcgen05_gemm::SWIGLU_NVFP4_PAIR,
    tcgen05_mega::LAUNCH,
    tcgen05_mega::LAUNCH_PAIR,
];

/// The row of the kernel `name`.
#[cfg(not(target_arch = "nvptx64"))]
pub fn find(name: &str) -> Option<&'static Launch> {
    TABLE.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of each parameter of an entry, and the text of its directives.
    fn entry(ptx: &str, name: &str) -> Option<(Vec<usize>, String)> {
        let start = ptx.find(&format!(".entry {name}("))?;
        let text = &ptx[start..];
        let close = text.find("\n)")?;
        let sizes = text[..close]
            .lines()
            .filter(|l| l.contains(".param"))
            .map(|l| if l.contains(".u64") { 8 } else { 4 })
            .collect();
        Some((sizes, text[close + 2..close + text[close..].find('{')?].to_string()))
    }

    #[test]
    fn the_table_is_what_the_ptx_says() {
        for arch in Arch::ALL {
            let ptx = arch.ptx();
            assert!(ptx.contains(&format!(".target {}\n", arch.name())));
            for row in TABLE {
                let found = entry(ptx, row.name);
                assert_eq!(found.is_some(), row.archs.contains(&arch), "{} on {}", row.name, arch.name());
                let Some((sizes, directives)) = found else { continue };
                let want: Vec<usize> = row.args.iter().map(|a| a.ty.size()).collect();
                assert_eq!(sizes, want, "parameters of {}", row.name);
                let [x, y, z] = row.bounds.block;
                assert!(directives.contains(&format!(".maxntid {x}, {y}, {z}\n")), "{directives}");
                for (directive, value) in
                    [(".minnctapersm", row.bounds.min_ctas_per_sm), (".maxnreg", row.bounds.max_registers)]
                {
                    let line = format!("{directive} {value}\n");
                    assert_eq!(directives.contains(&line), value != 0, "{directive} of {}", row.name);
                }
            }
            let entries = ptx.matches(".visible .entry ").count();
            assert_eq!(entries, TABLE.iter().filter(|r| r.archs.contains(&arch)).count());
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for row in TABLE {
            assert_eq!(find(row.name), Some(row));
        }
        assert_eq!(find("nothing"), None);
        assert_eq!(Arch::for_compute_capability(9, 0), Some(Arch::Sm90a));
        assert_eq!(Arch::for_compute_capability(10, 0), Some(Arch::Sm100a));
        assert_eq!(Arch::for_compute_capability(10, 3), None);
    }

    #[test]
    fn every_row_fits_its_block() {
        let launch = &quantize_nvfp4_rows::LAUNCH;
        for k in (16..=row::MAX_K).step_by(16) {
            for max_rows in [0, 1, 264, 265, 100_000] {
                let dims = launch.rows(max_rows, k, 132);
                let threads = dims.block[0];
                assert!(threads.is_multiple_of(32) && threads <= launch.bounds.threads());
                assert!(threads * row::SLOTS * 16 >= k, "k {k}");
                assert!(dims.grid[0] >= 1 && dims.grid[0] * threads <= 132 * SM_THREADS);
            }
        }
    }
}
