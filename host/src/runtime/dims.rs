//! Launch dimensions, checked against the kernels' table.

use kernels::launch::{Dims, Geometry, Launch};

use crate::{Error, Result};

/// Whether the table allows the dimensions of a launch: block, shared memory, whole clusters.
pub fn check_dims(launch: &Launch, dims: &Dims) -> Result<()> {
    let mismatch = |what: &str, expected: String, got: String| {
        Err(Error::mismatch(format!("{what} of `{}`", launch.name), expected, got))
    };
    let bounds = &launch.bounds;
    let threads: u32 = dims.block.iter().product();
    let block_fits = match launch.geometry {
        Geometry::Fixed | Geometry::Resident => dims.block == bounds.block,
        Geometry::Warps(least) => {
            threads >= 32 * least
                && threads.is_multiple_of(32)
                && threads <= bounds.threads()
                && dims.block[1..] == [1, 1]
        }
        Geometry::Rows => threads != 0 && threads <= bounds.threads() && dims.block[1..] == [1, 1],
    };
    if !block_fits {
        return mismatch("block", format!("{:?} at most", bounds.block), format!("{:?}", dims.block));
    }
    if dims.shared_bytes != launch.shared_bytes {
        return mismatch("shared memory", launch.shared_bytes.to_string(), dims.shared_bytes.to_string());
    }
    let whole = |(&grid, &cluster): (&u32, &u32)| grid != 0 && grid.is_multiple_of(cluster.max(1));
    if !dims.grid.iter().zip(&bounds.cluster).all(whole) {
        let expected = format!("whole clusters of {:?}, at least one", bounds.cluster);
        return mismatch("grid", expected, format!("{:?}", dims.grid));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> &'static Launch {
        kernels::launch::find("quantize_nvfp4_rows").unwrap()
    }

    #[test]
    fn dimensions_are_checked() {
        let good = row().rows(1000, 2880, 132);
        check_dims(row(), &good).unwrap();
        for bad in [
            Dims { grid: [0, 1, 1], ..good },
            Dims { block: [0, 1, 1], ..good },
            Dims { block: [32, 2, 1], ..good },
            Dims { block: [row().bounds.threads() + 32, 1, 1], ..good },
            Dims { shared_bytes: good.shared_bytes + 1, ..good },
        ] {
            assert!(matches!(check_dims(row(), &bad), Err(Error::Mismatch { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_block_has_all_the_warps_that_a_kernel_needs() {
        use kernels::expert_gemm_small::{FETCH_WARPS, MAX_WARPS, PLAIN_F32, dims};
        let good = dims(4, 132).unwrap();
        check_dims(&PLAIN_F32, &good).unwrap();
        let of = |warps: u32| Dims { block: [32 * warps, 1, 1], ..good };
        check_dims(&PLAIN_F32, &of(FETCH_WARPS + 1)).unwrap();
        // One that only fetches, or more than there is room for, or half a warp.
        for bad in [of(FETCH_WARPS), of(FETCH_WARPS + MAX_WARPS + 1), Dims { block: [176, 1, 1], ..good }] {
            assert!(matches!(check_dims(&PLAIN_F32, &bad), Err(Error::Mismatch { .. })), "{bad:?}");
        }
    }
}
