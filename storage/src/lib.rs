//! atra-storage
