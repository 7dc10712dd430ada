//! The parsed lines of a head.

/// Room for one parsed head, reused from message to message; one a thread is enough.
#[derive(Debug, Default)]
pub struct HeadScratch {}

impl HeadScratch {
    /// Empty scratch; grows to what the largest head so far needed.
    pub fn new() -> HeadScratch {
        HeadScratch::default()
    }
}
