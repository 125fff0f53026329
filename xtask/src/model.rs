//! `model`: how long a layer's routed experts would take on a B200, from what the kernels for `tcgen05` bring and issue and
//! from the card's specification. No time here has been measured. `docs/blackwell.md` holds what this prints.
//!
//! Routing is uniform: an expert's rows are binomially distributed, and a launch does what is to be expected over that
//! distribution. It takes as long as the slowest of [`Work`]'s parts alone: all overlap without loss.

/// Bytes a second from memory (published).
const MEMORY: f64 = 8e12;
/// Multiprocessors and cycles a second (assumed).
const SMS: u32 = 148;
const CLOCK: f64 = 1.85e9;
/// Multiply-adds of NVFP4 a cycle and multiprocessor: with these, the published 9 PFLOP/s dense.
const RATE: f64 = 16_384.0;
/// Cycles that an MMA takes at least (measured by others, on a B300).
const MMA_CYCLES: f64 = 56.0;
/// Bytes a cycle from L2 to a multiprocessor (assumed): the width of its port, and half of that.
const PORTS: [f64; 2] = [64.0, 32.0];
/// Seconds that a launch adds (assumed: the short kernels take 2 to 4 us on an H200).
const LAUNCH: f64 = 2e-6;
/// Bytes of the second product's rows above which they go through H in chunks, and there is no mega form; a chunk's
/// columns are a multiple of the next; slots above which sorting takes two launches (`host/src/runtime`).
const SLOT_RESULT_BYTES: u32 = 320 << 20;
const CHUNK_COLUMNS: u32 = 256;
const SORT_SLOTS: f64 = 4096.0;

/// Bytes of a row block of weights and a step of 64 columns; rows of a block; columns of a step.
const UNIT_BYTES: u32 = 4608;
const BLOCK_ROWS: u32 = 128;
const STEP_K: u32 = 64;
/// Bytes of a row's codes in a step; of codes and scales in memory.
const ROW_BYTES: u32 = 32;
const ROW_SCALED_BYTES: u32 = 36;
/// Widest range of an expert's rows; where ranges start; rows that the epilogue does at a time.
const WIDTH: u32 = 192;
const START_ALIGN: u32 = 64;
const CHUNK: u32 = 32;
/// Mean rows of an expert up to which the planner takes one block for a tile.
const SINGLE_ROWS: f64 = 64.0;

/// A form of the kernels.
struct Form {
    /// Blocks that share a tile.
    blocks: u32,
    /// Instructions of a warp for [`CHUNK`] rows of the first and the second product: counted in the SASS of CUDA 13.0.
    epilogue: [f64; 2],
}

const SINGLE: Form = Form { blocks: 1, epilogue: [1275.0, 294.0] };
const PAIR: Form = Form { blocks: 2, epilogue: [1274.0, 293.0] };
const MEGA: Form = Form { blocks: 1, epilogue: [1288.0, 620.0] };

/// A layer's routed experts on one card.
struct Shape {
    name: &'static str,
    hidden: u32,
    intermediate: u32,
    /// Experts that are here, and that tokens choose from.
    local: u32,
    experts: u32,
    top_k: u32,
    /// Cards that each bring the tokens of a call.
    ranks: u32,
}

const fn shape(name: &'static str, hidden: u32, intermediate: u32, of: [u32; 4]) -> Shape {
    let [local, experts, top_k, ranks] = of;
    Shape { name, hidden, intermediate, local, experts, top_k, ranks }
}

/// What a launch has to do, over all tiles.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    tiles: f64,
    /// Bytes from and to memory.
    memory: f64,
    /// Cycles of a tile's multiprocessors: of the tensor core, of a scheduler with an epilogue's warp.
    mma: f64,
    epilogue: f64,
    /// Bytes that one of a tile's blocks brings to shared memory.
    brought: f64,
}

