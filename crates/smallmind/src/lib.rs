//! smallmind
