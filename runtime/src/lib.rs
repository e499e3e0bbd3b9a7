//! atra-runtime
