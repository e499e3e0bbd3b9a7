//! The seven agents of the market desk, and the pure domain that they are made of ([`market`]).

pub mod market;