impl Work {
    fn plus(self, o: Self) -> Self {
        Self {
            tiles: self.tiles + o.tiles,
            memory: self.memory + o.memory,
            mma: self.mma + o.mma,
            epilogue: self.epilogue + o.epilogue,
            brought: self.brought + o.brought,
        }
    }

    /// Seconds of each limit, the busiest multiprocessor's: memory, MMA, epilogue, L2 at a rate.
    fn limits(&self, form: &Form, port: f64) -> [f64; 4] {
        let workers = f64::from(SMS / form.blocks);
        let share = (self.tiles / workers).ceil() / self.tiles / CLOCK;
        [self.memory / MEMORY, self.mma * share, self.epilogue * share, self.brought * share / port]
    }

    fn time(&self, form: &Form, port: f64) -> f64 {
        self.limits(form, port).into_iter().fold(0.0, f64::max)
    }
}

/// Rows to the granule of the MMA's N.
fn columns(form: &Form, rows: u32) -> u32 {
    rows.next_multiple_of(8 * form.blocks)
}

/// Bytes that a block brings for a step of `rows` rows from row `first` on.
fn step_bytes(form: &Form, first: u32, rows: u32) -> u32 {
    let columns = columns(form, rows);
    let here = columns.min(BLOCK_ROWS - first % BLOCK_ROWS);
    let scales = 16 * (here.min(32) + (columns - here).min(32));
    UNIT_BYTES + columns / form.blocks * ROW_BYTES + scales
}

/// Cycles of an MMA, of a pair in both multiprocessors.
fn mma_cycles(form: &Form, rows: u32) -> f64 {
    (f64::from(BLOCK_ROWS * columns(form, rows) * STEP_K) / RATE).max(MMA_CYCLES)
}

/// Ranges of an expert's rows: first and number.
fn ranges(rows: u32) -> impl Iterator<Item = (u32, u32)> {
    let each = rows.div_ceil(rows.div_ceil(WIDTH).max(1)).next_multiple_of(START_ALIGN);
    (0..rows.div_ceil(WIDTH)).map(move |i| (i * each, each.min(rows - i * each)))
}

/// `(n, p)`: the probability of `n` hits in `trials` of probability `p`; what is left out does not matter.
fn binomial(trials: u32, p: f64) -> Vec<(u32, f64)> {
    // Outwards from the likeliest.
    let middle = (f64::from(trials + 1) * p).min(f64::from(trials)) as u32;
    let ratio = |n: u32| f64::from(trials - n) / f64::from(n + 1) * p / (1.0 - p);
    let mut list = vec![(middle, 1.0)];
    let (mut n, mut weight) = (middle, 1.0);
    while n < trials && weight > 1e-14 {
        weight *= ratio(n);
        n += 1;
        list.push((n, weight));
    }
    (n, weight) = (middle, 1.0);
    while n > 0 && weight > 1e-14 {
        n -= 1;
        weight /= ratio(n);
        list.push((n, weight));
    }
    let sum: f64 = list.iter().map(|e| e.1).sum();
    list.iter_mut().for_each(|e| e.1 /= sum);
    list
}

impl Shape {
    /// Rows of an expert and how many experts have as many.
    fn experts_by_rows(&self, tokens: u32) -> impl Iterator<Item = (u32, f64)> {
        let list = binomial(tokens * self.ranks, f64::from(self.top_k) / f64::from(self.experts));
        list.into_iter().map(|(n, p)| (n, p * f64::from(self.local)))
    }

    fn rows(&self, tokens: u32) -> f64 {
        f64::from(tokens * self.ranks * self.top_k) * f64::from(self.local) / f64::from(self.experts)
    }

    fn touched(&self, tokens: u32) -> f64 {
        self.experts_by_rows(tokens).filter(|e| e.0 != 0).map(|e| e.1).sum()
    }

    /// Row blocks and steps of a product.
    fn product(&self, product: usize) -> (u32, u32) {
        let steps = self.intermediate.div_ceil(STEP_K);
        [(steps, self.hidden.div_ceil(STEP_K)), (self.hidden.div_ceil(BLOCK_ROWS), steps)][product]
    }

