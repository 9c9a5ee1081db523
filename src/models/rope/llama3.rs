//! The scaling of Llama 3.1's rotary positions.

use std::f32::consts::TAU;

/// Pairs whose wave is long beside the original context are slowed down, with a ramp between (Llama 3.1).
pub(super) struct Llama3 {
    pub(super) factor: f32,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) original_context: f32,
}

impl Llama3 {
    pub(super) fn of(&self, frequency: f32) -> f32 {
        match self.kept(frequency) {
            0.0 => frequency / self.factor,
            1.0 => frequency,
            kept => (1.0 - kept) * frequency / self.factor + kept * frequency,
        }
    }

    /// By what it divides a frequency.
    pub(super) fn divisor(&self, frequency: f32) -> f32 {
        match self.kept(frequency) {
            0.0 => self.factor,
            1.0 => 1.0,
            kept => 1.0 / ((1.0 - kept) / self.factor + kept),
        }
    }

    /// How much of a frequency stays, 0 to 1.
    fn kept(&self, frequency: f32) -> f32 {
        let Llama3 { low, high, original_context, .. } = *self;
        let wave = TAU / frequency;
        if wave > original_context / low {
            0.0
        } else if wave < original_context / high {
            1.0
        } else {
            (original_context / wave - low) / (high - low)
        }
    }
}
