//! CUDA graphs: a stream's work, recorded once and replayed.

use super::driver::{self, GraphExecHandle};
use super::{Context, RawStream, Stream};
use crate::{Error, Result};

/// Recorded work, ready to be replayed any number of times, on any stream of its context.
///
/// What was recorded are launches with their arguments: every address in them must stay alive and in place as long as
/// the graph is replayed. Contents may change between replays: token counts, routing and rows are device memory.
#[derive(Debug)]
pub struct Graph {
    exec: GraphExecHandle,
    nodes: usize,
    context: Context,
}

// SAFETY: a handle; the driver allows its use from every thread, one at a time, which `&mut self` of replay gives.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Records what `work` enqueues on the stream that it is given. Nothing runs. If `work` fails, so does this, and
    /// nothing is left behind.
    pub fn capture(context: &Context, work: impl FnOnce(RawStream) -> Result<()>) -> Result<Graph> {
        let stream = Stream::new(context)?;
        let _current = context.enter()?;
        // SAFETY: a new stream of ours.
        unsafe { driver::stream_begin_capture(stream.raw())? };
        let worked = work(stream.raw());
        // A capture must be ended, whatever happened; one that was broken has no graph, and `work` knows better why.
        // SAFETY: begun above.
        let graph = match (worked, unsafe { driver::stream_end_capture(stream.raw()) }) {
            (Ok(()), graph) => graph?,
            (Err(error), Ok(graph)) => {
                // SAFETY: ours, not used.
                context.on_drop("a graph", || unsafe { driver::graph_destroy(graph) });
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        if graph.is_null() {
            return Err(Error::invalid("capture", "the recorded work was invalidated"));
        }
        // SAFETY: alive until the line that destroys it.
        let made = unsafe {
            driver::graph_instantiate(graph).and_then(|exec| Ok((exec, driver::graph_node_count(graph)?)))
        };
        // SAFETY: ours; the executable graph does not need it.
        context.on_drop("a graph", || unsafe { driver::graph_destroy(graph) });
        let (exec, nodes) = made?;
        Ok(Graph { exec, nodes, context: context.clone() })
    }

    /// Nodes: launches, fills and copies.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Runs the work on `stream`, after what is on it already. Does not wait.
    ///
    /// # Safety
    /// `stream` is a live stream of the graph's context; every address that was recorded is alive and of the recorded
    /// size until the work is finished; the same graph's work on another stream is finished.
    pub unsafe fn replay(&self, stream: impl Into<RawStream>) -> Result<()> {
        let _current = self.context.enter()?;
        // SAFETY: the caller's.
        unsafe { driver::graph_launch(self.exec, stream.into()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: ours, and used by nobody after this; the driver keeps what still runs.
        self.context.on_drop("a graph", || unsafe { driver::graph_exec_destroy(self.exec) });
    }
}
