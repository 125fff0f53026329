//! Tensor memory of a CTA (PTX ISA 9.7.16.1): 128 lanes x 512 columns of 32-bit cells.

/// Lanes.
pub const LANES: usize = 128;
/// Columns.
pub const COLUMNS: usize = 512;

/// An allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// First column.
    pub column: u32,
    /// Columns.
    pub columns: u32,
    /// Line of the `tcgen05.alloc`.
    pub line: u32,
}

/// Cells, their initialisation and who has allocated them.
pub struct TensorMemory {
    cells: Vec<u32>,
    init: Vec<bool>,
    allocations: Vec<Allocation>,
    /// Columns that other CTAs on the multiprocessor hold: first, number.
    pub neighbours: Vec<(u32, u32)>,
    /// Columns of the last successful allocation: later ones must not ask for more.
    pub last: u32,
    /// Whether the CTA has given up its permit.
    pub relinquished: bool,
}

impl Default for TensorMemory {
    fn default() -> Self {
        Self {
            // NaN in every format: a read of what was never written does not look like a result.
            cells: vec![u32::MAX; LANES * COLUMNS],
            init: vec![false; LANES * COLUMNS],
            allocations: Vec::new(),
            neighbours: Vec::new(),
            last: u32::MAX,
            relinquished: false,
        }
    }
}

impl TensorMemory {
    /// Takes the lowest free run of `columns` columns; `None` if there is none.
    pub fn allocate(&mut self, columns: u32, line: u32) -> Option<u32> {
        let free = |at: u32| {
            let own = self.allocations.iter().map(|a| (a.column, a.columns));
            own.chain(self.neighbours.iter().copied()).all(|(c, n)| at + columns <= c || c + n <= at)
        };
        let column = (0..COLUMNS as u32).step_by(32).find(|&c| c + columns <= COLUMNS as u32 && free(c))?;
        self.allocations.push(Allocation { column, columns, line });
        self.last = columns;
        Some(column)
    }

    /// Frees an allocation; `false` if there is none with exactly that place and size.
    pub fn free(&mut self, column: u32, columns: u32) -> bool {
        let at = self.allocations.iter().position(|a| a.column == column && a.columns == columns);
        if let Some(i) = at {
            self.allocations.remove(i);
            for c in column..column + columns {
                for lane in 0..LANES {
                    self.init[lane * COLUMNS + c as usize] = false;
                    self.cells[lane * COLUMNS + c as usize] = u32::MAX;
                }
            }
        }
        at.is_some()
    }

    /// What is allocated.
    pub fn allocations(&self) -> &[Allocation] {
        &self.allocations
    }

    /// Whether all columns of a range belong to allocations.
    pub fn is_allocated(&self, column: u32, columns: u32) -> bool {
        (column..column + columns)
            .all(|c| self.allocations.iter().any(|a| (a.column..a.column + a.columns).contains(&c)))
    }

    /// A cell and whether it was written.
    pub fn get(&self, lane: usize, column: usize) -> (u32, bool) {
        let at = lane * COLUMNS + column;
        (self.cells[at], self.init[at])
    }

    /// Writes a cell.
    pub fn set(&mut self, lane: usize, column: usize, value: u32, init: bool) {
        let at = lane * COLUMNS + column;
        self.cells[at] = value;
        self.init[at] = init;
    }
}
