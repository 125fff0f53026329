//! The counters, with the names that they have in JSON.

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

macro_rules! counters {
    ($($id:ident $name:literal $unit:ident $text:literal)*) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $(#[doc = $text] $id,)*
        }

        impl Counter {
            /// All of them, in the order of tables.
            pub const ALL: &[Counter] = &[$(Counter::$id),*];

            /// Stable name.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$id => $name),* }
            }

            /// Unit.
            pub fn unit(self) -> Unit {
                match self { $(Counter::$id => Unit::$unit),* }
            }

            /// What it counts.
            pub fn about(self) -> &'static str {
                match self { $(Counter::$id => $text),* }
            }
        }
    };
}

counters! {
    GlobalLoadBytes "global.load.bytes" Bytes "Bytes that lanes load from global memory."
    GlobalLoadSectors "global.load.sectors" Count "32-byte sectors that these loads touch, per warp instruction."
    GlobalStoreBytes "global.store.bytes" Bytes "Bytes that lanes store to global memory."
    GlobalStoreSectors "global.store.sectors" Count "Sectors that these stores touch."
    GlobalAtomicBytes "global.atomic.bytes" Bytes "Bytes of atomics and reductions on global memory."
    GlobalAtomicSectors "global.atomic.sectors" Count "Sectors that they touch."
    CpAsyncBytes "cp_async.bytes" Bytes "Bytes that cp.async reads from global memory."
    CpAsyncSectors "cp_async.sectors" Count "Sectors that it touches."
    BulkLoadBytes "bulk.load.bytes" Bytes "Bytes of cp.async.bulk from global to shared memory, once for a multicast."
    BulkLoadDelivered "bulk.load.delivered_bytes" Bytes "The same, once for every destination CTA."
    BulkStoreBytes "bulk.store.bytes" Bytes "Bytes of cp.async.bulk and its reductions to global memory."
    TensorLoadBytes "tensor_copy.load.bytes" Bytes "Bytes that cp.async.bulk.tensor reads from global memory."
    TensorLoadSectors "tensor_copy.load.sectors" Count "Sectors that it touches, row of a box by row."
    TensorLoadDelivered "tensor_copy.load.delivered_bytes" Bytes "Bytes that it completes on mbarriers: with fill, for every CTA."
    TensorStoreBytes "tensor_copy.store.bytes" Bytes "Bytes that tensor stores and reductions write to global memory."
    LocalLoadBytes "local.load.bytes" Bytes "Bytes that lanes load from local memory."
    LocalStoreBytes "local.store.bytes" Bytes "Bytes that lanes store to local memory."
    SharedLoadBytes "shared.load.bytes" Bytes "Bytes that lanes load from shared memory of their CTA."
    SharedLoadWavefronts "shared.load.wavefronts" Count "Passes over the 32 banks that these loads need."
    SharedLoadMinimum "shared.load.wavefronts_minimum" Count "Passes without bank conflicts."
    SharedStoreBytes "shared.store.bytes" Bytes "Bytes that lanes store to shared memory of their CTA."
    SharedStoreWavefronts "shared.store.wavefronts" Count "Passes that these stores need."
    SharedStoreMinimum "shared.store.wavefronts_minimum" Count "Passes without bank conflicts."
    SharedAtomicBytes "shared.atomic.bytes" Bytes "Bytes of atomics on shared memory of the CTA."
    SharedAtomicWavefronts "shared.atomic.wavefronts" Count "Passes that they need: lanes on one word follow each other."
    SharedAtomicMinimum "shared.atomic.wavefronts_minimum" Count "Passes without conflicts."
    LdMatrixBytes "ldmatrix.bytes" Bytes "Bytes that ldmatrix reads."
    LdMatrixWavefronts "ldmatrix.wavefronts" Count "Passes that it needs."
    LdMatrixMinimum "ldmatrix.wavefronts_minimum" Count "Passes without bank conflicts: one for each matrix."
    StMatrixBytes "stmatrix.bytes" Bytes "Bytes that stmatrix writes."
    StMatrixWavefronts "stmatrix.wavefronts" Count "Passes that it needs."
    StMatrixMinimum "stmatrix.wavefronts_minimum" Count "Passes without bank conflicts."
    ClusterLoadBytes "cluster.load.bytes" Bytes "Bytes that lanes load from shared memory of other CTAs."
    ClusterStoreBytes "cluster.store.bytes" Bytes "Bytes that lanes store there, st.async included."
    ClusterAtomicBytes "cluster.atomic.bytes" Bytes "Bytes of atomics there, red.async included."
    ClusterCopyBytes "cluster.copy.bytes" Bytes "Bytes of bulk copies and reductions to shared memory of other CTAs."
    MmaSharedBytes "mma.shared_operand.bytes" Bytes "Operand bytes that wgmma and tcgen05.mma read from shared memory."
    MmaTensorBytes "mma.tensor_operand.bytes" Bytes "Operand and scale bytes that tcgen05.mma reads from tensor memory."
    TensorCpBytes "tcgen05.cp.bytes" Bytes "Bytes that tcgen05.cp reads from shared memory."
    TensorLdBytes "tcgen05.ld.bytes" Bytes "Bytes that tcgen05.ld puts into registers."
    TensorStBytes "tcgen05.st.bytes" Bytes "Bytes that tcgen05.st takes from registers."
    TensorCommits "tcgen05.commits" Count "tcgen05.commit executed."
    BarrierWaits "barrier.waits" Count "Warps that waited at a barrier of the CTA."
    BarrierBlocked "barrier.blocked" Count "Those that were not the last to arrive."
    ClusterBarrierWaits "cluster_barrier.waits" Count "Warps that waited at the cluster barrier."
    ClusterBarrierBlocked "cluster_barrier.blocked" Count "Those that had to block."
    MbarrierWaits "mbarrier.waits" Count "Waits of warps for an mbarrier phase, however often they tried."
    MbarrierBlocked "mbarrier.blocked" Count "Those that did not find it complete at once."
    GroupWaits "group.waits" Count "Waits of warps for groups of asynchronous operations."
    GroupBlocked "group.blocked" Count "Those that had to block."
    Retries "waits.retries" Count "Executions of an instruction that only went on waiting; not part of the mix."
    DivergedInstructions "diverged.instructions" Count "Warp instructions executed while lanes of the warp were elsewhere."
    DivergentBranches "diverged.branches" Count "Branches at which the lanes of a warp parted."
}