    fn work(&self, product: usize, form: &Form, tokens: u32) -> Work {
        let (blocks, steps) = self.product(product);
        let mut work = Work::default();
        for (rows, experts) in self.experts_by_rows(tokens) {
            for (first, rows) in ranges(rows) {
                let tiles = experts * f64::from(blocks.div_ceil(form.blocks));
                work.tiles += tiles;
                work.mma += tiles * f64::from(steps) * mma_cycles(form, rows);
                work.brought += tiles * f64::from(steps * step_bytes(form, first, rows));
                work.epilogue +=
                    tiles * f64::from(columns(form, rows).div_ceil(CHUNK)) * form.epilogue[product];
            }
        }
        let written = if product == 0 { ROW_SCALED_BYTES * blocks } else { 4 * self.hidden };
        work.memory = self.touched(tokens) * f64::from(blocks * steps * UNIT_BYTES)
            + self.rows(tokens) * f64::from(ROW_SCALED_BYTES * steps + written);
        work
    }

    /// Chunks of columns that the second product and the combination go through: those of a workspace whose experts all
    /// have their rows padded to whole blocks.
    fn chunks(&self, tokens: u32) -> u32 {
        let slots = self.rows(tokens).ceil() as u32;
        let experts = self.local.min(slots);
        let rows = (experts + (slots - experts) / BLOCK_ROWS) * BLOCK_ROWS;
        let most = SLOT_RESULT_BYTES / (4 * rows);
        let blocks = self.hidden.div_ceil(CHUNK_COLUMNS);
        if most >= self.hidden { 1 } else { blocks.div_ceil((most / CHUNK_COLUMNS).max(1)) }
    }

    /// The planner's choice.
    fn form(&self, tokens: u32) -> &'static Form {
        if self.rows(tokens) / f64::from(self.local) > SINGLE_ROWS { &PAIR } else { &SINGLE }
    }

    /// Seconds of the short kernels: maxima, sort and quantisation of rows; the combination.
    fn rest(&self, tokens: u32) -> [f64; 2] {
        let (rows, hidden) = (self.rows(tokens), f64::from(self.hidden));
        let sorts = if rows > SORT_SLOTS { 2.0 } else { 1.0 };
        // Tokens that have an expert here.
        let away = 1.0 - f64::from(self.local) / f64::from(self.experts);
        let here = f64::from(tokens * self.ranks) * (1.0 - away.powi(self.top_k as i32));
        let quantised = rows * hidden * f64::from(ROW_SCALED_BYTES) / f64::from(STEP_K);
        let combined = rows * 4.0 * hidden + here * 2.0 * hidden;
        [(here * 4.0 * hidden + quantised) / MEMORY + (2.0 + sorts) * LAUNCH, combined / MEMORY]
    }

    /// Seconds of the split form: a launch for the first product, two for each chunk.
    fn split(&self, form: &Form, tokens: u32, port: f64) -> f64 {
        let products: f64 = (0..2).map(|i| self.work(i, form, tokens).time(form, port)).sum();
        let launches = f64::from(1 + 2 * self.chunks(tokens)) * LAUNCH;
        products + self.rest(tokens).iter().sum::<f64>() + launches
    }

    /// Seconds of the mega form, if the call has one: counters are cleared, one launch.
    fn mega(&self, tokens: u32, port: f64) -> Option<f64> {
        let work = self.work(0, &MEGA, tokens).plus(self.work(1, &MEGA, tokens));
        let time = work.time(&MEGA, port) + self.rest(tokens)[0] + 2.0 * LAUNCH;
        (self.chunks(tokens) == 1).then_some(time)
    }
}

/// Prints the tables.
pub fn run() {
    print!("{}", tables::report());
}

mod tables;
#[cfg(test)]
mod tests;
