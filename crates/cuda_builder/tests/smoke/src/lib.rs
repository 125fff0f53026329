//! Calls every device function of `cuda_std` once.
#![no_std]
#![feature(abi_ptx, asm_experimental_arch)]

use cuda_std::prelude::*;
use cuda_std::{cluster, fence, grid};

cuda_std::dynamic_shared_memory!();

#[kernel(bounds = LaunchBounds::block(128).min_ctas(1).cluster(2))]
pub unsafe fn everything(x: *const u32, out: *mut u32) {
    // SAFETY: compiled only, never launched.
    unsafe {
        grid::wait_for_dependencies();
        let mut v = thread::thread_idx_x() + thread::thread_idx_y() + thread::thread_idx_z();
        v += thread::block_idx_x() + thread::block_idx_y() + thread::block_idx_z();
        v += thread::block_dim_x() + thread::block_dim_y() + thread::block_dim_z();
        v += thread::grid_dim_x() + thread::grid_dim_y() + thread::grid_dim_z() + thread::index_1d();
        v += cluster::block_rank() + cluster::num_blocks() + warp::lane_id();
        thread::sync_threads();
        thread::sync_threads_named(1, 128);
        thread::arrive_named(2, 128);
        thread::nanosleep(32);
        warp::sync_warp(warp::FULL);
        v += warp::shuffle_idx(warp::FULL, v, 3) + warp::shuffle_xor(warp::FULL, v, 1);
        v += warp::shuffle_up(warp::FULL, v, 1) + warp::shuffle_down(warp::FULL, v, 1);
        v += u32::from(warp::vote_all(warp::FULL, v > 3)) + u32::from(warp::vote_any(warp::FULL, v > 5));
        v += warp::vote_ballot(warp::FULL, v > 7);
        v += warp::reduce_add_u32(warp::FULL, v) + warp::reduce_min_u32(warp::FULL, v);
        v += warp::reduce_max_u32(warp::FULL, v) + warp::reduce_and_u32(warp::FULL, v);
        v += warp::reduce_or_u32(warp::FULL, v) + warp::reduce_xor_u32(warp::FULL, v);
        warp::set_max_registers_dec::<40>();
        warp::set_max_registers_inc::<232>();
        cluster::arrive_relaxed();
        cluster::wait();
        cluster::sync();
        fence::block_fence();
        fence::device_fence();
        fence::system_fence();
        fence::proxy_async_shared();
        let s = shared::dynamic();
        shared::store_u32(s, v);
        shared::store_v2(s + 8, [v, v]);
        shared::store_v4(s + 16, [v; 4]);
        thread::sync_threads();
        v += shared::load_u32(s) + shared::load_v2(s + 8)[1] + shared::load_v4(s + 16)[3];
        let (a, b, c) = (global::load_v4(x), global::load_nc_v4(x), global::load_stream_v4(x));
        v += a[0] + b[1] + c[2];
        global::prefetch_l2(x);
        global::store_v4(out, [v; 4]);
        global::store_v2(out.add(4), [v; 2]);
        let f = math::max_nan(math::min_nan(math::fma(f32::from_bits(v), 3.0, 1.0), 5.0), -5.0).to_bits();
        out.add(6).write(math::max_u16x2(v, f) + math::prmt(v, f, 0x3715));
        grid::launch_dependents();
    }
}

/// The shape in which LLVM copies a barrier: the same predicate on both sides of it.
#[kernel(bounds = LaunchBounds::block(128))]
pub unsafe fn one_barrier(x: *const u32, out: *mut u32) {
    // SAFETY: compiled only, never launched.
    unsafe {
        let mine = warp::elect(warp::FULL);
        let mut v = if mine { *x } else { 7 };
        thread::sync_threads();
        if mine {
            v += 1;
        } else {
            v *= 3;
        }
        out.add(thread::thread_idx_x() as usize).write(v);
    }
}

#[cfg(target_feature = "sm_90a")]
#[kernel(bounds = LaunchBounds::block(128))]
pub unsafe fn tensor_core_order() {
    use cuda_std::wgmma;
    // SAFETY: compiled only, never launched.
    unsafe {
        wgmma::fence();
        wgmma::commit_group();
        wgmma::wait_group::<0>();
    }
}

#[cfg(target_feature = "sm_100a")]
#[kernel(bounds = LaunchBounds::block(128))]
pub unsafe fn tensor_core_order() {
    use cuda_std::tcgen05;
    // SAFETY: compiled only, never launched.
    unsafe {
        tcgen05::fence_before_thread_sync();
        tcgen05::fence_after_thread_sync();
        tcgen05::wait_ld();
        tcgen05::wait_st();
        tcgen05::relinquish_alloc_permit();
    }
}
