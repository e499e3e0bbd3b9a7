//! atra-agents
