//! atra: a runtime for teams of agents.
