//! Launch bounds of a kernel, and what a kernel parameter may be.

/// What `.maxntid`, `.minnctapersm`, `.maxnreg` and `.reqnctapercluster` say about an entry (PTX ISA, Performance-Tuning Directives).
///
/// Given to `#[kernel(bounds = ..)]`; `cuda_builder` writes the directives, since rustc does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchBounds {
    /// Most threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks that must fit on one SM at a time; bounds the registers per thread. 0 = no demand.
    pub min_ctas_per_sm: u32,
    /// Most registers per thread; 0 = no limit of its own.
    pub max_registers: u32,
    /// Blocks of a cluster along x, y, z; all 0 = launched without clusters.
    pub cluster: [u32; 3],
}

impl LaunchBounds {
    /// A one-dimensional block of `threads` threads, no further demand.
    pub const fn block(threads: u32) -> Self {
        Self { block: [threads, 1, 1], min_ctas_per_sm: 0, max_registers: 0, cluster: [0; 3] }
    }

    /// Demands that `n` blocks fit on one SM.
    pub const fn min_ctas(self, n: u32) -> Self {
        Self { min_ctas_per_sm: n, ..self }
    }

    /// Limits a thread to `n` registers.
    pub const fn max_registers(self, n: u32) -> Self {
        Self { max_registers: n, ..self }
    }

    /// A cluster of `n` blocks along x.
    pub const fn cluster(self, n: u32) -> Self {
        Self { cluster: [n, 1, 1], ..self }
    }

    /// Threads of a block.
    pub const fn threads(&self) -> u32 {
        self.block[0] * self.block[1] * self.block[2]
    }
}

/// Fails compilation if `T` cannot be a kernel parameter; called by `#[kernel]` for each.
///
/// `Copy`, because the bytes are copied into the parameter space. Alignment at most 16, because the nvptx64 ABI
/// code of rustc 1.95/1.96 asserts on more: pass a tensor map by pointer to device memory.
pub const fn assert_kernel_param<T: Copy>() {
    assert!(
        align_of::<T>() <= 16,
        "a by-value kernel parameter must not be aligned to more than 16 bytes: pass it by pointer"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_sets_what_it_says() {
        const B: LaunchBounds = LaunchBounds::block(256).min_ctas(4).max_registers(64).cluster(2);
        assert_eq!(
            B,
            LaunchBounds { block: [256, 1, 1], min_ctas_per_sm: 4, max_registers: 64, cluster: [2, 1, 1] }
        );
        assert_eq!(B.threads(), 256);
    }

    #[test]
    fn over_aligned_parameters_are_refused() {
        #[derive(Clone, Copy)]
        #[repr(align(64))]
        struct Map([u64; 16]);
        let _ = Map([0; 16]).0;
        const { assert_kernel_param::<[u64; 16]>() };
        assert!(std::panic::catch_unwind(assert_kernel_param::<Map>).is_err());
    }
}
