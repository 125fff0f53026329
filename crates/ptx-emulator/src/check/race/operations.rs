//! Asynchronous operations, as actors of their own.

use super::clock::{Bits, Grow, Knowledge};
use crate::check::Place;

/// An operation.
pub struct Operation {
    /// What its issuer knew.
    pub known: Knowledge,
    /// Its own proxy is the async one.
    pub is_async: bool,
    /// Name in findings.
    pub what: &'static str,
    /// Where it was issued.
    pub place: Place,
    /// The same as a code index.
    pub pc: u32,
    /// CTA of the issuer.
    pub cta: u32,
    /// Its number among the operations of the CTA, which has two bits: at twice the number whether its reads are
    /// done, at the next whether its writes are.
    pub number: u32,
    /// This operation and those (of the same CTA) whose completion its own implies.
    pub implies: Bits,
}

/// All operations; their numbers start at 1.
#[derive(Default)]
pub struct Operations {
    all: Vec<Operation>,
    /// Operations of each CTA, as indices.
    by_cta: Vec<Vec<u32>>,
}

impl Operations {
    /// An operation.
    #[inline]
    pub fn get(&self, id: u64) -> Option<&Operation> {
        self.all.get(id.checked_sub(1)? as usize)
    }

    /// Adds an operation; `number` and `implies` are found here.
    pub fn add(&mut self, mut operation: Operation) -> u64 {
        let cta = operation.cta as usize;
        if cta >= self.by_cta.len() {
            self.by_cta.resize_with(cta + 1, Vec::new);
        }
        let mine = &mut self.by_cta[cta];
        operation.number = mine.len() as u32;
        let both = |of: u32| [2 * of, 2 * of + 1];
        both(operation.number).into_iter().for_each(|bit| operation.implies.insert(bit));
        // A commit stands for all earlier operations of its thread; an earlier commit stands for those before it.
        if operation.what == "tcgen05.commit" {
            for &i in mine.iter().rev() {
                let o = &self.all[i as usize];
                if o.place.thread != operation.place.thread {
                    continue;
                }
                match o.what {
                    "tcgen05.mma" | "tcgen05.cp" => {
                        both(o.number).into_iter().for_each(|bit| operation.implies.insert(bit));
                    }
                    "tcgen05.commit" => {
                        operation.implies.join(&o.implies);
                        break;
                    }
                    _ => {}
                }
            }
        }
        mine.push(self.all.len() as u32);
        self.all.push(operation);
        self.all.len() as u64
    }

    /// Whether a set holds that an operation's writes, or only its reads, are done.
    pub fn is_done(o: &Operation, wrote: bool, known: Option<&Bits>) -> bool {
        known.is_some_and(|bits| bits.contains(2 * o.number + u32::from(wrote)))
    }

    /// Whether two operations execute in issue order without a wait: tcgen05 mma and cp of one CTA.
    pub fn pipelined(a: &Operation, b: &Operation) -> bool {
        let kind = |o: &Operation| matches!(o.what, "tcgen05.mma" | "tcgen05.cp" | "tcgen05.shift");
        a.cta == b.cta && kind(a) && kind(b)
    }

    /// A CTA has finished: nobody asks for what its operations' issuers knew any more.
    pub fn retire(&mut self, cta: u32) {
        for &i in self.by_cta.get(cta as usize).into_iter().flatten() {
            let operation = &mut self.all[i as usize];
            operation.known = Knowledge::default();
            operation.implies = Bits::default();
        }
    }
}
