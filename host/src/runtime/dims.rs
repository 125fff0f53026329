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
}
