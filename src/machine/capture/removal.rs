//! Takes the views of captured commands apart while the run goes on: nothing waits for that.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::thread::{Builder, JoinHandle};

use super::Capture;

/// So many are taken apart at a time: what large commands leave does not pile up.
const MOST: usize = 8;

/// The views on their way, the oldest first. Dropped, it waits for them.
#[derive(Debug, Default)]
pub struct Removal(RefCell<VecDeque<JoinHandle<()>>>);

impl Removal {
    /// Begins to unmount a view and to remove its directories.
    pub fn begin(&self, capture: Capture) {
        let mut removing = self.0.borrow_mut();
        removing.retain(|thread| !thread.is_finished());
        while removing.len() >= MOST {
            let _ = removing.pop_front().map(JoinHandle::join);
        }
        // Without a thread it is dropped here.
        removing.extend(Builder::new().spawn(move || drop(capture)));
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        for thread in self.0.borrow_mut().drain(..) {
            let _ = thread.join();
        }
    }
}
