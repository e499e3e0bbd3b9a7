//! Buying once: the yardstick.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::{Decision, Reason, Strategy, Target};

/// Long from the first candle on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BuyAndHold {
    target: Target,
}

impl Strategy for BuyAndHold {
    #[inline]
    fn update(&mut self, _: &Candle) -> Option<Decision> {
        self.target.set(1.0, Reason::Hold)
    }
}
