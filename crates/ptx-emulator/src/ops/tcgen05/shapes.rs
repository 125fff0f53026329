//! Lanes and columns of `tcgen05.ld`/`st` shapes (PTX ISA 9.7.16.2.3).

/// A data-movement shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `.32x32b`.
    S32x32b,
    /// `.16x64b`.
    S16x64b,
    /// `.16x128b`.
    S16x128b,
    /// `.16x256b`.
    S16x256b,
    /// `.16x32bx2`.
    S16x32bx2,
}

impl Shape {
    /// Names.
    pub const NAMES: [(&'static str, Shape); 5] = [
        ("32x32b", Shape::S32x32b),
        ("16x64b", Shape::S16x64b),
        ("16x128b", Shape::S16x128b),
        ("16x256b", Shape::S16x256b),
        ("16x32bx2", Shape::S16x32bx2),
    ];

    /// Registers per thread for `.xN`.
    pub fn registers(self, n: usize) -> usize {
        match self {
            Shape::S16x128b => 2 * n,
            Shape::S16x256b => 4 * n,
            _ => n,
        }
    }

    /// Largest N.
    pub fn max(self) -> usize {
        match self {
            Shape::S16x128b => 64,
            Shape::S16x256b => 32,
            _ => 128,
        }
    }

    /// Columns covered from the address (for each half of `.16x32bx2`).
    pub fn columns(self, n: usize) -> usize {
        match self {
            Shape::S16x64b => 2 * n,
            Shape::S16x128b => 4 * n,
            Shape::S16x256b => 8 * n,
            _ => n,
        }
    }

    /// Lanes covered.
    pub fn lanes(self) -> usize {
        if self == Shape::S32x32b { 32 } else { 16 }
    }

    /// Lane and column, relative to the address, of register `i` of thread `t`; `offset` is the immediate of
    /// `.16x32bx2`, in columns of tensor memory. A register covers `stride` columns, of which this is the first.
    pub fn cell(self, t: usize, i: usize, offset: usize, stride: usize) -> (usize, usize) {
        let (lane, column) = match self {
            Shape::S32x32b => (t, i),
            Shape::S16x64b => (t / 4 + 8 * (t % 2), 2 * i + t / 2 % 2),
            Shape::S16x128b => (t / 4 + 8 * (i % 2), 4 * (i / 2) + t % 4),
            Shape::S16x256b => (t / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (t % 4) + i % 2),
            Shape::S16x32bx2 => (t % 16, i),
        };
        // The second half starts where the immediate says, whatever is packed.
        let half = if self == Shape::S16x32bx2 && t >= 16 { offset } else { 0 };
        (lane, column * stride + half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_shape_covers_its_cells_once() {
        for (name, shape) in Shape::NAMES {
            let n = 4;
            for stride in [1, 2] {
                let mut seen = HashSet::new();
                for t in 0..32 {
                    for i in 0..shape.registers(n) {
                        let (lane, column) = shape.cell(t, i, stride * n, stride);
                        assert!(lane < shape.lanes(), "{name}");
                        for part in column..column + stride {
                            assert!(seen.insert((lane, part)), "{name}: {lane}, {part} twice");
                        }
                    }
                }
                // Without holes.
                assert_eq!(seen.len(), 32 * stride * shape.registers(n), "{name}");
                let columns = seen.iter().map(|c| c.1 + 1).max();
                assert_eq!(columns, Some(seen.len() / shape.lanes()), "{name}");
            }
        }
    }
}
