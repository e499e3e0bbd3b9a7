//! atra-bus
