//! Streams and timing events.

use super::driver::{self, EventHandle};
use super::{Context, RawStream};
use crate::Result;

/// A stream, owned or borrowed from an engine.
#[derive(Debug)]
pub struct Stream {
    raw: RawStream,
    context: Context,
    owned: bool,
}

impl Stream {
    /// A new stream that does not synchronise with the legacy default stream.
    pub fn new(context: &Context) -> Result<Stream> {
        let _current = context.enter()?;
        Ok(Stream { raw: driver::stream_create()?, context: context.clone(), owned: true })
    }

    /// A stream that stays its owner's: it is not destroyed on drop.
    ///
    /// # Safety
    /// `raw` is a stream of `context` and outlives the result.
    pub unsafe fn borrow(context: &Context, raw: RawStream) -> Stream {
        Stream { raw, context: context.clone(), owned: false }
    }

    /// The handle, for as long as the stream lives.
    pub fn raw(&self) -> RawStream {
        self.raw
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits for all work on the stream. Errors of kernels come out here.
    pub fn synchronize(&self) -> Result<()> {
        let _current = self.context.enter()?;
        // SAFETY: alive.
        unsafe { driver::stream_synchronize(self.raw) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: ours, and used by nobody after this.
            self.context.on_drop("a stream", || unsafe { driver::stream_destroy(self.raw) });
        }
    }
}

impl From<&Stream> for RawStream {
    fn from(stream: &Stream) -> Self {
        stream.raw
    }
}

/// A point in a stream's work, for timing.
#[derive(Debug)]
pub struct Event {
    handle: EventHandle,
    context: Context,
}

// SAFETY: a handle; the driver allows its use from every thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that is not recorded yet.
    pub fn new(context: &Context) -> Result<Event> {
        let _current = context.enter()?;
        Ok(Event { handle: driver::event_create()?, context: context.clone() })
    }

    /// Marks the present end of the stream's work.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.context.check_same(stream.context(), "stream")?;
        let _current = self.context.enter()?;
        // SAFETY: both alive, of one context.
        unsafe { driver::event_record(self.handle, stream.raw()) }
    }

    /// Waits for the event.
    pub fn synchronize(&self) -> Result<()> {
        let _current = self.context.enter()?;
        // SAFETY: alive.
        unsafe { driver::event_synchronize(self.handle) }
    }

    /// Milliseconds from `start` to this event, waiting for it. The device's clock, about 0.5 us fine.
    pub fn elapsed_ms_since(&self, start: &Event) -> Result<f32> {
        self.context.check_same(&start.context, "event")?;
        let _current = self.context.enter()?;
        // SAFETY: both alive.
        unsafe {
            driver::event_synchronize(self.handle)?;
            driver::event_elapsed_ms(start.handle, self.handle)
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and used by nobody after this.
        self.context.on_drop("an event", || unsafe { driver::event_destroy(self.handle) });
    }
}
