//! Placeholder while the vocabulary is being laid.
